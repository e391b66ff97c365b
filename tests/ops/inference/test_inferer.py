"""Many threads, one network: the same answers as alone, full batches, and an error for the one at fault only."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from ops.inference.inferer import SharedInferer, WindowInferer
from ops.inference.sliding_window import Tiling
from ops.inference.torch import TorchPredictor

WINDOW = (8, 8, 8)
SHAPES = [(8, 12, 9), (20, 8, 8), (5, 7, 3), (16, 16, 16)]
POISON = -1e6


class Poisonable(TorchPredictor):
    """A real network that fails on a batch with a window of POISON, and notes the size of its batches."""

    def __init__(self, error: type[Exception] = ValueError) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv3d(1, 3, 3, padding=1))
        self.error, self.sizes = error, []

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(batch))
        if (batch == POISON).any():
            raise self.error("a poisoned window")
        return super().infer(batch)


class Gated(Poisonable):
    """Waits in its first batch until it is let go, so that others queue meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.gate = threading.Event(), threading.Event()

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        self.began.set()
        assert self.gate.wait(10)
        return super().infer(batch)


def volumes(count: int) -> list[torch.Tensor]:
    return [torch.randn(SHAPES[n % 4], generator=torch.Generator().manual_seed(n)) for n in range(count)]


def ask(network: SharedInferer, volume: torch.Tensor) -> torch.Tensor | Exception:
    try:
        return network.probabilities(volume)
    except Exception as error:
        return error


def ask_all(network: SharedInferer, wanted: list[torch.Tensor]) -> list[torch.Tensor | Exception]:
    with ThreadPoolExecutor(len(wanted)) as pool:
        return list(pool.map(lambda volume: ask(network, volume), wanted))


def queued(network: SharedInferer, predictor: Gated, wanted: list[torch.Tensor]) -> list[torch.Tensor | Exception]:
    """Answers when all but the first volume came while the first was computed."""
    with ThreadPoolExecutor(len(wanted)) as pool:
        first = pool.submit(ask, network, wanted[0])
        assert predictor.began.wait(10)
        rest = [pool.submit(ask, network, volume) for volume in wanted[1:]]
        while len(network._waiting) < len(wanted) - 1:
            threading.Event().wait(0.001)
        predictor.gate.set()
        return [future.result() for future in (first, *rest)]


def wait_for_inference() -> None:
    """Wait until no thread runs a network."""
    for thread in threading.enumerate():
        if thread.name == "popscan-inference":
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_threads_get_what_each_would_get_alone(batch: int) -> None:
    wanted = volumes(24)
    alone, shared = (
        WindowInferer(Poisonable(), Tiling(WINDOW)),
        SharedInferer(Poisonable(), Tiling(WINDOW, 0.25, batch)),
    )
    for found, volume in zip(ask_all(shared, wanted), wanted, strict=True):
        torch.testing.assert_close(found, alone.probabilities(volume), atol=1e-5, rtol=0)


def test_labels_are_shared_alike() -> None:
    volume, shared = volumes(1)[0], SharedInferer(Poisonable(), Tiling(WINDOW, batch=3))
    torch.testing.assert_close(shared.labels(volume).long(), shared.probabilities(volume).argmax(dim=0))


def test_what_waits_fills_the_next_batch() -> None:
    predictor = Gated()
    queued(SharedInferer(predictor, Tiling(WINDOW, batch=16)), predictor, [torch.randn(WINDOW) for _ in range(9)])
    assert predictor.sizes == [1, 8]


@pytest.mark.parametrize("culprits", [{0}, {3}, {8}, {1, 2}, {0, 4, 8}, set(range(9))])
def test_an_error_is_given_to_who_brought_it_and_the_others_get_their_answers(culprits: set[int]) -> None:
    predictor, wanted = Gated(), volumes(9)
    for n in culprits:
        wanted[n] = torch.full((8, 8, 20), POISON)
    alone = WindowInferer(Poisonable(), Tiling(WINDOW))
    for n, found in enumerate(queued(SharedInferer(predictor, Tiling(WINDOW, batch=16)), predictor, wanted)):
        if n in culprits:
            assert isinstance(found, ValueError)
        else:
            torch.testing.assert_close(found, alone.probabilities(wanted[n]), atol=1e-5, rtol=0)


def test_it_goes_on_after_an_error() -> None:
    shared = SharedInferer(Poisonable(), Tiling(WINDOW))
    assert isinstance(ask(shared, torch.full(WINDOW, POISON)), ValueError)
    assert isinstance(ask(shared, torch.randn(WINDOW)), torch.Tensor)


def test_no_room_before_the_first_window_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blending weights are the first thing on the card."""
    full = torch.OutOfMemoryError("CUDA out of memory")

    def no_room(_window: object) -> None:
        raise full

    monkeypatch.setattr("ops.inference.sliding_window.blend_weights", no_room)
    found = ask_all(SharedInferer(Poisonable(), Tiling(WINDOW)), volumes(5))
    assert all(error is full for error in found)


def test_what_had_no_room_for_a_moment_is_tried_again() -> None:
    class FullOnce(Poisonable):
        def infer(self, batch: torch.Tensor) -> torch.Tensor:
            if not self.sizes:
                self.sizes.append(0)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().infer(batch)

    assert isinstance(ask(SharedInferer(FullOnce(), Tiling(WINDOW)), torch.randn(WINDOW)), torch.Tensor)


def test_where_the_system_has_no_thread_to_give_the_asking_one_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    shared, volume = SharedInferer(Poisonable(), Tiling(WINDOW)), torch.randn(WINDOW)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert isinstance(ask(shared, volume), torch.Tensor)


def test_nothing_of_a_case_is_kept_after_its_error() -> None:
    """What failed for lack of memory must be free before the next rung starts, without waiting for a collector."""
    shared, volume = (
        SharedInferer(Poisonable(torch.OutOfMemoryError), Tiling(WINDOW)),
        torch.full(WINDOW, POISON),
    )
    kept = weakref.ref(volume)
    gc.disable()
    try:
        with pytest.raises(torch.OutOfMemoryError):
            shared.probabilities(volume)
        wait_for_inference()
        del volume
        assert kept() is None
    finally:
        gc.enable()


def test_no_thread_stays_when_nobody_waits() -> None:
    ask_all(SharedInferer(Poisonable(), Tiling(WINDOW, batch=4)), volumes(6))
    wait_for_inference()

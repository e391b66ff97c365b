"""Our sliding window on the CPU against MONAI's inferer (where installed) and against the bare network.

As an ordinary test it compares labels; with ``--benchmark-enable -s`` it prints and judges times, on one thread: on two
and a busy machine the threads wait for each other, and the ratio says nothing.
"""

from __future__ import annotations

import pytest
import torch

from ops.inference.inferer import WindowInferer
from ops.inference.sliding_window import OVERLAP, Tiling, window_starts
from ops.inference.torch import TorchPredictor
from ops.training.network import UNet3d
from tests.benchmarks.timing import best_of

SHAPE, WINDOW, CLASSES = (60, 110, 110), (48, 80, 80), 9
# Share of the bare network's speed that must be left; the rest is softmax, blending and argmax of nine classes.
ASKED_SHARE = 0.75

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network() -> TorchPredictor:
    torch.manual_seed(0)
    return TorchPredictor(UNet3d(CLASSES))


@pytest.fixture(scope="module")
def volume() -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))


def bare(network: TorchPredictor) -> None:
    window = torch.zeros((1, 1, *WINDOW))
    for _ in range(windows()):
        network.infer(window)


def windows() -> int:
    z, y, x = (len(window_starts(size, n, OVERLAP)) for size, n in zip(SHAPE, WINDOW, strict=True))
    return z * y * x


def test_share_of_the_bare_network(network: TorchPredictor, volume: torch.Tensor, measuring: bool) -> None:
    if not measuring:
        pytest.skip("times only; --benchmark-enable")
    rounds = [(best_of(1, lambda: bare(network))[1], best_of(1, lambda: ours(network, volume))[1]) for _ in range(3)]
    plain_seconds, seconds = (min(times) for times in zip(*rounds, strict=True))
    print(f"\n{windows()} windows: {seconds:.2f} s; the bare network: {plain_seconds:.2f} s")
    assert plain_seconds / seconds > ASKED_SHARE


def ours(network: TorchPredictor, volume: torch.Tensor) -> torch.Tensor:
    return WindowInferer(network, Tiling(WINDOW)).labels(volume)


def test_against_monai(network: TorchPredictor, volume: torch.Tensor, measuring: bool) -> None:
    inferers = pytest.importorskip("monai.inferers", reason="extra test")
    inferer = inferers.SlidingWindowInferer(WINDOW, 1, OVERLAP, mode="gaussian")

    @torch.inference_mode()  # it writes into the logits
    def theirs() -> torch.Tensor:
        return inferer(volume[None, None], network.infer)[0].argmax(dim=0).to(torch.uint8)

    count = 3 if measuring else 1
    rounds = [(best_of(1, theirs), best_of(1, lambda: ours(network, volume))) for _ in range(count)]
    their_seconds, seconds = (min(each[who][1] for each in rounds) for who in (0, 1))
    print(f"\n{windows()} windows: {seconds:.2f} s; MONAI: {their_seconds:.2f} s")
    # They blend logits, we probabilities, and their windows lie elsewhere: alike, not equal.
    assert (rounds[0][0][0] == rounds[0][1][0]).float().mean() > 0.8
    assert not measuring or seconds < their_seconds * 1.1

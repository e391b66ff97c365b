"""Out of memory: which rung answers, what is recorded, and what is not taken for it. Only the failing is faked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException
from torch import nn

from ops.inference import batch_size
from ops.inference.batch_size import best_batch
from ops.inference.inferer import Inferer, SharedInferer, WindowInferer
from ops.inference.ladder import Rung, descend, rungs
from ops.inference.memory import is_out_of_memory
from ops.inference.sliding_window import Tiling
from ops.inference.torch import TorchPredictor

WINDOW = (8, 8, 8)
# As CUDA words them; the second and third are ONNX Runtime's.
TORCH_ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
ARENA_ERROR = RuntimeException(
    "[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 8589934592"
)
CUDNN_ERROR = Fail("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cudnnCreate(&cudnn_handle_)")
# torch's own, where CUDA, cuBLAS and cuDNN allocate for themselves.
CUBLAS_ERROR = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
FIND_ERROR = RuntimeError("FIND was unable to find an engine to execute this computation")
CONTEXT_ERROR = torch.AcceleratorError("CUDA error: out of memory")
ERRORS = [TORCH_ERROR, ARENA_ERROR, CUDNN_ERROR, CUBLAS_ERROR, FIND_ERROR, CONTEXT_ERROR]


class Crowded(TorchPredictor):
    """A network on a device on which ``fits(batch size)`` windows have room."""

    def __init__(self, fits, error=TORCH_ERROR, precision="float32"):
        torch.manual_seed(0)
        super().__init__(nn.Conv3d(1, 3, 3, padding=1), precision=precision)
        self.fits, self.error, self.batches = fits, error, []

    def infer(self, batch):
        self.batches.append(len(batch))
        if not self.fits(len(batch)):
            raise self.error
        return super().infer(batch)


@pytest.fixture
def volume() -> torch.Tensor:
    return torch.randn((12, 20, 15), generator=torch.Generator().manual_seed(0))


def inferer(rung: Rung, predictor: TorchPredictor) -> Inferer:
    """As `tasks.infer` makes them."""
    if rung.name == "full":
        return SharedInferer(predictor, Tiling(WINDOW, batch=best_batch(predictor, WINDOW)))
    return WindowInferer(predictor, Tiling(WINDOW, on_host=True))


def labels(predictor, tiling, volume):
    return WindowInferer(predictor, tiling).labels(volume)


def run(volume, room, error=TORCH_ERROR):
    """Descend on a card where a rung has room if ``room`` names it."""

    def open_inferer(rung):
        if rung.name == "cpu":
            return inferer(rung, Crowded(lambda _: True))
        name = "half" if rung.name == "half" else "card"
        predictor = Crowded(
            lambda batch: name in room or (name == "card" and "one" in room and batch == 1), error, rung.precision
        )
        return inferer(rung, predictor)

    def compute(network):
        if "one" in room and isinstance(network, SharedInferer):
            raise error  # one window fits, volume and sums do not
        return network.labels(volume)

    return descend(rungs("cuda:0", "bfloat16"), open_inferer, compute)


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: f"{type(e).__name__} {str(e)[:20]}")
@pytest.mark.parametrize(
    ("room", "rung", "failed"),
    [
        ({"card"}, "full", []),
        ({"one"}, "tiled", ["full"]),
        ({"half"}, "half", ["full", "tiled"]),
        (set(), "cpu", ["full", "tiled", "half"]),
    ],
)
def test_the_first_rung_with_room_answers_and_the_others_are_recorded(volume, room, rung, failed, error):
    answer, descent = run(volume, room, error)
    assert descent.rung == rung
    assert [name for name, _ in descent.failed] == failed
    assert all(str(error) in why for _, why in descent.failed)
    assert descent.flags == ((f"out_of_memory_{rung}",) if failed else ())
    expected = labels(Crowded(lambda _: True), Tiling(WINDOW), volume)
    agreement = (answer == expected).float().mean()
    assert agreement == 1 if rung != "half" else agreement > 0.98  # bfloat16 moves near ties


@pytest.mark.parametrize(
    "error", [ValueError("shape"), MemoryError(), RuntimeError("out of memory"), Fail("Non-zero status code: Concat")]
)
def test_any_other_error_ends_the_case_at_once(volume, error):
    assert not is_out_of_memory(error)
    opened = []

    def open_inferer(rung):
        opened.append(rung.name)
        return SharedInferer(Crowded(lambda _: False, error), Tiling(WINDOW))

    with pytest.raises(type(error)):
        descend(rungs("cuda:0", None), open_inferer, lambda network: network.labels(volume))
    assert opened == ["full"]


def test_the_last_rung_has_the_last_word(volume):
    with pytest.raises(torch.OutOfMemoryError):
        descend(
            (Rung("cpu", "cpu"),),
            lambda rung: inferer(rung, Crowded(lambda _: False)),
            lambda network: network.labels(volume),
        )


def test_rungs_of_a_device():
    assert [r.name for r in rungs("cuda:1", "float16")] == ["full", "tiled", "half", "cpu"]
    assert [r.device for r in rungs("cuda:1", "float16")] == ["cuda:1"] * 3 + ["cpu"]
    assert [r.name for r in rungs("cuda:1", None)] == ["full", "tiled", "cpu"]
    assert rungs("cpu", "float16") == (Rung("cpu", "cpu"),)


def test_loading_a_model_may_run_out_of_memory_too(volume):
    def open_inferer(rung):
        if rung.device != "cpu":
            raise TORCH_ERROR
        return inferer(rung, Crowded(lambda _: True))

    _, descent = descend(rungs("cuda:0", None), open_inferer, lambda network: network.labels(volume))
    assert descent.rung == "cpu"


def seconds_of(costs):
    return lambda _predictor, _window, batch: costs[batch]


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ({1: 1.0, 2: 0.96}, 1),  # 4 % cheaper: not worth doubling
        ({1: 1.0, 2: 0.94, 4: 0.94}, 2),
        ({1: 1.0, 2: 0.5, 4: 0.25, 8: 0.3}, 4),
        ({2**n: 0.5**n for n in range(8)}, 64),
    ],
)
def test_the_batch_doubles_while_it_pays(monkeypatch, costs, expected):
    monkeypatch.setattr(batch_size, "seconds_per_window", seconds_of(costs))
    assert best_batch(Crowded(lambda _: True), WINDOW) == expected


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (2, 1), (4, 2), (9, 4)])
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: f"{type(e).__name__} {str(e)[:20]}")
def test_where_memory_ends_half_of_what_fits_is_taken(monkeypatch, most, expected, error):
    crowded = Crowded(lambda batch: batch <= most, error)
    halving = iter(0.5**n for n in range(20))
    real = batch_size.seconds_per_window

    def seconds(predictor, window, batch):
        real(predictor, window, batch)
        return next(halving)

    monkeypatch.setattr(batch_size, "seconds_per_window", seconds)
    assert best_batch(crowded, WINDOW) == expected


def test_a_batch_is_tried_once_for_each_predictor_and_window():
    network = Crowded(lambda _: True)
    first = best_batch(network, WINDOW)
    calls = len(network.batches)
    assert calls >= 4  # really run, twice a size
    assert best_batch(network, WINDOW) == first
    assert len(network.batches) == calls
    best_batch(network, (4, 4, 4))
    assert len(network.batches) > calls


def test_a_case_that_does_not_fit_alone_fails_in_the_trial():
    with pytest.raises(torch.OutOfMemoryError):
        best_batch(Crowded(lambda _: False), WINDOW)


def test_any_error_of_a_larger_batch_ends_the_trial_and_is_said(caplog):
    """As of kernels that cannot index so many elements."""
    assert best_batch(Crowded(lambda batch: batch < 2, ValueError("broken")), WINDOW) == 1
    assert "2 windows of (8, 8, 8) at once: ValueError: broken" in caplog.text
    with pytest.raises(ValueError, match="broken"):
        best_batch(Crowded(lambda _: False, ValueError("broken")), WINDOW)


def test_numbers_survive_the_rungs(volume):
    """Tiled on the host gives what the full rung gives, not only nearly."""
    full = labels(Crowded(lambda _: True), Tiling(WINDOW, batch=4), volume)
    tiled = labels(Crowded(lambda _: True), Tiling(WINDOW, on_host=True), volume)
    np.testing.assert_array_equal(full.numpy(), tiled.numpy())

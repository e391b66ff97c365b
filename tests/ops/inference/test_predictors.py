"""Every runtime against one reference table: same network, same input, same logits."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch

from ops.inference.onnx import OnnxPredictor
from ops.inference.predictor import Precision, Predictor, on_tensors
from ops.inference.torch import TorchPredictor, load_exported
from ops.training.network import UNet3d, count_parameters
from tasks.train import export_onnx
from tests.ops.inference.export import export_torch

CLASSES = 3


@pytest.fixture(scope="module")
def network() -> UNet3d:
    torch.manual_seed(0)
    return UNet3d(CLASSES, (4, 8)).eval()


@pytest.fixture(scope="module")
def model(network: UNet3d) -> bytes:
    return export_onnx(network)


@pytest.fixture(scope="module")
def table(network: UNet3d) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inputs of several batch and spatial sizes, and the network's logits, computed once by plain torch."""
    rng = np.random.default_rng(0)
    inputs = [rng.random(shape, dtype=np.float32) for shape in [(1, 1, 8, 8, 8), (3, 1, 4, 10, 12), (2, 1, 16, 6, 8)]]
    with torch.no_grad():
        return [(x, network(torch.from_numpy(x)).numpy()) for x in inputs]


@pytest.fixture(scope="module")
def program(network: UNet3d) -> bytes:
    return export_torch(network, network.stride)


class Sources(NamedTuple):
    """One network in the forms that runtimes take."""

    network: UNet3d
    onnx: bytes
    program: bytes


@pytest.fixture(scope="module")
def sources(network: UNet3d, model: bytes, program: bytes) -> Sources:
    return Sources(network, model, program)


# Largest difference from the reference in logits of about ±2. float32: other order of summation. float16 has 11
# significant bits, bfloat16 8: a few units in the last place after the four convolutions of this network.
TOLERANCES: dict[Precision, float] = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}
# cuDNN convolves float32 in TF32 (11 bits) unless told otherwise, and so do ONNX Runtime's CUDA and TensorRT.
TF32_TOLERANCE = 0.02


def torch_runtimes(device: str) -> dict[str, tuple[Callable[[Sources], Predictor], float]]:
    tf32 = TF32_TOLERANCE if device != "cpu" else 0.0
    eager = {
        f"torch-{precision}-{device}": (partial(eager_predictor, device, precision), max(tf32, tolerance))
        for precision, tolerance in TOLERANCES.items()
    }
    return eager | {
        f"export-{device}": (lambda s: TorchPredictor(load_exported(s.program, device), device), max(tf32, 1e-4)),
        f"export-bfloat16-{device}": (
            lambda s: TorchPredictor(load_exported(s.program, device), device, "bfloat16"),
            TOLERANCES["bfloat16"],
        ),
        f"compile-{device}": (lambda s: TorchPredictor(s.network, device, compiled=True), max(tf32, 1e-4)),
    }


def eager_predictor(device: str, precision: Precision, sources: Sources) -> Predictor:
    return TorchPredictor(copy.deepcopy(sources.network), device, precision)


def onnx_runtimes() -> dict[str, tuple[Callable[[Sources], Predictor], float]]:
    tolerances = {
        "CPUExecutionProvider": 1e-4,
        "CUDAExecutionProvider": TF32_TOLERANCE,
        "TensorrtExecutionProvider": TF32_TOLERANCE,
    }
    usable = set(tolerances) & set(onnxruntime.get_available_providers())
    if not torch.cuda.is_available():  # onnxruntime-gpu lists its providers without a card, too
        usable = {"CPUExecutionProvider"}
    return {name: (partial(onnx_predictor, name), tolerances[name]) for name in sorted(usable)}


def onnx_predictor(provider: str, sources: Sources) -> Predictor:
    return OnnxPredictor(sources.onnx, provider, threads=1)


RUNTIMES = onnx_runtimes() | torch_runtimes("cpu")
if torch.cuda.is_available():
    RUNTIMES |= torch_runtimes("cuda:0")


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_logits_agree_with_the_reference(runtime, sources, table):
    make, tolerance = RUNTIMES[runtime]
    predictor = make(sources)
    shapes = 1 if runtime.startswith("compile") else len(table)  # each takes the compiler many seconds
    for batch, expected in table[:shapes]:
        logits = predictor.predict(batch)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, atol=tolerance, rtol=0)
        tensor = on_tensors(predictor).infer(torch.from_numpy(batch).to(on_tensors(predictor).place))
        assert tensor.dtype == torch.float32
        np.testing.assert_array_equal(tensor.cpu().numpy(), logits)


def test_half_precision_is_really_used(sources, table):
    """Else its tolerances would prove nothing."""
    batch, expected = table[0]
    for precision in ("float16", "bfloat16"):
        assert np.abs(eager_predictor("cpu", precision, sources).predict(batch) - expected).max() > 1e-4


def test_a_predictor_that_knows_numpy_only_is_used_on_the_host(table):
    class Doubling:
        device = "cpu"

        def predict(self, batch):
            return 2 * batch.astype(np.float64)

    batch, _ = table[0]
    logits = on_tensors(Doubling()).infer(torch.from_numpy(batch))
    assert logits.dtype == torch.float32
    np.testing.assert_array_equal(logits.numpy(), 2 * batch)


def test_memory_of_the_weights(network, model):
    assert TorchPredictor(network).nbytes == 4 * count_parameters(network)
    assert OnnxPredictor(model).nbytes == len(model)


def test_onnx_reports_where_it_runs(model):
    assert OnnxPredictor(model).device == "CPUExecutionProvider"


def test_a_silent_fallback_to_the_cpu_is_an_error(model):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has the provider")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the runtime warns itself, then falls back
        with pytest.raises(RuntimeError, match="asked ONNX Runtime for CUDAExecutionProvider"):
            OnnxPredictor(model, provider="CUDAExecutionProvider")


def test_torch_reports_where_it_runs(network):
    assert TorchPredictor(network).device == "cpu"


def test_export_refuses_nothing_silently(model):
    """A size the stride does not divide fails loudly instead of giving shifted logits."""
    with pytest.raises(Exception, match=r"(?i)dimension|shape|broadcast"):
        OnnxPredictor(model).predict(np.zeros((1, 1, 7, 8, 8), np.float32))


def test_model_is_one_file_without_external_data(model):
    import onnx

    graph = onnx.load(io.BytesIO(model)).graph
    assert all(not tensor.external_data for tensor in graph.initializer)

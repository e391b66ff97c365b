"""Every runtime against one reference table: same network, same input, same logits."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch

from ops.inference.onnx import OnnxPredictor
from ops.inference.predictor import Predictor
from ops.inference.torch import TorchPredictor
from ops.training.network import UNet3d
from tasks.train import export_onnx

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


RUNTIMES: dict[str, tuple[Callable[[UNet3d, bytes], Predictor], float]] = {
    "onnx": (lambda _network, model: OnnxPredictor(model, threads=1), 1e-4),
    "torch": (lambda network, _model: TorchPredictor(network), 1e-6),
    "torch-bfloat16": (lambda network, _model: TorchPredictor(network, autocast=True), 0.2),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_logits_agree_with_the_reference(runtime, network, model, table):
    make, tolerance = RUNTIMES[runtime]
    predictor = make(network, model)
    for batch, expected in table:
        logits = predictor.predict(batch)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, atol=tolerance)


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

"""Sliding windows: identical to the whole for a pointwise network, free of seams for a convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from torch import nn

from ops.inference.inferer import WindowInferer
from ops.inference.sliding_window import Tiling, blend_weights, mosaics, window_starts
from ops.inference.torch import TorchPredictor


def predictor(kernel: int) -> TorchPredictor:
    torch.manual_seed(1)
    return TorchPredictor(nn.Conv3d(1, 4, kernel, padding=kernel // 2))


def sliding_window(network: TorchPredictor, array: np.ndarray, window, overlap=0.25, batch=1) -> np.ndarray:
    return WindowInferer(network, Tiling(window, overlap, batch)).probabilities(torch.from_numpy(array)).numpy()


def window_labels(network, volumes, tiling):
    return (mosaic.labels() for mosaic in mosaics(network, volumes, tiling))


def window_probabilities(network, volumes, tiling):
    return (mosaic.probabilities() for mosaic in mosaics(network, volumes, tiling))


def whole(network: TorchPredictor, array: np.ndarray) -> np.ndarray:
    return softmax(network.predict(array[None, None]), axis=1)[0]


@pytest.mark.parametrize("shape", [(20, 33, 41), (16, 16, 16), (5, 40, 9)])
@pytest.mark.parametrize("batch", [1, 3])
def test_pointwise_network_gives_the_full_volume_result(shape, batch):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    network = predictor(1)
    tiled = sliding_window(network, array, (16, 16, 16), overlap=0.3, batch=batch)
    np.testing.assert_allclose(tiled, whole(network, array), atol=1e-5)


def test_convolution_leaves_no_seams():
    array = np.random.default_rng(0).normal(size=(24, 48, 60)).astype(np.float32)
    network = predictor(3)
    error = np.abs(sliding_window(network, array, (16, 24, 24), overlap=0.5) - whole(network, array))
    assert error.max() < 0.02  # only voxels at a window's face differ, and they weigh next to nothing
    naive = np.abs(sliding_window(network, array, (16, 24, 24), overlap=0.0) - whole(network, array))
    assert naive.max() > 5 * error.max()  # without overlap the seams are there, so this test can see them


def test_output_is_probabilities_at_model_resolution():
    out = sliding_window(predictor(1), np.zeros((10, 11, 12), np.float32), (8, 8, 8))
    assert out.dtype == np.float32
    assert out.shape == (4, 10, 11, 12)
    np.testing.assert_allclose(out.sum(axis=0), 1, atol=1e-5)


def test_short_axes_are_padded_with_air():
    seen = []

    class Spy(TorchPredictor):
        def infer(self, batch):
            seen.append(batch.numpy().copy())
            return super().infer(batch)

    sliding_window(Spy(nn.Conv3d(1, 2, 1)), np.ones((4, 8, 8), np.float32), (8, 8, 8))
    np.testing.assert_array_equal(seen[0][0, 0].mean(axis=(1, 2)), [0, 0, 1, 1, 1, 1, 0, 0])


@given(size=st.integers(1, 300), window=st.integers(1, 96), overlap=st.floats(0, 0.9))
@settings(deadline=None, max_examples=200)
def test_windows_cover_the_axis_and_overlap_enough(size, window, overlap):
    starts = window_starts(size, window, overlap)
    assert starts[0] == 0
    if size > window:
        assert starts[-1] == size - window
        steps = np.diff(starts)
        assert (steps >= 0).all()
        assert steps.max() <= max(1, window * (1 - overlap)) + 1  # + 1: whole voxels


def test_blending_never_underflows():
    weights = blend_weights((64, 80, 80))
    assert weights.min() > 0
    assert weights.max() == pytest.approx(1, abs=0.01)


SHAPES = [(5, 40, 9), (20, 33, 41), (16, 16, 16), (7, 7, 7)]


@pytest.fixture
def volumes() -> list[torch.Tensor]:
    return [torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n, shape in enumerate(SHAPES)]


@pytest.mark.parametrize("batch", [1, 3, 50])
@pytest.mark.parametrize("on_host", [False, True])
def test_volumes_in_common_batches_are_as_if_each_were_alone(volumes, batch, on_host):
    network, window = predictor(3), (16, 16, 16)
    alone = [next(window_probabilities(network, [volume], Tiling(window))) for volume in volumes]
    together = list(window_probabilities(network, volumes, Tiling(window, batch=batch, on_host=on_host)))
    for ours, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_labels_are_the_most_probable_class(volumes):
    network, tiling = predictor(3), Tiling((16, 16, 16), batch=4)
    probabilities = window_probabilities(network, volumes, tiling)
    for labels, expected in zip(window_labels(network, volumes, tiling), probabilities, strict=True):
        assert labels.dtype == torch.uint8
        torch.testing.assert_close(labels.long(), expected.argmax(dim=0))


def test_batches_are_filled_across_volumes(volumes):
    sizes = []

    class Spy(TorchPredictor):
        def infer(self, batch):
            sizes.append(len(batch))
            return super().infer(batch)

    list(window_labels(Spy(nn.Conv3d(1, 2, 1)), volumes, Tiling((16, 16, 16), batch=4)))
    assert all(size == 4 for size in sizes[:-1])
    assert sum(sizes) == 1 * 3 * 1 + 2 * 3 * 4 + 1 + 1  # windows of each shape


def test_a_volume_is_given_before_later_ones_are_taken(volumes):
    taken = []

    def arriving():
        for number, volume in enumerate(volumes):
            taken.append(number)
            yield volume

    results = window_labels(predictor(1), arriving(), Tiling((16, 16, 16), batch=3))
    assert next(results).shape == SHAPES[0]
    assert taken == [0]


def test_weights_that_cancel_leave_the_probabilities(volumes):
    """A network that answers the same everywhere must come out as it went in, at every face, edge and corner."""

    class Constant(TorchPredictor):
        def infer(self, batch):
            return torch.tensor([0.0, 1.0, 2.0]).reshape(1, 3, 1, 1, 1).expand(len(batch), 3, *batch.shape[2:])

    expected = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    for out in window_probabilities(Constant(nn.Conv3d(1, 3, 1)), volumes, Tiling((8, 8, 8), overlap=0.6, batch=5)):
        torch.testing.assert_close(out.flatten(1).T, expected.expand(out[0].numel(), 3), atol=1e-5, rtol=0)

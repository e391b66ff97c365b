"""Windowing to network input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ops.preprocess.intensity import BACKEND_TOLERANCE, quantiles, quantiles_tensor, window, window_tensor


def test_window_maps_its_ends_to_zero_and_one_and_clips():
    out = window(np.array([-3000.0, -250.0, 50.0, 350.0, 3000.0, np.nan]), -250, 350)
    np.testing.assert_allclose(out, [0, 0, 0.5, 1, 1, 0])
    assert out.dtype == np.float32


def test_the_input_is_left_alone():
    values = np.array([np.nan, 1.0], dtype=np.float32)
    window(values, 0, 1)
    assert np.isnan(values[0])


def test_empty_window_is_refused():
    with pytest.raises(ValueError, match="empty"):
        window(np.zeros(1), 5, 5)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
@pytest.mark.parametrize("ends", [(-250.0, 350.0), (-1000.0, 1000.0), (0.1, 0.3)])
def test_numpy_and_torch_window_alike(dtype, ends):
    values = np.random.default_rng(0).normal(0, 400, (9, 20, 31)).astype(dtype)
    if values.dtype.kind == "f":
        values[0, 0, :5] = np.nan
    before = values.copy()
    ours = window_tensor(torch.from_numpy(values), *ends)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), window(values, *ends), atol=BACKEND_TOLERANCE, rtol=0)
    np.testing.assert_array_equal(values, before)


def test_torch_refuses_an_empty_window_too():
    with pytest.raises(ValueError, match="empty"):
        window_tensor(torch.zeros(1), 5, 5)


@pytest.mark.parametrize("size", [1, 2, 7, 10_001])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.02, 0.98), (0.005, 0.5)])
def test_numpy_and_torch_find_the_same_quantiles(size, ends):
    values = np.random.default_rng(size).normal(100, 30, size).astype(np.float32)
    values = np.append(values, np.float32(np.nan))
    assert quantiles_tensor(torch.from_numpy(values), *ends) == pytest.approx(quantiles(values, *ends), rel=1e-12)
    assert quantiles(values, *ends) == pytest.approx(np.nanquantile(values.astype(float), ends), rel=1e-12)

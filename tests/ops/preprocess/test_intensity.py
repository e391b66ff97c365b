"""Windowing to network input."""

from __future__ import annotations

import numpy as np
import pytest

from ops.preprocess.intensity import window


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

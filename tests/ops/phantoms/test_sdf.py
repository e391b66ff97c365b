from __future__ import annotations

import numpy as np
import pytest

from ops.phantoms.sdf import arc_length, box, curve, ellipsoid, resample, rotation, smooth_min


def test_ellipsoid_is_zero_on_its_surface_and_metric_near_it() -> None:
    frame = rotation(30, 20, 10)
    axes = np.array([40.0, 20.0, 10.0])
    direction = np.random.default_rng(0).normal(size=(50, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    surface = (direction * axes) @ frame + [1, 2, 3]
    normal = (direction / axes) @ frame
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    for offset in (0.0, 0.5, -0.5):
        p = tuple((surface + offset * normal).T.astype(np.float32))
        np.testing.assert_allclose(ellipsoid(p, [1, 2, 3], axes, frame), offset, atol=0.03)


def test_box_distance_outside_a_corner_and_inside() -> None:
    p = (np.array([3.0, 0.0]), np.array([4.0, 0.0]), np.array([0.0, 0.0]))
    np.testing.assert_allclose(box(p, (0, 0, 0), (0.001, 0.001, 1)), [5.0, -0.001], atol=2e-3)


def test_smooth_min_fills_creases_only() -> None:
    a, b = np.array([0.0, -5.0], dtype=np.float32), np.array([0.0, 40.0], dtype=np.float32)
    assert smooth_min(a, b, 20.0)[0] == pytest.approx(-5.0)
    assert smooth_min(a, b, 20.0)[1] == -5.0


def test_curves_keep_their_ends_and_spacing() -> None:
    line = curve([[0, 0, 0], [10, 5, 0], [30, 0, 0]], 2.0)
    np.testing.assert_allclose(line[[0, -1]], [[0, 0, 0], [30, 0, 0]], atol=1e-9)
    assert np.diff(arc_length(line)).max() <= 2.0
    assert arc_length(resample(line, 5.0))[-1] == pytest.approx(arc_length(line)[-1], rel=0.02)

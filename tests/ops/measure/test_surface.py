from __future__ import annotations

import math

import numpy as np
import pytest

from ops.measure.surface import mask_volume, smooth_surface, sphericity, surface_mesh
from ops.volume import Grid


def ball(radius: float, spacing: tuple[float, float, float] = (1, 1, 1)) -> tuple[np.ndarray, Grid]:
    half = [math.ceil(radius / step) + 1 for step in spacing]
    grid = Grid.from_spacing(tuple(2 * n + 1 for n in half), spacing, (5.0, -7.0, 11.0))
    points = grid.index_to_patient(np.moveaxis(np.indices(grid.shape), 0, -1))
    return np.linalg.norm(points - grid.index_to_patient(half), axis=-1) <= radius, grid


@pytest.mark.parametrize(
    ("estimator", "radius", "area", "volume"),
    [
        ("marching_cubes", 5, 1.082, 0.964),
        ("marching_cubes", 10, 1.092, 0.990),
        ("taubin", 5, 1.003, 0.965),
        ("taubin", 10, 1.013, 0.990),
        ("humphrey", 5, 0.988, 0.964),
        ("humphrey", 10, 1.002, 0.990),
    ],
)
def test_bias_of_each_estimator_is_the_published_one(estimator, radius, area, volume):
    mesh = surface_mesh(*ball(radius), estimator)
    assert mesh.area / (4 * math.pi * radius**2) == pytest.approx(area, abs=0.003)
    assert mesh.volume / (4 / 3 * math.pi * radius**3) == pytest.approx(volume, abs=0.003)


@pytest.mark.parametrize(("radius", "ratio"), [(5, 0.984), (10, 0.995)])
def test_counted_volume(radius, ratio):
    assert mask_volume(*ball(radius)) / (4 / 3 * math.pi * radius**3) == pytest.approx(ratio, abs=0.001)


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (1.0, 0.5, 0.5), (0.4, 0.6, 0.8)])
def test_mesh_lies_where_the_mask_does_in_mm(spacing):
    mask, grid = ball(4.0, spacing)
    mesh = surface_mesh(mask, grid)
    middle = grid.index_to_patient((np.array(grid.shape) - 1) / 2)
    assert mesh.centroid == pytest.approx(middle, abs=0.02)
    assert mesh.is_watertight
    assert mesh.volume > 0
    assert mesh.area == pytest.approx(4 * math.pi * 16, rel=0.03)


def test_normals_point_outwards_whatever_the_axes_do():
    mask, grid = ball(4.0)
    mirrored = grid.affine.copy()
    mirrored[:3, 0] *= -1
    for affine in (grid.affine, mirrored):
        assert surface_mesh(mask, Grid(grid.shape, affine)).volume > 0


def test_mask_at_the_edge_is_capped():
    mesh = surface_mesh(np.ones((4, 4, 4), dtype=bool), Grid.from_spacing((4, 4, 4), (1, 1, 1)), "marching_cubes")
    assert mesh.is_watertight


def test_smoothing_leaves_its_input_alone():
    mesh = surface_mesh(*ball(4.0), "marching_cubes")
    before = mesh.vertices.copy()
    smooth_surface(mesh, "taubin")
    assert np.array_equal(mesh.vertices, before)


def test_empty_mask():
    with pytest.raises(ValueError, match="empty"):
        surface_mesh(np.zeros((3, 3, 3), dtype=bool), Grid.from_spacing((3, 3, 3), (1, 1, 1)))


def test_sphericity():
    assert sphericity(4 / 3 * math.pi * 27, 4 * math.pi * 9) == pytest.approx(1, abs=1e-12)
    assert sphericity(1, 6) == pytest.approx((math.pi / 6) ** (1 / 3))

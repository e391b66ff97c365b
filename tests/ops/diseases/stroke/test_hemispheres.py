from __future__ import annotations

import numpy as np
import pytest

from ops.diseases.stroke.hemispheres import midsagittal_plane
from ops.measure.errors import NotEvaluableError
from ops.phantoms.lattice import coordinates
from ops.phantoms.sdf import ellipsoid, rotation
from ops.volume import Grid

AXES = (66, 85, 60)


def brain(grid: Grid, yaw: float, roll: float, centre: tuple[float, float, float]) -> np.ndarray:
    """A brain with a flat base, turned by yaw and roll."""
    frame = rotation(yaw, 4.0, roll).T
    points = coordinates(grid)
    whole = ellipsoid(points, centre, AXES, frame)
    x, y, z = (points[axis] - centre[axis] for axis in range(3))
    height = frame[2][0] * x + frame[2][1] * y + frame[2][2] * z
    return (whole < 0) & (height > -25)


@pytest.mark.parametrize(("yaw", "roll", "offset"), [(0, 0, 0), (12, -7, 9), (-9, 10, -6)])
@pytest.mark.parametrize("spacing", [(3.0, 3.0, 3.0), (8.0, 2.5, 2.5)])
def test_finds_the_plane(yaw: float, roll: float, offset: float, spacing: tuple[float, float, float]) -> None:
    shape = tuple(int(n / s) for n, s in zip((150, 220, 190), spacing, strict=True))
    grid = Grid.from_spacing(shape, spacing, (-95, -110, -60))
    plane = midsagittal_plane(brain(grid, yaw, roll, (offset, 3, 2)), grid)
    true = rotation(yaw, 4.0, roll)[:, 0]
    assert np.degrees(np.arccos(min(1, plane.normal @ true))) < 2.5
    assert abs((np.array([offset, 3, 2]) - plane.point) @ plane.normal) < 1.0


def test_any_orientation_of_the_grid_and_sides() -> None:
    affine = np.array([[-3.0, 0, 0, 90], [0, 0, -3.0, 110], [0, 3.0, 0, -60], [0, 0, 0, 1]])
    sagittal = Grid((60, 50, 70), affine)
    plane = midsagittal_plane(brain(sagittal, 5, 5, (4, 0, 0)), sagittal)
    distance = plane.distance(sagittal)
    points = sagittal.index_to_patient([[10, 20, 30], [50, 20, 30]])
    assert distance[10, 20, 30] > 0 > distance[50, 20, 30]
    assert distance[[10, 50], 20, 30] == pytest.approx((points - plane.point) @ plane.normal, abs=1e-3)


def test_a_slab_and_a_lopsided_brain() -> None:
    grid = Grid.from_spacing((8, 88, 76), (5.0, 2.5, 2.5), (-95, -110, 0))
    mask = brain(grid, 8, 0, (0, 0, 0))
    mask[:, :30, 60:] = False
    plane = midsagittal_plane(mask, grid)
    assert np.degrees(np.arctan2(plane.normal[1], plane.normal[0])) == pytest.approx(8, abs=2)


def test_refuses() -> None:
    grid = Grid.from_spacing((8, 20, 20), (5.0, 5.0, 5.0))
    sheared = grid.affine.copy()
    sheared[1, 0] = 1.5
    for mask, where, reason in (
        (np.zeros(grid.shape, bool), grid, "no_contour"),
        (np.ones(grid.shape, bool), grid, "no_contour"),
        (np.ones(grid.shape, bool), Grid(grid.shape, sheared), "gantry_tilt"),
    ):
        with pytest.raises(NotEvaluableError) as error:
            midsagittal_plane(mask, where)
        assert error.value.reason == reason

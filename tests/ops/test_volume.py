from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.volume import Grid, Volume


def oblique_grid(angle: float = 0.3) -> Grid:
    c, s = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, -s, c], [0, c, s], [1, 0, 0]]) @ np.diag([3.0, 0.7, 0.5])
    affine[:3, 3] = [-120.0, 33.0, 800.5]
    return Grid((4, 5, 6), affine)


def test_spacing_and_voxel_volume_of_an_oblique_grid() -> None:
    grid = oblique_grid()
    assert grid.spacing == pytest.approx((3.0, 0.7, 0.5))
    assert grid.voxel_volume == pytest.approx(1.05)
    assert grid.is_orthogonal


def test_sheared_grid_is_not_orthogonal() -> None:
    affine = oblique_grid().affine.copy()
    affine[:3, 0] += [0.0, 1.0, 0.0]
    assert not Grid((4, 5, 6), affine).is_orthogonal


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=3), st.floats(-3, 3))
def test_index_to_patient_is_inverted_by_patient_to_index(index: list[float], angle: float) -> None:
    grid = oblique_grid(angle)
    assert grid.patient_to_index(grid.index_to_patient(index)) == pytest.approx(index, abs=1e-6)


def test_from_spacing_runs_along_patient_axes() -> None:
    grid = Grid.from_spacing((2, 2, 2), (3.0, 0.7, 0.5), (10, 20, 30))
    assert grid.index_to_patient([1, 1, 1]) == pytest.approx([10.5, 20.7, 33.0])


def test_crop_keeps_every_voxel_where_it_was() -> None:
    grid = oblique_grid()
    volume = Volume(np.arange(120, dtype=np.int16).reshape(grid.shape), grid)
    part = volume.crop((1, 2, 3), (3, 5, 6))
    assert part.voxels[0, 0, 0] == volume.voxels[1, 2, 3]
    assert part.grid.index_to_patient([0, 0, 0]) == pytest.approx(grid.index_to_patient([1, 2, 3]))
    assert np.shares_memory(part.voxels, volume.voxels)


@pytest.mark.parametrize(("start", "stop"), [((-1, 0, 0), (2, 2, 2)), ((0, 0, 0), (5, 5, 6)), ((2, 2, 2), (2, 3, 3))])
def test_crop_outside_the_grid_is_refused(start: tuple[int, int, int], stop: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"does not lie inside|three positive sizes"):
        oblique_grid().crop(start, stop)


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(3)])
def test_unusable_affines_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="affine"):
        Grid((1, 1, 1), bad)


def test_physical_rescales_without_touching_the_stored_integers() -> None:
    grid = Grid.from_spacing((1, 1, 2), (1, 1, 1))
    volume = Volume(np.array([[[0, 1154]]], dtype=np.int16), grid, slope=1.0, intercept=-1024.0)
    assert volume.physical().tolist() == [[[-1024.0, 130.0]]]
    assert volume.voxels.dtype == np.int16


def test_volume_refuses_voxels_of_another_shape_and_a_zero_slope() -> None:
    grid = Grid.from_spacing((1, 1, 2), (1, 1, 1))
    with pytest.raises(ValueError, match="do not fit"):
        Volume(np.zeros((1, 2, 2)), grid)
    with pytest.raises(ValueError, match="slope"):
        Volume(np.zeros((1, 1, 2)), grid, slope=0.0)


def test_matches_compares_positions_not_only_shapes() -> None:
    grid = oblique_grid()
    moved = grid.affine.copy()
    moved[0, 3] += 0.01
    assert grid.matches(Grid(grid.shape, grid.affine))
    assert not grid.matches(Grid(grid.shape, moved))

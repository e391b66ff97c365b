"""Axis order: views only, same voxel at the same patient position."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from ops.preprocess.orientation import axis_order, canonical_grid, to_canonical
from ops.volume import Grid, Volume


def reoriented(volume: Volume, order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """Store the same voxels with permuted and flipped axes, keeping every patient position."""
    voxels = volume.voxels.transpose(order)
    affine = volume.grid.affine.copy()
    affine[:3, :3] = affine[:3, list(order)]
    for axis, flip in enumerate(flips):
        if flip:
            voxels = np.flip(voxels, axis)
            affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
            affine[:3, axis] *= -1
    return Volume(voxels, Grid(voxels.shape, affine))


@pytest.fixture
def volume() -> Volume:
    voxels = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    return Volume(voxels, Grid.from_spacing((3, 4, 5), (3.0, 0.5, 0.7), (-10.0, 20.0, 30.0)))


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product([False, True], repeat=3)))
def test_any_axis_order_comes_back_to_the_canonical_one(volume, order, flips):
    back = to_canonical(reoriented(volume, order, flips))
    assert back.grid.matches(volume.grid)
    np.testing.assert_array_equal(back.voxels, volume.voxels)


def test_nothing_is_copied(volume):
    turned = reoriented(volume, (2, 0, 1), (True, False, True))
    assert np.shares_memory(to_canonical(turned).voxels, volume.voxels)


def test_oblique_axes_go_to_the_nearest_direction(volume):
    angle = np.radians(30)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    oblique = Grid(volume.grid.shape, turn @ volume.grid.affine)
    assert axis_order(oblique) == ((0, 1, 2), (1, 1, 1))
    assert canonical_grid(oblique).matches(oblique)

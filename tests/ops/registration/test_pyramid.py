"""Working lattices: scale, masks, padding, halving."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ops.measure.errors import NotEvaluableError
from ops.registration.fields import double, half_grid, halve, identity, transform_points, units_to_patient
from ops.registration.pyramid import stack, working_lattices
from ops.volume import Volume
from tests.ops.registration.blobs import image, make_grid

SPACINGS = (12.0, 6.0)


def test_lattices_are_isotropic_and_scaled():
    lattices = working_lattices(image(make_grid((18, 60, 60), (7.0, 2.2, 2.2))), None, SPACINGS, None, "cpu")
    assert [lattice.grid.spacing for lattice in lattices] == [pytest.approx((s, s, s)) for s in SPACINGS]
    assert lattices[-1].values.min() == 0
    assert lattices[-1].values.max() == 1
    assert all(lattice.mask.all() for lattice in lattices)


def test_nothing_outside_the_mask_bleeds_in():
    grid = make_grid((24, 24, 24), 3.0)
    inside = np.zeros(grid.shape, bool)
    inside[:, :, :11] = True
    voxels = np.where(inside, 100, 9000).astype(np.float32)
    voxels[0, 0, 0] = 0
    mask = Volume(inside.astype(np.uint8), grid, "label")
    for lattice in working_lattices(Volume(voxels, grid, "a.u."), mask, SPACINGS, (0.0, 1000.0), "cpu"):
        assert lattice.values[lattice.mask > 0].max() == pytest.approx(0.1, abs=1e-5)
        assert 0 < lattice.mask.mean() < 0.6


def test_a_mask_on_another_grid_is_refused():
    mask = Volume(np.ones((24, 24, 24), np.uint8), make_grid((24, 24, 24), 3.0), "label")
    with pytest.raises(NotEvaluableError) as refusal:
        working_lattices(image(make_grid()), mask, SPACINGS, None, "cpu")
    assert refusal.value.reason == "grid_mismatch"


def test_a_batch_is_padded_to_one_odd_shape_in_place():
    small, large = (
        working_lattices(image(make_grid(shape)), None, SPACINGS, None, "cpu")[-1]
        for shape in ((40, 44, 48), (36, 50, 40))
    )
    level = stack([small, large], "cpu")
    assert all(n % 2 == 1 for n in level.values.shape[-3:])
    for case, lattice in enumerate((small, large)):
        assert int(level.mask[case].sum()) == lattice.mask.sum()
        np.testing.assert_array_equal(level.grids[case].affine, lattice.grid.affine)


def test_units_reach_the_corners_of_an_oblique_grid():
    grid = make_grid((5, 7, 9), (4.0, 3.0, 2.0), oblique=True)
    corners = torch.tensor([[[-1.0, -1, -1], [1, 1, 1], [1, -1, -1]]], dtype=torch.float64)
    mapped = transform_points(torch.from_numpy(units_to_patient(grid))[None], corners)[0]
    expected = grid.index_to_patient([[0, 0, 0], [4, 6, 8], [0, 0, 8]])
    np.testing.assert_allclose(mapped, expected, atol=1e-9)


def test_a_linear_field_survives_halving_and_doubling_inside():
    field = identity((9, 11, 13), torch.device("cpu")).movedim(-1, 0)[None]
    again = double(halve(field), field.shape)
    torch.testing.assert_close(again[..., 2:-2, 2:-2, 2:-2], field[..., 2:-2, 2:-2, 2:-2])
    grid = make_grid((9, 11, 13), 3.0, oblique=True)
    np.testing.assert_allclose(half_grid(grid).index_to_patient([4, 5, 6]), grid.index_to_patient([8, 10, 12]))

"""Resampling: analytic functions, anti-aliasing, NumPy = torch = SimpleITK where they must agree."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  (its usual name)

from ops.preprocess.resample import BACKEND_TOLERANCE, resample, spaced_grid, triangle_weights
from ops.volume import Grid, Volume

DEVICES = [None, "cpu"]


def linear_ramp(grid: Grid) -> np.ndarray:
    z, y, x = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    points = grid.index_to_patient(np.stack([z, y, x], axis=-1))
    return points @ np.array([1.0, -2.0, 0.5]) + 7


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("spacing", [(1.0, 0.5, 0.5), (3.0, 0.7, 0.7), (4.0, 3.0, 3.0)])
def test_a_linear_function_is_reproduced_inside(device, spacing):
    grid = Grid.from_spacing((30, 60, 70), spacing, (-17.0, 5.0, 100.0))
    out = resample(Volume(linear_ramp(grid), grid), spaced_grid(grid, (3.0, 3.0, 3.0)), device=device)
    inside = (slice(2, -2),) * 3
    # An anti-aliasing filter sampled on a grid reproduces slopes up to a fraction of an input voxel.
    np.testing.assert_allclose(out.voxels[inside], linear_ramp(out.grid)[inside], atol=0.2)
    assert abs((out.voxels - linear_ramp(out.grid))[inside].mean()) < 1e-3


@pytest.mark.parametrize("device", DEVICES)
def test_a_constant_stays_exactly_constant_to_the_border(device):
    grid = Grid.from_spacing((7, 33, 41), (2.5, 0.8, 0.8))
    out = resample(
        Volume(np.full(grid.shape, -1024, np.int16), grid), spaced_grid(grid, (3.0, 3.0, 3.0)), device=device
    )
    np.testing.assert_allclose(out.voxels, -1024, rtol=1e-6)


def test_frequencies_above_the_new_limit_are_removed_not_folded():
    grid = Grid.from_spacing((4, 4, 512), (3.0, 3.0, 0.5))
    stripes = np.broadcast_to(100 * np.sin(2 * np.pi * np.arange(512) * 0.5 / 1.3), grid.shape)  # period 1.3 mm
    target = spaced_grid(grid, (3.0, 3.0, 3.0))
    assert np.abs(resample(Volume(stripes, grid), target).voxels[..., 2:-2]).max() < 8
    picked = stripes[
        0, 0, np.rint(target.index_to_patient(np.c_[np.zeros((85, 2)), np.arange(85)])[:, 0] / 0.5).astype(int)
    ]
    assert np.abs(picked).max() > 90  # picking samples, the wrong way, would have kept them


def test_refining_is_linear_interpolation_as_in_simpleitk():
    rng = np.random.default_rng(0)
    grid = Grid.from_spacing((9, 12, 14), (3.0, 2.0, 2.0), (4.0, -3.0, 10.0))
    voxels = rng.normal(0, 100, grid.shape).astype(np.float32)
    target = spaced_grid(grid, (1.3, 0.9, 0.7))
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin.tolist())
    reference = sitk.Resample(
        image, target.shape[::-1], sitk.Transform(), sitk.sitkLinear, target.origin.tolist(), target.spacing[::-1]
    )
    inside = (slice(3, -3),) * 3
    out = resample(Volume(voxels, grid), target).voxels
    np.testing.assert_allclose(out[inside], sitk.GetArrayFromImage(reference)[inside], atol=0.01)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_numpy_and_torch_agree(dtype):
    rng = np.random.default_rng(1)
    grid = Grid.from_spacing((21, 64, 50), (1.5, 0.6, 0.8))
    volume = Volume(rng.integers(0, 200, grid.shape).astype(dtype), grid, slope=2.0, intercept=-100.0)
    target = spaced_grid(grid, (3.0, 3.0, 3.0))
    a, b = (resample(volume, target, clip=(-50.0, 250.0), device=device).voxels for device in DEVICES)
    assert np.abs(a - b).max() <= BACKEND_TOLERANCE * 250


@pytest.mark.parametrize("device", DEVICES)
def test_padding_does_not_bleed_and_the_input_is_left_alone(device):
    grid = Grid.from_spacing((4, 30, 30), (3.0, 1.0, 1.0))
    voxels = np.full(grid.shape, -1000, np.float32)
    voxels[:, :15] = -8192
    before = voxels.copy()
    out = resample(
        Volume(voxels, grid), spaced_grid(grid, (3.0, 3.0, 3.0)), clip=(-1024.0, 3071.0), device=device
    ).voxels
    assert out.min() >= -1024.01
    np.testing.assert_array_equal(voxels, before)


def test_flipping_the_input_does_not_move_the_result():
    rng = np.random.default_rng(2)
    grid = Grid.from_spacing((11, 23, 31), (2.0, 0.9, 0.9))
    voxels = rng.normal(size=grid.shape)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, 2] * 30
    affine[:3, 2] *= -1
    flipped = Volume(voxels[..., ::-1], Grid(grid.shape, affine))
    target = spaced_grid(flipped.grid, (3.0, 3.0, 3.0))
    assert target.matches(spaced_grid(grid, (3.0, 3.0, 3.0)))
    np.testing.assert_allclose(
        resample(flipped, target).voxels, resample(Volume(voxels, grid), target).voxels, atol=1e-6
    )


def test_outside_the_field_of_view_is_filled():
    grid = Grid.from_spacing((4, 4, 4), (1.0, 1.0, 1.0))
    target = Grid.from_spacing((4, 4, 8), (1.0, 1.0, 1.0), (-2.0, 0.0, 0.0))
    out = resample(Volume(np.ones(grid.shape), grid), target, fill=-5.0).voxels
    np.testing.assert_array_equal(out[0, 0], [-5, -5, 1, 1, 1, 1, -5, -5])


def test_a_rotated_target_is_refused_with_the_reason():
    grid = Grid.from_spacing((4, 4, 4), (1.0, 1.0, 1.0))
    turned = grid.affine.copy()
    turned[:2, :3] = turned[:2, :3][::1] @ np.eye(3)
    angle = 0.1
    turned[:3, :3] = (
        np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]) @ turned[:3, :3]
    )
    with pytest.raises(ValueError, match="not parallel"):
        resample(Volume(np.ones(grid.shape), grid), Grid(grid.shape, turned))


def test_weights_sum_to_one_also_at_the_border():
    weights = triangle_weights(np.linspace(-1.0, 9.0, 7), 10, 3.0)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)

"""Resampling: analytic functions, anti-aliasing, NumPy = torch = SimpleITK where they must agree."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  (its usual name)
import torch

from ops.preprocess.orientation import canonical_grid, to_canonical
from ops.preprocess.resample import BACKEND_TOLERANCE, resample, spaced_grid, triangle_weights
from ops.preprocess.resample_torch import resample_labels
from ops.volume import Grid, Volume
from tests.ops.preprocess.test_orientation import reoriented

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


TURNS = [((0, 1, 2), (False, False, False)), ((2, 0, 1), (True, False, True)), ((1, 2, 0), (True, True, True))]


@pytest.mark.parametrize(("order", "flips"), TURNS)
@pytest.mark.parametrize("spacing", [(3.0, 3.0, 3.0), (0.8, 0.5, 1.1), (5.0, 0.6, 2.0)])
def test_numpy_and_torch_agree_in_any_orientation_and_outside(order, flips, spacing):
    """Orientation, anti-aliasing, clip, rescale and fill of a whole call."""
    rng = np.random.default_rng(3)
    grid = Grid.from_spacing((13, 24, 19), (1.5, 0.6, 0.8), (5.0, -7.0, 11.0))
    volume = reoriented(Volume(rng.integers(-1500, 3000, grid.shape).astype(np.int16), grid), order, flips)
    inside = spaced_grid(volume.grid, spacing)
    shifted = inside.affine.copy()
    shifted[:3, 3] -= 6.0  # partly outside
    target = Grid(inside.shape, shifted)
    a, b = (resample(volume, target, clip=(-1024.0, 2000.0), device=device).voxels for device in DEVICES)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    assert 0 < np.isnan(a).mean() < 1
    assert np.nanmax(np.abs(a - b)) <= BACKEND_TOLERANCE * 2000


def blobs(grid: Grid) -> np.ndarray:
    z, y, x = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    points = grid.index_to_patient(np.stack([z, y, x], axis=-1))
    ball = ((points - [20.0, 25.0, 15.0]) ** 2).sum(-1) < 11**2
    return np.where(ball, 1, np.where(points[..., 0] > 30, 7, 0)).astype(np.uint8)


@pytest.mark.parametrize(("order", "flips"), TURNS)
def test_labels_come_back_to_the_grid_of_the_scan(order, flips):
    scan = reoriented(
        Volume(np.zeros((40, 60, 50), np.int16), Grid.from_spacing((40, 60, 50), (0.9, 0.8, 0.8))), order, flips
    )
    network = spaced_grid(scan.grid, (2.0, 2.0, 2.0))
    back = resample_labels(torch.from_numpy(blobs(network)), network, scan.grid)
    assert back.shape == scan.grid.shape
    truth = blobs(scan.grid)
    for label in (1, 7):
        found, wanted = back.numpy() == label, truth == label
        assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.95
    assert set(np.unique(back.numpy())) == {0, 1, 7}


def test_labels_win_by_their_interpolated_indicator():
    """Against the same rule over whole arrays, with the resampling that images get."""
    coarse = Grid.from_spacing((7, 9, 8), (2.0, 2.0, 2.0))
    labels = np.random.default_rng(0).integers(0, 4, coarse.shape).astype(np.uint8)
    fine = spaced_grid(coarse, (0.7, 0.9, 1.1))
    shares = [resample(Volume((labels == n).astype(np.float32), coarse), fine).voxels for n in range(4)]
    expected = np.argmax(np.round(shares, 5), axis=0)  # rounding: ties go to the lower label
    found = resample_labels(torch.from_numpy(labels), coarse, fine).numpy()
    assert (found == expected).mean() > 0.999  # but for rounding of ties


def test_labels_outside_the_field_of_view_are_background():
    coarse = Grid.from_spacing((3, 3, 3), (1.0, 1.0, 1.0))
    target = Grid.from_spacing((3, 3, 6), (1.0, 1.0, 1.0), (-2.0, 0.0, 0.0))
    back = resample_labels(torch.full((3, 3, 3), 5, dtype=torch.uint8), coarse, target)
    np.testing.assert_array_equal(back[1, 1].numpy(), [0, 0, 5, 5, 5, 0])


def test_the_same_grid_gives_the_same_labels():
    grid = Grid.from_spacing((5, 6, 7), (1.0, 2.0, 3.0))
    volume = reoriented(
        Volume(np.random.default_rng(1).integers(0, 9, grid.shape).astype(np.uint8), grid),
        (2, 1, 0),
        (True, False, True),
    )
    labels = np.ascontiguousarray(to_canonical(volume).voxels)
    back = resample_labels(torch.from_numpy(labels), canonical_grid(volume.grid), volume.grid)
    np.testing.assert_array_equal(back.numpy(), volume.voxels)

"""Resampling through a transform: against the formula of the image, and SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest

from ops.registration import warp as warp_module
from ops.registration.transforms import Affine
from ops.registration.warp import warp
from ops.volume import Volume
from tests.ops.registration.blobs import image, make_grid, positions
from tests.ops.registration.peers import as_sitk

TURN = Affine.rigid([8, -12, 15], [4, -6, 8])


def test_the_value_at_a_point_is_the_moving_image_where_the_transform_sends_it(monkeypatch):
    monkeypatch.setattr(warp_module, "SLAB_POINTS", 3000)  # several slabs
    target, moving = make_grid((20, 22, 24), 4.0), image(make_grid((60, 64, 68), 2.0, oblique=True))
    out = warp(moving, target, TURN, fill=-7)
    expected = image(target, TURN.apply(positions(target))).voxels
    inside = out.voxels != -7
    assert inside.mean() > 0.9
    assert np.abs(out.voxels - expected)[inside].max() < 20  # of 1000; curvature of 7 mm blobs between 2 mm voxels


def test_labels_keep_their_type_and_values():
    grid = make_grid((10, 10, 10), 2.0)
    labels = Volume(np.random.default_rng(0).integers(0, 500, grid.shape).astype(np.int16), grid, "label")
    same = warp(labels, grid, Affine(np.eye(4)), nearest=True)
    assert same.voxels.dtype == np.int16
    np.testing.assert_array_equal(same.voxels, labels.voxels)
    shifted = warp(labels, grid, Affine.rigid([0, 0, 0], [2, 0, 0]), fill=9, nearest=True)
    np.testing.assert_array_equal(shifted.voxels[:, :, :-1], labels.voxels[:, :, 1:])
    assert (shifted.voxels[:, :, -1] == 9).all()


def test_the_rescale_is_applied_and_nothing_is_found_outside():
    grid = make_grid((4, 5, 6), 2.0)
    stored = Volume(np.full(grid.shape, 100, np.int16), grid, "HU", slope=2.0, intercept=-1000.0)
    assert (warp(stored, grid, Affine(np.eye(4))).voxels == -800).all()
    away = warp(stored, grid, Affine.rigid([0, 0, 0], [500, 0, 0]), fill=-1024)
    assert (away.voxels == -1024).all()


def test_a_single_slice_is_resampled():
    grid = make_grid((1, 8, 9), 2.0)
    ramp = Volume(np.arange(72, dtype=np.float32).reshape(grid.shape), grid, "a.u.")
    np.testing.assert_allclose(warp(ramp, grid, Affine(np.eye(4))).voxels, ramp.voxels, atol=1e-4)


def test_simpleitk_agrees():
    sitk = pytest.importorskip("SimpleITK")
    moving, target = image(make_grid((30, 33, 36), (4.0, 3.0, 2.5), oblique=True)), make_grid((20, 24, 28), 4.0)
    out = warp(moving, target, TURN, fill=-1).voxels
    expected = sitk.GetArrayFromImage(
        sitk.Resample(
            as_sitk(moving),
            as_sitk(Volume(np.zeros(target.shape, np.float32), target)),
            sitk.AffineTransform(TURN.matrix[:3, :3].ravel().tolist(), TURN.matrix[:3, 3].tolist()),
            sitk.sitkLinear,
            -1.0,
        )
    )
    # SimpleITK and we differ only within the half voxel at the border.
    assert np.abs(out - expected)[(out != -1) & (expected != -1)].max() < 0.05
    assert ((out == -1) == (expected == -1)).mean() > 0.995

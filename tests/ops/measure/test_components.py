"""Sparse components: thresholds in the stored domain, in-plane and 3-D labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.measure import label as skimage_label

from ops.measure.components import (
    VoxelList,
    label_in_plane,
    label_in_space,
    majority_label,
    maximum_by_component,
    stored_threshold,
    voxels_above,
)
from ops.volume import Grid, Volume


def volume_of(voxels: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> Volume:
    return Volume(voxels, Grid.from_spacing(voxels.shape, (3.0, 0.5, 0.5)), slope=slope, intercept=intercept)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


@given(
    slope=st.sampled_from([1.0, 0.1, 0.25, 0.30000001192092896, 1 / 3, 2.44140625]),
    intercept=st.sampled_from([0.0, -1024.0, -8192.5]),
    threshold=st.sampled_from([130.0, 147.0, 207.0]),
)
def test_stored_threshold_is_the_smallest_that_reaches(slope: float, intercept: float, threshold: float) -> None:
    volume = volume_of(np.zeros((1, 1, 1), dtype=np.int16), slope, intercept)
    stored = stored_threshold(volume, threshold)
    assert slope * stored + intercept >= threshold
    assert slope * (stored - 1) + intercept < threshold


def test_threshold_is_inclusive_for_integers_and_floats() -> None:
    for dtype in (np.int16, np.float32):
        voxels = voxels_above(volume_of(np.array([[[129, 130, 131]]], dtype=dtype)), 130)
        assert voxels.value.tolist() == [130.0, 131.0]
        assert voxels.index.tolist() == [[0, 0, 1], [0, 0, 2]]


def test_threshold_beyond_the_stored_type_finds_nothing() -> None:
    assert len(voxels_above(volume_of(np.full((1, 2, 2), 255, dtype=np.uint8)), 300)) == 0


def test_falling_grey_scale_is_an_error() -> None:
    with pytest.raises(ValueError, match="slope -1"):
        voxels_above(volume_of(np.zeros((1, 1, 1), dtype=np.int16), slope=-1.0), 130)


def test_mask_must_fit() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        voxels_above(volume_of(np.zeros((1, 2, 2), dtype=np.int16)), 130, np.ones((2, 2, 2)))


@pytest.mark.parametrize(("connectivity", "skimage_connectivity"), [(4, 1), (8, 2)])
def test_in_plane_labels_agree_with_scikit_image(connectivity: int, skimage_connectivity: int) -> None:
    array = (np.random.default_rng(3).random((5, 40, 30)) < 0.4).astype(np.int16)
    voxels = voxels_above(volume_of(array), 1)
    expected = np.stack([skimage_label(plane, connectivity=skimage_connectivity) for plane in array])
    expected += np.arange(5)[:, None, None] * 10_000
    assert same_partition(label_in_plane(voxels, connectivity), expected[tuple(voxels.index.T)])


def test_spatial_labels_agree_with_scikit_image() -> None:
    array = (np.random.default_rng(4).random((12, 20, 20)) < 0.05).astype(np.int16)
    voxels = voxels_above(volume_of(array), 1)
    expected = skimage_label(array, connectivity=3)
    assert same_partition(label_in_space(voxels), expected[tuple(voxels.index.T)])


def test_nothing_above_gives_empty_labels() -> None:
    voxels = voxels_above(volume_of(np.zeros((2, 3, 3), dtype=np.int16)), 130)
    assert label_in_plane(voxels).shape == label_in_space(voxels).shape == (0,)
    assert maximum_by_component(voxels.value, label_in_plane(voxels)).shape == (0,)


def test_unknown_connectivity_is_an_error() -> None:
    voxels = VoxelList(np.zeros((1, 3), dtype=np.int64), np.array([200.0]), (3.0, 0.5, 0.5))
    with pytest.raises(ValueError, match="must be 4 or 8"):
        label_in_plane(voxels, 6)


def test_majority_and_maximum() -> None:
    component = np.array([0, 0, 0, 1, 1])
    assert majority_label(np.array([2, 2, 1, 4, 3]), component, 5).tolist() == [2, 3]
    assert maximum_by_component(np.array([1.0, 9.0, 3.0, 4.0, 2.0]), component).tolist() == [9.0, 4.0]

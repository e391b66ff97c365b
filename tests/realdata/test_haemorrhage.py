"""The search for blood in a real head without any: atrophy, an old infarct, calcified choroid plexus, gantry tilt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from ops.diseases.haemorrhage.detection import find_haemorrhage
from ops.volume import Grid, Volume

pytestmark = pytest.mark.realdata

SLICE_MM = 5.0


def upright(folder: Path) -> Volume:
    """Slices moved in their own planes until they stack along their normal, then interpolated to equal steps."""
    datasets = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    row, column = np.reshape(np.array(datasets[0].ImageOrientationPatient, dtype=np.float64), (2, 3))
    normal = np.cross(row, column)
    datasets.sort(key=lambda dataset: float(normal @ dataset.ImagePositionPatient))
    positions = np.array([dataset.ImagePositionPatient for dataset in datasets], dtype=np.float64)
    pixel = float(datasets[0].PixelSpacing[0])
    offsets = (positions - positions[0]) @ np.stack([column, row], axis=1) / pixel
    slices = [
        ndimage.shift(d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept), offset, order=1, cval=-1000)
        for d, offset in zip(datasets, offsets, strict=True)
    ]
    heights = positions @ normal
    wanted = np.arange(heights[0], heights[-1], SLICE_MM)
    below = np.searchsorted(heights, wanted, side="right") - 1
    share = ((wanted - heights[below]) / (heights[below + 1] - heights[below]))[:, None, None]
    stack = np.array(slices)
    voxels = (1 - share) * stack[below] + share * stack[below + 1]
    affine = np.eye(4)
    affine[:3, :3] = np.stack([normal * SLICE_MM, column * pixel, row * pixel], axis=1)
    affine[:3, 3] = positions[0]
    return Volume(voxels.round().astype(np.int16), Grid(voxels.shape, affine), "HU")


def test_no_blood_in_a_head_without(realdata: Path) -> None:
    folder = realdata / "dcm_qa_ct_GE_head" / "In"
    if not folder.is_dir():
        pytest.skip("no dcm_qa_ct_GE_head")
    ct = upright(folder)
    found = find_haemorrhage(ct)
    assert 1300 < found.cavity_ml < 1600
    assert found.candidates == ()
    # The same head with a clot put into its white matter.
    k, j, i = ct.grid.shape[0] * 2 // 3, 230, 300
    bled = ct.voxels.copy()
    bled[k : k + 4, j - 20 : j + 20, i - 20 : i + 20] = 65
    (clot,) = find_haemorrhage(Volume(bled, ct.grid, "HU")).candidates
    assert clot.volume_ml == pytest.approx(4 * 40 * 40 * ct.grid.voxel_volume / 1000, rel=0.2)

"""Diffusion MR of a real stroke with several small foci: trace image and ADC, 2 mm, skull removed."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from ops.diseases.stroke.diffusion import ADC_UNITS, DiffusionPolicy, dwi_core
from ops.diseases.stroke.measurement import measure_dwi
from ops.verdict import ResultStatus
from ops.volume import Grid, Volume

pytestmark = pytest.mark.realdata

# Index of the bright focus in the left centrum semiovale, found by eye on trace image and ADC.
FOCUS = (51, 54, 68)


def read(folder: Path, name: str, units: str, slope: float = 1.0) -> Volume:
    """NIfTI, RAS and x first, as a Volume: LPS and z first."""
    image = nib.load(folder / f"sub-strokecase0001_ses-0001_{name}.nii.gz")
    voxels = np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0)
    affine = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine)[:, [2, 1, 0, 3]]
    return Volume(voxels, Grid(voxels.shape, affine), units, slope)


def test_finds_the_foci(realdata: Path) -> None:
    folder = realdata / "deepisles_case0001"
    if not folder.is_dir():
        pytest.skip("no deepisles_case0001")
    dwi, adc = read(folder, "dwi", "a.u."), read(folder, "adc", ADC_UNITS, slope=1000.0)
    brain = Volume(ndimage.binary_fill_holes(dwi.voxels != 0).astype(np.uint8), dwi.grid, "label")
    record = measure_dwi([dwi], [1000], brain, "MR", adc=adc)
    assert record.status is ResultStatus.OK, record.detail
    # Scattered voxels of a noisy ADC; no piece of 1 mL or more.
    assert 3 < record["core_ml"] < 12
    assert record["core_cleaned_ml"] == 0
    assert record.flags == ("core_only_islands",)
    core = dwi_core(adc.physical(), dwi.physical(), brain.voxels.astype(bool), dwi.grid, DiffusionPolicy())
    pieces, _ = ndimage.label(core, np.ones((3, 3, 3)))
    largest = np.bincount(pieces.ravel())[1:].argmax() + 1
    assert np.linalg.norm(np.array(ndimage.center_of_mass(pieces == largest)) - FOCUS) < 3
    assert 0.2 < (pieces == largest).sum() * dwi.grid.voxel_volume / 1000 < 0.6

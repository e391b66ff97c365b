"""SPEC §1.8: CAC-13 (volumes and masses), CAC-14 and CAC-25 (regression scores)."""

from __future__ import annotations

import numpy as np
import pytest

from ops.phantoms.chest.agatston import agatston
from ops.phantoms.chest.qrm_cci import CALIBRATION_DENSITY, MG_PER_CM3_PER_HU, PITCH_MM, cylinders, qrm_phantom
from ops.phantoms.labels import ARTERY_LABELS

ON_THE_EDGE = (59, 154, 176, 16, 32, 32, 0, 1, 2)
MID_SLICE = (57, 128, 214, 12, 32, 64, 0, 1, 2)


def test_masses_and_volumes_are_closed_form() -> None:
    masses = [c.mass for c in cylinders()]
    assert masses == pytest.approx([19.6, 39.3, 78.5, 4.2, 8.5, 17.0, 0.2, 0.3, 0.6], abs=0.06)
    assert sum(masses) == pytest.approx(168.2, abs=0.06)
    assert [c.volume for c in cylinders()[::3]] == pytest.approx([98.2, 21.2, 0.8], abs=0.06)


@pytest.mark.parametrize(("offset", "expected"), [(0.0, ON_THE_EDGE), (1.5, MID_SLICE)])
def test_each_insert_reproduces_its_score(offset: float, expected: tuple[int, ...]) -> None:
    volume, inserts = qrm_phantom(offset)
    scores = []
    for number in range(1, 10):
        mask = np.where(inserts == number, ARTERY_LABELS["LAD"], 0).astype(np.uint8)
        scores.append(agatston(volume.voxels, mask, volume.grid.spacing)["total"])
    assert scores == pytest.approx(expected, abs=0.5)
    assert sum(scores) == pytest.approx(472 if offset == 0 else 510, abs=1.0)


def test_mass_is_conserved_and_the_rods_calibrate() -> None:
    volume, inserts = qrm_phantom(1.5)
    hu, grid = volume.voxels, volume.grid
    column, row = (round(float(i)) for i in grid.patient_to_index((2.5 * PITCH_MM, 0.0, 0.0))[::-1][:2])
    water = hu[0, row, grid.shape[2] - 1 - column]
    factor = CALIBRATION_DENSITY / (hu[0, row, column] - water)
    assert water == pytest.approx(0.0)
    assert factor == pytest.approx(MG_PER_CM3_PER_HU)
    for number, cylinder in enumerate(cylinders(), start=1):
        excess = (hu[inserts == number] - 40.0).sum() * grid.voxel_volume / 1000
        full = cylinder.density / MG_PER_CM3_PER_HU - 40.0
        assert excess * cylinder.density / full == pytest.approx(cylinder.mass, rel=0.01)

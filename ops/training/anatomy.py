"""Labelled anatomy to train on, and the range of HU every tissue may have in a scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ops.phantoms.chest.thorax import maps, thorax
from ops.phantoms.labels import TERRITORY_LABELS, Tissue
from ops.phantoms.participant import sample_participant
from ops.volume import Grid

Uint8Array = npt.NDArray[np.uint8]
Point = tuple[float, float, float]

HEART_CLASSES = tuple(TERRITORY_LABELS[name] for name in ("heart", "LM", "LAD", "LCX", "RCA", "valve"))


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One body as codes on a canonical isotropic grid.

    Attributes
    ----------
    tissues
        :class:`~ops.phantoms.labels.Tissue` codes ``(z, y, x)``.
    labels
        ``TERRITORY_LABELS`` values, same shape.
    spacing_mm
        Distance between voxels.
    """

    tissues: Uint8Array
    labels: Uint8Array
    spacing_mm: float

    @cached_property
    def heart_box(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        """First and last index ``(z, y, x)`` of the heart; None when there is none."""
        heart = np.isin(self.labels, HEART_CLASSES)
        if not heart.any():
            return None
        spans = [np.flatnonzero(heart.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        return np.array([s[0] for s in spans]), np.array([s[-1] for s in spans])


# Mean HU a tissue may take in one unenhanced scan: wider than normal, so that the network leans on shape and place.
# Blood falls in anaemia and rises with haematocrit, liver falls with steatosis, lung rises with poor inspiration.
HU_BANDS: Mapping[Tissue, tuple[float, float]] = {
    Tissue.AIR: (-1000, -1000),
    Tissue.TABLE_SHELL: (-300, 300),
    Tissue.TABLE_CORE: (-1000, -850),
    Tissue.SKIN: (-60, 70),
    Tissue.FAT: (-125, -70),
    Tissue.MUSCLE: (15, 80),
    Tissue.GLAND: (-40, 60),
    Tissue.LUNG: (-930, -600),
    Tissue.LUNG_VESSEL: (0, 60),
    Tissue.AIRWAY: (-1000, -950),
    Tissue.AIRWAY_WALL: (-200, 50),
    Tissue.CORTICAL_BONE: (250, 1300),
    Tissue.MARROW: (0, 350),
    Tissue.CARTILAGE: (40, 220),
    Tissue.SPINAL_CORD: (10, 60),
    Tissue.DISC: (30, 120),
    Tissue.MEDIASTINAL_FAT: (-125, -50),
    Tissue.OESOPHAGUS: (0, 70),
    Tissue.THYROID: (40, 180),
    Tissue.LYMPH_NODE: (0, 70),
    Tissue.PERICARDIUM: (-20, 60),
    Tissue.EPICARDIAL_FAT: (-125, -40),
    Tissue.MYOCARDIUM: (25, 75),
    Tissue.BLOOD_LV: (25, 65),
    Tissue.BLOOD_RV: (25, 65),
    Tissue.BLOOD_LA: (25, 65),
    Tissue.BLOOD_RA: (25, 65),
    Tissue.BLOOD_PULMONARY: (25, 65),
    Tissue.BLOOD_VEIN: (25, 65),
    Tissue.AORTA_BLOOD: (25, 65),
    Tissue.AORTA_WALL: (25, 90),
    Tissue.CORONARY: (20, 80),
    Tissue.VALVE: (25, 110),
    Tissue.DIAPHRAGM: (10, 80),
    Tissue.LIVER: (-10, 80),
    Tissue.SPLEEN: (30, 70),
    Tissue.STOMACH: (-20, 90),
    Tissue.STOMACH_GAS: (-1000, -850),
    Tissue.BOWEL: (-150, 90),
    Tissue.ABDOMINAL_FAT: (-125, -70),
    Tissue.KIDNEY: (15, 60),
    Tissue.BRAIN: (15, 50),
    Tissue.CORONARY_CALCIUM: (130, 900),
    Tissue.OTHER_CALCIUM: (130, 900),
    Tissue.METAL: (1500, 3000),
}

# Compartments that contrast medium fills, in the order it passes them.
RIGHT_HEART = (Tissue.BLOOD_VEIN, Tissue.BLOOD_RA, Tissue.BLOOD_RV, Tissue.BLOOD_PULMONARY, Tissue.LUNG_VESSEL)
LEFT_HEART = (Tissue.BLOOD_LA, Tissue.BLOOD_LV, Tissue.AORTA_BLOOD, Tissue.CORONARY)
BLOOD = (*RIGHT_HEART[:-1], *LEFT_HEART[:-1])
ENHANCING_ORGANS = (Tissue.MYOCARDIUM, Tissue.LIVER, Tissue.SPLEEN, Tissue.KIDNEY)
# Share of training scans after contrast medium: rare in screening, but the heart must be found there to be refused.
ENHANCED_SHARE = 0.2


def random_hounsfield(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Draw one scan's HU per tissue code: uniform in its band, blood alike everywhere, sometimes enhanced.

    Returns
    -------
    ndarray
        ``(codes,)`` float32, indexed by tissue code.
    """
    table = np.zeros(max(Tissue) + 1, dtype=np.float32)
    for tissue, (low, high) in HU_BANDS.items():
        table[tissue] = rng.uniform(low, high)
    blood = table[Tissue.BLOOD_LV]
    for tissue in BLOOD:
        table[tissue] = blood + rng.normal(0, 3)
    table[Tissue.MYOCARDIUM] = blood + rng.normal(6, 6)
    if rng.uniform() < ENHANCED_SHARE:
        for compartment in (RIGHT_HEART, LEFT_HEART):
            rise = rng.uniform(0, 400)
            for tissue in compartment:
                table[tissue] += rise * rng.uniform(0.8, 1.1)
        for tissue in ENHANCING_ORGANS:
            table[tissue] += rng.uniform(0, 90)
    return table


# Field that holds a chest from the neck to the kidneys, mm from the heart's centre: (z, y, x) low and high.
CHEST_LOW_MM, CHEST_HIGH_MM = (-190.0, -170.0, -220.0), (190.0, 190.0, 220.0)


def simulated_chest(seed: int, spacing_mm: float) -> Anatomy:
    """Paint the chest of one random participant.

    Parameters
    ----------
    seed
        Chooses the participant and all of the anatomy.
    spacing_mm
        Isotropic voxel spacing.
    """
    chest = thorax(sample_participant(np.random.default_rng(seed)))
    low, high = np.array(CHEST_LOW_MM), np.array(CHEST_HIGH_MM)
    nz, ny, nx = np.rint((high - low) / spacing_mm).astype(int).tolist()
    grid = Grid.from_spacing((nz, ny, nx), (spacing_mm,) * 3, (low[2], low[1], low[0]))
    labels, tissues = maps(chest, grid)
    return Anatomy(tissues, labels, spacing_mm)

"""HU of tissues and of hydroxyapatite at a tube voltage."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ops.phantoms.labels import Tissue
from ops.phantoms.participant import Participant

# HU of 1 mg/cm³ hydroxyapatite above its surroundings at 120 kV: HU = ρ/0.8 (SPEC §1.8, CAC-14).
HU_PER_DENSITY = 1 / 0.8
# Contrast of calcium relative to 120 kV: the SPEC §1.6 thresholds over 130 HU; 100 and 110 kV interpolated between.
KVP_CONTRAST = {70: 207 / 130, 80: 177 / 130, 100: 146 / 130, 110: 1.06, 120: 1.0, 130: 0.94, 135: 119 / 130, 140: 0.90}
METAL_HU = 3000.0
IODINE_HU = 330.0  # opacified left heart in CT angiography at 120 kV, typical

_TYPICAL: dict[Tissue, tuple[float, float]] = {  # mean and spread between people, HU at 120 kV, non-contrast
    Tissue.AIR: (-1000, 2),
    Tissue.TABLE_SHELL: (-150, 120),
    Tissue.TABLE_CORE: (-930, 25),
    Tissue.SKIN: (10, 20),
    Tissue.FAT: (-106, 7),
    Tissue.MUSCLE: (52, 8),
    Tissue.GLAND: (15, 20),
    Tissue.LUNG_VESSEL: (15, 15),
    Tissue.AIRWAY: (-985, 10),
    Tissue.AIRWAY_WALL: (20, 15),
    Tissue.CORTICAL_BONE: (620, 130),
    Tissue.MARROW: (170, 55),
    Tissue.CARTILAGE: (100, 20),
    Tissue.SPINAL_CORD: (35, 6),
    Tissue.DISC: (85, 15),
    Tissue.MEDIASTINAL_FAT: (-92, 10),
    Tissue.OESOPHAGUS: (38, 6),
    Tissue.THYROID: (105, 20),
    Tissue.LYMPH_NODE: (40, 8),
    Tissue.PERICARDIUM: (20, 12),
    Tissue.EPICARDIAL_FAT: (-88, 10),
    Tissue.MYOCARDIUM: (48, 4),
    Tissue.AORTA_WALL: (52, 5),
    Tissue.CORONARY: (40, 8),
    Tissue.VALVE: (60, 8),
    Tissue.DIAPHRAGM: (48, 6),
    Tissue.LIVER: (56, 9),
    Tissue.SPLEEN: (48, 5),
    Tissue.STOMACH: (30, 15),
    Tissue.STOMACH_GAS: (-950, 30),
    Tissue.BOWEL: (25, 20),
    Tissue.ABDOMINAL_FAT: (-106, 7),
    Tissue.KIDNEY: (33, 4),
    Tissue.BRAIN: (35, 3),
    Tissue.METAL: (METAL_HU, 0),
}
_BLOOD = (
    Tissue.BLOOD_LV,
    Tissue.BLOOD_LA,
    Tissue.AORTA_BLOOD,
    Tissue.BLOOD_RV,
    Tissue.BLOOD_RA,
    Tissue.BLOOD_PULMONARY,
    Tissue.BLOOD_VEIN,
)


def tissue_hu(
    participant: Participant, kvp: int, rng: np.random.Generator, contrast: bool = False
) -> npt.NDArray[np.float32]:
    """HU by tissue code ``(256,)`` for one person and scan; blood follows the haematocrit."""
    table = np.zeros(256, dtype=np.float32)
    for tissue, (mean, spread) in _TYPICAL.items():
        table[tissue] = mean + spread * np.clip(rng.normal(), -2, 2)
    for bone in (Tissue.CORTICAL_BONE, Tissue.MARROW):
        table[bone] *= KVP_CONTRAST[kvp]
    table[Tissue.LUNG] = participant.lung_hu
    # Plasma is near 20 HU, packed red cells near 75 HU.
    blood = 20 + 55 * participant.haematocrit + rng.normal(0, 1.5)
    table[list(_BLOOD)] = blood
    if contrast:
        table[list(_BLOOD[:3])] = IODINE_HU + rng.normal(0, 40)
        table[list(_BLOOD[3:])] = rng.uniform(120, 300)
        table[Tissue.CORONARY] = 0.8 * table[Tissue.AORTA_BLOOD]
        table[Tissue.MYOCARDIUM] = 105 + rng.normal(0, 10)
    return table


def calcium_hu(density: float, kvp: int) -> float:
    """HU that ``density`` mg/cm³ hydroxyapatite adds to its surroundings."""
    return density * HU_PER_DENSITY * KVP_CONTRAST[kvp]

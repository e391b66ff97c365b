"""Label sets shared by the phantoms and the network trained on them."""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType

TERRITORY_LABELS = MappingProxyType(
    {
        "background": 0,
        "heart": 1,  # chambers, myocardium and the rest of the pericardial sac
        "LM": 2,
        "LAD": 3,
        "LCX": 4,
        "RCA": 5,
        "aorta": 6,  # lumen and wall: root, ascending, arch, descending
        "valve": 7,  # mitral and aortic annulus and leaflets
        "bone": 8,
    }
)
"""Output classes of the network ``heart-territories``: name → label value."""

ARTERIES = ("LM", "LAD", "LCX", "RCA")
"""Reporting arteries in label order; side branches are rolled up into them (SPEC §1.3)."""

ARTERY_LABELS = MappingProxyType({name: index for index, name in enumerate(ARTERIES, start=1)})
"""Labels of an artery mask: LM 1, LAD 2, LCX 3, RCA 4."""


class Tissue(IntEnum):
    """Tissue classes of a phantom, finer than the territory labels, from which HU are made."""

    AIR = 0
    TABLE_SHELL = 1
    TABLE_CORE = 2
    SKIN = 3
    FAT = 4
    MUSCLE = 5
    GLAND = 6
    LUNG = 7
    LUNG_VESSEL = 8
    AIRWAY = 9
    AIRWAY_WALL = 10
    CORTICAL_BONE = 11
    MARROW = 12
    CARTILAGE = 13
    SPINAL_CORD = 14
    DISC = 15
    MEDIASTINAL_FAT = 16
    OESOPHAGUS = 17
    THYROID = 18
    LYMPH_NODE = 19
    PERICARDIUM = 20
    EPICARDIAL_FAT = 21
    MYOCARDIUM = 22
    BLOOD_LV = 23
    BLOOD_RV = 24
    BLOOD_LA = 25
    BLOOD_RA = 26
    BLOOD_PULMONARY = 27
    BLOOD_VEIN = 28
    AORTA_BLOOD = 29
    AORTA_WALL = 30
    CORONARY = 31
    VALVE = 32
    DIAPHRAGM = 33
    LIVER = 34
    SPLEEN = 35
    STOMACH = 36
    STOMACH_GAS = 37
    BOWEL = 38
    ABDOMINAL_FAT = 39
    KIDNEY = 40
    BRAIN = 41
    CORONARY_CALCIUM = 42
    OTHER_CALCIUM = 43
    METAL = 44

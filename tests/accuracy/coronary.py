"""Stenosis and plaque of simulated coronary arteries at 0.3, 0.4 and 0.6 mm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ops.diseases.coronary import measurement as coronary
from ops.diseases.coronary import plaque
from ops.measure.record import MeasurementRecord
from ops.phantoms.heart.coronary_tree import (
    Vessel,
    lumen_labels,
    sample_attenuation,
    sample_vessel,
    scan_vessel,
    wall_labels,
)
from tests.accuracy.draw import Draw

RESOLUTIONS_MM = (0.3, 0.4, 0.6)
ARTERY = "RCA"


def draws(n: int, seed: int) -> Iterator[Draw]:
    """``n`` arteries with one plaque each, every one scanned at each resolution."""
    for index in range(n):
        for resolution in RESOLUTIONS_MM:
            rng = np.random.default_rng([seed, index])
            vessel, tissue = sample_vessel(rng, ARTERY), sample_attenuation(rng)
            image, labels = scan_vessel(vessel, tissue, (resolution,) * 3, rng)
            lumen, wall = lumen_labels(labels), wall_labels(labels)
            stenosis = coronary.measure(image, "CT", 120, lumen=lumen, plaque=True)
            plaques = plaque.measure(image, "CT", 120, lumen=lumen, wall=wall)
            row = f"{resolution} mm"
            for name, unit, truth in stenosis_truth(vessel):
                yield draw(stenosis, name, unit, row, truth)
            for name, unit, truth in plaque_truth(vessel, tissue.fat):
                yield draw(plaques, name, unit, row, truth)


def stenosis_truth(vessel: Vessel) -> Iterator[tuple[str, str, float]]:
    """Yield name, unit and truth."""
    yield f"diameter_stenosis_{ARTERY}", "%", 100 * max(p.stenosis for p in vessel.plaques)
    yield f"minimal_lumen_diameter_{ARTERY}", "mm", 2 * float(vessel.lumen_radii.min())


def plaque_truth(vessel: Vessel, fat: float) -> Iterator[tuple[str, str, float]]:
    """Yield name, unit and truth."""
    yield f"plaque_volume_{ARTERY}", "mm3", vessel.plaque_volume()
    yield f"calcified_volume_{ARTERY}", "mm3", vessel.calcium_volume()
    yield f"low_attenuation_volume_{ARTERY}", "mm3", vessel.core_volume("lipid")
    yield f"remodelling_index_{ARTERY}_1", "1", vessel.plaques[0].remodelling
    yield "fat_attenuation_index", "[hnsf'U]", fat


def draw(record: MeasurementRecord, name: str, unit: str, resolution: str, truth: float) -> Draw:
    """Draw of a numeric measurement of ``record``; its reason where there is none."""
    found = next((item for item in record.measurements if item.name == name), None)
    if found is None or not isinstance(found.value, float):
        return Draw(name, unit, resolution, truth, None, found.reason if found else record.reason or "no_lesion")
    return Draw(name, unit, resolution, truth, found.value)

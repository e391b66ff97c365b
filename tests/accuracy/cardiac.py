"""Chambers, scar and aorta of simulated participants against the closed forms, at three resolutions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from ops.diseases.cardiac.measurement import measure_aorta, measure_cine, measure_scar
from ops.diseases.cardiac.scar import ScarPolicy
from ops.measure.record import MeasurementRecord
from ops.phantoms.heart.aortic_tube import AorticTube
from ops.phantoms.heart.beating_heart import Heart
from ops.phantoms.heart.short_axis import (
    LGE_SIGNAL,
    fractions,
    heart_frame,
    image_volume,
    label_map,
    remote_region,
    render,
    sample_heart,
    sample_scar,
    short_axis_grid,
)
from ops.phantoms.participant import sample_participant
from tests.accuracy.draw import Draw

# Pixel and slice distance in mm, slices without a gap.
HEART_RESOLUTIONS = ((1.2, 6.0), (1.5, 8.0), (2.0, 10.0))
AORTA_RESOLUTIONS = ((0.8, 1.0), (1.0, 2.0), (1.5, 3.0))
FIELD_MM = 190.0
# Signal of what surrounds the heart, and noise, of a late enhancement image.
SURROUNDINGS, NOISE = 60.0, 26.0
CINE_UNITS = {
    "lv_end_diastolic_volume": "mL",
    "lv_end_systolic_volume": "mL",
    "lv_ejection_fraction": "%",
    "lv_mass": "g",
    "rv_end_diastolic_volume": "mL",
    "rv_end_systolic_volume": "mL",
    "rv_ejection_fraction": "%",
}
SCAR_UNITS = {"scar_percent": "%", "microvascular_obstruction_mass": "g"}


def draws(n: int, seed: int) -> Iterator[Draw]:
    """Compare ``n`` participants; scar also by half of the maximum, as ``…_fwhm``."""
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        heart = sample_heart(rng, sample_participant(rng))
        heart = replace(heart, scar=heart.scar or sample_scar(rng))
        above = float(rng.uniform(1.1, 2.1))
        for pixel, distance in HEART_RESOLUTIONS:
            yield from _heart(heart, pixel, distance, above * distance, rng)
        tube = _sample_tube(rng)
        for pixel, distance in AORTA_RESOLUTIONS:
            yield from _aorta(tube, pixel, distance)


def _heart(heart: Heart, pixel: float, distance: float, above: float, rng: np.random.Generator) -> Iterator[Draw]:
    frame = heart_frame()
    slices = math.ceil((heart.length + above) / distance + 2.2)
    grid = short_axis_grid(slices, distance, round(FIELD_MM / pixel), pixel, above_base_mm=above, frame=frame)
    diastole, systole = (fractions(heart.at(filling), grid, distance, frame) for filling in (1.0, 0.0))
    labels = label_map(diastole, grid)
    cine = measure_cine([labels, label_map(systole, grid)], modality="MR")
    resolution = f"{pixel:g} × {distance:g} mm"
    yield from _compare(cine, CINE_UNITS, heart.truth(), resolution)

    image = render(diastole, np.full(grid.shape, SURROUNDINGS, dtype=np.float32), LGE_SIGNAL, NOISE, rng)
    remote = remote_region(heart.at(1.0), diastole, grid, frame)
    for policy, suffix in ((ScarPolicy(), ""), (ScarPolicy(method="fwhm"), "_fwhm")):
        record = measure_scar(image_volume(image, grid), labels, remote, modality="MR", policy=policy)
        yield from _compare(record, SCAR_UNITS, heart.scar_truth(), resolution, suffix)


def _sample_tube(rng: np.random.Generator) -> AorticTube:
    return AorticTube(
        diameter=float(rng.uniform(20, 32)),
        bulge=float(rng.choice([0.0, rng.uniform(3, 18)])),
        bulge_position=float(rng.uniform(45, 60)),
        bulge_length=float(rng.uniform(12, 18)),
        arch_radius=float(rng.uniform(32, 42)),
        ascending=float(rng.uniform(70, 80)),
        descending=float(rng.uniform(40, 60)),
        yaw=float(rng.uniform(40, 70)),
        pitch=float(rng.uniform(-15, 15)),
        roll=float(rng.uniform(-15, 15)),
        centre=tuple(rng.uniform(-1, 1, 3)),
    )


def _aorta(tube: AorticTube, pixel: float, distance: float) -> Iterator[Draw]:
    record = measure_aorta([tube.mask(tube.grid((distance, pixel, pixel)))], modality="CT")
    level = float(tube.diameter_at(tube.length / 2))
    truth = {
        "aorta_maximum_equivalent_diameter": tube.largest_diameter,
        "aorta_maximum_diameter": tube.largest_diameter,
        "aorta_level_smallest_area": math.pi * level**2 / 4,
        "aorta_length": tube.length,
    }
    units = dict.fromkeys(truth, "mm") | {"aorta_level_smallest_area": "mm2"}
    yield from _compare(record, units, truth, f"{pixel:g} × {distance:g} mm")


def _compare(
    record: MeasurementRecord,
    units: Mapping[str, str],
    truth: Mapping[str, float],
    resolution: str,
    suffix: str = "",
) -> Iterator[Draw]:
    measured = {item.name: item for item in record.measurements}
    for name, unit in units.items():
        item = measured.get(name)
        value = None if item is None or item.value is None else float(item.value)
        reason = "" if value is not None else (record.reason if item is None else item.reason)
        yield Draw(name + suffix, unit, resolution, truth[name], value, reason)

"""Volumes, EF, strain, atrium and mass of simulated hearts from their true masks, at three pixel sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ops.diseases.echo.measurement import EchoClip, Subject, clip_grid, measure
from ops.phantoms.heart.chambers import BeatingHeart, sample_heart
from ops.phantoms.heart.left_ventricle import View, clip_times, paint_labels, truths, view_plane
from ops.phantoms.heart.ultrasound import Sector
from ops.volume import Volume
from tests.accuracy.draw import Draw

PIXELS_MM = (0.5, 0.8, 1.2)
VIEWS: tuple[View, ...] = ("a4c", "a2c", "a3c", "psax_pap")
FRAME_TIME_MS = 40.0
UNITS = {
    "edv_biplane": "mL",
    "esv_biplane": "mL",
    "ef_biplane": "%",
    "gls": "%",
    "la_volume": "mL",
    "lv_mass_area_length": "g",
}


def draws(n: int, seed: int) -> Iterator[Draw]:
    """Truth and measurement of ``n`` hearts at every pixel size."""
    for pixel in PIXELS_MM:
        rng = np.random.default_rng(seed)
        for _ in range(n):
            heart = sample_heart(rng, str(rng.choice(["F", "M"])), float(rng.normal(1.9, 0.2)))
            truth = truths(heart)
            record = measure(clips(heart, pixel, rng), modality="US", subject=Subject())
            for name, unit in UNITS.items():
                found = record.measurement(name)
                value = found.value if isinstance(found.value, float) else None
                yield Draw(name, unit, f"{pixel:g} mm", truth[name], value, found.reason)


def clips(heart: BeatingHeart, pixel: float, rng: np.random.Generator) -> dict[str, EchoClip]:
    """Masks of the measured views; each leans a little, starts at another time, and has pixels not quite square."""
    made = {}
    for view in VIEWS:
        depth = heart.base(0.0) + max(heart.atrial_lengths) + 25
        spacing = (pixel, pixel * float(rng.uniform(0.9, 1.1)))
        sector = Sector(depth, half_angle=30, pixel_mm=spacing, margins=(1, 1, 1, 1))
        tilt = 0.0 if view == "psax_pap" else float(rng.normal(0, 5))
        times = clip_times(heart, FRAME_TIME_MS, rng)
        labels = paint_labels(heart, view, view_plane(heart, view, tilt), sector, times)
        made[view] = EchoClip(Volume(labels, clip_grid(labels.shape, sector.pixel_mm), "label"), tuple(times))
    return made

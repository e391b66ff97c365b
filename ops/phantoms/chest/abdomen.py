"""Upper abdomen below the diaphragm: liver, spleen, stomach with gas, bowel, kidneys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ops.phantoms.chest.canvas import Canvas
from ops.phantoms.chest.lungs import Diaphragm
from ops.phantoms.chest.trunk import Trunk
from ops.phantoms.labels import Tissue
from ops.phantoms.sdf import Array, Points, ellipsoid

DIAPHRAGM_MM = 3.0


@dataclass(frozen=True, eq=False)
class Abdomen:
    """Organs as ellipsoids, template mm: ``(tissue, centre, semi-axes)`` painted in order inside the cavity."""

    organs: list[tuple[Tissue, Points, Points]]
    stomach: tuple[Points, Points]
    gas_level: float


def abdomen(body: Trunk, dome: Diaphragm, rng: np.random.Generator) -> Abdomen:
    """Sample the organs under the domes."""
    left, w, d = dome.centres[1], body.width, body.depth
    grow = rng.lognormal(0, 0.1)
    top_right, top_left = (float(c[2] + a[2]) for c, a in zip(dome.centres[:2], dome.axes[:2], strict=True))
    organs: list[tuple[Tissue, Points, Points]] = []
    for _ in range(14):
        centre = np.array(
            [rng.uniform(-0.6, 0.7) * w, body.centre_y - rng.uniform(-0.1, 0.75) * d, left[2] - rng.uniform(20, 200)]
        )
        organs.append((Tissue.BOWEL, centre, rng.uniform(14, 32, size=3)))
    for sign in (-1.0, 1.0):
        centre = np.array([sign * 58, body.centre_y + 0.45 * d, left[2] - 65 + rng.normal(0, 12)])
        organs.append((Tissue.KIDNEY, centre, np.array([27, 26, 55]) * rng.lognormal(0, 0.06)))
    liver = np.array([-0.44 * w, body.centre_y - 6, top_right - 88 * grow])
    organs.append((Tissue.LIVER, liver, np.array([0.62 * w, 0.95 * d, 92]) * grow))
    lobe = np.array([0.02 * w, body.centre_y - 0.42 * d, float(dome.centres[2, 2] + dome.axes[2, 2]) - 44])
    organs.append((Tissue.LIVER, lobe, np.array([rng.uniform(0.4, 0.62) * w, 0.45 * d, 46])))
    spleen = np.array([0.72 * w, body.centre_y + 0.45 * d, top_left - rng.uniform(45, 70)])
    organs.append((Tissue.SPLEEN, spleen, np.array([30, 38, 50]) * rng.lognormal(0, 0.15)))
    stomach = np.array([0.42 * w, body.centre_y - 0.05 * d, top_left - rng.uniform(42, 62)])
    size = np.array([46, 48, 46]) * rng.lognormal(0, 0.15)
    return Abdomen(organs, (stomach, size), float(stomach[1] - rng.uniform(-0.3, 0.95) * size[1]))


def paint_abdomen(canvas: Canvas, cavity: Array, organs: Abdomen) -> None:
    """Paint diaphragm, abdominal fat and organs inside ``cavity`` (distance over the whole grid)."""
    everything = canvas.everything
    inside = (Tissue.DIAPHRAGM, Tissue.ABDOMINAL_FAT, Tissue.BOWEL, Tissue.KIDNEY, Tissue.LIVER, Tissue.SPLEEN)
    canvas.paint(everything, cavity, Tissue.DIAPHRAGM)
    canvas.paint(everything, cavity + np.float32(DIAPHRAGM_MM), Tissue.ABDOMINAL_FAT)
    for tissue, centre, axes in organs.organs:
        slices = canvas.box(centre - axes, centre + axes)
        if slices is not None:
            distance = ellipsoid(canvas.at(slices), centre, axes)
            canvas.paint(slices, np.maximum(distance, cavity[slices] + 2), tissue, only=inside[1:])
    centre, axes = organs.stomach
    slices = canvas.box(centre - axes, centre + axes)
    if slices is not None:
        wall = np.maximum(ellipsoid(canvas.at(slices), centre, axes), cavity[slices] + np.float32(DIAPHRAGM_MM))
        canvas.paint(slices, wall, Tissue.STOMACH)
        # Supine: gas collects in front, above a level fluid surface in patient space.
        level = canvas.y[slices[1]][None, :, None] - np.float32(organs.gas_level)
        canvas.paint(slices, np.maximum(wall + 3, level), Tissue.STOMACH_GAS)

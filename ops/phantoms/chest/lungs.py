"""Lungs: what is left of the cage beside the mediastinum and above the diaphragm, and their vessel trees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ops.phantoms.chest.canvas import FAR, Canvas, stamp_segment
from ops.phantoms.chest.heart import Heart, HeartField
from ops.phantoms.chest.skeleton import Skeleton
from ops.phantoms.chest.trunk import Trunk
from ops.phantoms.deformation import Deformation
from ops.phantoms.labels import Tissue
from ops.phantoms.sdf import Array, Coordinates, Points, ellipsoid, unit

TREE_DEPTH = 6
TREE_ROOTS = 9
BRANCH_MM = 32.0
LATERAL_MM = 500.0  # beyond any body
MEDIAN_MM = 50.0  # half-width of the space between the lungs, the heart aside
CLEAR_MM = 6.0  # above the domes: the layers painted beside them


@dataclass(frozen=True, eq=False)
class Diaphragm:
    """Domes, template mm: the abdomen reaches up to ellipsoids that continue straight down below their centres.

    Attributes
    ----------
    centres, axes
        ``(3, 3)``: right dome, left dome, and the central tendon in front under the heart.
    """

    centres: Points
    axes: Points

    @property
    def top(self) -> float:
        """Height of the highest dome."""
        return float((self.centres[:, 2] + self.axes[:, 2]).max())

    def abdomen(self, p: Coordinates) -> Array:
        """Signed distance to the abdominal cavity (negative below the diaphragm)."""
        x, y, z = p
        domes = [
            ellipsoid((x, y, np.maximum(z, np.float32(c[2]))), c, a)
            for c, a in zip(self.centres, self.axes, strict=True)
        ]
        return np.minimum(np.minimum(domes[0], domes[1]), domes[2])


def diaphragm(body: Trunk, heart: Heart, rng: np.random.Generator) -> Diaphragm:
    """Domes under the heart; the right one usually 1–2 cm higher."""
    floor = float(heart.bounds()[0][2]) + 8
    height = rng.uniform(75, 105)
    right, left = floor + rng.uniform(10, 42), floor + rng.uniform(-4, 18)
    y = body.centre_y - rng.uniform(4, 14)
    w, d = body.width, body.depth
    return Diaphragm(
        centres=np.array(
            [[-0.46 * w, y, right - height], [0.44 * w, y, left - height], [0.02 * w, y - 0.3 * d, floor + 8 - height]]
        ),
        axes=np.array([[0.57 * w, 0.98 * d, height], [0.57 * w, 0.98 * d, height], [0.7 * w, 0.75 * d, height]]),
    )


def mediastinum(p: Coordinates, body: Trunk, bones: Skeleton) -> Array:
    """Signed distance to the space between the lungs, without the heart itself (added by its sac)."""
    x, y, z = p
    sx, sy = bones.spine(z)
    front = body.front(z)
    spine = np.sqrt((x - sx) ** 2 + (y - sy - 6) ** 2) - np.float32(bones.body_half[0] + 7)
    middle = (front + sy) / 2 - 2
    half_depth = np.maximum((sy - front) / 2 - 8, 5)
    low = np.clip((np.float32(25) - z) / 25, 0, 1)  # below the carina the heart takes over
    column = (np.sqrt((x / (35 - 14 * low)) ** 2 + ((y - middle) / half_depth) ** 2) - 1) * np.float32(30)
    column = np.where(z > 10, column, FAR)
    wedge = np.abs(x - 4) - (4 + 0.75 * np.maximum(20 - (y - front), 0))
    wedge = np.maximum(wedge, y - middle)
    behind = np.maximum(np.abs(x - 5) - 19, np.maximum(y - sy, middle - y))
    return np.asarray(np.minimum(np.minimum(spine, column), np.minimum(wedge, behind)), dtype=np.float32)


def _paint_fat_pads(canvas: Canvas, heart: Heart) -> None:
    """Paint pericardial fat pads over the lung in both cardiophrenic angles, as thick as epicardial fat is."""
    low, high = heart.bounds()
    size = 8 + 5 * heart.fat
    y = low[1] + 0.3 * (high[1] - low[1])
    for x, wide in ((low[0] + 14, 0.8), (high[0] - 16, 1.0)):
        centre, axes = np.array([x, y, low[2] + 22]), size * np.array([wide, 1.1, 1.2])
        slices = canvas.box(centre - axes, centre + axes)
        if slices is not None:
            canvas.paint(
                slices, ellipsoid(canvas.at(slices), centre, axes), Tissue.MEDIASTINAL_FAT, only=(Tissue.LUNG,)
            )


def paint_lungs(
    canvas: Canvas, cage: Array, body: Trunk, bones: Skeleton, pump: HeartField | None, heart: Heart, dome: Diaphragm
) -> Array:
    """Paint the cage's contents as mediastinal fat, then the lungs; return the distance to the abdomen."""
    p = canvas.template
    canvas.paint(canvas.everything, cage, Tissue.MEDIASTINAL_FAT)
    abdomen = np.full_like(cage, FAR)
    below = canvas.box([-LATERAL_MM, -LATERAL_MM, -LATERAL_MM], [LATERAL_MM, LATERAL_MM, dome.top + CLEAR_MM])
    if below is not None:
        abdomen[below] = np.maximum(dome.abdomen(canvas.at(below)), cage[below] + 1)
    between = np.full_like(cage, FAR)
    middle = canvas.box([-MEDIAN_MM, -LATERAL_MM, -LATERAL_MM], [MEDIAN_MM, LATERAL_MM, LATERAL_MM])
    if middle is not None:
        between[middle] = mediastinum(canvas.at(middle), body, bones)
    if pump is not None:
        np.minimum(between[pump.box], pump.sac - 1, out=between[pump.box])
    lung = np.maximum(np.maximum(cage + np.float32(2), -between), -(abdomen - np.float32(3)))
    apex = p[2] - np.float32(168 * body.stretch)
    bottom = np.float32(dome.centres[:, 2].min() - 35) - p[2]
    canvas.paint(canvas.everything, np.maximum(lung, np.maximum(apex, bottom)), Tissue.LUNG)
    neck = np.maximum(cage, -apex)
    canvas.paint(canvas.everything, neck, Tissue.MUSCLE)
    _paint_fat_pads(canvas, heart)
    return np.asarray(abdomen, dtype=np.float32)


def vessel_tree(
    hilum: Points, side: float, deformation: Deformation, rng: np.random.Generator
) -> tuple[Points, Points, Points]:
    """Random bronchovascular tree of one lung.

    Returns
    -------
    starts, ends : Points
        ``(n, 3)`` patient-space segment ends in mm.
    radii : Points
        ``(n,)`` mm.
    """
    starts, ends, radii = [], [], []
    front = [
        (np.asarray(hilum, dtype=np.float64), unit(rng.normal(size=3) * [0.4, 1, 1.2] + [side, 0, 0]), 4.5)
        for _ in range(TREE_ROOTS)
    ]
    for generation in range(TREE_DEPTH):
        following = []
        for position, direction, radius in front:
            end = position + direction * BRANCH_MM * 0.82**generation * rng.uniform(0.7, 1.3)
            starts.append(position)
            ends.append(end)
            radii.append(radius)
            for _ in range(2):
                turned = unit(direction + rng.normal(0, 0.5, size=3))
                following.append((end, turned, radius * rng.uniform(0.62, 0.82)))
        front = following
    return deformation.to_patient(starts), deformation.to_patient(ends), np.array(radii)


def paint_lung_vessels(canvas: Canvas, tree: tuple[Points, Points, Points]) -> None:
    """Paint the part of a tree that lies in aerated lung and is thick enough to matter on this grid."""
    starts, ends, radii = tree
    visible = radii > 0.3 * canvas.edge
    if not visible.any():
        return
    points = np.concatenate([starts[visible], ends[visible]])
    slices = canvas.box(points.min(axis=0), points.max(axis=0), 6.0)
    if slices is None:
        return
    field = np.full([s.stop - s.start for s in slices], FAR, dtype=np.float32)
    axes = (canvas.x[slices[2]], canvas.y[slices[1]], canvas.z[slices[0]])
    for p, q, r in zip(starts[visible], ends[visible], radii[visible], strict=True):
        stamp_segment(field, axes, p, q, r, 0.85 * r, 1.0 + canvas.edge / 2)
    canvas.paint(slices, field, Tissue.LUNG_VESSEL, only=(Tissue.LUNG,))

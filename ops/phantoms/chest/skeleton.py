"""Bones of the chest: spine, ribs with their cartilages, sternum, clavicles, scapulae, humeral heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ops.phantoms.chest.canvas import Canvas
from ops.phantoms.chest.trunk import WALL_MM, Trunk
from ops.phantoms.deformation import Deformation
from ops.phantoms.labels import Tissue
from ops.phantoms.sdf import Array, Coordinates, Points, box, curve, ellipsoid, resample, rotation

RIBS = 12
RIB_FLATTEN = 0.55  # a rib is about twice as high as thick
CORTEX_MM = 1.3


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Parameters of the bones.

    Attributes
    ----------
    spine_y
        y of the vertebral bodies' centre at heart level, template mm.
    pitch
        Distance from one thoracic vertebra to the next in mm.
    first_z
        z of the first thoracic vertebra.
    kyphosis
        How far the spine lies further forward at the ends of the thorax, mm.
    ribs
        Patient-space centrelines, ``(left and right, number)`` flattened.
    cartilages
        Patient-space centrelines of the costal cartilages.
    """

    spine_y: float
    pitch: float
    first_z: float
    kyphosis: float
    scoliosis: float
    body_half: tuple[float, float]
    rib_half_thickness: float
    ossification: float
    ribs: list[Points]
    cartilages: list[Points]
    tilt: float

    def spine(self, z: Array) -> tuple[Array, Array]:
        """X and y of the vertebral bodies' centre at height z."""
        s = (z - np.float32(20)) / np.float32(170)
        x = self.scoliosis * np.sin(z / np.float32(90))
        return np.asarray(x, np.float32), np.asarray(self.spine_y - self.kyphosis * s * s, np.float32)

    def front(self, z: float) -> float:
        """Anterior face of the vertebrae (y) at height z, without the discs' bulge."""
        return float(self.spine(np.array([z], dtype=np.float32))[1][0]) - self.body_half[1]


def skeleton(body: Trunk, deformation: Deformation, spine_front: float, age: int, rng: np.random.Generator) -> Skeleton:
    """Sample the bones that carry ``body``; ``spine_front`` is y of the vertebrae's anterior face."""
    pitch = 23.5 * body.stretch
    half = (rng.uniform(14, 18), rng.uniform(12.5, 15.5))
    first = 7.0 * pitch + rng.normal(0, 6)
    ribs, cartilages = [], []
    drop = rng.uniform(0.85, 1.25)
    for number in range(1, RIBS + 1):
        for sign in (-1.0, 1.0):
            rib, cartilage = _rib(body, number, sign, first - (number - 1) * pitch, spine_front + half[1], drop)
            ribs.append(deformation.to_patient(rib))
            if cartilage is not None:
                cartilages.append(deformation.to_patient(cartilage))
    return Skeleton(
        spine_y=spine_front + half[1],
        pitch=pitch,
        first_z=first,
        kyphosis=float(rng.uniform(8, 30)),
        scoliosis=float(rng.normal(0, 3)),
        body_half=half,
        rib_half_thickness=float(rng.uniform(3.0, 4.2)),
        ossification=float(np.clip(rng.normal((age - 45) / 60, 0.2), 0, 1)),
        ribs=ribs,
        cartilages=cartilages,
        tilt=float(rng.uniform(12, 35)),
    )


def _rib(
    body: Trunk, number: int, sign: float, z0: float, spine_y: float, slant: float
) -> tuple[Points, Points | None]:
    """Centrelines of one rib and of its cartilage (None for the floating ribs), template mm."""
    reach = np.interp(number, [1, 2, 3, 7, 10, 11, 12], [2.45, 2.5, 2.5, 2.35, 1.95, 1.5, 1.1])
    fall = slant * np.interp(number, [1, 2, 7, 10, 12], [28, 42, 78, 80, 50])
    angle = np.linspace(0.42, reach, 18)
    share = (angle - angle[0]) / (2.45 - angle[0])
    z = z0 - fall * np.clip(share, 0, 1) ** 1.15
    wall = body.wall_point(angle, z, WALL_MM / 2)
    wall[:, 0] *= sign
    head = np.array([[sign * 17, spine_y + 6, z0 + 2], [sign * 32, spine_y + 20, z0 + 1]])
    rib = curve(np.vstack([head, wall]), 9.0)
    if number > 10:
        return rib, None
    # True ribs reach the sternum at their own height, 8–10 climb to the cartilage of the seventh.
    meet = z[-1] + np.interp(number, [1, 3, 6, 7, 10], [-2, 2, 22, 34, 46])
    stop = np.interp(number, [1, 7, 8, 10], [3.02, 3.0, 2.9, 2.65])
    angle = np.linspace(reach, stop, 6)
    line = body.wall_point(angle, np.linspace(z[-1], meet, 6), WALL_MM / 2)
    line[:, 0] *= sign
    return rib, resample(line, 7.0)


def paint_skeleton(canvas: Canvas, body: Trunk, bones: Skeleton) -> None:
    """Paint all bones, cortex first and marrow inside it."""
    _paint_ribs(canvas, bones)
    _paint_sternum(canvas, body)
    _paint_spine(canvas, bones)
    _paint_girdle(canvas, body)


def _bone(
    canvas: Canvas, slices: tuple[slice, slice, slice] | None, distance: Array | None, cortex: float = CORTEX_MM
) -> None:
    if slices is None or distance is None:
        return
    canvas.paint(slices, distance, Tissue.CORTICAL_BONE)
    canvas.paint(slices, distance + np.float32(cortex), Tissue.MARROW)


def _paint_ribs(canvas: Canvas, bones: Skeleton) -> None:
    for line in bones.cartilages:
        field = canvas.tube(line, 4.2, 1.5, 0.6)
        if field is not None:
            canvas.paint(*field, Tissue.CARTILAGE)
            if bones.ossification > 0.4:  # rim calcification of old age
                canvas.paint(field[0], np.abs(field[1] + 0.8) - 0.5 * bones.ossification, Tissue.CORTICAL_BONE)
    for line in bones.ribs:
        field = canvas.tube(line, bones.rib_half_thickness, 1.5, RIB_FLATTEN)
        if field is not None:
            _bone(canvas, *field)


def _paint_sternum(canvas: Canvas, body: Trunk) -> None:
    s = body.stretch
    for centre_z, half_height, half_width in ((12 * s, 55 * s, 17.0), (88 * s, 24 * s, 28.0), (-52 * s, 14 * s, 8.0)):
        y = float(body.front(centre_z)) - WALL_MM / 2
        slope = (float(body.front(centre_z + 30)) - float(body.front(centre_z - 30))) / 60
        frame = rotation(0, -np.degrees(np.arctan(slope)), 0).T
        half = np.array([half_width, 5.5, half_height])
        slices = canvas.box(
            [-half_width, y - 25, centre_z - half_height - 4], [half_width, y + 25, centre_z + half_height + 4]
        )
        if slices is not None:
            _bone(canvas, slices, box(canvas.at(slices), [0, y, centre_z], half, frame, rounding=4.5), 1.2)


def _paint_spine(canvas: Canvas, bones: Skeleton) -> None:
    slices = canvas.box([-50, bones.spine_y - 60, -400], [50, bones.spine_y + 85, 400])
    if slices is None:
        return
    x, y, z = canvas.at(slices)
    sx, sy = bones.spine(z)
    x, y = x - sx, y - sy
    level = (z - np.float32(bones.first_z)) / np.float32(bones.pitch)
    height = np.abs(level - np.round(level)) * np.float32(bones.pitch)  # from the middle of the nearest body
    a, b = bones.body_half
    waist = 1 - np.float32(0.08) * np.cos(height / np.float32(bones.pitch) * 6.0)
    k = np.sqrt((x / (a * waist)) ** 2 + (np.minimum(y, y * 0.8) / (b * waist)) ** 2)
    column = (k - 1) * np.float32(b)
    canvas.paint(slices, column, Tissue.DISC)
    arch = _posterior_elements(bones, x, y, z, height)
    canvas.paint(slices, arch, Tissue.CORTICAL_BONE)
    canvas.paint(slices, arch + np.float32(1.6), Tissue.MARROW)
    vertebra = np.maximum(column, height - np.float32(0.5 * bones.pitch - 2.8))
    canvas.paint(slices, vertebra, Tissue.CORTICAL_BONE)
    canvas.paint(slices, vertebra + np.float32(1.2), Tissue.MARROW)
    canal = np.sqrt(x * x + (y - np.float32(b + 8)) ** 2) - np.float32(8.5)
    canvas.paint(slices, canal, Tissue.FAT)
    canvas.paint(slices, canal + np.float32(2.5), Tissue.SPINAL_CORD)


def _posterior_elements(bones: Skeleton, x: Array, y: Array, z: Array, height: Array) -> Array:
    """Laminae around the canal, transverse processes, and spinous processes slanting down."""
    b = bones.body_half[1]
    ring = np.abs(np.sqrt(x * x + (y - np.float32(b + 8)) ** 2) - np.float32(11.5)) - np.float32(2.8)
    ring = np.maximum(ring, height - np.float32(0.40 * bones.pitch))
    transverse = box((np.abs(x), y, height), (24, b + 13, 0), (13, 4.5, 6.5), rotation(22, 0, 0).T, rounding=3.5)
    slant = np.float32(np.tan(np.radians(bones.tilt)))
    shifted = z + (y - np.float32(b + 18)) * slant
    level = (shifted - np.float32(bones.first_z)) / np.float32(bones.pitch)
    tall = np.abs(level - np.round(level)) * np.float32(bones.pitch)
    spinous = box((x, y, tall), (0, b + 34, 0), (3.2, 17, 7), rounding=2.5)
    return np.asarray(np.minimum(np.minimum(ring, transverse), spinous), dtype=np.float32)


def _plate(p: Coordinates, centre: Points, axes: tuple[float, float, float], yaw: float) -> Array:
    return ellipsoid(p, centre, axes, rotation(yaw, 0, 0).T)


def _paint_girdle(canvas: Canvas, body: Trunk) -> None:
    s = body.stretch
    for sign in (-1.0, 1.0):
        top = 118 * s
        clavicle = np.array(
            [
                [sign * 22, float(body.front(top)) - 6, top],
                [sign * 60, float(body.front(top)) - 2, top + 12],
                [sign * (body.width * 0.74 + 45), float(body.middle(140.0)) + 4, 152 * s],
            ]
        )
        field = canvas.tube(curve(clavicle, 8.0), 6.0, 1.5)
        if field is not None:
            _bone(canvas, *field, cortex=1.8)
        blade = body.wall_point(sign * 0.72, 85.0 * s, WALL_MM + 13)
        slices = canvas.box(blade - np.array([60, 60, 80]), blade + np.array([60, 60, 80]))
        if slices is not None:
            distance = _plate(canvas.at(slices), blade, (48, 3.4, 66 * s), -sign * 33)
            _bone(canvas, slices, distance, 1.4)
        head = np.array([sign * (body.width * 0.74 + 60), float(body.middle(140.0)), 136 * s])
        slices = canvas.box(head - 26, head + 26)
        if slices is not None:
            _bone(canvas, slices, ellipsoid(canvas.at(slices), head, (23, 23, 24)), 1.5)

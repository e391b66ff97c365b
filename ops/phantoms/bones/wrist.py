"""A left wrist in limb mm: radius, ulna, carpus, metacarpals, soft tissue; perhaps a fracture of the distal radius.

x to the thumb, y to the palm, z to the fingers, the origin at the middle of the radiocarpal joint. Sizes are ordinary
adult ones, recalled [R].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ops.phantoms.bones.projection import Bone, Break, Part, Tube, solid
from ops.phantoms.sdf import Points, box, rotation, unit

CANAL, SPONGIOSA = 0.002, 0.022
"""Attenuation above soft tissue of fatty marrow and of trabecular bone."""

# Centre, half sizes (x, y, z) and turn about the ray in degrees of each carpal bone.
_CARPALS: tuple[tuple[tuple[float, float, float], tuple[float, float, float], float], ...] = (
    ((15.0, 1.0, 13.5), (6.2, 6.5, 13.0), 38),  # scaphoid
    ((0.5, 0.0, 11.0), (8.3, 8.5, 7.5), -12),  # lunate
    ((-13.5, 0.0, 15.5), (6.0, 6.5, 8.5), -40),  # triquetrum
    ((-14.5, 11.0, 17.0), (4.5, 4.5, 6.0), 0),  # pisiform
    ((23.0, 5.0, 27.5), (7.2, 7.5, 7.5), 35),  # trapezium
    ((14.0, -2.0, 31.0), (5.2, 7.5, 6.8), 12),  # trapezoid
    ((3.5, -1.0, 27.5), (6.5, 9.0, 11.5), 4),  # capitate
    ((-9.0, 0.0, 28.5), (7.0, 9.0, 9.5), -22),  # hamate
)
# Base and head (x, y, z) of metacarpals 1–5.
_METACARPALS = (
    ((27.5, 8.0, 36.0), (46.0, 17.0, 72.0)),
    ((15.5, -2.0, 37.5), (21.0, -1.0, 98.0)),
    ((4.0, -3.0, 39.5), (4.5, -3.0, 98.0)),
    ((-6.0, -2.0, 38.5), (-12.0, -1.0, 91.0)),
    ((-14.0, -1.0, 37.0), (-27.0, 1.0, 84.0)),
)


@dataclass(frozen=True)
class Wrist:
    """Parameters of a wrist.

    Attributes
    ----------
    size
        Relative to an average adult's.
    cortex
        Thickness of the radius' cortex at its shaft, mm.
    density
        Relative density of trabecular bone.
    broken
        Fracture of the distal radius, or None.
    """

    size: float
    cortex: float
    density: float
    broken: Break | None

    def radius(self) -> Tube:
        """Radius from mid-forearm to its joint surface."""
        return self._tube(
            [-130, -70, -48, -36, -26, -18, -10, -3, 3],
            [(13, 0), (12, 0), (10.5, 0), (9.5, 0), (8.5, 0), (7.5, 0), (7, 0), (7, 0), (9, 0)],
            [(7, 6), (6.8, 6), (7, 6.2), (8.2, 6.8), (10.5, 8), (13.2, 9.2), (15.2, 10.2), (15.5, 10), (13, 8.5)],
        )

    def ulna(self) -> Tube:
        """Ulna from mid-forearm to its head."""
        return self._tube(
            [-130, -60, -30, -18, -10, -4, -1],
            [(-13, 0), (-15, 0), (-16, -1), (-16, -1), (-16, -1), (-16, -1), (-16, -1)],
            [(6.2, 6), (5.4, 5.2), (5, 5), (5.8, 5.6), (7.8, 7.4), (8, 7.6), (7, 6.8)],
        )

    def bones(self) -> list[Bone]:
        """All bones; those of the hand follow the broken end of the radius."""
        moved = self.broken.shift if self.broken else (0.0, 0.0, 0.0)
        c, soft = self.cortex, SPONGIOSA * self.density
        radius = self.radius().part(
            [c, c, 0.9 * c, 0.7 * c, 0.5 * c, 0.4 * c, 0.35 * c, 0.35 * c, 0.4 * c],
            [CANAL, CANAL, CANAL, 0.3 * soft, 0.7 * soft, soft, soft, 1.1 * soft, 1.1 * soft],
        )
        styloid = self._block((20, 0, 2.5), (4.5, 5, 8), -14, 0.4 * c, soft)
        ulna = self.ulna().part(
            [0.9 * c, 0.9 * c, 0.8 * c, 0.5 * c, 0.4 * c, 0.4 * c, 0.5 * c],
            [CANAL, CANAL, 0.3 * soft, soft, soft, soft, soft],
        )
        ulnar_styloid = self._block((-22.5, -2, 1.5), (2, 2.2, 5), 8, 0.3 * c, soft)
        carpus = [
            Bone([self._block(centre, axes, turn, 0.35 * c, 1.2 * soft)], moved=moved)
            for centre, axes, turn in _CARPALS
        ]
        hand = [
            Bone([self._finger_bone(base, head, n == 0)], moved=moved) for n, (base, head) in enumerate(_METACARPALS)
        ]
        fingers = [
            Bone([self._finger_bone(tuple(head + 4 * along), tuple(head + 44 * along), False)], moved=moved)
            for head, along in ((np.array(head), unit(np.subtract(head, base))) for base, head in _METACARPALS)
        ]
        return [
            Bone([radius, styloid], broken=self.broken),
            Bone([ulna, ulnar_styloid], 3.0),
            *carpus,
            *hand,
            *fingers,
        ]

    def outlines(self) -> list[Tube]:
        """Soft tissue: forearm and hand, and the thumb's ball."""
        arm = self._tube(
            [-140, -60, -20, 10, 30, 60, 100, 140],
            [(0, 0), (-1, 0), (-2, 0), (-1, 0), (0, 2), (0, 2), (-1, 0), (-1, 0)],
            [(37, 30), (33, 25), (30, 21), (30, 20), (35, 19), (42, 16), (42, 12), (40, 9)],
        )
        thumb = self._tube(
            [22, 34, 50, 75, 110],
            [(26, 8), (28, 8), (35, 12), (46, 17), (60, 22)],
            [(0.5, 0.5), (10, 10), (12, 12), (11, 11), (10, 10)],
        )
        return [arm, thumb]

    def _tube(self, stations: list[float], centre: list[tuple[float, float]], half: list[tuple[float, float]]) -> Tube:
        s = self.size
        return Tube(np.zeros(3), np.eye(3), s * np.array(stations), s * np.array(centre), s * np.array(half))

    def _block(
        self, centre: tuple[float, ...], half: tuple[float, ...], turn: float, cortex: float, inside: float
    ) -> Part:
        """Make a rounded box."""
        s = self.size
        c, h, frame = s * np.array(centre), s * np.array(half), rotation(0, 0, turn).T
        # Half extents of the turned box.
        reach = h @ np.abs(frame)
        return solid(lambda p: box(p, c, h, frame, 0.8 * float(h.min())), c, reach, cortex, inside)

    def _finger_bone(self, base: tuple[float, ...], head: tuple[float, ...], is_thumb: bool) -> Part:
        start, end = self.size * np.array(base), self.size * np.array(head)
        length = float(np.linalg.norm(end - start))
        axis = unit(end - start)
        across = unit(np.array([1.0, 0.0, 0.0]) - axis[0] * axis)
        frame: Points = np.stack([across, np.cross(axis, across), axis])
        wide = self.size * (1.1 if is_thumb else 1.0)
        half = wide * np.array([(6.5, 7), (6.8, 7.2), (4.6, 4.8), (4.2, 4.4), (5.2, 5.4), (7, 7), (6, 6.5)])
        share = np.array([0, 0.1, 0.28, 0.5, 0.75, 0.92, 1.0])
        tube = Tube(start, frame, share * length, np.zeros((7, 2)), half)
        c, soft = self.cortex, SPONGIOSA * self.density
        return tube.part(
            [0.3 * c, 0.35 * c, 0.6 * c, 0.75 * c, 0.55 * c, 0.35 * c, 0.3 * c],
            [soft, soft, 0.4 * soft, CANAL, 0.4 * soft, soft, soft],
        )


def sample_wrist(rng: np.random.Generator, sex: str, age: int, is_broken: bool) -> Wrist:
    """Draw a wrist; a fracture is one of the distal radius with dorsal tilt and shift (Colles)."""
    size = float(np.clip(rng.normal(1.04 if sex == "M" else 0.94, 0.04), 0.85, 1.15))
    thinning = 1 - 0.006 * max(age - 50, 0)
    broken = None
    if is_broken:
        tilt = np.radians(rng.uniform(-18, 18, 2))
        normal = unit([np.sin(tilt[0]), np.sin(tilt[1]), 1.0])
        shift = (float(rng.normal(0, 1.2)), float(-rng.uniform(0.3, 4.0)), float(-rng.uniform(0.0, 1.2)))
        broken = Break(
            point=(7.5 * size, 0.0, float(-size * rng.uniform(15, 25))),
            normal=(float(normal[0]), float(normal[1]), float(normal[2])),
            gap=float(rng.uniform(0.6, 1.8)),
            shift=shift,
            roughness=float(rng.uniform(0.2, 0.8)),
            wavelength=float(rng.uniform(4, 9)),
        )
    return Wrist(size, float(rng.uniform(2.0, 2.8) * thinning), float(rng.uniform(0.8, 1.2) * thinning), broken)

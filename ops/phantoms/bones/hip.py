"""A left hip in limb mm: femur, hemipelvis, soft tissue; perhaps a fracture of the femoral neck.

x to the side, y to the back, z up, the origin at the middle of the femoral head. Sizes are ordinary adult ones,
recalled [R].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ops.phantoms.bones.projection import Bone, Break, Part, Tube, solid
from ops.phantoms.bones.wrist import CANAL, SPONGIOSA
from ops.phantoms.sdf import Array, Coordinates, Points, ellipsoid, rotation, unit

HEAD_RADIUS_MM, SOCKET_GAP_MM = 24.0, 4.0


@dataclass(frozen=True)
class Hip:
    """Parameters of a hip.

    Attributes
    ----------
    size
        Relative to an average adult's.
    neck_shaft_angle
        Degrees.
    cortex
        Thickness of the shaft's cortex, mm.
    density
        Relative density of trabecular bone.
    girth
        Relative thickness of the soft tissue.
    broken
        Fracture of the neck, or None; the femur below it is the part that moves.
    """

    size: float
    neck_shaft_angle: float
    cortex: float
    density: float
    girth: float
    broken: Break | None

    @property
    def neck_axis(self) -> Points:
        """Unit vector from the head to the trochanters."""
        below = np.radians(180 - self.neck_shaft_angle)
        return np.array([np.sin(below), 0.0, -np.cos(below)])

    def neck(self) -> Tube:
        """Neck from within the head to between the trochanters."""
        axis = self.neck_axis
        frame = np.stack([np.array([axis[2], 0.0, -axis[0]]), np.array([0.0, 1.0, 0.0]), axis])
        half = np.array([(17, 15), (17, 14), (16.5, 13), (18, 13), (22, 14)])
        s = self.size
        return Tube(np.zeros(3), frame, s * np.array([0.0, 18, 28, 40, 56]), np.zeros((5, 2)), s * half)

    def bones(self) -> list[Bone]:
        """Femur and hemipelvis."""
        soft = SPONGIOSA * self.density
        neck = self.neck().part(np.full(5, 0.35 * self.cortex), np.full(5, soft))
        head = self._ball((0, 0, 0), (HEAD_RADIUS_MM,) * 3, 0, 0.2 * self.cortex, 1.3 * soft)
        x, _, z = self.size * 52 * self.neck_axis / self.size
        shaft = self._tube(
            [z - 220, z - 120, z - 70, z - 45, z - 20, z + 6],
            [(x - 5, 0), (x - 3, 0), (x - 1, 0), (x + 1, 0), (x + 3, 0), (x + 4, 0)],
            [(14.5, 14), (15, 14), (16, 15), (19, 16), (22, 17), (20, 15)],
        )
        c = self.cortex
        femur = [
            shaft.part(
                [c, 0.95 * c, 0.75 * c, 0.5 * c, 0.3 * c, 0.25 * c],
                [CANAL, CANAL, CANAL, 0.4 * soft, 0.7 * soft, 0.8 * soft],
            ),
            neck,
            head,
            self._ball((x + 12, 3, z + 10), (13, 14, 20), 12, 0.2 * c, 0.7 * soft),
            self._ball((x - 17, 10, z - 34), (8, 9, 12), 20, 0.25 * c, 0.7 * soft),
        ]
        return [Bone(femur, 7.0, self.broken), *self._pelvis()]

    def outlines(self) -> list[Tube]:
        """Soft tissue: thigh below, pelvis above the perineum."""
        g = self.girth
        profile = self._tube(
            [-260, -125, -100, -80, -40, 20, 150],
            [(15, 0), (10, 0), (0, 0), (-25, 0), (-55, 0), (-62, 0), (-65, 0)],
            [(75, 72), (88, 80), (98, 84), (128, 86), (162, 88), (172, 90), (172, 88)],
        )
        return [replace(profile, half=profile.half * g)]

    def _pelvis(self) -> list[Bone]:
        soft = SPONGIOSA * self.density
        thin = 1.6

        def strut(start: tuple[float, ...], end: tuple[float, ...], half: list[tuple[float, float]]) -> Part:
            a, b = self.size * np.array(start), self.size * np.array(end)
            axis = unit(b - a)
            across = unit(np.array([0.0, 1.0, 0.0]) - axis[1] * axis)
            frame = np.stack([np.cross(across, axis), across, axis])
            n = len(half)
            stations = np.linspace(0, float(np.linalg.norm(b - a)), n)
            tube = Tube(a, frame, stations, np.zeros((n, 2)), self.size * np.array(half))
            return tube.part(np.full(n, thin), np.full(n, 0.8 * soft), rounding=9.0)

        socket = self._socket(thin, 1.2 * soft)
        ilium = strut((-8, 4, 22), (-26, 20, 150), [(21, 14), (20, 12), (28, 9), (43, 7), (58, 6), (66, 6), (66, 6)])
        pubis = strut((-24, -8, -2), (-84, -16, -22), [(15, 10), (9, 7), (8, 7), (11, 9)])
        body = self._ball((-89, -14, -36), (10, 9, 19), 12, thin, soft)
        ischium = strut((-16, 12, -14), (-42, 8, -78), [(16, 12), (12, 12), (13, 13), (14, 14)])
        ramus = strut((-42, 8, -80), (-86, -12, -46), [(11, 10), (7, 6), (8, 7)])
        sacrum = self._ball((-124, 30, 75), (48, 12, 78), 8, thin, 0.5 * soft)
        return [Bone([socket, ilium, pubis, body, ischium, ramus], 8.0), Bone([sacrum])]

    def _socket(self, cortex: float, inside: float) -> Part:
        """Cup around the head, open to the side and below."""
        inner = self.size * (HEAD_RADIUS_MM + SOCKET_GAP_MM)
        outer = inner + self.size * 9
        opening = np.asarray(unit([0.75, -0.25, -0.66]), dtype=np.float32)

        def distance(p: Coordinates) -> Array:
            r = np.sqrt(p[0] ** 2 + p[1] ** 2 + p[2] ** 2)
            cut = p[0] * opening[0] + p[1] * opening[1] + p[2] * opening[2] - np.float32(3)
            return np.asarray(np.maximum(np.maximum(np.float32(inner) - r, r - np.float32(outer)), cut))

        return solid(distance, np.zeros(3), outer, cortex, inside)

    def _tube(self, stations: list[float], centre: list[tuple[float, float]], half: list[tuple[float, float]]) -> Tube:
        s = self.size
        return Tube(np.zeros(3), np.eye(3), s * np.array(stations), s * np.array(centre), s * np.array(half))

    def _ball(
        self, centre: tuple[float, ...], axes: tuple[float, ...], turn: float, cortex: float, inside: float
    ) -> Part:
        s = self.size
        c, a, frame = s * np.array(centre), s * np.array(axes), rotation(0, 0, turn).T
        # Half extents of the turned ellipsoid.
        reach = np.sqrt(a**2 @ frame**2)
        return solid(lambda p: ellipsoid(p, c, a, frame), c, reach, cortex, inside)


def sample_hip(rng: np.random.Generator, sex: str, age: int, bmi: float, is_broken: bool) -> Hip:
    """Draw a hip; a fracture crosses the neck, the femur drawn up and to the side."""
    size = float(np.clip(rng.normal(1.05 if sex == "M" else 0.95, 0.04), 0.85, 1.15))
    thinning = 1 - 0.006 * max(age - 50, 0)
    hip = Hip(
        size=size,
        neck_shaft_angle=float(np.clip(rng.normal(127, 4), 118, 138)),
        cortex=float(size * rng.uniform(5.5, 7.5) * thinning),
        density=float(rng.uniform(0.8, 1.2) * thinning),
        girth=float(np.clip(0.7 + 0.0115 * bmi, 0.85, 1.2) / size),
        broken=None,
    )
    if not is_broken:
        return hip
    lean = np.radians(rng.uniform(-10, 25))
    axis = hip.neck_axis
    normal = np.cos(lean) * axis + np.sin(lean) * np.array([-axis[2], 0.0, axis[0]])
    point = size * rng.uniform(27, 33) * axis
    return replace(
        hip,
        broken=Break(
            point=(float(point[0]), 0.0, float(point[2])),
            normal=(float(normal[0]), 0.0, float(normal[2])),
            gap=float(rng.uniform(0.6, 2.0)),
            shift=(float(rng.uniform(0, 3)), float(rng.normal(0, 1)), float(rng.uniform(0, 9))),
            roughness=float(rng.uniform(0.2, 0.8)),
            wavelength=float(rng.uniform(4, 10)),
        ),
    )

"""The heart: chambers, roots of the great vessels and the pericardial sac, in template LPS mm.

Reference shapes are a typical adult's in a supine chest CT: x = 0 is the midline, the atrioventricular plane
lies near the origin, the apex points left, forwards and down. A participant's heart is the reference,
turned about its centre, scaled to its volume and with every chamber varied on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ops.phantoms.chest.canvas import Box, Canvas
from ops.phantoms.participant import Participant
from ops.phantoms.sdf import Array, Coordinates, Points, ellipsoid, local, rotation, smooth_union, unit

CENTRE = np.array([20.0, -2.0, 0.0])
# Contents of the pericardial sac of the reference heart with 5 mm fat, measured once by counting voxels.
REFERENCE_VOLUME_ML = 850.0
SURFACE_CREASE_MM = 4.0
CREASE_MM = 26.0  # how far the sac bridges the grooves between chambers; fat fills the difference

LONG_AXIS = unit([0.72, -0.52, -0.45])  # base → apex
_SEPTAL = np.array([-0.50, -0.78, -0.10])  # left → right ventricle, roughly
SEPTAL = unit(_SEPTAL - (_SEPTAL @ LONG_AXIS) * LONG_AXIS)
INFERIOR = np.cross(LONG_AXIS, SEPTAL)
INFERIOR = INFERIOR * -np.sign(INFERIOR[2])
VENTRICULAR_FRAME = np.stack([LONG_AXIS, SEPTAL, INFERIOR])

MITRAL_CENTRE = np.array([26.0, 14.0, 2.0])
AORTIC_ANNULUS = np.array([7.0, 0.0, 17.0])


@dataclass(frozen=True, eq=False)
class Chamber:
    """An ellipsoid, cut by an optional plane on the side ``(p - cut_point) · cut_normal < 0``."""

    centre: Points
    axes: npt.NDArray[np.float64]
    frame: npt.NDArray[np.float64]
    cut: tuple[Points, Points] | None = None

    def distance(self, p: Coordinates, inset: float = 0.0) -> Array:
        """Signed distance to the wall moved inwards by ``inset`` mm."""
        d = ellipsoid(p, self.centre, self.axes - inset, self.frame)
        if self.cut is None:
            return d
        x, y, z = local(p, self.cut[0])
        n = self.cut[1]
        plane = x * np.float32(n[0]) + y * np.float32(n[1]) + z * np.float32(n[2])
        return np.asarray(np.maximum(d, -plane), dtype=np.float32)

    def bounds(self) -> tuple[Points, Points]:
        """Box around the whole ellipsoid."""
        half = np.sqrt(((self.frame * self.axes[:, None]) ** 2).sum(axis=0))
        return self.centre - half, self.centre + half


@dataclass(frozen=True, eq=False)
class Heart:
    """A participant's heart.

    Attributes
    ----------
    chambers
        ``LV`` (outer wall), ``RV`` (outer wall), ``RVOT``, ``RA``, ``RAA``, ``LA``, ``LAA``.
    turn, scale, shift
        Map of reference points: shift + CENTRE + scale · turn (p - CENTRE).
    lv_wall, rv_wall
        Wall thickness in mm.
    fat
        Thickness of epicardial fat over the convexities in mm.
    """

    chambers: dict[str, Chamber]
    turn: npt.NDArray[np.float64]
    scale: float
    shift: Points
    lv_wall: float
    rv_wall: float
    fat: float

    def place(self, points: npt.ArrayLike) -> Points:
        """Template position of reference points ``(..., 3)``."""
        p = np.asarray(points, dtype=np.float64) - CENTRE
        return np.asarray(CENTRE + self.shift + self.scale * p @ self.turn.T)

    def direct(self, vectors: npt.ArrayLike) -> Points:
        """Turn reference directions with the heart."""
        return np.asarray(np.asarray(vectors, dtype=np.float64) @ self.turn.T)

    def bounds(self) -> tuple[Points, Points]:
        """Box around the pericardial sac."""
        lows, highs = zip(*(c.bounds() for c in self.chambers.values()), strict=True)
        return np.min(lows, axis=0) - self.fat - 3, np.max(highs, axis=0) + self.fat + 3

    def surface(self, p: Coordinates, crease: float = SURFACE_CREASE_MM) -> Array:
        """Signed distance to the union of the chambers with creases of radius ``crease`` mm filled."""
        return smooth_union([c.distance(p) for c in self.chambers.values()], crease)

    def sac(self, p: Coordinates) -> Array:
        """Signed distance to the outside of the pericardium."""
        return np.asarray(self.surface(p, CREASE_MM) - np.float32(self.fat), dtype=np.float32)

    def field(self, canvas: Canvas) -> HeartField | None:
        """Distances on a canvas, each computed once; None when the heart is out of the field."""
        box = canvas.box(*self.bounds())
        if box is None:
            return None
        p = canvas.at(box)
        chambers = {name: chamber.distance(p) for name, chamber in self.chambers.items()}
        sac = smooth_union(list(chambers.values()), CREASE_MM) - np.float32(self.fat)
        return HeartField(box, chambers, np.asarray(sac, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class HeartField:
    """Distances (mm) to the chambers and to the pericardial sac inside one index box of a canvas."""

    box: Box
    chambers: dict[str, Array]
    sac: Array


def _reference_chambers() -> dict[str, tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]]:
    """Name → centre, semi-axes, frame of the reference heart."""
    lv = MITRAL_CENTRE + 30 * LONG_AXIS
    rv = lv - 12 * LONG_AXIS + 35 * SEPTAL + 5 * INFERIOR
    eye = np.eye(3)
    return {
        "LV": (lv, (60, 35, 36), VENTRICULAR_FRAME),
        "RV": (rv, (60, 25, 38), VENTRICULAR_FRAME),
        "RVOT": ((27, -36, 16), (17, 16, 24), eye),
        "RA": ((-19, 0, -3), (24, 27, 33), eye),
        "RAA": ((-13, -24, 18), (15, 15, 15), eye),
        "LA": ((6, 31, 15), (35, 19, 26), eye),
        "LAA": ((43, 4, 27), (13, 17, 13), eye),
    }


def heart(participant: Participant, rng: np.random.Generator) -> Heart:
    """Sample the heart of a participant: horizontal in the obese, upright in the lean, every chamber varied."""
    horizontal = (participant.bmi - 27) / 10
    turn = rotation(rng.normal(5 * horizontal, 9), rng.normal(0, 6), rng.normal(-7 * horizontal, 9))
    scale = (participant.heart_volume / REFERENCE_VOLUME_ML) ** (1 / 3)
    shift = np.array([rng.normal(-2, 6), rng.normal(0, 2), rng.normal(0, 6)])
    chambers = {}
    for name, (centre, axes, frame) in _reference_chambers().items():
        jitter = rng.normal(0, 1.8, size=3)
        size = np.asarray(axes) * rng.lognormal(0, 0.06) * rng.lognormal(0, 0.05, size=3)
        placed = CENTRE + shift + scale * (np.asarray(centre) + jitter - CENTRE) @ turn.T
        chambers[name] = Chamber(placed, size * scale, np.asarray(frame) @ turn.T)
    for name, base in (("LV", MITRAL_CENTRE), ("RV", np.array([0.0, -16.0, -7.0]))):
        at = CENTRE + shift + scale * turn @ (base - CENTRE)
        old = chambers[name]
        chambers[name] = Chamber(old.centre, old.axes, old.frame, (at, old.frame[0]))
    return Heart(
        chambers=chambers,
        turn=turn,
        scale=scale,
        shift=shift,
        lv_wall=float(np.clip(rng.normal(10, 1.5), 7, 15)),
        rv_wall=float(rng.uniform(2.5, 4.5)),
        fat=float(np.clip(rng.normal(3.5 + 0.25 * (participant.bmi - 26), 1.2), 1.0, 9.0)),
    )

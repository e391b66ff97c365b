"""A liver with its eight segments, nodular surface and fissures, and a spleen: signed distances and true volumes.

Patient LPS mm: x = 0 is the midline, the bifurcation of the portal vein lies near the origin. The liver of scale 1 is a
template of some 2300 cm³; a person's is scaled to its volume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from ops.phantoms.sdf import Array, Coordinates, Points, ellipsoid, local, rotation, smooth_min

MM3_PER_CM3 = 1000.0
CAVA = (-24.0, 34.0)  # x and y of the vena cava behind the liver of scale 1
PORTAL_Z = 2.0  # height of the portal plane
LATERAL_PLANE = 10.0  # z + 0.55 y of the plane between segments II and III
GRADIENT_STEP_MM = 0.5
WAVE_AXIS = (-45.0, 0.0)  # x and y of the axis around which the surface's waves run, and the radius where their
WAVE_RADIUS = 75.0  # period is the nominal one
WAVE_DRIFT = 0.6  # mm along the surface per mm of z
LEFT_RANGE = (0.85, 2.6)
KRONECKER = (0.7548776662, 0.5698402910)  # reciprocals of the plastic number and of its square


@dataclass(frozen=True, eq=False)
class Liver:
    """A liver with its eight segments.

    Attributes
    ----------
    scale
        Size relative to the template.
    left
        Width of the left lateral section relative to the template's; the caudate grows and the right lobe shrinks with
        it, as in cirrhosis.
    amplitude_mm, period_mm
        The surface is the smooth one moved along its normal in the axial plane by ``amplitude · sin``, so that the mean
        deviation of a contour is 2A/π in every slice. The period is that on the anterior surface; along z the waves
        drift, so that thick slices average over them.
    phase
        Of the waves, rad.
    """

    scale: float = 1.0
    left: float = 1.0
    amplitude_mm: float = 0.0
    period_mm: float = 10.0
    phase: float = 0.0

    @property
    def nodularity(self) -> float:
        """Mean deviation of the surface from the smooth one in an axial slice, tenths of mm: 20 A/π."""
        return 20 * self.amplitude_mm / np.pi

    def bounds(self) -> tuple[Points, Points]:
        """LPS box around it, mm."""
        low = np.array([-146.0, -100.0, -102.0])
        high = np.array([18.0 + 78.0 * self.left**0.7, 98.0, 106.0])
        return self.scale * low - self.amplitude_mm, self.scale * high + self.amplitude_mm

    def smooth_distance(self, p: Coordinates) -> Array:
        """Signed distance to the surface without nodules."""
        x, y, z = (axis * np.float32(1 / self.scale) for axis in p)
        return np.asarray(_template((x, y, z), self.left) * np.float32(self.scale), dtype=np.float32)

    def distance(self, p: Coordinates) -> Array:
        """Signed distance to the nodular surface; right within some mm of it."""
        d = self.smooth_distance(p)
        if self.amplitude_mm == 0:
            return d
        near = np.abs(d) < self.amplitude_mm + 4
        points = select(p, near)
        d[near] += np.float32(self.amplitude_mm) * self._waves(points) * self._in_plane_slope(points)
        return d

    def _waves(self, p: Coordinates) -> Array:
        x, y, z = p
        cx, cy = (np.float32(self.scale * c) for c in WAVE_AXIS)
        along = np.float32(WAVE_RADIUS * self.scale) * np.arctan2(x - cx, cy - y)
        wave = np.float32(2 * np.pi / self.period_mm) * (along + np.float32(WAVE_DRIFT) * z) + np.float32(self.phase)
        return np.asarray(np.sin(wave), dtype=np.float32)

    def _in_plane_slope(self, p: Coordinates) -> Array:
        """Length of the distance's gradient within the axial plane: 1 where the surface is upright."""
        x, y, z = p
        h = np.float32(GRADIENT_STEP_MM)
        gx = self.smooth_distance((x + h, y, z)) - self.smooth_distance((x - h, y, z))
        gy = self.smooth_distance((x, y + h, z)) - self.smooth_distance((x, y - h, z))
        return np.asarray(np.hypot(gx, gy) / (2 * h), dtype=np.float32)

    def segment(self, p: Coordinates) -> npt.NDArray[np.uint8]:
        """Couinaud segment 1–8 that a point in the liver belongs to.

        Planes through the hepatic veins part right posterior, right anterior, left medial and left lateral; the plane
        of the portal vein parts upper from lower segments; the caudate lies before the vena cava.
        """
        x, y, z = (axis * np.float32(1 / self.scale) for axis in p)
        cava_x, cava_y = np.float32(CAVA[0]), np.float32(CAVA[1])
        u, v = x - cava_x, y - cava_y

        def side(direction: tuple[float, float]) -> Array:
            """Positive to the patient's left of a vertical plane from the vena cava in this direction."""
            return np.asarray(u * np.float32(-direction[1]) + v * np.float32(direction[0]))

        right_vein, middle_vein, fissure = side((-0.95, -0.31)), side((-0.40, -0.92)), side((0.14, -0.99))
        upper = z > np.float32(PORTAL_Z)
        out = np.where(right_vein < 0, np.where(upper, 7, 6), np.where(upper, 8, 5))
        lateral = np.where(z + np.float32(0.55) * y > np.float32(LATERAL_PLANE), 2, 3)
        out = np.where(middle_vein > 0, np.where(fissure > 0, lateral, 4), out)
        # Behind the vena cava's plane a point is to the right of all veins' planes, whatever their signs say.
        out = np.where((v > 0) & (u < 0), np.where(upper, 7, 6), out)
        caudate = _caudate((x, y, z), self.left) < 2
        return np.asarray(np.where(caudate, 1, out), dtype=np.uint8)


def _caudate(q: Coordinates, left: float) -> Array:
    grow = np.sqrt(left)
    return ellipsoid(q, (-6, 12, 26), (17 * grow, 15 * grow, 30 * grow))


def _smooth_cut(a: Array, b: Array, radius: float) -> Array:
    """Body a without body b, the edge rounded."""
    return np.asarray(-smooth_min(-a, b, radius), dtype=np.float32)


def _template(q: Coordinates, left: float) -> Array:
    """Signed distance to the smooth liver of scale 1."""
    shrink = left**-0.35
    right_lobe = ellipsoid(q, (-70, 6, 4), (66 * shrink, 82 * shrink, 92 * shrink))
    medial = ellipsoid(q, (-30, -38, 14), (50, 46, 58))
    lateral = ellipsoid(q, (12, -44, 34), (66 * left**0.7, 36 * left**0.3, 40 * left**0.4), rotation(-8, 0, 8).T)
    d = smooth_min(smooth_min(right_lobe, medial, 30.0), lateral, 22.0)
    # The visceral surface: bowel and stomach from below and the left, kidney, spine and crus from behind.
    d = _smooth_cut(d, ellipsoid(q, (34, 30, -92), (98, 84, 92)), 14.0)
    d = _smooth_cut(d, ellipsoid(q, (62, 22, 22), (62, 50, 88)), 12.0)
    d = _smooth_cut(d, ellipsoid(q, (-56, 58, -66), (34, 34, 62)), 8.0)
    d = _smooth_cut(d, ellipsoid(q, (8, 70, 0), (42, 40, 300)), 8.0)
    d = smooth_min(d, _caudate(q, left), 6.0)
    # Fissures of the venous and the round ligament, bed of the gallbladder, groove of the vena cava.
    d = np.maximum(d, -ellipsoid(q, (8, -6, 24), (30, 2.2, 34), rotation(-18, 0, 0).T))
    d = np.maximum(d, -ellipsoid(q, (2, -66, -6), (2.5, 26, 34)))
    d = np.maximum(d, -ellipsoid(q, (-48, -52, -52), (19, 21, 34)))
    cava = np.hypot(q[0] - np.float32(CAVA[0]), q[1] - np.float32(CAVA[1]))
    return np.asarray(np.maximum(d, np.float32(12) - cava), dtype=np.float32)


@dataclass(frozen=True)
class Spleen:
    """A spleen of a given size.

    Attributes
    ----------
    scale
        Size relative to the template, whose volume is `Spleen.template_cm3`.
    centre
        LPS mm.
    """

    scale: float
    centre: tuple[float, float, float]

    @classmethod
    def of_volume(cls, volume_cm3: float, centre: tuple[float, float, float]) -> Spleen:
        """Spleen of about this volume; `true_volumes` gives the exact one."""
        return cls((volume_cm3 / cls.template_cm3()) ** (1 / 3), centre)

    @staticmethod
    @cache
    def template_cm3() -> float:
        """Volume of the template in cm³, by counting points 2 mm apart."""
        template = Spleen(1.0, (0.0, 0.0, 0.0))
        return sum(float((template.distance(p) < 0).sum()) for p in _lattice(*template.bounds(), 2.0)) * 8 / MM3_PER_CM3

    def bounds(self) -> tuple[Points, Points]:
        """LPS box around it, mm."""
        half = self.scale * np.array([52.0, 60.0, 64.0])
        return np.asarray(self.centre) - half, np.asarray(self.centre) + half

    def distance(self, p: Coordinates) -> Array:
        """Signed distance: an ellipsoid along the ribs, hollow at the hilum."""
        q = tuple(axis * np.float32(1 / self.scale) for axis in local(p, self.centre))
        outside = ellipsoid((q[0], q[1], q[2]), (0, 0, 0), (24, 46, 58), rotation(-28, 18, 0).T)
        hilum = ellipsoid((q[0], q[1], q[2]), (-34, -14, -4), (24, 30, 40))
        return np.asarray(_smooth_cut(outside, hilum, 10.0) * np.float32(self.scale), dtype=np.float32)


def fit_liver(volume_cm3: float, lsvr: float) -> Liver:
    """Smooth liver of about this volume and ratio V(I–III)/V(IV–VIII); `true_volumes` gives the exact ones."""

    def volumes(left: float) -> npt.NDArray[np.float64]:
        return _segment_volumes(Liver(left=left), 4.0)

    def excess(left: float) -> float:
        segments = volumes(left)
        return float(segments[:3].sum() / segments[3:].sum()) - lsvr

    low, high = LEFT_RANGE
    left = low if excess(low) >= 0 else high if excess(high) <= 0 else float(brentq(excess, low, high, xtol=0.01))
    return Liver(scale=float((volume_cm3 / volumes(left).sum()) ** (1 / 3)), left=left)


def true_volumes(liver: Liver, spleen: Spleen, step_mm: float = 1.0) -> dict[str, float]:
    """Volumes in cm³ of the segments ``I`` … ``VIII`` and of ``spleen`` where the liver does not cover it.

    By counting points of a lattice that belongs to no image. The error of a volume with surface S is about
    0.3 · step² · √S: 0.1 cm³ for a liver at 1 mm.
    """
    names = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII")
    volumes = dict(zip(names, map(float, _segment_volumes(liver, step_mm)), strict=True))
    count = 0.0
    for p in _lattice(*spleen.bounds(), step_mm):
        count += float((liver.distance(select(p, spleen.distance(p) < 0)) >= 0).sum())
    return {**volumes, "spleen": count * step_mm**3 / MM3_PER_CM3}


def _segment_volumes(liver: Liver, step_mm: float) -> npt.NDArray[np.float64]:
    """Volumes ``(8,)`` in cm³."""
    counts = np.zeros(9)
    for p in _lattice(*liver.bounds(), step_mm):
        counts += np.bincount(liver.segment(select(p, liver.distance(p) < 0)), minlength=9)
    return np.asarray(counts[1:] * step_mm**3 / MM3_PER_CM3)


def select(p: Coordinates, where: npt.NDArray[np.bool_]) -> Coordinates:
    """Coordinates ``(n,)`` of some of the points that ``p`` broadcasts to."""
    x, y, z = (np.broadcast_to(axis, where.shape)[where] for axis in p)
    return x, y, z


def _lattice(low: Points, high: Points, step: float) -> Iterator[Coordinates]:
    """Points of a lattice in a box, four layers at a time, as coordinates that broadcast.

    Layers are shifted against each other and columns start at their own heights (Kronecker sequences), so that no
    plane, such as those between segments, lies along a plane of points.
    """
    x, y, z = (np.arange(a, b + step, step, dtype=np.float32) for a, b in zip(low, high, strict=True))
    row, column, layer = np.arange(len(y))[:, None], np.arange(len(x))[None, :], np.arange(len(z))[:, None, None]
    start = _shift(KRONECKER[0] * row + KRONECKER[1] * column, step)
    aside, back = (_shift(factor * layer, step) for factor in KRONECKER)
    for first in range(0, len(z), 4):
        part = slice(first, first + 4)
        yield x[None, None, :] + aside[part], y[None, :, None] + back[part], z[part, None, None] + start


def _shift(turns: npt.NDArray[np.floating], step: float) -> Array:
    return np.asarray(step * (turns % 1 - 0.5), dtype=np.float32)

"""A beating heart with volumes in closed form.

The left ventricle is a pair of truncated ellipsoids about one long axis: blood within, wall between. Over the cycle the
base descends towards the apex, which stays, and the wall thickens so that its volume stays. The right ventricle is a
crescent: a truncated ellipsoid of circular sections that bends with the left ventricle and ends at its wall.

Heart coordinates are ``(u, v, h)`` mm: u towards the lateral wall, v downwards across the axis, h along the long axis
from the end-diastolic base (0) to the apex.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from ops.phantoms.sdf import Array

FloatArray = npt.NDArray[np.float64]

MM3_PER_ML = 1000.0
MYOCARDIAL_DENSITY = 1.05  # g/mL
# Distance from the centre of a ventricle's ellipsoid to its base, as a share of the semi-axis.
TRUNCATION = 0.4
# Offset of the right ventricle's sections from the axis as a share of the left ventricle's radius, and where to.
RV_OFFSET, RV_ANGLE = 0.8, math.radians(190)
RV_LENGTH = 0.9  # of the LV cavity's
# Where along the cavity the papillary muscles lie: from base 0 to apex 1.
PAPILLARY_SPAN = (0.3, 0.72)
# Gauss–Legendre quadrature along the right ventricle; enough for the kinks where the circles part.
GAUSS_NODES, GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(200)


@dataclass(frozen=True)
class Bowl:
    """Ellipsoid of revolution cut off at its base.

    Attributes
    ----------
    base
        h of the base in mm.
    length
        From the base to the apex in mm.
    radius
        Largest radius in mm, `TRUNCATION` of the semi-axis below the base.
    """

    base: float
    length: float
    radius: float

    @classmethod
    def of_volume(cls, volume_mm3: float, base: float, length: float) -> Bowl:
        """Bowl of a given volume and length."""
        return cls(base, length, math.sqrt(volume_mm3 / cls(base, length, 1.0).volume()))

    @property
    def semi_axis(self) -> float:
        """Semi-axis along h."""
        return self.length / (1 + TRUNCATION)

    @property
    def centre(self) -> float:
        """Where along h the bowl is widest."""
        return self.base + TRUNCATION * self.semi_axis

    def square_radius(self, h: npt.ArrayLike) -> FloatArray:
        """Squared radius at ``h`` mm; negative beyond the apex. The base is not cut here."""
        x = (np.asarray(h, dtype=np.float64) - self.centre) / self.semi_axis
        return np.asarray(self.radius**2 * (1 - x**2))

    def volume(self, start: float = -math.inf, stop: float = math.inf) -> float:
        """Volume in mm³ between two planes across the axis: the integral of π r² [mathematics]."""
        c = self.semi_axis
        low, high = ((np.clip(h, self.base, self.base + self.length) - self.centre) / c for h in (start, stop))
        return float(math.pi * self.radius**2 * c * ((high - high**3 / 3) - (low - low**3 / 3)))

    def distance(self, u: Array, v: Array, h: Array, margin: float = 0.0) -> Array:
        """Signed distance in mm, right to first order at the surface; ``margin`` mm are added, but not at the base."""
        a, c = self.radius + margin, self.semi_axis + margin
        w = h - np.float32(self.centre)
        square = u * u + v * v + np.float32((a / c) ** 2) * w * w
        steepness = np.sqrt(u * u + v * v + np.float32((a / c) ** 4) * w * w)
        mantle = (square - np.float32(a * a)) / np.maximum(2 * steepness, np.float32(1e-3))
        return np.asarray(np.maximum(mantle, np.float32(self.base) - h), dtype=np.float32)


@dataclass(frozen=True)
class Scar:
    """Infarct of the left ventricular wall, bounded by planes across and through the axis.

    Attributes
    ----------
    angle, width
        Where its middle lies about the axis (0 lateral, 90 inferior, 180 septal, 270 anterior), and how far it
        reaches, in degrees.
    span
        From base 0 to the cavity's apex 1.
    transmurality
        Share of the wall's area that is scar, from the endocardium outwards, in every section across the axis.
    obstruction
        Share 0–1 of the scar's width, of its span and of its depth, from `obstruction_depth` outwards, without
        reflow.
    obstruction_depth
        Where the obstruction begins, as a share of the scar's depth; 0 is at the endocardium.
    """

    angle: float
    width: float
    span: tuple[float, float]
    transmurality: float
    obstruction: float = 0.0
    obstruction_depth: float = 0.0


@dataclass(frozen=True)
class Heart:
    """What is true of a heart; volumes in mL, lengths in mm.

    Attributes
    ----------
    lv_edv, lv_esv, rv_edv
        Volumes with the papillary muscles in the blood. Both ventricles eject the same, so that the right one's
        end-systolic volume follows.
    lv_mass
        g of the wall without papillary muscles.
    length
        Of the LV cavity at end-diastole.
    shortening
        Share of that length by which the base descends.
    papillary
        Volume of both muscles.
    la_maximum, la_minimum
        Left atrium at ventricular end-systole and end-diastole.
    scar
        None: no infarct.
    """

    lv_edv: float = 145.0
    lv_esv: float = 55.0
    rv_edv: float = 155.0
    lv_mass: float = 110.0
    length: float = 85.0
    shortening: float = 0.16
    papillary: float = 5.0
    la_maximum: float = 75.0
    la_minimum: float = 38.0
    scar: Scar | None = None

    @property
    def stroke_volume(self) -> float:
        """Volume that each ventricle ejects."""
        return self.lv_edv - self.lv_esv

    def truth(self) -> dict[str, float]:
        """Return true values by the names a cine's measurement has; papillary muscles in the blood."""
        rv_esv = self.rv_edv - self.stroke_volume
        return {
            "lv_end_diastolic_volume": self.lv_edv,
            "lv_end_systolic_volume": self.lv_esv,
            "lv_stroke_volume": self.stroke_volume,
            "lv_ejection_fraction": 100 * self.stroke_volume / self.lv_edv,
            "lv_mass": self.lv_mass,
            "rv_end_diastolic_volume": self.rv_edv,
            "rv_end_systolic_volume": rv_esv,
            "rv_stroke_volume": self.stroke_volume,
            "rv_ejection_fraction": 100 * self.stroke_volume / self.rv_edv,
            "la_maximum_volume": self.la_maximum,
            "la_minimum_volume": self.la_minimum,
        }

    def scar_truth(self) -> dict[str, float]:
        """Return true values by the names the measurement of scar has."""
        scar, obstruction = self.at(1.0).scar_volumes()
        mass = MYOCARDIAL_DENSITY * scar / MM3_PER_ML
        return {
            "lv_mass": self.lv_mass,
            "scar_mass": mass,
            "scar_percent": 100 * mass / self.lv_mass,
            "microvascular_obstruction_mass": MYOCARDIAL_DENSITY * obstruction / MM3_PER_ML,
        }

    def at(self, filling: float) -> Phase:
        """Heart filled to ``filling``: 1 at end-diastole, 0 at end-systole."""
        return Phase(self, filling)


def filling_curve(phases: int) -> FloatArray:
    """Course of the filling ``(phases,)`` from the R wave: ejection, early filling, diastasis, atrial contraction.

    Exactly 1 in phase 0, exactly 0 once, and between them elsewhere.
    """
    end_systole = max(1, round(0.36 * phases))
    ejection = (1 + np.cos(np.pi * np.arange(end_systole) / end_systole)) / 2
    s = np.arange(phases - end_systole) / (phases - end_systole)
    early, late = (np.clip(x, 0, 1) for x in (s / 0.45, (s - 0.78) / 0.22))
    filling = 0.72 * early**2 * (3 - 2 * early) + 0.28 * late**2 * (3 - 2 * late)
    return np.concatenate([ejection, filling])


@dataclass(frozen=True)
class Phase:
    """Shape of a heart at one filling."""

    heart: Heart
    filling: float

    @cached_property
    def base(self) -> float:
        """H of the atrioventricular plane."""
        return self.heart.length * self.heart.shortening * (1 - self.filling)

    @property
    def length(self) -> float:
        """Length of the LV cavity."""
        return self.heart.length - self.base

    @cached_property
    def endocardium(self) -> Bowl:
        """LV blood with its papillary muscles."""
        heart = self.heart
        return Bowl.of_volume((heart.lv_esv + heart.stroke_volume * self.filling) * MM3_PER_ML, self.base, self.length)

    @cached_property
    def epicardium(self) -> Bowl:
        """LV blood and wall; the wall's volume never changes."""
        wall = self.heart.lv_mass / MYOCARDIAL_DENSITY * MM3_PER_ML
        apex = 5.0 * self.heart.length / self.length
        return Bowl.of_volume(self.endocardium.volume() + wall, self.base, self.length + apex)

    @cached_property
    def right(self) -> Bowl:
        """Right ventricle before the left one is cut out of it; bends with `right_offset`."""
        heart = self.heart
        target = (heart.rv_edv - heart.stroke_volume * (1 - self.filling)) * MM3_PER_ML
        shape = Bowl(self.base, RV_LENGTH * self.length, 1.0)
        radius = brentq(lambda r: self.crescent_volume(replace(shape, radius=r)) - target, 1.0, 120.0, xtol=1e-6)
        return replace(shape, radius=float(radius))

    def right_offset(self, h: npt.ArrayLike) -> FloatArray:
        """Distance in mm of the right ventricle's centre from the long axis at ``h``."""
        return np.asarray(RV_OFFSET * np.sqrt(np.maximum(self.epicardium.square_radius(h), 0)))

    def crescent_volume(self, right: Bowl) -> float:
        """Volume in mm³ of ``right`` without the left ventricle: ∫ π R² minus the lens of two circles."""
        h = right.base + (GAUSS_NODES + 1) / 2 * right.length
        r, big = (np.sqrt(np.maximum(b.square_radius(h), 0)) for b in (self.epicardium, right))
        area = np.pi * big**2 - lens_area(r, big, self.right_offset(h))
        return float((GAUSS_WEIGHTS * area).sum() * right.length / 2)

    @cached_property
    def atrium(self) -> Bowl:
        """Left atrium: a bowl that opens towards the ventricle, in ``-h``."""
        heart = self.heart
        volume = heart.la_maximum - (heart.la_maximum - heart.la_minimum) * self.filling
        return Bowl.of_volume(volume * MM3_PER_ML, -self.base, 1.25 * np.cbrt(volume * MM3_PER_ML))

    def papillary(self) -> tuple[float, float, float, float]:
        """Radius of each papillary muscle, its distance from the axis, and its ends along h."""
        start, stop = self.along(PAPILLARY_SPAN)
        radius = math.sqrt(self.heart.papillary / 2 * MM3_PER_ML / (math.pi * (stop - start)))
        # The muscle leaves the wall at its lower end and is clear of it above.
        reach = float(np.sqrt(self.endocardium.square_radius([start, stop]).min()))
        return radius, reach - radius, start, stop

    def along(self, shares: tuple[float, float]) -> tuple[float, float]:
        """H of two planes given as shares of the cavity from base 0 to apex 1."""
        return self.base + shares[0] * self.length, self.base + shares[1] * self.length

    def scar_volumes(self) -> tuple[float, float]:
        """Volume in mm³ of the scar with its obstruction, and of the obstruction: shares of a slab of the wall."""
        scar = self.heart.scar
        if scar is None:
            return 0.0, 0.0
        start, stop = self.along(scar.span)
        whole = self._wall_volume(start, stop) * scar.width / 360 * scar.transmurality
        middle, half = (start + stop) / 2, scar.obstruction * (stop - start) / 2
        slab = self._wall_volume(middle - half, middle + half)
        return whole, slab * scar.width * scar.obstruction / 360 * scar.transmurality * scar.obstruction

    def _wall_volume(self, start: float, stop: float) -> float:
        return self.epicardium.volume(start, stop) - self.endocardium.volume(start, stop)


def lens_area(r: FloatArray, big: FloatArray, distance: FloatArray) -> FloatArray:
    """Area common to circles of radii ``r`` and ``big`` whose centres are ``distance`` apart [mathematics]."""
    apart, within = distance >= r + big, distance <= np.abs(r - big)
    d = np.where(apart | within, 1.0, distance)
    safe_r, safe_big = np.maximum(r, 1e-9), np.maximum(big, 1e-9)
    a = np.clip((d**2 + safe_r**2 - safe_big**2) / (2 * d * safe_r), -1, 1)
    b = np.clip((d**2 + safe_big**2 - safe_r**2) / (2 * d * safe_big), -1, 1)
    kite = np.sqrt(np.maximum((-d + r + big) * (d + r - big) * (d - r + big) * (d + r + big), 0)) / 2
    lens = r**2 * np.arccos(a) + big**2 * np.arccos(b) - kite
    return np.where(apart, 0.0, np.where(within, np.pi * np.minimum(r, big) ** 2, lens))

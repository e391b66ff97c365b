"""A beating left heart in closed form: truncated ellipsoids whose size follows the ECG.

Heart coordinates (mm): ``u`` towards the lateral wall, ``v`` towards the anterior wall, ``h`` from the epicardial apex
along the long axis to the base. The epicardial apex stays where it is and the base moves, as in a living heart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ellipeinc

from ops.phantoms.sdf import Array, ellipsoid

MM3_PER_ML = 1000.0
MYOCARDIUM_G_PER_ML = 1.05
# Steps of contraction at which the wall thickness is solved for; it is interpolated between them.
_WALL_STEPS = 33


@dataclass(frozen=True)
class TruncatedEllipsoid:
    """An ellipsoid cut across its long axis; what is left holds one pole and the widest section.

    Attributes
    ----------
    a
        From the centre to the pole.
    d
        From the centre to the cut.
    b_u, b_v
        Semi-axes across, along u and v.
    """

    a: float
    d: float
    b_u: float
    b_v: float

    @property
    def length(self) -> float:
        """From the cut to the pole."""
        return self.a + self.d

    @property
    def volume_ml(self) -> float:
        """π b_u b_v (2a/3 + d − d³/3a²)."""
        return math.pi * self.b_u * self.b_v * (2 / 3 * self.a + self.d - self.d**3 / (3 * self.a**2)) / MM3_PER_ML

    @property
    def cut_share(self) -> float:
        """Width at the cut as a share of the largest width."""
        return math.sqrt(1 - (self.d / self.a) ** 2)

    def half_width(self, azimuth: float) -> float:
        """Semi-axis across in the direction ``azimuth`` (degrees from u towards v)."""
        angle = math.radians(azimuth)
        return 1 / math.hypot(math.cos(angle) / self.b_u, math.sin(angle) / self.b_v)

    def area_mm2(self, azimuth: float) -> float:
        """Area of the long-axis section at ``azimuth``."""
        q = self.d / self.a
        return self.a * self.half_width(azimuth) * (math.pi / 2 + math.asin(q) + q * self.cut_share)

    def wall_length_mm(self, azimuth: float) -> float:
        """Length of the outline of the long-axis section at ``azimuth`` without the cut: an elliptic integral."""
        b = self.half_width(azimuth)
        return float(2 * b * ellipeinc(math.acos(-self.d / self.a), 1 - (self.a / b) ** 2))

    def thickened(self, wall: float) -> TruncatedEllipsoid:
        """Return the same cut with all semi-axes longer by ``wall``."""
        return TruncatedEllipsoid(self.a + wall, self.d, self.b_u + wall, self.b_v + wall)

    def mixed(self, other: TruncatedEllipsoid, share: float) -> TruncatedEllipsoid:
        """Part of the way to another shape."""
        pairs = ((self.a, other.a), (self.d, other.d), (self.b_u, other.b_u), (self.b_v, other.b_v))
        return TruncatedEllipsoid(*(one + share * (two - one) for one, two in pairs))

    def contains(self, u: Array, v: Array, w: Array) -> npt.NDArray[np.bool_]:
        """Tell which points lie inside; ``w`` counts from the cut towards the pole."""
        form = (u / np.float32(self.b_u)) ** 2 + (v / np.float32(self.b_v)) ** 2
        form += ((w - np.float32(self.d)) / np.float32(self.a)) ** 2
        return np.asarray((form < 1) & (w > 0))

    def distance(self, u: Array, v: Array, w: Array) -> Array:
        """Approximate signed distance; ``w`` counts from the cut towards the pole."""
        body = ellipsoid((u, v, w), (0.0, 0.0, self.d), (self.b_u, self.b_v, self.a))
        return np.maximum(body, -w)


@dataclass(frozen=True)
class BeatingHeart:
    """Left ventricle and atrium of one person over some beats.

    Attributes
    ----------
    diastole, systole
        Cavity of the ventricle at end-diastole and end-systole.
    wall
        Thickness of its wall at end-diastole. Myocardium keeps its volume, so it thickens in systole.
    atrial_lengths
        Length of the left atrium at ventricular end-diastole and end-systole.
    atrial_widening
        Widest atrial section over the annulus at the same two times, at least 1.
    r_peaks_ms
        Times of the R waves, one more than there are beats; end-diastole is at each of them.
    """

    diastole: TruncatedEllipsoid
    systole: TruncatedEllipsoid
    wall: float
    atrial_lengths: tuple[float, float]
    atrial_widening: tuple[float, float]
    r_peaks_ms: tuple[float, ...]

    @property
    def ejection_fraction(self) -> float:
        """In %."""
        return 100 * (1 - self.systole.volume_ml / self.diastole.volume_ml)

    @property
    def myocardial_volume_ml(self) -> float:
        """Between endocardium and epicardium, up to the plane of the annulus."""
        return self.diastole.thickened(self.wall).volume_ml - self.diastole.volume_ml

    @property
    def mass_g(self) -> float:
        """Mass of the myocardium."""
        return MYOCARDIUM_G_PER_ML * self.myocardial_volume_ml

    def strain_percent(self, azimuth: float) -> float:
        """Longitudinal strain of the endocardium in the long-axis section at ``azimuth``."""
        return 100 * (self.systole.wall_length_mm(azimuth) / self.diastole.wall_length_mm(azimuth) - 1)

    def cavity(self, contraction: float) -> TruncatedEllipsoid:
        """Cavity of the ventricle at ``contraction`` 0 (end-diastole) to 1 (end-systole)."""
        return self.diastole.mixed(self.systole, contraction)

    def wall_at(self, contraction: float) -> float:
        """Wall thickness that keeps the volume of the myocardium."""
        return float(np.interp(contraction, np.linspace(0, 1, _WALL_STEPS), self._walls))

    @cached_property
    def _walls(self) -> list[float]:
        def excess(wall: float, cavity: TruncatedEllipsoid) -> float:
            return cavity.thickened(wall).volume_ml - cavity.volume_ml - self.myocardial_volume_ml

        cavities = (self.cavity(step) for step in np.linspace(0, 1, _WALL_STEPS))
        return [float(brentq(excess, 0, 4 * self.wall, args=(cavity,))) for cavity in cavities]

    def atrium(self, contraction: float) -> TruncatedEllipsoid:
        """Left atrium; its cut lies on the ventricle's and is as wide."""
        cavity = self.cavity(contraction)
        length, widening = (one + contraction * (two - one) for one, two in (self.atrial_lengths, self.atrial_widening))
        share = math.sqrt(1 - 1 / widening**2)
        a, scale = length / (1 + share), widening * cavity.cut_share
        return TruncatedEllipsoid(a, share * a, cavity.b_u * scale, cavity.b_v * scale)

    def base(self, contraction: float) -> float:
        """Position h of the annulus plane."""
        return self.wall_at(contraction) + self.cavity(contraction).length

    def contraction(self, time_ms: float) -> float:
        """0 at an R wave, 1 at end-systole; then early filling, diastasis and the atrial kick."""
        phase, systole = self._phase(time_ms)
        diastole = 1 - systole
        early, kick = systole + 0.35 * diastole, 1 - 0.25 * diastole
        if phase < systole:
            return _eased(phase / systole)
        if phase < early:
            return 1 - 0.75 * _eased((phase - systole) / (early - systole))
        if phase < kick:
            return 0.25 - 0.03 * (phase - early) / (kick - early)
        return 0.22 * (1 - _eased((phase - kick) / (1 - kick)))

    def mitral_opening(self, time_ms: float) -> float:
        """0 closed to 1 wide open: wide in early filling, half shut in diastasis, wide again in the atrial kick."""
        phase, systole = self._phase(time_ms)
        knots = systole + (1 - systole) * np.array([0, 0.12, 0.25, 0.45, 0.7, 0.85, 1.0])
        return float(np.interp(phase, knots, [0, 1, 1, 0.35, 0.35, 0.75, 0]))

    def _phase(self, time_ms: float) -> tuple[float, float]:
        """Share of the beat that is over, and the share that is systole; the first and last beat repeat beyond them."""
        beat = int(np.clip(np.searchsorted(self.r_peaks_ms, time_ms, side="right") - 1, 0, len(self.r_peaks_ms) - 2))
        start, stop = self.r_peaks_ms[beat], self.r_peaks_ms[beat + 1]
        # Systole shortens less than the beat does.
        return ((time_ms - start) / (stop - start)) % 1.0, (190 + 0.16 * (stop - start)) / (stop - start)


def _eased(share: float) -> float:
    return 0.5 * (1 - math.cos(math.pi * share))


def sample_heart(rng: np.random.Generator, sex: str, body_surface_m2: float) -> BeatingHeart:
    """Draw a heart of a screening population: mostly normal, some dilated with a low EF, some with thick walls."""
    male = sex == "M"
    ejection = float(np.clip(rng.normal(61, 6) if rng.uniform() < 0.85 else rng.normal(42, 10), 20, 74)) / 100
    # Hearts that eject less are larger.
    edv_index = float(np.clip(rng.normal(56 if male else 48, 8), 32, 80)) * (1 + 1.5 * max(0.0, 0.55 - ejection))
    edv = edv_index * body_surface_m2
    diastole = _ellipsoid_of(edv, rng.uniform(1.75, 2.1), rng.uniform(0.40, 0.47), rng.uniform(0.94, 1.06))
    shortening = ejection * rng.uniform(0.22, 0.30)
    cut = rng.uniform(0.18, 0.26)
    length = diastole.length * (1 - shortening)
    a = length / (1 + cut)
    esv = edv * (1 - ejection)
    b = math.sqrt(esv * MM3_PER_ML / (math.pi * a * (2 / 3 + cut - cut**3 / 3)))
    ratio = math.sqrt(diastole.b_u / diastole.b_v)
    rr = 60_000 / float(np.clip(rng.normal(67, 9), 48, 95))
    intervals = rr * rng.normal(1, 0.02, 6)
    widening = rng.uniform(1.15, 1.3)
    la_length = float(np.clip(rng.normal(50, 5), 38, 66))
    return BeatingHeart(
        diastole=diastole,
        systole=TruncatedEllipsoid(a, cut * a, b * ratio, b / ratio),
        wall=float(np.clip(rng.normal(9.0 if male else 8.0, 1.3), 6, 15)),
        atrial_lengths=(la_length * rng.uniform(0.6, 0.7), la_length),
        atrial_widening=(1.03, widening),
        r_peaks_ms=tuple(float(time) for time in np.concatenate([[0.0], np.cumsum(intervals)])),
    )


def _ellipsoid_of(volume_ml: float, slenderness: float, cut: float, ratio: float) -> TruncatedEllipsoid:
    """Shape of a given volume with a = slenderness · b, d = cut · a and b_u / b_v = ratio."""
    b = (volume_ml * MM3_PER_ML / (math.pi * slenderness * (2 / 3 + cut - cut**3 / 3))) ** (1 / 3)
    return TruncatedEllipsoid(slenderness * b, cut * slenderness * b, b * math.sqrt(ratio), b / math.sqrt(ratio))

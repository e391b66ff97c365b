"""Coronary plaque by its definitions: HU bands, burden, remodelling, classes, high risk, fat attenuation (SPEC §2).

Every function takes plain numbers and raises `NotEvaluableError` for an input that has no answer. Evidence marks: [R]
recalled from the literature, [S] secondary source, [U] uncertain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from ops.measure.errors import NotEvaluableError, OutOfModelRangeError

FloatArray = npt.NDArray[np.float64]
BandSet = Literal["A", "motoyama"]

# Components from dense to light, for whole HU. Set "A": low attenuation < 30, fibro-fatty 30–130, fibrous 131–350,
# calcified > 350, a widely used software set [R]. "motoyama": low attenuation ≤ 30, intermediate 30–150, calcified
# ≥ 220; what lies between 150 and 220 has no name there [R].
COMPONENTS: dict[BandSet, tuple[str, ...]] = {
    "A": ("low_attenuation", "fibro_fatty", "fibrous", "calcified"),
    "motoyama": ("low_attenuation", "intermediate", "unclassified", "calcified"),
}
HIGH_RISK_FEATURES = 2  # of four, inclusive, CAD-RADS 2.0 [R]
# Oikonomou 2018, Lancet 392:929 [R].
FAT_HU = (-190.0, -30.0)  # inclusive
FAT_HIGH_HU = -70.1  # inclusive
FAT_KVP = 120.0  # at other tube voltages the same fat has other HU: the cut-off says nothing there
KVP_TOLERANCE = 0.5


def components(hu: npt.ArrayLike, bands: BandSet = "A") -> npt.NDArray[np.int64]:
    """Component of each HU value: index into ``COMPONENTS[bands]``.

    Raises
    ------
    NotEvaluableError
        ``not_finite``.
    """
    value = _finite(hu)
    steps = (value >= 30, value >= 131, value > 350) if bands == "A" else (value > 30, value > 150, value >= 220)
    return np.asarray(sum(step.astype(np.int64) for step in steps))


def _finite(hu: npt.ArrayLike) -> FloatArray:
    values = np.asarray(hu, dtype=np.float64)
    if not np.isfinite(values).all():
        raise NotEvaluableError("not_finite", "HU values must be finite numbers")
    return values


def plaque_burden(vessel_area: float, lumen_area: float) -> float:
    """Plaque burden (vessel − lumen)/vessel × 100 in % of one section [R].

    Raises
    ------
    NotEvaluableError
        ``invalid_area``: not finite, no vessel, or a lumen that is negative or larger than the vessel.
    """
    if not (math.isfinite(vessel_area) and vessel_area > 0 and 0 <= lumen_area <= vessel_area):
        detail = f"areas must satisfy 0 ≤ lumen ({lumen_area:g}) ≤ vessel ({vessel_area:g} mm²), with a vessel"
        raise NotEvaluableError("invalid_area", detail)
    return 100 * (vessel_area - lumen_area) / vessel_area


def remodelling_index(lesion: float, proximal: float | None, distal: float | None = None) -> float:
    """Vessel size at the lesion over the mean of its proximal and distal references, areas or diameters [R].

    Raises
    ------
    NotEvaluableError
        ``no_healthy_reference``; ``invalid_vessel_size`` for a size that is not finite and positive.
    """
    sides = [side for side in (proximal, distal) if side is not None]
    if not sides:
        raise NotEvaluableError("no_healthy_reference", "there is healthy vessel on neither side of the lesion")
    if not all(math.isfinite(size) and size > 0 for size in (lesion, *sides)):
        raise NotEvaluableError("invalid_vessel_size", f"vessel sizes must be finite and positive: {lesion}, {sides}")
    return lesion / (sum(sides) / len(sides))


def plaque_class(calcified_share: float, class_fractions: tuple[float, float] | None) -> str:
    """Return calcified, non_calcified or mixed by the calcified share of volume, 0–1; bounds as in `PlaquePolicy`.

    Raises
    ------
    NotEvaluableError
        ``not_classified`` without bounds: there is no consensus; ``invalid_share`` outside 0–1.
    """
    if class_fractions is None:
        raise NotEvaluableError("not_classified", "no consensus fraction divides the classes; set class_fractions")
    if not 0 <= calcified_share <= 1:
        raise NotEvaluableError("invalid_share", f"a share of volume lies within 0–1, got {calcified_share}")
    low, high = class_fractions
    return "non_calcified" if calcified_share <= low else "calcified" if calcified_share >= high else "mixed"


def is_high_risk(features: Mapping[str, bool | None]) -> bool:
    """Tell whether at least two of the high-risk features are there (CAD-RADS 2.0 [R]).

    Parameters
    ----------
    features
        ``positive_remodelling``, ``low_attenuation``, ``spotty_calcification``, ``napkin_ring``; None = not known.

    Raises
    ------
    NotEvaluableError
        ``feature_not_read`` when the unknown ones decide; ``unknown_feature`` unless exactly the four are given.
    """
    names = ("positive_remodelling", "low_attenuation", "spotty_calcification", "napkin_ring")
    if set(features) != set(names):
        raise NotEvaluableError("unknown_feature", f"the features are {names}, got {sorted(features)}")
    present = sum(bool(value) for value in features.values())
    unknown = sorted(name for name, value in features.items() if value is None)
    if present < HIGH_RISK_FEATURES <= present + len(unknown):
        raise NotEvaluableError("feature_not_read", f"{present} features are present and {unknown} not known")
    return present >= HIGH_RISK_FEATURES


def fat_attenuation_index(hu: npt.ArrayLike) -> float:
    """Mean HU of the fat among the voxels around a vessel, −190 to −30 HU inclusive (Oikonomou 2018 [R]).

    Raises
    ------
    NotEvaluableError
        ``no_fat`` when none is in that range; ``not_finite``.
    """
    values = _finite(hu)
    fat = values[(values >= FAT_HU[0]) & (values <= FAT_HU[1])]
    if len(fat) == 0:
        raise NotEvaluableError("no_fat", f"no voxel around the vessel lies between {FAT_HU[0]:g} and {FAT_HU[1]:g} HU")
    return float(fat.mean())


def is_high_attenuation(index: float, kvp: float) -> bool:
    """Tell whether a fat attenuation index at 120 kVp reaches −70.1 HU [R].

    Raises
    ------
    OutOfModelRangeError
        ``kvp_not_comparable`` at another tube voltage.
    NotEvaluableError
        ``not_finite``.
    """
    _finite(index)
    if not abs(kvp - FAT_KVP) <= KVP_TOLERANCE:
        raise OutOfModelRangeError("kvp_not_comparable", f"the cut-off holds at {FAT_KVP:g} kVp, the scan has {kvp:g}")
    return index >= FAT_HIGH_HU

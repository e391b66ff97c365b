"""LI-RADS v2018 categories of CT and MR by major features (Chernyak 2018 Radiology 289:816 [R]; SPEC §10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ops.measure.errors import NotEvaluableError, OutOfModelRangeError

MIDDLE_MM, LARGE_MM = 10.0, 20.0  # lower bounds, inclusive
GROWTH_DAYS = 183  # threshold growth is counted within six months
ADULT_YEARS = 18

LiRads = Literal["LR-3", "LR-4", "LR-5"]


@dataclass(frozen=True)
class MajorFeatures:
    """What a reader or a model saw of one observation.

    Attributes
    ----------
    size
        mm, longest diameter.
    arterial_enhancement
        Non-rim arterial-phase hyperenhancement (APHE).
    washout
        Non-peripheral.
    capsule
        Enhancing.
    threshold_growth
        See `threshold_growth`.
    """

    size: float
    arterial_enhancement: bool
    washout: bool
    capsule: bool
    threshold_growth: bool


def threshold_growth(prior: float, current: float, days: float) -> bool:
    """Tell whether an observation grew by ≥ 50 % within ≤ 6 months (183 days).

    Parameters
    ----------
    prior, current
        Longest diameters in mm.
    days
        Between the two examinations.

    Raises
    ------
    NotEvaluableError
        ``invalid_diameter`` or ``invalid_interval``.
    """
    for value in (prior, current):
        if not (math.isfinite(value) and value > 0):
            raise NotEvaluableError("invalid_diameter", f"diameters must be above 0 mm, got {prior} and {current}")
    if not (math.isfinite(days) and days > 0):
        raise NotEvaluableError("invalid_interval", f"the examinations must be days apart, in their order, got {days}")
    return days <= GROWTH_DAYS and 2 * (current - prior) >= prior


def check_population(age: float, at_risk: bool, vascular_cause: bool) -> None:
    """Refuse whom LI-RADS is not made for.

    Parameters
    ----------
    age
        Years.
    at_risk
        Cirrhosis, chronic hepatitis B, or present or prior hepatocellular carcinoma.
    vascular_cause
        Cirrhosis by a vascular disorder (Budd–Chiari, hereditary haemorrhagic telangiectasia …).

    Raises
    ------
    OutOfModelRangeError
        ``age_out_of_range``, ``not_at_risk``, ``vascular_cirrhosis``.
    """
    if not age >= ADULT_YEARS:
        raise OutOfModelRangeError("age_out_of_range", f"LI-RADS is for adults, got {age:g} years")
    if not at_risk:
        raise OutOfModelRangeError("not_at_risk", "LI-RADS is for people at risk of hepatocellular carcinoma only")
    if vascular_cause:
        raise OutOfModelRangeError("vascular_cirrhosis", "LI-RADS does not apply to cirrhosis by vascular disorders")


def li_rads(features: MajorFeatures) -> LiRads:
    """Category by the diagnostic table.

    Benign, rim-enhancing, infiltrative and treated observations (LR-1, LR-2, LR-M, LR-TIV, LR-TR) are a reader's,
    before this table is asked; ancillary features are not considered.

    Raises
    ------
    NotEvaluableError
        ``invalid_diameter``.
    """
    if not (math.isfinite(features.size) and features.size > 0):
        raise NotEvaluableError("invalid_diameter", f"size must be above 0 mm, got {features.size}")
    additional = features.washout + features.capsule + features.threshold_growth
    if not features.arterial_enhancement:
        needed = 1 if features.size >= LARGE_MM else 2
        return "LR-4" if additional >= needed else "LR-3"
    if features.size >= LARGE_MM:
        return "LR-5" if additional else "LR-4"
    if features.size < MIDDLE_MM:
        return "LR-4" if additional else "LR-3"
    if additional == 0:
        return "LR-3"
    capsule_only = additional == 1 and features.capsule
    return "LR-4" if capsule_only else "LR-5"

"""What a calcium score means for a person: MESA percentile bucket, MESA 10-year risk, arterial age (SPEC §1.4–1.5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ops.measure.errors import OutOfModelRangeError

Sex = Literal["F", "M"]
Ethnicity = Literal["white", "chinese", "black", "hispanic"]

MESA_AGES = (50, 60, 70, 80)
MESA_PERCENTILES = (25, 50, 75, 90)
MESA_AGE_RANGE = (45.0, 84.0)

# McClelland 2006 Circulation 113:30 Table 2 [S transcription]: 25/50/75/90th percentiles at the midpoints 50, 60, 70
# and 80 of the age groups 45–54 … 75–84; people treated for diabetes were excluded.
MESA_TABLE: dict[tuple[str, str], tuple[tuple[int, int, int, int], ...]] = {
    ("white", "F"): ((0, 0, 0, 8), (0, 0, 16, 102), (0, 13, 119, 391), (20, 106, 370, 921)),
    ("white", "M"): ((0, 0, 22, 110), (0, 28, 155, 452), (21, 145, 540, 1345), (103, 385, 1200, 2933)),
    ("chinese", "F"): ((0, 0, 0, 12), (0, 0, 18, 105), (0, 5, 70, 246), (0, 32, 146, 398)),
    ("chinese", "M"): ((0, 0, 14, 89), (0, 5, 67, 242), (0, 34, 174, 487), (11, 81, 305, 769)),
    ("black", "F"): ((0, 0, 0, 9), (0, 0, 5, 74), (0, 0, 77, 310), (0, 47, 214, 582)),
    ("black", "M"): ((0, 0, 2, 45), (0, 0, 40, 173), (0, 32, 191, 575), (23, 141, 516, 1281)),
    ("hispanic", "F"): ((0, 0, 0, 2), (0, 0, 2, 50), (0, 1, 51, 203), (0, 45, 205, 557)),
    ("hispanic", "M"): ((0, 0, 9, 88), (0, 3, 75, 291), (1, 56, 247, 666), (36, 153, 494, 1221)),
}


@dataclass(frozen=True)
class MesaBucket:
    """Where a score lies among people of the same age, sex and ethnicity.

    Attributes
    ----------
    bucket
        ``<25``, ``25-50``, ``50-75``, ``75-90`` or ``>90``. A score of 0 is percentile 0, hence ``<25``. A positive
        score equal to a reference value belongs to the bucket above it, except at the 90th.
    approximate
        True at ages between the table's; the reference values are then interpolated linearly, which is not what the
        official calculator does (at 72 it gives 641 where interpolation gives 672).
    references
        25th, 50th, 75th and 90th percentile used.
    probability_nonzero
        Bounds of the probability that such a person has any calcium, read off the same references.
    """

    bucket: str
    approximate: bool
    references: tuple[float, float, float, float]
    probability_nonzero: tuple[float, float]


def mesa_references(age: float, sex: str, ethnicity: str) -> tuple[tuple[float, float, float, float], bool]:
    """25/50/75/90th percentile of the score, and whether they are approximate.

    At 50, 60, 70 and 80 years they are the published rows. Between these they are interpolated; below 50 and above
    80 they are the row of the person's age group. Both are approximate.

    Raises
    ------
    OutOfModelRangeError
        Age outside 45–84, or a sex or ethnicity that the table does not have. Nothing is clamped.
    """
    if not MESA_AGE_RANGE[0] <= age <= MESA_AGE_RANGE[1]:
        raise OutOfModelRangeError("age_out_of_range", f"MESA covers ages 45 to 84, got {age:g}")
    rows = MESA_TABLE.get((ethnicity, sex))
    if rows is None:
        raise OutOfModelRangeError("group_not_in_model", f"MESA has no table for sex {sex!r}, ethnicity {ethnicity!r}")
    a, b, c, d = (float(np.interp(age, MESA_AGES, column)) for column in zip(*rows, strict=True))
    return (a, b, c, d), age not in MESA_AGES


def mesa_bucket(score: float, age: float, sex: str, ethnicity: str) -> MesaBucket:
    """Percentile bucket of a gated Agatston score (SPEC §1.4).

    Raises
    ------
    OutOfModelRangeError
        As `mesa_references`.
    """
    references, approximate = mesa_references(age, sex, ethnicity)
    zeros = sum(reference == 0 for reference in references)
    limits = (0, *MESA_PERCENTILES, 100)
    probability = (1 - limits[zeros + 1] / 100, 1 - limits[zeros] / 100)
    reached = 0 if score == 0 else sum(score >= reference for reference in references[:3])
    if score > references[3]:
        reached = 4
    bucket = ("<25", "25-50", "50-75", "75-90", ">90")[reached]
    return MesaBucket(bucket, approximate, references, probability)


@dataclass(frozen=True)
class RiskFactors:
    """Input of the MESA risk score; cholesterol in mg/dL, blood pressure in mmHg, age in years."""

    age: float
    sex: Sex
    ethnicity: Ethnicity
    total_cholesterol: float
    hdl_cholesterol: float
    systolic_pressure: float
    diabetes: bool = False
    smoker: bool = False
    lipid_medication: bool = False
    hypertension_medication: bool = False
    family_history: bool = False


# McClelland 2015 JACC 66:1643, coefficients as printed by ebmcalc.com [S]; order of RiskFactors as in `_terms`.
_WITHOUT_CALCIUM = (0.0455, 0.7496, 0.0053, -0.0140, 0.0085, 0.5168, 0.4732, 0.2473, 0.3381, 0.4522)
_WITH_CALCIUM = (0.0172, 0.4079, 0.0043, -0.0114, 0.0066, 0.3892, 0.3717, 0.1206, 0.2278, 0.3239)
_LOG_CALCIUM = 0.2743
_SURVIVAL_WITHOUT = 0.99963
_SURVIVAL_WITH = 0.99833


def mesa_risk(factors: RiskFactors, score: float | None = None) -> float:
    """10-year risk of coronary heart disease in percent, without calcium (``score=None``) or with it.

    Raises
    ------
    OutOfModelRangeError
        Age outside 45–84, or an ethnicity other than white: the source numbers the other groups without naming them
        ([U], SPEC §1.5), so their terms are not used until they are confirmed.
    """
    if not MESA_AGE_RANGE[0] <= factors.age <= MESA_AGE_RANGE[1]:
        raise OutOfModelRangeError("age_out_of_range", f"the MESA risk score covers 45 to 84, got {factors.age:g}")
    if factors.ethnicity != "white":
        raise OutOfModelRangeError(
            "ethnicity_terms_unconfirmed", f"the risk terms for {factors.ethnicity!r} are not confirmed by the source"
        )
    coefficients = _WITHOUT_CALCIUM if score is None else _WITH_CALCIUM
    t = math.fsum(c * x for c, x in zip(coefficients, _terms(factors), strict=True))
    if score is None:
        return 100 * (1 - math.pow(_SURVIVAL_WITHOUT, math.exp(t)))
    return 100 * (1 - math.pow(_SURVIVAL_WITH, math.exp(t + _LOG_CALCIUM * math.log(score + 1))))


def _terms(factors: RiskFactors) -> tuple[float, ...]:
    return (
        factors.age,
        float(factors.sex == "M"),
        factors.total_cholesterol,
        factors.hdl_cholesterol,
        factors.systolic_pressure,
        float(factors.diabetes),
        float(factors.smoker),
        float(factors.lipid_medication),
        float(factors.hypertension_medication),
        float(factors.family_history),
    )


def arterial_age(score: float) -> float:
    """Arterial age in years, 39.1 + 7.25 ln(score + 1) (McClelland 2009 AJC 103:59; equation [S])."""
    if not (math.isfinite(score) and score >= 0):
        raise ValueError(f"an Agatston score is finite and not negative, got {score}")
    return 39.1 + 7.25 * math.log(score + 1)

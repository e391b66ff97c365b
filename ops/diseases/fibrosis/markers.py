"""Markers of liver fibrosis, steatosis and spleen size by their formulae and cut-offs (SPEC §4).

Section numbers are those of the project's clinical reference specification (SPEC); evidence marks: [P] read in the
primary source, [S] in a secondary source, [R] recalled and not re-read. Volumes in cm³ (= mL).

LIMA-, LIMV- and LIMVA-fibrosis scores are absent on purpose: their formulae were not read ([U]). So is any rule that
combines LSVR with spleen volume: Pickhardt 2017 gives its AUC, not its coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ops.measure.errors import NotEvaluableError, OutOfModelRangeError

Sex = Literal["F", "M"]
CutOffClass = Literal["rule_out", "indeterminate", "rule_in"]
Fib4Cuts = Literal["sterling2006", "nafld"]
ApriEndpoint = Literal["significant", "cirrhosis"]
MreTable = Literal["liang2023_nafld", "singh2015_mixed"]

# Rule out below the first, rule in above the second, both exclusive (SPEC §4; Sterling 2006 Hepatology 43:1317 [R];
# NAFLD cuts [R]).
FIB4_CUTS: dict[Fib4Cuts, tuple[float, float]] = {"sterling2006": (1.45, 3.25), "nafld": (1.30, 2.67)}
# FIB-4 performs poorly below and above these ages in years (SPEC §4 [R]).
FIB4_AGES = (35.0, 65.0)
# Rule out up to the first, inclusive; rule in above the second (Wai 2003 Hepatology 38:518 [R]).
APRI_CUTS: dict[ApriEndpoint, tuple[float, float]] = {"significant": (0.5, 1.5), "cirrhosis": (1.0, 2.0)}

# Complex modulus magnitude at 60 Hz in kPa from which a stage is called, inclusive. Liang 2023 J Hepatol 79:592 [P];
# Singh 2015 [R].
MRE_CUTS: dict[MreTable, dict[str, float]] = {
    "liang2023_nafld": {"F2": 3.14, "F3": 3.53, "F4": 4.45},
    "singh2015_mixed": {"F1": 3.45, "F2": 3.66, "F3": 4.11, "F4": 4.71},
}
# Both inclusive (Ajmera 2022 [P]).
MEFIB_STIFFNESS_KPA = 3.3
MEFIB_FIB4 = 1.6

# LSVR from which cirrhosis is called, inclusive (Furusato Hunt 2016 JCAT [P]), and above which advanced disease is,
# exclusive (Catucci 2024 Abdom Radiol [P abstract]).
LSVR_CIRRHOSIS = 0.35
LSVR_ADVANCED = 0.37
# Transverse caudate over right lobe, linear: to the main portal vein above 0.65 (Harbin 1980 [R]), to the right portal
# vein from 0.90 (Awaya 2002 [R]), and CRL-R above 0.99 (Catucci 2024 [P abstract]).
CAUDATE_CLASSIC = 0.65
CAUDATE_MODIFIED = 0.90
CAUDATE_CRL_R = 0.99

# Unenhanced CT at 120 kVp in HU. Boyce 2010 [P], inclusive; Pickhardt 2012 [P], exclusive; liver − spleen [S],
# inclusive; liver / spleen [P], inclusive, only mild.
STEATOSIS_MODERATE_HU = 40.0
STEATOSIS_30_PERCENT_HU = 48.0
STEATOSIS_DIFFERENCE_HU = -10.0
STEATOSIS_RATIO = 1.1
STEATOSIS_KVP = 120.0
# Headers write tube voltages as decimals; this allows for their formatting, not for another voltage.
KVP_TOLERANCE = 0.5

# Upper limit of normal spleen volume = slope · height − offset in cm³, within heights in cm, ends included: ultrasound-
# derived (Chow 2016, read in Radulator's documentation [S]).
_SPLEEN_LIMITS: dict[str, tuple[float, float, tuple[float, float]]] = {
    "F": (7.0996, 939.5, (155.0, 180.0)),
    "M": (4.3803, 457.15, (165.0, 200.0)),
}

# Beyond these an entry is in another unit: platelets per µL, age in months or days (policy).
MAX_PLATELETS = 3000.0
MAX_AGE_YEARS = 120.0
# What is smaller is 0 with a rounding error, what is larger is no measurement; quotients of them would overflow.
SMALLEST, LARGEST = 1e-9, 1e9


def _positive(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise NotEvaluableError("not_finite", f"{name} is {value}; give a number or leave it out")
    if value < SMALLEST:
        raise NotEvaluableError("not_positive", f"{name} is {value:g}, but must be above 0")
    if value > LARGEST:
        raise NotEvaluableError("implausible_unit", f"{name} is {value:g}; check its unit")
    return value


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise NotEvaluableError("not_finite", f"{name} is {value}; give a number or leave it out")
    return value


def _platelets(platelets: float) -> float:
    if _positive(platelets, "platelet count") > MAX_PLATELETS:
        raise NotEvaluableError("implausible_unit", f"platelets are {platelets:g}; they are taken in 10⁹/L, not per µL")
    return platelets


def fib4(age: float, ast: float, alt: float, platelets: float) -> float:
    """FIB-4 = age · AST / (platelets · √ALT) (Sterling 2006 Hepatology 43:1317 [R]).

    Parameters
    ----------
    age
        Years.
    ast, alt
        U/L.
    platelets
        10⁹/L.

    Raises
    ------
    NotEvaluableError
        A value that is not finite or not positive, or that can only be in another unit.
    """
    if _positive(age, "age") > MAX_AGE_YEARS:
        raise NotEvaluableError("implausible_unit", f"age is {age:g}; it is taken in years")
    return age * _positive(ast, "AST") / (_platelets(platelets) * math.sqrt(_positive(alt, "ALT")))


def fib4_class(value: float, cuts: Fib4Cuts = "sterling2006") -> CutOffClass:
    """Rule out below the lower cut, rule in above the upper; on a cut: indeterminate (`FIB4_CUTS`)."""
    lower, upper = FIB4_CUTS[cuts]
    _positive(value, "FIB-4")
    return "rule_out" if value < lower else "rule_in" if value > upper else "indeterminate"


def fib4_age_caveat(age: float) -> bool:
    """Tell whether FIB-4 performs poorly at this age: below 35 or above 65 years (SPEC §4 [R])."""
    return not FIB4_AGES[0] <= _positive(age, "age") <= FIB4_AGES[1]


def apri(ast: float, ast_upper_limit: float, platelets: float) -> float:
    """APRI = (AST / upper limit of normal) · 100 / platelets (Wai 2003 [R]); U/L, U/L, 10⁹/L."""
    return _positive(ast, "AST") / _positive(ast_upper_limit, "upper limit of AST") * 100 / _platelets(platelets)


def apri_class(value: float, endpoint: ApriEndpoint) -> CutOffClass:
    """Rule out up to the lower cut, rule in above the upper, for ≥F2 (``significant``) or F4 (`APRI_CUTS`)."""
    lower, upper = APRI_CUTS[endpoint]
    _positive(value, "APRI")
    return "rule_out" if value <= lower else "rule_in" if value > upper else "indeterminate"


def mre_stiffness(stiffness_kpa: Sequence[float], areas_mm2: Sequence[float]) -> float:
    """Liver stiffness of an MR elastogram: mean over its ROIs weighted by their areas, in kPa (SPEC §4).

    Raises
    ------
    NotEvaluableError
        No ROI, lists of different length, or a value that is not finite or not positive.
    """
    if len(stiffness_kpa) != len(areas_mm2) or not stiffness_kpa:
        detail = f"{len(stiffness_kpa)} stiffness values and {len(areas_mm2)} areas; each ROI needs one of both"
        raise NotEvaluableError("no_rois" if not stiffness_kpa else "length_mismatch", detail)
    values = [_positive(value, "stiffness of an ROI") for value in stiffness_kpa]
    areas = [_positive(area, "area of an ROI") for area in areas_mm2]
    return sum(value * area for value, area in zip(values, areas, strict=True)) / sum(areas)


def mre_stage(stiffness_kpa: float, table: MreTable) -> str:
    """Highest stage whose cut is reached, e.g. ``F3``, or ``below_F2`` when none is (`MRE_CUTS`)."""
    _positive(stiffness_kpa, "stiffness")
    cuts = MRE_CUTS[table]
    reached = [stage for stage, cut in cuts.items() if stiffness_kpa >= cut]
    return reached[-1] if reached else f"below_{next(iter(cuts))}"


def mefib(stiffness_kpa: float, fib4_value: float) -> bool:
    """MEFIB positive: MRE ≥ 3.3 kPa and FIB-4 ≥ 1.6 (Ajmera 2022 [P])."""
    stiff = _positive(stiffness_kpa, "stiffness") >= MEFIB_STIFFNESS_KPA
    return stiff and _positive(fib4_value, "FIB-4") >= MEFIB_FIB4


def lsvr(segment_volumes: Sequence[float]) -> float:
    """Liver segmental volume ratio V(I–III) / V(IV–VIII) (Furusato Hunt 2016 JCAT [P]).

    Parameters
    ----------
    segment_volumes
        Eight volumes, Couinaud I to VIII, in any one unit.

    Raises
    ------
    NotEvaluableError
        ``missing_segment`` unless there are eight positive volumes: a segment of 0 was not segmented.
    """
    absent = [number for number, volume in enumerate(segment_volumes, start=1) if volume == 0]
    if absent or len(segment_volumes) != 8:
        detail = f"LSVR needs the volumes of all 8 segments, got {len(segment_volumes)}, of which 0: {absent}"
        raise NotEvaluableError("missing_segment", detail)
    volumes = [_positive(volume, "a segment's volume") for volume in segment_volumes]
    return sum(volumes[:3]) / sum(volumes[3:])


def lsvr_cirrhosis(value: float) -> bool:
    """LSVR ≥ 0.35: cirrhosis, sensitivity 81.5 %, specificity 88.7 % (Furusato Hunt 2016 [P])."""
    return _positive(value, "LSVR") >= LSVR_CIRRHOSIS


def lsvr_advanced(value: float) -> bool:
    """LSVR > 0.37: advanced chronic liver disease (Catucci 2024 [P abstract])."""
    return _positive(value, "LSVR") > LSVR_ADVANCED


def caudate_right_lobe_volume_ratio(segment_volumes: Sequence[float]) -> float:
    """V(I) / V(V–VIII) of eight segment volumes.

    No cut is published for it: those for C/RL and CRL-R are of widths. Of volumes the ratio is near 0.03, and a cut of
    0.99 would never be reached.

    Raises
    ------
    NotEvaluableError
        As `lsvr`.
    """
    lsvr(segment_volumes)
    return segment_volumes[0] / sum(segment_volumes[4:])


def caudate_right_lobe_ratio(caudate_mm: float, right_lobe_mm: float) -> float:
    """Transverse width of the caudate over that of the right lobe, both from one sagittal line, in mm."""
    return _positive(caudate_mm, "width of the caudate") / _positive(right_lobe_mm, "width of the right lobe")


def caudate_classic_positive(ratio: float) -> bool:
    """C/RL to the main portal vein > 0.65 (Harbin 1980 [R])."""
    return _positive(ratio, "C/RL") > CAUDATE_CLASSIC


def caudate_modified_positive(ratio: float) -> bool:
    """C/RL to the right portal vein ≥ 0.90 (Awaya 2002 [R])."""
    return _positive(ratio, "C/RL") >= CAUDATE_MODIFIED


def crl_r_positive(ratio: float) -> bool:
    """CRL-R > 0.99: advanced chronic liver disease, sensitivity 69 %, specificity 80 % (Catucci 2024 [P abstract])."""
    return _positive(ratio, "CRL-R") > CAUDATE_CRL_R


def liver_spleen_volume_ratio(liver: float, spleen: float) -> float:
    """V(liver) / V(spleen), AUC .82–.88 (Son 2020 [P]); no cut is given."""
    return _positive(liver, "liver volume") / _positive(spleen, "spleen volume")


def spleen_volume_limit(sex: str, height_cm: float) -> float:
    """Upper limit of normal of the spleen's volume in cm³ (Chow 2016 [S]; from ultrasound).

    Women 7.0996 · h − 939.5 for 155–180 cm, men 4.3803 · h − 457.15 for 165–200 cm, ends included.

    Raises
    ------
    NotEvaluableError
        Height not finite or not positive.
    OutOfModelRangeError
        ``sex_not_in_table`` or ``height_out_of_range``.
    """
    if sex not in _SPLEEN_LIMITS:
        raise OutOfModelRangeError("sex_not_in_table", f"spleen limits are published for 'F' and 'M', not {sex!r}")
    slope, offset, (shortest, tallest) = _SPLEEN_LIMITS[sex]
    if not shortest <= _positive(height_cm, "height") <= tallest:
        detail = f"height {height_cm:g} cm; the limit for {sex} holds from {shortest:g} to {tallest:g} cm"
        raise OutOfModelRangeError("height_out_of_range", detail)
    return slope * height_cm - offset


def splenomegaly(spleen_volume: float, sex: str, height_cm: float) -> bool:
    """Spleen volume in cm³ above `spleen_volume_limit`, exclusive."""
    return _positive(spleen_volume, "spleen volume") > spleen_volume_limit(sex, height_cm)


@dataclass(frozen=True)
class SteatosisFindings:
    """What each published rule says; the last two are None without a spleen (or with one of 0 HU or less, the ratio).

    Attributes
    ----------
    moderate_to_severe
        Liver ≤ 40 HU (Boyce 2010 [P]).
    at_least_30_percent
        Liver < 48 HU: for fat of 30 % or more 100 % specific, 53.8 % sensitive (Pickhardt 2012 [P]).
    by_difference
        Liver − spleen ≤ −10 HU [S].
    mild_by_ratio
        Liver / spleen ≤ 1.1 [P]; indicates no more than mild steatosis.
    """

    moderate_to_severe: bool
    at_least_30_percent: bool
    by_difference: bool | None
    mild_by_ratio: bool | None


def require_unenhanced_120_kvp(kvp: float | None, enhanced: bool | None) -> None:
    """Refuse any other scan than the one the steatosis rules are for (SPEC §4).

    Raises
    ------
    NotEvaluableError
        ``phase_unknown``, ``contrast_enhanced`` or ``kvp_missing``.
    OutOfModelRangeError
        ``kvp_out_of_table``.
    """
    if enhanced is None:
        raise NotEvaluableError(
            "phase_unknown", "whether contrast was given is not known; steatosis needs a scan without"
        )
    if enhanced:
        raise NotEvaluableError("contrast_enhanced", "steatosis is read from unenhanced CT; contrast raises the HU")
    if kvp is None:
        raise NotEvaluableError("kvp_missing", "the header has no KVP; the steatosis rules hold at 120 kVp only")
    if not abs(kvp - STEATOSIS_KVP) <= KVP_TOLERANCE:
        raise OutOfModelRangeError("kvp_out_of_table", f"{kvp:g} kVp; the steatosis rules hold at 120 kVp only")


def steatosis(liver_hu: float, spleen_hu: float | None, kvp: float | None, enhanced: bool | None) -> SteatosisFindings:
    """Apply the attenuation rules for steatosis (SPEC §4). Iron raises HU and may hide fat.

    Parameters
    ----------
    liver_hu, spleen_hu
        Mean or median HU of parenchyma; spleen None when there is none.
    kvp, enhanced
        Tube voltage, and whether contrast was given; None when not known.

    Raises
    ------
    NotEvaluableError
        HU not finite, or as `require_unenhanced_120_kvp`.
    """
    require_unenhanced_120_kvp(kvp, enhanced)
    _finite(liver_hu, "liver attenuation")
    by_difference = mild_by_ratio = None
    if spleen_hu is not None:
        by_difference = liver_hu - _finite(spleen_hu, "spleen attenuation") <= STEATOSIS_DIFFERENCE_HU
        mild_by_ratio = liver_hu / spleen_hu <= STEATOSIS_RATIO if spleen_hu > 0 else None
    return SteatosisFindings(
        moderate_to_severe=liver_hu <= STEATOSIS_MODERATE_HU,
        at_least_30_percent=liver_hu < STEATOSIS_30_PERCENT_HU,
        by_difference=by_difference,
        mild_by_ratio=mild_by_ratio,
    )

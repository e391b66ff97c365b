"""Echocardiographic formulae and reference ranges (SPEC §7.2–7.3).

Units are in the names: volumes come from **mm** and are returned in mL; the published mass, Teichholz and body surface
formulae hold **centimetres** and take nothing else. Every function refuses NaN, infinity and sizes no heart has, which
is how millimetres in place of centimetres show. Evidence marks: [P] read in the primary source, [S] in a secondary one,
[R] recalled and not re-read, [M] mathematics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ops.measure.errors import NotEvaluableError, OutOfModelRangeError

Sex = Literal["F", "M"]
BsaFormula = Literal["mosteller", "dubois"]
RangeClass = Literal["below", "within", "above"]

N_DISCS = 20
MM3_PER_ML = 1000.0
# g/mL of myocardium: 1.04 belongs to the cube formula (Devereux 1986 Am J Cardiol 57:450 [R]), 1.05 to the
# two-dimensional methods (ASE 1989 J Am Soc Echocardiogr 2:358 [R]).
CUBE_DENSITY = 1.04
DENSITY = 1.05
# Apical views whose long axes differ by more than this share of the longer one: one of them is foreshortened [R].
FORESHORTENING_LIMIT = 0.10
# Lower edges of mild, moderate and severe LA enlargement, mL/m², exclusive (Lang 2015 [S]; its whole-number bins
# 16–34, 35–41, 42–48, >48 leave gaps).
LA_GRADES = ((48.0, "severe"), (41.0, "moderate"), (34.0, "mild"))

# Largest sizes that a formula in centimetres accepts: far beyond any heart, well below the same in millimetres.
LARGEST_WALL_CM = 5.0
LARGEST_DIAMETER_CM = 15.0
LARGEST_LENGTH_CM = 20.0
LARGEST_AREA_CM2 = 250.0
# A height in metres, or a weight in grams, is not taken for a body.
BODY_HEIGHT_CM = (25.0, 260.0)
BODY_WEIGHT_KG = (0.3, 500.0)


def require_size(name: str, value: float, largest: float, unit: str) -> None:
    """Refuse a length or area that is not finite, not positive, or larger than any heart's.

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive``, ``implausible_size``.
    """
    if not math.isfinite(value):
        raise NotEvaluableError("not_finite", f"{name} is {value}")
    if value <= 0:
        raise NotEvaluableError("not_positive", f"{name} is {value:g} {unit}; it must be above 0")
    if value > largest:
        raise NotEvaluableError(
            "implausible_size", f"{name} is {value:g} {unit}, above {largest:g}: is it in another unit?"
        )


def simpson_volume_ml(
    diameters_mm: npt.ArrayLike,
    length_mm: float,
    second_diameters_mm: npt.ArrayLike | None = None,
    second_length_mm: float | None = None,
) -> float:
    """Volume in mL by summation of elliptical discs: V = π/4 · Σ aᵢ bᵢ · L/n [M]; n = 20 (Lang 2015 [S]).

    Parameters
    ----------
    diameters_mm, second_diameters_mm
        ``(n,)`` diameters at the disc centres of two orthogonal views, in the same order from base to apex. Without
        the second view discs are circular (single plane).
    length_mm, second_length_mm
        Long axes of the two views; the longer one is used.

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive``, ``disc_mismatch``.
    ValueError
        One of the second view's arguments without the other.
    """
    if (second_diameters_mm is None) != (second_length_mm is None):
        raise ValueError("a second view needs both its diameters and its length")
    a = _discs(diameters_mm)
    b = a if second_diameters_mm is None else _discs(second_diameters_mm)
    if len(a) != len(b):
        raise NotEvaluableError("disc_mismatch", f"{len(a)} discs in one view and {len(b)} in the other")
    for value in (length_mm, second_length_mm):
        if value is not None:
            require_size("long axis", value, math.inf, "mm")
    longer = max(length_mm, second_length_mm or 0.0)
    return float(math.pi / 4 * (a * b).sum() * longer / len(a) / MM3_PER_ML)


def _discs(diameters_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
    discs = np.asarray(diameters_mm, dtype=np.float64)
    if discs.ndim != 1 or not len(discs):
        raise NotEvaluableError("disc_mismatch", f"disc diameters of shape {discs.shape}; a row of them is needed")
    if not np.isfinite(discs).all():
        raise NotEvaluableError("not_finite", "a disc diameter is NaN or infinite")
    if discs.min() < 0 or not discs.any():
        raise NotEvaluableError("not_positive", "a disc diameter is negative, or all of them are 0")
    return discs


def length_difference(first_mm: float, second_mm: float) -> float:
    """Difference |L₁ − L₂| of two long axes as a share of the longer; above `FORESHORTENING_LIMIT` it is flagged."""
    for value in (first_mm, second_mm):
        require_size("long axis", value, math.inf, "mm")
    return abs(first_mm - second_mm) / max(first_mm, second_mm)


def area_length_volume_ml(area_mm2: float, length_mm: float, second_area_mm2: float | None = None) -> float:
    """Volume in mL by the area–length method: V = 8 A₁ A₂ / (3π L), single plane A₂ = A₁ (Lang 2015 [R]).

    Exact for an ellipsoid cut along its axis, whole or half [M]. Which L a biplane volume takes is a convention: see
    `la_volume_ml` for the left atrium.

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive``.
    """
    second = area_mm2 if second_area_mm2 is None else second_area_mm2
    require_size("area", area_mm2, math.inf, "mm2")
    require_size("area", second, math.inf, "mm2")
    require_size("long axis", length_mm, math.inf, "mm")
    return 8 * area_mm2 * second / (3 * math.pi * length_mm) / MM3_PER_ML


def la_volume_ml(areas_mm2: tuple[float, float], lengths_mm: tuple[float, float]) -> float:
    """Left atrial volume in mL, biplane area–length at LV end-systole; L is the **shorter** axis (Lang 2015 [R])."""
    for value in lengths_mm:
        require_size("long axis", value, math.inf, "mm")
    return area_length_volume_ml(areas_mm2[0], min(lengths_mm), areas_mm2[1])


def ejection_fraction(edv_ml: float, esv_ml: float) -> float:
    """EF in %: 100 · (EDV − ESV) / EDV.

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive`` (EDV ≤ 0 or ESV < 0), ``esv_above_edv``.
    """
    require_size("EDV", edv_ml, math.inf, "mL")
    if not math.isfinite(esv_ml):
        raise NotEvaluableError("not_finite", f"ESV is {esv_ml}")
    if esv_ml < 0:
        raise NotEvaluableError("not_positive", f"ESV is {esv_ml:g} mL")
    if esv_ml > edv_ml:
        raise NotEvaluableError("esv_above_edv", f"ESV {esv_ml:g} mL exceeds EDV {edv_ml:g} mL: frames swapped?")
    return 100 * (edv_ml - esv_ml) / edv_ml


def longitudinal_strain(end_diastolic_mm: float, end_systolic_mm: float) -> float:
    """Longitudinal strain in % of one view: 100 · (L_es − L_ed) / L_ed, negative where the wall shortens [S].

    Any unit that both lengths share.
    """
    require_size("end-diastolic length", end_diastolic_mm, math.inf, "mm")
    require_size("end-systolic length", end_systolic_mm, math.inf, "mm")
    return 100 * (end_systolic_mm - end_diastolic_mm) / end_diastolic_mm


def global_longitudinal_strain(strains: Sequence[float]) -> float:
    """GLS in %: mean of the views' strains; the guideline asks for three apical views (Lang 2015 [S])."""
    if not strains:
        raise NotEvaluableError("no_view", "no view has a longitudinal strain")
    if not all(math.isfinite(value) for value in strains):
        raise NotEvaluableError("not_finite", f"a view's strain is not finite: {list(strains)}")
    return sum(strains) / len(strains)


def lv_mass_cube_g(ivsd_cm: float, lvidd_cm: float, pwd_cm: float) -> float:
    """LV mass in g from linear measures in **cm**: 0.8 · 1.04 · [(IVSd + LVIDd + PWd)³ − LVIDd³] + 0.6.

    Devereux 1986 Am J Cardiol 57:450; Lang 2015 [R].

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive``, ``implausible_size`` (millimetres?).
    """
    _require_linear(ivsd_cm, lvidd_cm, pwd_cm)
    return 0.8 * CUBE_DENSITY * ((ivsd_cm + lvidd_cm + pwd_cm) ** 3 - lvidd_cm**3) + 0.6


def relative_wall_thickness(pwd_cm: float, lvidd_cm: float) -> float:
    """RWT: 2 · PWd / LVIDd, both in **cm**; above 0.42 is concentric (Lang 2015 [S])."""
    require_size("PWd", pwd_cm, LARGEST_WALL_CM, "cm")
    require_size("LVIDd", lvidd_cm, LARGEST_DIAMETER_CM, "cm")
    return 2 * pwd_cm / lvidd_cm


def _require_linear(ivsd_cm: float, lvidd_cm: float, pwd_cm: float) -> None:
    require_size("IVSd", ivsd_cm, LARGEST_WALL_CM, "cm")
    require_size("LVIDd", lvidd_cm, LARGEST_DIAMETER_CM, "cm")
    require_size("PWd", pwd_cm, LARGEST_WALL_CM, "cm")


def mean_wall_thickness_cm(epicardial_area_cm2: float, cavity_area_cm2: float) -> float:
    """Mean wall thickness t in cm from short-axis areas: t = √(A₁/π) − √(A₂/π) (ASE 1989 [R]).

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive``, ``implausible_size``, ``cavity_not_inside`` (A₂ ≥ A₁).
    """
    require_size("epicardial area", epicardial_area_cm2, LARGEST_AREA_CM2, "cm2")
    require_size("cavity area", cavity_area_cm2, LARGEST_AREA_CM2, "cm2")
    if cavity_area_cm2 >= epicardial_area_cm2:
        detail = f"cavity of {cavity_area_cm2:g} cm2 does not fit in an epicardium of {epicardial_area_cm2:g} cm2"
        raise NotEvaluableError("cavity_not_inside", detail)
    return math.sqrt(epicardial_area_cm2 / math.pi) - math.sqrt(cavity_area_cm2 / math.pi)


def lv_mass_area_length_g(epicardial_area_cm2: float, cavity_area_cm2: float, length_cm: float) -> float:
    """LV mass in g: 1.05 · [5/6 · A₁ (L + t) − 5/6 · A₂ L] in **cm** (ASE 1989; Lang 2015 [R]).

    Parameters
    ----------
    epicardial_area_cm2, cavity_area_cm2
        A₁ and A₂ of the short axis at the papillary muscles at end-diastole; the muscles belong to the cavity.
    length_cm
        L = a + d, from the mitral plane to the endocardial apex.

    Raises
    ------
    NotEvaluableError
        As `mean_wall_thickness_cm`.
    """
    require_size("long axis", length_cm, LARGEST_LENGTH_CM, "cm")
    t = mean_wall_thickness_cm(epicardial_area_cm2, cavity_area_cm2)
    return DENSITY * 5 / 6 * (epicardial_area_cm2 * (length_cm + t) - cavity_area_cm2 * length_cm)


def lv_mass_truncated_ellipsoid_g(a_cm: float, d_cm: float, b_cm: float, t_cm: float) -> float:
    """LV mass in g of a shell between two truncated ellipsoids, all in **cm** (ASE 1989 [R]; agrees with integration).

    1.05 π {(b+t)² [2/3 (a+t) + d − d³ / (3 (a+t)²)] − b² [2/3 a + d − d³ / (3 a²)]}

    Parameters
    ----------
    a_cm
        From the widest short axis to the endocardial apex.
    d_cm
        From the widest short axis to the mitral plane, at most ``a_cm``.
    b_cm
        Radius of the cavity there.
    t_cm
        Wall thickness.

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive``, ``implausible_size``; ``not_an_ellipsoid``: d exceeds a.
    """
    require_size("a", a_cm, LARGEST_LENGTH_CM, "cm")
    require_size("d", d_cm, LARGEST_LENGTH_CM, "cm")
    require_size("b", b_cm, LARGEST_DIAMETER_CM / 2, "cm")
    require_size("t", t_cm, LARGEST_WALL_CM, "cm")
    if d_cm > a_cm:
        raise NotEvaluableError("not_an_ellipsoid", f"d {d_cm:g} cm exceeds a {a_cm:g} cm: are they swapped?")

    def shell(a: float, b: float) -> float:
        return b**2 * (2 / 3 * a + d_cm - d_cm**3 / (3 * a**2))

    return DENSITY * math.pi * (shell(a_cm + t_cm, b_cm + t_cm) - shell(a_cm, b_cm))


def teichholz_volume_ml(diameter_cm: float) -> float:
    """LV volume in mL from one diameter in **cm**: 7 D³ / (2.4 + D) (Teichholz 1976 Am J Cardiol 37:7 [R]).

    .. warning:: Not recommended for EF (Lang 2015): it takes the whole ventricle to move as its base does. It is here
       for comparison with old reports; `ops.diseases.echo.measurement.measure` does not use it.
    """
    require_size("diameter", diameter_cm, LARGEST_DIAMETER_CM, "cm")
    return 7 * diameter_cm**3 / (2.4 + diameter_cm)


def body_surface_area_m2(height_cm: float, weight_kg: float, formula: BsaFormula) -> float:
    """Body surface area in m².

    ``mosteller``: √(h·w/3600) (Mosteller 1987 N Engl J Med 317:1098 [R]); ``dubois``: 0.007184 · h^0.725 · w^0.425
    (Du Bois 1916 Arch Intern Med 17:863 [R]); h in **cm**, w in kg.

    Raises
    ------
    NotEvaluableError
        ``not_finite``; ``implausible_body``, which a height in metres is.
    ValueError
        Unknown formula.
    """
    for name, value, (low, high) in (("height", height_cm, BODY_HEIGHT_CM), ("weight", weight_kg, BODY_WEIGHT_KG)):
        if not math.isfinite(value):
            raise NotEvaluableError("not_finite", f"{name} is {value}")
        if not low <= value <= high:
            detail = f"{name} {value:g} is outside {low:g}–{high:g}; height is in cm and weight in kg"
            raise NotEvaluableError("implausible_body", detail)
    if formula == "mosteller":
        return math.sqrt(height_cm * weight_kg / 3600)
    if formula == "dubois":
        return float(0.007184 * height_cm**0.725 * weight_kg**0.425)
    raise ValueError(f"formula must be 'mosteller' or 'dubois', got {formula!r}")


@dataclass(frozen=True)
class ReferenceRange:
    """Normal range of one quantity, both ends inclusive.

    Attributes
    ----------
    unit
        UCUM.
    men, women
        ``(low, high)``; an open end is infinite.
    evidence
        Marks of the men's and the women's numbers.
    superseded_by
        Later guidance that replaces the range, empty when none is known.
    """

    unit: str
    men: tuple[float, float]
    women: tuple[float, float]
    evidence: tuple[str, str]
    superseded_by: str = ""


_RIGHT_HEART = "ASE 2025 [S]"
# Lang 2015 J Am Soc Echocardiogr 28:1 (ASE/EACVI). GLS has no entry: it depends on vendor and version, and the
# guideline names no cut. EF categories such as 41–49 % belong to heart-failure guidelines, not here.
REFERENCE_RANGES: dict[str, dict[str, ReferenceRange]] = {
    "ASE/EACVI 2015": {
        "ef": ReferenceRange("%", (52, 72), (54, 74), ("S", "S")),
        "lvidd": ReferenceRange("cm", (4.2, 5.8), (3.8, 5.2), ("S", "S")),
        "edv": ReferenceRange("mL", (62, 150), (46, 106), ("S", "R")),
        "esv": ReferenceRange("mL", (21, 61), (14, 42), ("R", "R")),
        "edv_index": ReferenceRange("mL/m2", (34, 74), (29, 61), ("S", "S")),
        "lv_mass_linear_index": ReferenceRange("g/m2", (49, 115), (43, 95), ("S", "S")),
        "lv_mass_2d_index": ReferenceRange("g/m2", (50, 102), (44, 88), ("R", "R")),
        "rwt": ReferenceRange("1", (0.22, 0.42), (0.22, 0.42), ("S", "S")),
        "la_volume_index": ReferenceRange("mL/m2", (16, 34), (16, 34), ("S", "S")),
        "tapse": ReferenceRange("mm", (17, math.inf), (17, math.inf), ("S", "S"), _RIGHT_HEART),
        "rv_fac": ReferenceRange("%", (35, math.inf), (35, math.inf), ("S", "S"), _RIGHT_HEART),
        "rv_basal_diameter": ReferenceRange("mm", (0, 41), (0, 41), ("S", "S"), _RIGHT_HEART),
    }
}
CURRENT_RANGES = "ASE/EACVI 2015"


def reference_class(quantity: str, value: float, sex: str, version: str = CURRENT_RANGES) -> RangeClass:
    """Where a value lies against the normal range of its quantity; the ends belong to the range, nothing is rounded.

    Parameters
    ----------
    quantity, version
        Keys of `REFERENCE_RANGES`.
    value
        In the range's unit.
    sex
        DICOM code ``F`` or ``M``.

    Raises
    ------
    NotEvaluableError
        ``not_finite``.
    OutOfModelRangeError
        ``sex_not_in_table`` for any other sex; ``no_reference_range`` for any other quantity, GLS among them.
    """
    ranges = REFERENCE_RANGES[version]
    if quantity not in ranges:
        raise OutOfModelRangeError("no_reference_range", f"{version} has no range of {quantity!r}")
    if sex not in ("F", "M"):
        raise OutOfModelRangeError("sex_not_in_table", f"ranges are for F and M; PatientSex is {sex!r}")
    if not math.isfinite(value):
        raise NotEvaluableError("not_finite", f"{quantity} is {value}")
    low, high = ranges[quantity].men if sex == "M" else ranges[quantity].women
    return "below" if value < low else "above" if value > high else "within"


def la_volume_grade(index_ml_m2: float) -> str:
    """Left atrial enlargement of a volume index in mL/m²: ``none`` ≤34, ``mild`` >34, ``moderate`` >41, ``severe`` >48.

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive``.
    """
    require_size("LA volume index", index_ml_m2, math.inf, "mL/m2")
    return next((grade for edge, grade in LA_GRADES if index_ml_m2 > edge), "none")

"""Scores of intracranial haemorrhage by their definitions: ABC/2, midline shift, modified Fisher, ICH score, subtypes.

Section numbers are those of the project's clinical reference specification (SPEC); evidence marks: [P] read in the
primary source, [S] in a secondary source, [R] recalled and not re-read. Every function takes plain numbers and raises
`NotEvaluableError` for an input that cannot be scored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ops.measure.errors import NotEvaluableError

# Label map of the five subtypes (SPEC §5): extradural, subdural, subarachnoid, intraparenchymal, intraventricular.
SUBTYPES = {1: "EDH", 2: "SDH", 3: "SAH", 4: "IPH", 5: "IVH"}

# Slices above 3/4 of the largest area count whole, from 1/4 on half (Kothari 1996 Stroke 27:1304 [R]).
FULL_SHARE, HALF_SHARE = 0.75, 0.25
# The source is silent on slices at exactly 25 or 75 %: as printed both count half; "up" and "down" give them the
# weight of their upper and of their lower neighbours.
EdgeRule = Literal["edges_half", "edges_up", "edges_down"]

SURGICAL_SHIFT_MM = 5.0  # exclusive (SPEC §5 [R])

# Products of decimal voxel sizes miss a round number by rounding only.
TOLERANCE = 1e-6

ICH_VOLUME_ML, ICH_AGE = 30.0, 80.0  # both inclusive (Hemphill 2001 Stroke 32:891 [P])
# 30-day mortality in % by score (SPEC §5 [S]). Nobody of the cohort scored 6: that entry is an estimate.
ICH_MORTALITY_PERCENT = (0.0, 13.0, 26.0, 72.0, 97.0, 100.0, 100.0)


def abc_over_2(a: float, b: float, c: float) -> float:
    """ABC/2 volume, in the cube of the diameters' unit (Kothari 1996 [R]).

    An ellipsoid of these diameters holds π/3 = 1.047 times as much.
    """
    _require_positive(a=a, b=b, c=c)
    return a * b * c / 2


def ellipsoid_volume(a: float, b: float, c: float) -> float:
    """π/6 · ABC: volume of the ellipsoid with diameters ``a``, ``b``, ``c``, in the cube of their unit."""
    _require_positive(a=a, b=b, c=c)
    return math.pi / 6 * a * b * c


def slice_weights(areas: npt.ArrayLike, edges: EdgeRule = "edges_half") -> npt.NDArray[np.float64]:
    """Weight 1, 0.5 or 0 of every slice for the C of ABC/2 (SPEC §5).

    Parameters
    ----------
    areas
        ``(n,)`` area of the haematoma in each slice, any unit. Pixel counts compare exactly with 25 and 75 %.
    edges
        What exactly 25 % and exactly 75 % of the largest area count.
    """
    area = np.asarray(areas, dtype=np.float64)
    if area.ndim != 1 or not area.size or not np.isfinite(area).all() or (area < 0).any() or area.max() == 0:
        raise NotEvaluableError(
            "bad_areas", f"areas per slice must be finite, not negative and not all 0, got {area.tolist()}"
        )
    full, half = FULL_SHARE * area.max(), HALF_SHARE * area.max()
    whole = area >= full if edges == "edges_up" else area > full
    part = area > half if edges == "edges_down" else area >= half
    return np.asarray((whole.astype(np.float64) + part) / 2)


def weighted_height(areas: npt.ArrayLike, increment_mm: float, edges: EdgeRule = "edges_half") -> float:
    """C of ABC/2 in mm: sum of the slices' weights × slice increment.

    The weights alone take the C of a finely sliced ellipsoid to 0.683 of its height (½ + (√¾ - ½)/2), so that ABC/2 is
    then 35 % below its volume; the well-known 4.5 % hold for C = full height.
    """
    _require_positive(increment_mm=increment_mm)
    return float(slice_weights(areas, edges).sum() * increment_mm)


def midline_shift(septum: npt.ArrayLike, anterior: npt.ArrayLike, posterior: npt.ArrayLike) -> float:
    """Distance in mm of the septum pellucidum from the line through the attachments of the falx (SPEC §5 [R]).

    Parameters
    ----------
    septum, anterior, posterior
        ``(2,)`` mm in the plane of the slice at the foramina of Monro: x to the patient's left, y backwards.
    """
    return abs(signed_midline_shift(septum, anterior, posterior))


def signed_midline_shift(septum: npt.ArrayLike, anterior: npt.ArrayLike, posterior: npt.ArrayLike) -> float:
    """`midline_shift`, negative where the septum lies to the patient's right of the line."""
    points = np.asarray([septum, anterior, posterior], dtype=np.float64)
    if points.shape != (3, 2) or not np.isfinite(points).all():
        raise NotEvaluableError("bad_landmarks", f"three finite (x, y) points in mm are needed, got {points.tolist()}")
    along, offset = points[2] - points[1], points[0] - points[1]
    length = float(np.hypot(*along))
    if length == 0:
        raise NotEvaluableError(
            "bad_landmarks", f"both attachments of the falx lie at {points[1].tolist()}: they give no line"
        )
    return float(offset[0] * along[1] - offset[1] * along[0]) / length


def is_surgical_shift(shift_mm: float) -> bool:
    """Tell whether a midline shift, to either side, exceeds 5 mm (exclusive; SPEC §5 [R])."""
    _require_finite(shift_mm=shift_mm)
    return abs(shift_mm) > SURGICAL_SHIFT_MM + TOLERANCE


def modified_fisher(sah: bool, thick: bool, ivh: bool) -> int:
    """Grade 0–4 of the modified Fisher scale (Frontera 2006 Neurosurgery 59:21 [R]); not a renumbering of Fisher 1980.

    Parameters
    ----------
    sah, thick
        Subarachnoid blood, and whether it is thick; that is a reader's judgement.
    ivh
        Intraventricular blood. Without subarachnoid blood it makes grade 2 by convention.
    """
    if thick and not sah:
        raise NotEvaluableError("contradictory_input", "thick subarachnoid blood was stated, but no subarachnoid blood")
    if not sah:
        return 2 if ivh else 0
    return (3 if thick else 1) + int(ivh)


def ich_score(gcs: int, volume_ml: float, ivh: bool, infratentorial: bool, age: float) -> int:
    """ICH score 0–6 (Hemphill 2001 Stroke 32:891 [P]).

    Parameters
    ----------
    gcs
        Glasgow Coma Scale 3–15: 3–4 give 2 points, 5–12 one. Other splits found on the web are wrong.
    volume_ml
        Volume of the intracerebral haematoma; 30 mL and more give a point.
    ivh, infratentorial
        Intraventricular blood; origin below the tentorium. A point each.
    age
        Years; 80 and more give a point.
    """
    if gcs not in range(3, 16):
        raise NotEvaluableError("bad_gcs", f"Glasgow Coma Scale runs from 3 to 15 in whole points, got {gcs}")
    if not (math.isfinite(volume_ml) and volume_ml >= 0):
        raise NotEvaluableError("bad_volume", f"haematoma volume must be finite and not negative, got {volume_ml} mL")
    if not (math.isfinite(age) and 0 <= age <= 130):
        raise NotEvaluableError("bad_age", f"age must lie between 0 and 130 years, got {age}")
    consciousness = 2 if gcs <= 4 else 1 if gcs <= 12 else 0
    large, old = volume_ml >= ICH_VOLUME_ML - TOLERANCE, age >= ICH_AGE
    return consciousness + large + bool(ivh) + bool(infratentorial) + old


def ich_mortality(score: int) -> float:
    """30-day mortality in % of an ICH score 0–6 (SPEC §5 [S]); the 100 % of score 6 is an estimate without cases."""
    if score not in range(7):
        raise NotEvaluableError("bad_score", f"the ICH score runs from 0 to 6, got {score}")
    return ICH_MORTALITY_PERCENT[int(score)]


@dataclass(frozen=True)
class SubtypeDecision:
    """Which haemorrhages a classifier found.

    Attributes
    ----------
    probability
        By subtype as given, and ``any``: raised to the largest subtype's where it was smaller.
    present
        By subtype: probability ≥ its threshold; ``any`` is true when a subtype is.
    violations
        ``any_below_subtype``: P(any) had to be raised. ``any_without_subtype``: P(any) reaches its own threshold, but
        no subtype does, so that ``present["any"]`` is false all the same.
    """

    probability: dict[str, float]
    present: dict[str, bool]
    violations: tuple[str, ...]


def decide_subtypes(
    subtypes: Mapping[str, float], p_any: float, thresholds: Mapping[str, float], any_threshold: float
) -> SubtypeDecision:
    """Decide from the probabilities of a multi-label classifier (SPEC §5).

    Any haemorrhage is the maximum over the subtypes' *decisions*, not a sum of probabilities.

    Parameters
    ----------
    subtypes, thresholds
        By name, the same names in both, 0–1. Thresholds are inclusive.
    p_any, any_threshold
        Of the classifier's own output for any haemorrhage.
    """
    if not subtypes or set(subtypes) != set(thresholds):
        detail = f"probabilities {sorted(subtypes)} and thresholds {sorted(thresholds)} must name the same subtypes"
        raise NotEvaluableError("subtypes_incomplete", detail)
    for name, value in (*subtypes.items(), *thresholds.items(), ("any", p_any), ("any_threshold", any_threshold)):
        if not 0 <= value <= 1:
            raise NotEvaluableError("bad_probability", f"{name} must lie between 0 and 1, got {value}")
    present = {name: value >= thresholds[name] for name, value in subtypes.items()}
    largest, found = max(subtypes.values()), any(present.values())
    violations = [
        *(["any_below_subtype"] if p_any < largest else []),
        *(["any_without_subtype"] if p_any >= any_threshold and not found else []),
    ]
    return SubtypeDecision({**subtypes, "any": max(p_any, largest)}, {**present, "any": found}, tuple(violations))


def _require_finite(**lengths: float) -> None:
    for name, value in lengths.items():
        if not math.isfinite(value):
            raise NotEvaluableError("not_finite", f"{name} must be finite, got {value}")


def _require_positive(**lengths: float) -> None:
    _require_finite(**lengths)
    for name, value in lengths.items():
        if value <= 0:
            raise NotEvaluableError("not_positive", f"{name} must be positive, got {value}")

"""CAD-RADS 2.0 of a coronary CT angiogram: stenosis category, plaque burden and modifiers (SPEC §9).

Cury 2022, JCCT 16:536: category cut points and SIS bands [S], calcium bands [R].
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Mapping
from typing import Literal

from ops.measure.errors import NotEvaluableError
from ops.phantoms.labels import ARTERIES

Category = Literal["0", "1", "2", "3", "4A", "4B", "5", "N"]
PlaqueBurden = Literal["P1", "P2", "P3", "P4"]

# Lower bounds of categories 2, 3, 4 and 5 in % diameter stenosis, inclusive, on the unrounded value.
STENOSIS_EDGES = (25.0, 50.0, 70.0, 100.0)
LEFT_MAIN_SEVERE = 50.0
OBSTRUCTIVE = 50.0
# Order in which the modifiers are written. HRP was V in version 1; E means exceptions.
MODIFIERS = ("N", "HRP", "I+", "I-", "I±", "S", "G", "E")


def cad_rads_category(stenosis: Mapping[str, float | None], plaque: bool) -> Category:
    """Category of a patient: 0, 1, 2, 3, 4A, 4B, 5, or N when a stenosis of 50 % or more cannot be excluded.

    Parameters
    ----------
    stenosis
        Largest diameter stenosis in % of each artery LM, LAD, LCX and RCA, unrounded; None = not evaluable.
    plaque
        Plaque anywhere; without a stenosis that is category 1.

    Raises
    ------
    NotEvaluableError
        ``missing_artery`` unless exactly the four arteries are given; ``invalid_stenosis`` outside 0–100.
    """
    if set(stenosis) != set(ARTERIES):
        raise NotEvaluableError("missing_artery", f"stenoses of {ARTERIES} are needed, got {sorted(stenosis)}")
    read = {artery: value for artery, value in stenosis.items() if value is not None}
    for artery, value in read.items():
        if not (math.isfinite(value) and 0 <= value <= 100):
            raise NotEvaluableError("invalid_stenosis", f"stenosis of {artery} must be 0 to 100 %, got {value}")
    largest = max(read.values(), default=0.0)
    if len(read) < len(stenosis) and largest < OBSTRUCTIVE:
        return "N"
    if largest >= STENOSIS_EDGES[3]:
        return "5"
    severe_vessels = sum(read.get(artery, 0.0) >= STENOSIS_EDGES[2] for artery in ("LAD", "LCX", "RCA"))
    if read.get("LM", 0.0) >= LEFT_MAIN_SEVERE or severe_vessels == 3:
        return "4B"
    if largest == 0:
        return "1" if plaque else "0"
    bands: tuple[Category, ...] = ("1", "2", "3", "4A")
    return bands[bisect.bisect_right(STENOSIS_EDGES, largest)]


def plaque_burden_from_calcium(score: float) -> PlaqueBurden | None:
    """Plaque burden of an Agatston score: P1 1–100, P2 101–300, P3 301–999, P4 ≥ 1000 [R]; None without calcium.

    Scores between two bands belong to the higher: above 100 is P2, above 300 is P3.

    Raises
    ------
    NotEvaluableError
        ``invalid_calcium_score``: negative or not finite.
    """
    if not (math.isfinite(score) and score >= 0):
        raise NotEvaluableError("invalid_calcium_score", f"an Agatston score is finite and not negative, got {score}")
    if score == 0:
        return None
    return "P1" if score <= 100 else "P2" if score <= 300 else "P3" if score < 1000 else "P4"


def plaque_burden_from_segments(score: int) -> PlaqueBurden | None:
    """Plaque burden of a segment involvement score: P1 ≤ 2, P2 3–4, P3 5–7, P4 ≥ 8 [S]; None without plaque.

    Raises
    ------
    NotEvaluableError
        ``invalid_segment_score``: negative.
    """
    if score < 0:
        raise NotEvaluableError("invalid_segment_score", f"a segment involvement score is not negative, got {score}")
    if score == 0:
        return None
    return "P1" if score <= 2 else "P2" if score <= 4 else "P3" if score <= 7 else "P4"


def segment_involvement_score(plaque: Mapping[str, bool | None]) -> int:
    """Count the coronary segments with plaque of any kind, whatever the stenosis (Min 2007, JACC 50:1161 [R]).

    Parameters
    ----------
    plaque
        Segment name → plaque; None = not evaluable.

    Raises
    ------
    NotEvaluableError
        ``segment_not_evaluable``: an unread segment may have plaque; ``missing_segment`` without any segment.
    """
    unread = sorted(name for name, found in plaque.items() if found is None)
    if unread:
        raise NotEvaluableError("segment_not_evaluable", f"segments {unread} were not read and may have plaque")
    if not plaque:
        raise NotEvaluableError("missing_segment", "no coronary segment was read")
    return sum(bool(found) for found in plaque.values())


def cad_rads_label(category: Category, burden: PlaqueBurden | None = None, modifiers: Collection[str] = ()) -> str:
    """Report line, e.g. ``CAD-RADS 4A/P3/HRP/S``; the modifiers come in their fixed order.

    Raises
    ------
    NotEvaluableError
        ``unknown_modifier``; ``modifier_conflict`` for more than one kind of I (ischaemia), or N beside category N.
    """
    unknown = sorted(set(modifiers) - set(MODIFIERS))
    if unknown:
        raise NotEvaluableError("unknown_modifier", f"CAD-RADS 2.0 has the modifiers {MODIFIERS}, not {unknown}")
    given = [name for name in MODIFIERS if name in modifiers]
    if sum(name.startswith("I") for name in given) > 1 or (category == "N" and "N" in given):
        raise NotEvaluableError("modifier_conflict", f"modifiers {given} contradict each other or category {category}")
    return "CAD-RADS " + "/".join([category, *([burden] if burden else []), *given])

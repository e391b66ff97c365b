"""Response of target lesions by RECIST 1.1 (Eisenhauer 2009 Eur J Cancer 45:228 [R]; SPEC §10)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ops.measure.errors import NotEvaluableError

MEASURABLE_MM = 10.0  # longest diameter, on slices of at most THICK_SLICE_MM [R]
MEASURABLE_NODE_MM = 15.0  # short axis of a lymph node [R]
NORMAL_NODE_MM = 10.0  # a node with a short axis below this is no longer pathological [R]
THICK_SLICE_MM = 5.0
MAX_TARGETS, MAX_TARGETS_PER_ORGAN = 5, 2

Response = Literal["CR", "PR", "SD", "PD"]


@dataclass(frozen=True)
class Target:
    """A lesion that may be a target.

    Attributes
    ----------
    organ
        Organ it lies in; lymph nodes count as one organ.
    longest, short_axis
        Longest in-plane diameter and the largest width perpendicular to it, mm.
    is_node
        Lymph nodes are measured by their short axis.
    """

    organ: str
    longest: float
    short_axis: float
    is_node: bool = False

    def __post_init__(self) -> None:
        for name, value in (("longest diameter", self.longest), ("short axis", self.short_axis)):
            if not (math.isfinite(value) and value >= 0):
                raise NotEvaluableError("invalid_diameter", f"{name} of a target must be at least 0 mm, got {value}")

    @property
    def diameter(self) -> float:
        """What goes into the sum: the longest diameter, of a node the short axis (mm)."""
        return self.short_axis if self.is_node else self.longest


def is_measurable(target: Target, slice_mm: float) -> bool:
    """Tell whether a lesion is large enough for a target: ≥ 10 mm, nodes ≥ 15 mm, both inclusive.

    On slices thicker than 5 mm a lesion must have twice their thickness [R].

    Parameters
    ----------
    slice_mm
        Slice increment.
    """
    least = MEASURABLE_NODE_MM if target.is_node else MEASURABLE_MM
    if slice_mm > THICK_SLICE_MM:
        least = max(least, 2 * slice_mm)
    return target.diameter >= least


def select_targets(lesions: Sequence[Target], slice_mm: float) -> tuple[Target, ...]:
    """Choose the largest measurable lesions, at most five and two of an organ; ties keep their order."""
    chosen: list[Target] = []
    by_organ: Counter[str] = Counter()
    for lesion in sorted(lesions, key=lambda lesion: -lesion.diameter):
        if is_measurable(lesion, slice_mm) and by_organ[lesion.organ] < MAX_TARGETS_PER_ORGAN:
            chosen.append(lesion)
            by_organ[lesion.organ] += 1
    return tuple(chosen[:MAX_TARGETS])


def target_response(
    baseline: float, nadir: float, current: float, new_lesion: bool = False, only_normal_nodes: bool = False
) -> Response:
    """Response by the sum of the targets' diameters.

    Progression is asked first: ≥ 20 % *and* ≥ 5 mm above the nadir, or a new lesion. Then complete response, then
    ≥ 30 % below the **baseline**. The nadir includes the baseline, so it is at most that.

    Parameters
    ----------
    baseline, nadir, current
        Sums in mm: before treatment, smallest so far (the current one not included), now.
    new_lesion
        A lesion that was not there before.
    only_normal_nodes
        All that is left are lymph nodes with a short axis below 10 mm, which count as complete response.

    Raises
    ------
    NotEvaluableError
        ``invalid_diameter`` for a sum that is negative or not finite; ``no_target`` for a baseline of zero.
    """
    for name, value in (("baseline", baseline), ("nadir", nadir), ("current", current)):
        if not (math.isfinite(value) and value >= 0):
            raise NotEvaluableError("invalid_diameter", f"{name} sum of diameters must be at least 0 mm, got {value}")
    if baseline == 0:
        raise NotEvaluableError("no_target", "the baseline sum is 0 mm: there was no target lesion to follow")
    nadir = min(nadir, baseline)
    # Whole tenths on both sides: 0.7 × 90 is not 63 in floating point.
    grown = 10 * (current - nadir) >= 2 * nadir and current - nadir >= 5
    if new_lesion or grown:
        return "PD"
    if current == 0 or only_normal_nodes:
        return "CR"
    return "PR" if 10 * (baseline - current) >= 3 * baseline else "SD"

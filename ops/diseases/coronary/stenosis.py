"""Narrowings of a vessel from the course of its lumen along the centreline (SPEC §9).

Evidence marks: [R] recalled from the literature, [U] uncertain.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ops.measure.errors import NotEvaluableError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# SPEC §9: "below ~1.5 mm lumen". Read as the reference diameter, the vessel as it would be without the lesion: COR-01
# itself has a minimal lumen of 1.2 mm in a 3 mm vessel.
SMALLEST_REFERENCE_MM = 1.5
MAX_FITS = 50
SMALLEST_DEVIATION = 0.005  # share of the size; smaller deviations weigh the same in a fit
TAPER_MM = 40.0  # a vessel tapers evenly over such a length, and no lesion fills it


@dataclass(frozen=True)
class StenosisPolicy:
    """Named choices that decide what a lesion is and what it is compared with; none has a published value.

    Attributes
    ----------
    smallest_stenosis
        Share of the healthy diameter a lumen must lose, at its narrowest, to be a lesion: unevenness is none.
    edge_stenosis
        Share at which a lesion begins and ends.
    reference_mm
        Length of healthy vessel averaged on either side of a lesion.
    shortest_reference_mm
        Healthy vessel needed on a side for it to serve as a reference.
    """

    smallest_stenosis: float = 0.15
    edge_stenosis: float = 0.05
    reference_mm: float = 5.0
    shortest_reference_mm: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.edge_stenosis <= self.smallest_stenosis < 1:
            raise ValueError(
                f"0 < edge_stenosis ({self.edge_stenosis}) ≤ smallest_stenosis ({self.smallest_stenosis}) < 1 is needed"
            )
        if not 0 < self.shortest_reference_mm <= self.reference_mm < math.inf:
            lengths = f"{self.shortest_reference_mm} mm and {self.reference_mm} mm"
            raise ValueError(f"0 < shortest_reference_mm ≤ reference_mm is needed, got {lengths}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_POLICY = StenosisPolicy()


@dataclass(frozen=True)
class Lesion:
    """One narrowing.

    Attributes
    ----------
    start, narrowest, stop
        mm along the centreline.
    minimal_diameter, minimal_area
        mm and mm² at the narrowest point.
    reference_diameter, reference_area
        mm and mm² of the vessel as if healthy.
    diameter_stenosis, area_stenosis
        %.
    reference_sides
        2, or 1 when one side was missing and the other corrected for taper.
    """

    start: float
    narrowest: float
    stop: float
    minimal_diameter: float
    minimal_area: float
    reference_diameter: float
    reference_area: float
    diameter_stenosis: float
    area_stenosis: float
    reference_sides: int


def diameter_stenosis(minimal: float, proximal: float | None, distal: float | None = None) -> float:
    """Diameter stenosis 100·(1 − MLD/Dref) in %, Dref the mean of the healthy diameters on both sides (SPEC §9).

    Parameters
    ----------
    minimal
        Minimal lumen diameter in mm; 0 = occluded.
    proximal, distal
        Healthy diameters in mm. One alone (the other None) must already be corrected for taper.

    Raises
    ------
    NotEvaluableError
        ``no_healthy_reference``; ``vessel_too_small`` for a reference below 1.5 mm; ``invalid_lumen`` for a size that
        is negative or not finite, or a narrowest one that exceeds the reference.
    """
    reference = _mean_reference(proximal, distal)
    if reference < SMALLEST_REFERENCE_MM:
        detail = f"reference diameter {reference:.2f} mm; stenosis is not graded below {SMALLEST_REFERENCE_MM} mm"
        raise NotEvaluableError("vessel_too_small", detail)
    return _stenosis(minimal, reference)


def area_stenosis(minimal: float, proximal: float | None, distal: float | None = None) -> float:
    """Area stenosis 100·(1 − MLA/Aref) in %, Aref the mean of the healthy areas in mm² on both sides (SPEC §9).

    For circles with one reference it is 1 − (1 − DS)².

    Raises
    ------
    NotEvaluableError
        As `diameter_stenosis`; ``vessel_too_small`` below the area of a circle of 1.5 mm.
    """
    reference = _mean_reference(proximal, distal)
    if reference < math.pi / 4 * SMALLEST_REFERENCE_MM**2:
        detail = f"reference area {reference:.2f} mm²; stenosis is not graded below {SMALLEST_REFERENCE_MM} mm diameter"
        raise NotEvaluableError("vessel_too_small", detail)
    return _stenosis(minimal, reference)


def circular_area_stenosis(stenosis: float) -> float:
    """Area stenosis in % of a round lumen with a diameter ``stenosis`` in %: 1 − (1 − DS)² (COR-01).

    Raises
    ------
    NotEvaluableError
        ``invalid_stenosis`` outside 0–100.
    """
    if not 0 <= stenosis <= 100:
        raise NotEvaluableError("invalid_stenosis", f"a diameter stenosis is 0 to 100 %, got {stenosis}")
    return 100 * (1 - (1 - stenosis / 100) ** 2)


def _mean_reference(*sides: float | None) -> float:
    given = [side for side in sides if side is not None]
    if not given:
        raise NotEvaluableError("no_healthy_reference", "there is healthy vessel on neither side of the lesion")
    if not all(math.isfinite(side) and side > 0 for side in given):
        raise NotEvaluableError("invalid_lumen", f"a reference is a finite positive number, got {given}")
    return sum(given) / len(given)


def _stenosis(minimal: float, reference: float) -> float:
    if not 0 <= minimal <= reference:
        detail = f"the narrowest lumen ({minimal:g}) must lie between 0 and the reference ({reference:g})"
        raise NotEvaluableError("invalid_lumen", detail)
    return 100 * (1 - minimal / reference)


def healthy_taper(arc: FloatArray, size: FloatArray, tolerance: float) -> tuple[FloatArray, BoolArray]:
    """Course of the vessel as if healthy, and where it is healthy.

    A line of least absolute deviations is fitted around every point: neither lesions nor side branches draw it to them
    as long as they fill less than half of the vessel within `TAPER_MM`. Healthy is what lies no more than ``tolerance``
    below the line and three times as much above it (more is a branch leaving), both as shares of it; the course is the
    least-squares line through that.

    Parameters
    ----------
    arc
        ``(n,)`` mm along the centreline.
    size
        ``(n,)`` diameter in mm, or area in mm².
    tolerance
        Share of the line.

    Returns
    -------
    tuple
        The course ``(n,)`` and ``(n,)`` bool.
    """
    line = local_line(arc, size, np.ones_like(size))
    for _ in range(MAX_FITS):
        deviation = np.maximum(np.abs(size - line), SMALLEST_DEVIATION * line)
        before, line = line, local_line(arc, size, 1 / deviation)
        if np.abs(line - before).max() < SMALLEST_DEVIATION * float(size.mean()) / 10:
            break
    for _ in range(2):
        healthy = (size >= (1 - tolerance) * line) & (size <= (1 + 3 * tolerance) * line)
        if not healthy.any():
            raise NotEvaluableError("no_healthy_reference", "no part of the vessel follows an even taper")
        line = local_line(arc, size, healthy.astype(np.float64))
    return line, healthy


def local_line(arc: FloatArray, size: FloatArray, weight: FloatArray) -> FloatArray:
    """Local linear regression ``(n,)`` with tricube weights times ``weight`` ``(n,)`` (Cleveland 1979 [R]).

    The tricube falls to nothing at `TAPER_MM`, farther away where a long stretch without weight must be bridged.
    """
    away = np.abs(arc[:, None] - arc)
    reach = np.maximum(TAPER_MM, 1.5 * away[:, weight > 0].min(axis=1, keepdims=True))
    share = np.clip(1 - (away / reach) ** 3, 0, 1) ** 3 * weight
    share /= share.sum(axis=1, keepdims=True)
    mean_arc, mean_size = share @ arc, share @ size
    spread = share @ (arc * arc) - mean_arc**2
    slope = np.divide(share @ (arc * size) - mean_arc * mean_size, spread, np.zeros_like(spread), where=spread > 1e-9)
    return np.asarray(mean_size + slope * (arc - mean_arc))


def reference_sizes(
    arc: FloatArray,
    size: FloatArray,
    line: FloatArray,
    healthy: BoolArray,
    span: tuple[int, int],
    policy: StenosisPolicy = DEFAULT_POLICY,
) -> list[float]:
    """Healthy sizes beside the lesion ``span`` (first index, index after the last): one of each side that has any.

    A lone side is moved along the healthy ``line`` to the middle of the lesion, the correction for taper.
    """
    start, stop = span
    middle = (start + stop - 1) // 2
    sides = []
    for beside in (
        (arc < arc[start]) & (arc >= arc[start] - policy.reference_mm),
        (arc > arc[stop - 1]) & (arc <= arc[stop - 1] + policy.reference_mm),
    ):
        which = beside & healthy
        if which.sum() * (arc[1] - arc[0]) >= policy.shortest_reference_mm:
            sides.append((float(size[which].mean()), float(line[which].mean())))
    if len(sides) == 1:
        return [sides[0][0] + float(line[middle]) - sides[0][1]]
    return [side for side, _ in sides]


def runs(where: BoolArray) -> list[tuple[int, int]]:
    """First index and index after the last of every stretch of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], where, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def find_lesions(
    arc: FloatArray, diameter: FloatArray, area: FloatArray, policy: StenosisPolicy = DEFAULT_POLICY
) -> list[Lesion]:
    """Stenoses along a vessel, from proximal to distal.

    Parameters
    ----------
    arc
        ``(n,)`` mm from the proximal end, equally spaced.
    diameter, area
        ``(n,)`` lumen in mm and mm².

    Raises
    ------
    NotEvaluableError
        ``no_healthy_reference`` for a lesion that has healthy vessel on neither side; ``vessel_too_small`` when the
        healthy vessel is nowhere 1.5 mm wide. Where it is thinner, lesions are not looked for.
    """
    line, healthy = healthy_taper(arc, diameter, policy.edge_stenosis)
    if line.max() < SMALLEST_REFERENCE_MM:
        detail = (
            f"healthy diameter at most {line.max():.2f} mm; stenosis is not graded below {SMALLEST_REFERENCE_MM} mm"
        )
        raise NotEvaluableError("vessel_too_small", detail)
    area_line = local_line(arc, area, healthy.astype(np.float64))
    lesions = []
    for start, stop in runs(diameter < (1 - policy.edge_stenosis) * line):
        narrowest = start + int(diameter[start:stop].argmin())
        slight = diameter[narrowest] >= (1 - policy.smallest_stenosis) * line[narrowest]
        if slight or line[narrowest] < SMALLEST_REFERENCE_MM:
            continue
        span = (start, stop)
        sides = reference_sizes(arc, diameter, line, healthy, span, policy)
        reference = _mean_reference(*sides)
        reference_area = _mean_reference(*reference_sizes(arc, area, area_line, healthy, span, policy))
        if reference < SMALLEST_REFERENCE_MM:
            continue
        minimal, minimal_area = float(diameter[narrowest]), float(area[start:stop].min())
        lesions.append(
            Lesion(
                start=float(arc[start]),
                narrowest=float(arc[narrowest]),
                stop=float(arc[stop - 1]),
                minimal_diameter=minimal,
                minimal_area=minimal_area,
                reference_diameter=reference,
                reference_area=reference_area,
                diameter_stenosis=diameter_stenosis(minimal, reference),
                # By the shortest chord an oval lumen is narrowed though its area is not.
                area_stenosis=max(0.0, 100 * (1 - minimal_area / reference_area)),
                reference_sides=len(sides),
            )
        )
    return lesions

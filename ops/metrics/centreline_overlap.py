"""Agreement of an extracted centreline with a reference: the measures of the Rotterdam coronary framework.

Schaap 2009, Med Image Anal 13:701 [R]. The framework pairs the points of both lines by dynamic programming; here every
point is paired with the nearest of the other line, which differs only where a line runs back along itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from ops.measure.centreline import FloatArray, arc_length

STEP_MM = 0.05  # spacing of the compared points: far below the radius of a coronary artery
# Errors nearer than this to the start do not count for OF: where a vessel begins is a matter of definition [R].
IGNORED_START_MM = 5.0
RELEVANT_RADIUS_MM = 0.75  # OT is about the vessel down to a diameter of 1.5 mm [R]


@dataclass(frozen=True)
class CentrelineOverlap:
    """Overlap measures, 0–1, and accuracy.

    Attributes
    ----------
    ov
        Total overlap: share of the points of both lines that lie within the reference radius of the other.
    of
        Overlap until the first error: share of the reference before its first point that was missed.
    ot
        Total overlap of the clinically relevant part, down to a diameter of 1.5 mm; None when the vessel is thinner.
    ai
        Accuracy inside: mean distance in mm over the points that do overlap; None when none does.
    """

    ov: float
    of: float
    ot: float | None
    ai: float | None


def centreline_overlap(reference: FloatArray, radii: npt.ArrayLike, extracted: FloatArray) -> CentrelineOverlap:
    """Compare two centrelines that run from proximal to distal.

    Parameters
    ----------
    reference
        ``(n, 3)`` mm.
    radii
        ``(n,)`` mm, radius of the vessel at each reference point.
    extracted
        ``(m, 3)`` mm.

    Raises
    ------
    ValueError
        Fewer than two points in a line, values that are not finite, or as many radii as points are not given.
    """
    radius = np.asarray(radii, dtype=np.float64)
    for line in (reference, extracted):
        if line.ndim != 2 or line.shape[1] != 3 or len(line) < 2 or not np.isfinite(line).all():
            raise ValueError(f"a centreline has two or more finite points (n, 3), got shape {line.shape}")
    if radius.shape != (len(reference),) or not (radius > 0).all():
        raise ValueError(f"{len(reference)} positive radii are needed, got shape {radius.shape}")
    points, position = _dense(reference)
    radius = np.interp(position, arc_length(reference), radius)
    other, _ = _dense(extracted)
    to_other, _ = cKDTree(other).query(points)
    to_reference, nearest = cKDTree(points).query(other)
    hit, other_hit = to_other <= radius, to_reference <= radius[nearest]
    missed = ~hit & (position >= IGNORED_START_MM)
    relevant = position <= position[radius >= RELEVANT_RADIUS_MM].max(initial=-1.0)
    inside = np.concatenate([to_other[hit], to_reference[other_hit]])
    return CentrelineOverlap(
        ov=float(np.concatenate([hit, other_hit]).mean()),
        of=float(missed.argmax() / len(missed)) if missed.any() else 1.0,
        ot=float(np.concatenate([hit[relevant], other_hit[relevant[nearest]]]).mean()) if relevant.any() else None,
        ai=float(inside.mean()) if len(inside) else None,
    )


def _dense(line: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Points every `STEP_MM` and their arc lengths."""
    arc = arc_length(line)
    position = np.linspace(0, arc[-1], max(2, round(arc[-1] / STEP_MM) + 1))
    return np.stack([np.interp(position, arc, axis) for axis in line.T], axis=-1), position

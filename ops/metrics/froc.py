"""FROC: sensitivity for lesions against false positives per scan, and its mean at seven points, CPM (SPEC §12.4).

What counts as a hit is the `HitPolicy` that the predictions were matched with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ops.metrics.detection import Matches, rank
from ops.volume import FloatArray

# False positives per scan of the competition performance metric: Niemeijer 2011, IEEE TMI 30:215 [R].
CPM_POINTS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


@dataclass(frozen=True, eq=False)
class Froc:
    """Operating points from the highest threshold to the lowest.

    Attributes
    ----------
    thresholds
        ``(n,)``, falling; a prediction with this score or a higher one counts.
    false_positives
        ``(n,)`` per scan; scans without a lesion are in the denominator.
    sensitivity
        ``(n,)`` share of all lesions found; NaN without a lesion.
    n_lesions, n_scans
        What the shares refer to.
    """

    thresholds: FloatArray
    false_positives: FloatArray
    sensitivity: FloatArray
    n_lesions: int
    n_scans: int

    def sensitivity_at(self, false_positives: float) -> float:
        """Highest sensitivity with at most this many false positives per scan; no interpolation between points.

        0 when even the highest threshold has more; NaN without a lesion.
        """
        if self.n_lesions == 0:
            return math.nan
        allowed = self.sensitivity[self.false_positives <= false_positives]
        return float(allowed[-1]) if len(allowed) else 0.0

    @property
    def cpm(self) -> float:
        """Mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per scan; NaN without a lesion."""
        return math.fsum(self.sensitivity_at(point) for point in CPM_POINTS) / len(CPM_POINTS)


def froc(scans: Sequence[Matches]) -> Froc:
    """FROC curve of all scans, those without a lesion or without a prediction included.

    For a confidence interval resample scans or participants: `ops.metrics.intervals.bootstrap` with
    ``lambda rows: froc([scans[row] for row in rows]).cpm``.
    """
    points = rank(scans).operating_points()
    return Froc(
        thresholds=points.scores,
        false_positives=points.false_positives / points.n_images,
        sensitivity=points.hits / (points.n_true or math.nan),
        n_lesions=points.n_true,
        n_scans=points.n_images,
    )

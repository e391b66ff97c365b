"""True Agatston score of a noise-free scan: SPEC §1.1 written out plainly, independent of ``ops.diseases``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.phantoms.labels import ARTERY_LABELS

# Threshold and weight edges by tube voltage, SPEC §1.6 [S]; 100 kV is a conflict there and has no truth here.
EDGES = {120: (130, 200, 300, 400), 80: (177, 271, 408, 544), 70: (207, 318, 477, 636), 135: (119, 183, 274, 364)}
MIN_AREA_MM2 = 1.0
REFERENCE_MM = 3.0
EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


def agatston(
    hu: npt.NDArray[np.floating], labels: npt.NDArray[np.uint8], spacing: tuple[float, float, float], kvp: int = 120
) -> dict[str, float]:
    """Agatston score per artery and in total.

    Parameters
    ----------
    hu
        Noise-free HU ``(z, y, x)``.
    labels
        Artery mask, ``ARTERY_LABELS``, same shape.
    spacing
        ``(increment, dy, dx)`` mm.
    kvp
        Chooses the threshold and weight edges; one of ``EDGES``.
    """
    edges = EDGES[kvp]
    increment, dy, dx = spacing
    scores = {}
    for name, label in ARTERY_LABELS.items():
        score = 0.0
        for plane, mask in zip(hu, labels == label, strict=True):
            if not mask.any():
                continue
            components, count = ndimage.label(mask & (plane >= edges[0]), structure=EIGHT_CONNECTED)
            for index in range(1, count + 1):
                part = components == index
                area = float(part.sum()) * dy * dx
                if area >= MIN_AREA_MM2:
                    weight = int(np.searchsorted(edges, plane[part].max(), side="right"))
                    score += area * weight * increment / REFERENCE_MM
        scores[name] = score
    scores["total"] = sum(scores.values())
    return scores

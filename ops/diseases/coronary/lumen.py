"""Lumen of a vessel in a CT angiogram from a few points on it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.measure.centreline import CentrelinePolicy, path_between
from ops.measure.errors import NotEvaluableError
from ops.measure.vesselness import frangi_vesselness
from ops.phantoms.labels import ARTERY_LABELS
from ops.volume import Volume

FloatArray = npt.NDArray[np.float64]

MARGIN_MM = 25.0  # a vessel between two points bows at most so far out of the box around them
SCALES_MM = (0.7, 1.2, 1.8)  # σ of vessels about 1.5 to 4.5 mm wide
# Half the S of a Gaussian tube of 300 HU at its own scale: √2/4 · 300 HU / 2. Fixed, so that scans compare.
VESSELNESS_C_HU = 53.0
LOWEST_VESSEL_HU = 80.0
REACH_MM = 4.0  # half the width of the widest coronary lumen, with room for the path to lie off centre
PLAQUE_HU = 80.0  # of soft plaque, the dimmest edge that matters; fat is darker still
CALCIUM_SD = 5.0
MAD_TO_SD = 1.4826  # of a normal distribution


def lumen_from_points(image: Volume, vessels: Mapping[str, FloatArray], policy: CentrelinePolicy) -> Volume:
    """Label map of the lumens along the cheapest paths through the points of each vessel.

    The edge of a lumen lies halfway between the median HU on its path and soft plaque; what is much brighter than the
    path is calcium and not lumen.

    Parameters
    ----------
    image
        HU.
    vessels
        Artery → points ``(n, 3)`` LPS mm from proximal to distal, n ≥ 2.

    Raises
    ------
    NotEvaluableError
        ``no_vessel`` without points, or where nothing looks like a vessel; ``seed_outside_image``.
    """
    if not vessels:
        raise NotEvaluableError("no_vessel", "neither a lumen mask nor points on a vessel were given")
    labels = np.zeros(image.grid.shape, dtype=np.uint8)
    for name, points in vessels.items():
        index = image.grid.patient_to_index(points)
        if (index < -0.5).any() or (index > np.array(image.grid.shape) - 0.5).any():
            raise NotEvaluableError("seed_outside_image", f"a point of {name} lies outside the image")
        margin = np.ceil(MARGIN_MM / np.array(image.grid.spacing))
        start = np.maximum(np.floor(index.min(axis=0) - margin), 0).astype(int)
        stop = np.minimum(np.ceil(index.max(axis=0) + margin) + 1, image.grid.shape).astype(int)
        box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        part = image.crop((int(start[0]), int(start[1]), int(start[2])), (int(stop[0]), int(stop[1]), int(stop[2])))
        lumen = _lumen(part, points, policy)
        labels[box][lumen & (labels[box] == 0)] = ARTERY_LABELS[name]
    return Volume(labels, image.grid, units="label")


def _lumen(image: Volume, points: FloatArray, policy: CentrelinePolicy) -> npt.NDArray[np.bool_]:
    hu = image.physical()
    vesselness = frangi_vesselness(image, SCALES_MM, VESSELNESS_C_HU, where=hu > LOWEST_VESSEL_HU)
    path = np.concatenate([path_between(a, b, vesselness, image.grid, policy) for a, b in pairwise(points)])
    on_path = np.zeros(hu.shape, dtype=bool)
    on_path[tuple(np.round(image.grid.patient_to_index(path)).astype(int).T)] = True
    distance = ndimage.distance_transform_edt(~on_path, sampling=image.grid.spacing)
    blood = float(np.median(hu[on_path]))
    spread = MAD_TO_SD * float(np.median(np.abs(hu[on_path] - blood)))
    lowest, highest = (blood + PLAQUE_HU) / 2, blood + CALCIUM_SD * spread
    bright, _ = ndimage.label((hu >= lowest) & (hu <= highest) & (distance <= REACH_MM))
    on_vessel = np.unique(bright[on_path])
    return np.isin(bright, on_vessel[on_vessel > 0])

"""Error of a registration: distances of landmarks in mm, and difference of intensities (SPEC §12.2)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ops.measure.checks import require_finite, require_label_map, require_not_empty, require_same_grid, require_units
from ops.measure.errors import NotEvaluableError
from ops.volume import FloatArray, Volume


def target_registration_errors(mapped: npt.ArrayLike, reference: npt.ArrayLike) -> FloatArray:
    """Euclidean distance ``(n,)`` in mm of each mapped landmark to where it belongs; TRE is the mean.

    Parameters
    ----------
    mapped, reference
        ``(n, 3)`` patient LPS **mm**, in the same order. Landmarks in voxels go through ``grid.index_to_patient``.

    Raises
    ------
    NotEvaluableError
        ``no_landmarks``, ``landmark_mismatch`` or ``not_finite``.
    """
    first, second = np.asarray(mapped, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if first.size == 0 or second.size == 0:
        raise NotEvaluableError("no_landmarks", "there are no landmarks to compare")
    if first.shape != second.shape or first.ndim != 2 or first.shape[1] != 3:
        detail = f"landmarks of shapes {first.shape} and {second.shape}; both must be (n, 3) in the same order"
        raise NotEvaluableError("landmark_mismatch", detail)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise NotEvaluableError("not_finite", "a landmark has a coordinate that is NaN or infinite")
    return np.asarray(np.linalg.norm(first - second, axis=1))


def mean_squared_error(image: Volume, reference: Volume, region: Volume) -> float:
    """Mean squared difference of intensities within ``region``, in the images' unit squared.

    Parameters
    ----------
    image, reference
        On one grid, in one unit.
    region
        Mask, nonzero = compared. The value depends on it: say which it was.

    Raises
    ------
    NotEvaluableError
        ``not_a_label_map``, ``grid_mismatch``, ``wrong_units``, ``empty_mask`` or ``not_finite``.
    """
    require_label_map(region)
    require_same_grid(image, reference)
    require_same_grid(image, region)
    require_units(image, reference.units)
    inside = region.voxels != 0
    require_not_empty(inside, "the region of comparison")
    for volume in (image, reference):
        require_finite(volume, inside)
    difference = image.physical(np.float64)[inside] - reference.physical(np.float64)[inside]
    return float((difference**2).mean())

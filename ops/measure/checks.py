"""The door of every measurement: what an image or a mask must be, else a reason code (SPEC §0.2–0.5).

Each check raises `NotEvaluableError`. An image is a Volume in physical units. A mask or label map is a Volume of
integers with ``units="label"``, 0 outside.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ops.measure.errors import NotEvaluableError
from ops.volume import Grid, Volume


def require_modality(modality: str, *allowed: str) -> None:
    """Refuse an image whose DICOM Modality is not among ``allowed``: ``wrong_modality``."""
    if modality not in allowed:
        raise NotEvaluableError("wrong_modality", f"Modality is {modality!r}, this measurement takes {allowed}")


def require_units(volume: Volume, units: str) -> None:
    """Refuse voxels that are not in ``units``: ``wrong_units``."""
    if volume.units != units:
        raise NotEvaluableError("wrong_units", f"voxels are in {volume.units!r}, this measurement takes {units!r}")


def require_same_grid(first: Volume, second: Volume) -> None:
    """Refuse two volumes whose voxels do not lie on each other: ``grid_mismatch``."""
    if not first.grid.matches(second.grid):
        detail = f"grids of shapes {first.grid.shape} and {second.grid.shape} differ; resample one to the other"
        raise NotEvaluableError("grid_mismatch", detail)


def require_orthogonal(grid: Grid) -> None:
    """Refuse a sheared stack (gantry tilt): ``gantry_tilt``."""
    if not grid.is_orthogonal:
        raise NotEvaluableError("gantry_tilt", "the slices are sheared against their normal; resample them first")


def require_isotropy(grid: Grid, largest_ratio: float) -> None:
    """Refuse voxels whose longest edge exceeds ``largest_ratio`` times the shortest: ``anisotropic``."""
    ratio = max(grid.spacing) / min(grid.spacing)
    if ratio > largest_ratio:
        spacing = " × ".join(f"{step:.3g}" for step in grid.spacing)
        raise NotEvaluableError("anisotropic", f"voxels of {spacing} mm: {ratio:.1f}:1, at most {largest_ratio:g}:1")


def require_finite(volume: Volume, where: npt.NDArray[np.bool_] | None = None) -> None:
    """Refuse NaN or infinity, anywhere or within ``where`` ``(z, y, x)``: ``not_finite``."""
    if np.issubdtype(volume.voxels.dtype, np.integer):
        return
    values = volume.voxels if where is None else volume.voxels[where]
    n_bad = values.size - int(np.count_nonzero(np.isfinite(values.astype(np.float64, copy=False))))
    if n_bad:
        raise NotEvaluableError("not_finite", f"{n_bad} of {values.size} voxels are NaN or infinite")


def require_label_map(labels: Volume) -> None:
    """Refuse anything but a Volume of non-negative integers with units ``label``: ``not_a_label_map``."""
    kind = labels.voxels.dtype.kind
    negative = kind == "i" and labels.voxels.size and int(labels.voxels.min()) < 0
    if labels.units != "label" or kind not in "bui" or negative:
        detail = f"voxels of type {labels.voxels.dtype} in {labels.units!r}; a label map has integers ≥ 0 in 'label'"
        raise NotEvaluableError("not_a_label_map", detail)


def require_not_empty(mask: npt.NDArray[np.bool_], name: str) -> None:
    """Refuse a structure without a voxel: ``empty_mask``. Not segmented is not the same as absent (SPEC §0.5)."""
    if not mask.any():
        raise NotEvaluableError("empty_mask", f"no voxel is labelled {name}")


def require_inside(mask: npt.NDArray[np.bool_], name: str) -> None:
    """Refuse a structure cut off by a face of the scan: ``touches_border``."""
    if touches_border(mask):
        raise NotEvaluableError("touches_border", f"{name} reaches the edge of the scan and may go on beyond it")


def touches_border(mask: npt.NDArray[np.bool_]) -> bool:
    """Tell whether a mask ``(z, y, x)`` has voxels on any of its six faces."""
    return any(bool(mask.take(end, axis=axis).any()) for axis in range(mask.ndim) for end in (0, -1))

"""Distances between the surfaces of two masks, in patient mm: Hausdorff, HD95, ASSD, NSD (SPEC §12.2).

The surface of a mask is its voxels with a face neighbour outside; beyond the scan counts as outside. Distances run
between the centres of such voxels, each of which has the same weight whatever the area it stands for, as in MONAI and
in Metrics Reloaded: with anisotropic voxels the averages lean towards the surfaces that run along the long edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from ops.measure.checks import require_label_map, require_same_grid
from ops.volume import FloatArray, Grid, Volume

EmptyRule = Literal["undefined", "image_diagonal"]


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distance in mm from each surface voxel of one mask to the nearest of the other, in both directions.

    Attributes
    ----------
    to_truth, to_predicted
        ``(n,)`` of the predicted surface's voxels, and ``(m,)`` of the true surface's. Both are empty when distances
        are undefined, and every measure is then NaN.
    """

    to_truth: FloatArray
    to_predicted: FloatArray

    @property
    def defined(self) -> bool:
        """Whether there are distances; count the cases where there are none beside an average."""
        return bool(len(self.to_truth) and len(self.to_predicted))

    @property
    def hausdorff(self) -> float:
        """Largest distance of either direction."""
        return self.percentile(100)

    @property
    def hd95(self) -> float:
        """Larger of the two directed 95th percentiles (not the percentile of both directions together)."""
        return self.percentile(95)

    @property
    def assd(self) -> float:
        """Average symmetric surface distance: mean over the voxels of both surfaces together."""
        if not self.defined:
            return math.nan
        return float(np.concatenate([self.to_truth, self.to_predicted]).mean())

    def percentile(self, percent: float) -> float:
        """Larger of the two directed percentiles; between two voxels interpolated linearly."""
        if not self.defined:
            return math.nan
        return float(max(np.percentile(self.to_truth, percent), np.percentile(self.to_predicted, percent)))

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface distance: share 0–1 of both surfaces within ``tolerance_mm`` (inclusive) of the other.

        Nikolov 2018, arXiv:1809.04430 [R], with voxels in the place of surface elements.
        """
        if not self.defined:
            return math.nan
        # Products of spacings that are equal on paper differ in the last bits.
        return float((np.concatenate([self.to_truth, self.to_predicted]) <= tolerance_mm * (1 + 1e-9)).mean())


def surface_distances(predicted: Volume, truth: Volume, empty: EmptyRule = "undefined") -> SurfaceDistances:
    """Measure the distances between two masks; nonzero = inside.

    Parameters
    ----------
    predicted, truth
        On one grid, of any spacing and orientation. A grid of one slice is taken as a plane: its masks have outlines.
    empty
        When exactly one mask is empty: ``undefined`` (default), or ``image_diagonal``, the distance between the two
        farthest voxels of the grid as a penalty. Two empty masks are always undefined.

    Raises
    ------
    NotEvaluableError
        ``not_a_label_map`` or ``grid_mismatch``.
    """
    if empty not in ("undefined", "image_diagonal"):
        raise ValueError(f"empty must be 'undefined' or 'image_diagonal', got {empty!r}")
    for mask in (predicted, truth):
        require_label_map(mask)
    require_same_grid(predicted, truth)
    first, second = (_surface_points(mask) for mask in (predicted, truth))
    if len(first) and len(second):
        return SurfaceDistances(_nearest(first, second), _nearest(second, first))
    one_empty = len(first) != len(second)
    penalty = np.full(1, _diagonal(truth.grid)) if one_empty and empty == "image_diagonal" else np.zeros(0)
    return SurfaceDistances(penalty, penalty)


def _surface_points(mask: Volume) -> FloatArray:
    """Centres ``(n, 3)`` LPS mm of the voxels with a face neighbour outside."""
    inside = mask.voxels != 0
    box = _bounding_box(inside)
    if box is None:
        return np.zeros((0, 3))
    inside = inside[box]
    neighbours = ndimage.generate_binary_structure(3, 1)
    for axis, size in enumerate(mask.grid.shape):
        if size == 1:
            neighbours &= np.arange(3).reshape([-1 if n == axis else 1 for n in range(3)]) == 1
    surface = inside & ~ndimage.binary_erosion(inside, neighbours)
    return mask.grid.index_to_patient(np.argwhere(surface) + [side.start for side in box])


def _bounding_box(inside: npt.NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    sides = []
    for axis in range(3):
        along = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        if len(along) == 0:
            return None
        sides.append(slice(int(along[0]), int(along[-1]) + 1))
    return sides[0], sides[1], sides[2]


def _nearest(points: FloatArray, others: FloatArray) -> FloatArray:
    return np.asarray(cKDTree(others).query(points)[0], dtype=np.float64)


def _diagonal(grid: Grid) -> float:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape])).reshape(3, -1).T
    points = grid.index_to_patient(corners)
    return float(np.linalg.norm(points[:, None] - points[None, :], axis=-1).max())

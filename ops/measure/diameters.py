"""Caliper (Feret) diameters of point sets and masks, in mm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist, squareform

FloatArray = npt.NDArray[np.float64]
DiameterConvention = Literal["centre_to_centre", "edge_to_edge"]


@dataclass(frozen=True)
class InPlaneDiameters:
    """Longest diameter of a 2-D mask and the largest width perpendicular to it.

    Attributes
    ----------
    longest, perpendicular
        mm.
    ends
        ``(2, 2)`` fractional ``(row, column)`` of the ends of the longest diameter.
    """

    longest: float
    perpendicular: float
    ends: FloatArray


def hull_points(points: npt.ArrayLike) -> FloatArray:
    """Vertices ``(m, d)`` of the convex hull of ``(n, d)`` points; all of them when they span no volume."""
    p = np.unique(np.asarray(points, dtype=np.float64), axis=0)
    if len(p) <= p.shape[1] + 1:
        return p
    try:
        return np.asarray(p[ConvexHull(p).vertices])
    except QhullError:
        return p


def feret_diameter(points: npt.ArrayLike) -> float:
    """Largest distance between any two of ``(n, d)`` points in mm; 0 for one point.

    Raises
    ------
    ValueError
        No points.
    """
    hull = hull_points(points)
    if len(hull) == 0:
        raise ValueError("no points: a diameter needs at least one")
    return float(pdist(hull).max(initial=0.0))


def width_along(points: npt.ArrayLike, direction: npt.ArrayLike) -> float:
    """Extent of ``(n, d)`` points along ``direction`` ``(d,)``, in the points' unit."""
    d = np.asarray(direction, dtype=np.float64)
    along = np.asarray(points, dtype=np.float64) @ (d / np.linalg.norm(d))
    return float(np.ptp(along))


def in_plane_diameters(
    mask: npt.NDArray[np.bool_],
    spacing: tuple[float, float],
    convention: DiameterConvention = "edge_to_edge",
) -> InPlaneDiameters:
    """Longest diameter of a 2-D mask and the width perpendicular to it.

    Parameters
    ----------
    mask
        ``(rows, columns)``, at least one pixel.
    spacing
        ``(row, column)`` mm between pixel centres.
    convention
        ``edge_to_edge`` (default) measures between the corners of pixels, ``centre_to_centre`` between their centres,
        which reads about one pixel less (SPEC §10, LL-01).

    Raises
    ------
    ValueError
        The mask is empty.
    """
    index = np.argwhere(mask).astype(np.float64)
    if len(index) == 0:
        raise ValueError("the mask is empty: a diameter needs at least one pixel")
    if convention == "edge_to_edge":
        corners = np.array([(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)])
        index = (hull_points(index)[:, None, :] + corners).reshape(-1, 2)
    hull = hull_points(index * spacing)
    if len(hull) == 1:
        return InPlaneDiameters(0.0, 0.0, np.repeat(hull / spacing, 2, axis=0))
    distances = squareform(pdist(hull))
    a, b = np.unravel_index(int(distances.argmax()), distances.shape)
    ends = hull[[a, b]]
    along = ends[1] - ends[0]
    return InPlaneDiameters(
        float(distances[a, b]), width_along(hull, (-along[1], along[0])), np.asarray(ends / np.asarray(spacing))
    )

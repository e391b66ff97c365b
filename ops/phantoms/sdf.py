"""Signed distances of simple bodies, and smooth curves (all mm, negative inside, float32)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

Array = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
Coordinates = tuple[Array, Array, Array]


def local(p: Coordinates, centre: npt.ArrayLike, frame: npt.ArrayLike | None = None) -> Coordinates:
    """Coordinates relative to ``centre``, along the rows of ``frame`` (3×3 orthonormal) if given."""
    c = np.asarray(centre, dtype=np.float32)
    x, y, z = p[0] - c[0], p[1] - c[1], p[2] - c[2]
    if frame is None:
        return x, y, z
    f = np.asarray(frame, dtype=np.float32)
    return (
        x * f[0, 0] + y * f[0, 1] + z * f[0, 2],
        x * f[1, 0] + y * f[1, 1] + z * f[1, 2],
        x * f[2, 0] + y * f[2, 1] + z * f[2, 2],
    )


def ellipsoid(p: Coordinates, centre: npt.ArrayLike, axes: npt.ArrayLike, frame: npt.ArrayLike | None = None) -> Array:
    """Approximate signed distance to an ellipsoid with semi-axes ``axes`` along ``frame``.

    Uses k0 (k0 - 1) / k1 with k0 = |p/a|, k1 = |p/a²|: exact on the surface, first-order right near it.
    """
    a = np.asarray(axes, dtype=np.float32)
    u, v, w = local(p, centre, frame)
    weight = 1 / (a * a)
    u, v, w = u * u * weight[0], v * v * weight[1], w * w * weight[2]
    k0 = np.sqrt(u + v + w)
    u *= weight[0]
    v *= weight[1]
    w *= weight[2]
    k1 = np.sqrt(u + v + w)
    return np.asarray(k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-6)), dtype=np.float32)


def box(
    p: Coordinates,
    centre: npt.ArrayLike,
    half: npt.ArrayLike,
    frame: npt.ArrayLike | None = None,
    rounding: float = 0.0,
) -> Array:
    """Signed distance to a box with half sizes ``half`` (including the edge ``rounding``)."""
    h = np.asarray(half, dtype=np.float32) - np.float32(rounding)
    u, v, w = local(p, centre, frame)
    u, v, w = np.abs(u) - h[0], np.abs(v) - h[1], np.abs(w) - h[2]
    outside = np.sqrt(np.maximum(u, 0) ** 2 + np.maximum(v, 0) ** 2 + np.maximum(w, 0) ** 2)
    inside = np.minimum(np.maximum(np.maximum(u, v), w), 0)
    return np.asarray(outside + inside - np.float32(rounding), dtype=np.float32)


def smooth_min(a: Array, b: Array, radius: float) -> Array:
    """Union of two bodies whose crease is filled with a fillet of about ``radius`` mm (polynomial)."""
    h = np.maximum(radius - np.abs(a - b), 0) / np.float32(radius)
    return np.asarray(np.minimum(a, b) - h * h * np.float32(radius / 4), dtype=np.float32)


def smooth_union(distances: Sequence[Array], radius: float) -> Array:
    """``smooth_min`` over several bodies, in order."""
    return reduce(lambda a, b: smooth_min(a, b, radius), distances)


def curve(control: npt.ArrayLike, step: float) -> Points:
    """Smooth curve through control points ``(n, 3)``, resampled about every ``step`` mm."""
    points = np.asarray(control, dtype=np.float64)
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    # Centripetal parameter: no loops between unevenly spaced control points.
    s = np.concatenate([[0.0], np.cumsum(np.sqrt(lengths))])
    fine = CubicSpline(s, points)(np.linspace(0, s[-1], 20 * len(points))) if len(points) > 2 else points
    return resample(fine, step)


def arc_length(points: Points) -> npt.NDArray[np.float64]:
    """Cumulative length along a polyline ``(n, 3)``."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])


def resample(points: Points, step: float) -> Points:
    """Polyline with points about every ``step`` mm, the two ends kept."""
    s = arc_length(points)
    n = max(2, int(np.ceil(s[-1] / step)) + 1)
    return along(points, np.linspace(0, s[-1], n))


def along(points: Points, positions: npt.NDArray[np.float64]) -> Points:
    """Points at arc-length ``positions`` (mm) on a polyline."""
    s = arc_length(points)
    return np.stack([np.interp(positions, s, points[:, axis]) for axis in range(3)], axis=-1)


def rotation(yaw: float, pitch: float, roll: float) -> npt.NDArray[np.float64]:
    """Rotation matrix from degrees about the S axis (yaw), the L axis (pitch) and the P axis (roll)."""
    a, b, c = np.radians([yaw, pitch, roll])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_y = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    return np.asarray(about_z @ about_x @ about_y)


def unit(vector: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Vector(s) scaled to length 1 along the last axis."""
    v = np.asarray(vector, dtype=np.float64)
    return np.asarray(v / np.linalg.norm(v, axis=-1, keepdims=True))

"""Sampling bodies on a grid: coordinates of voxel centres, and how much of a voxel a body covers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ops.phantoms.sdf import Array, Coordinates
from ops.volume import Grid

Box = tuple[slice, slice, slice]

# Which steps of k, j, i along x, y, z an axis-aligned grid has.
_AXIS_ALIGNED = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=bool)


def coordinates(grid: Grid) -> Coordinates:
    """LPS mm ``(x, y, z)`` of every voxel centre, each float32 ``(nz, ny, nx)``."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    points = grid.index_to_patient(index).astype(np.float32)
    return points[..., 0], points[..., 1], points[..., 2]


def open_coordinates(grid: Grid) -> Coordinates:
    """Return `coordinates` that on an axis-aligned grid broadcast against each other: faster for simple bodies."""
    steps = grid.affine[:3, :3]
    if np.abs(steps[~_AXIS_ALIGNED]).max() > 1e-9:
        return coordinates(grid)
    nz, ny, nx = grid.shape
    x, y, z = (
        (grid.origin[axis] + steps[axis, 2 - axis] * np.arange(n)).astype(np.float32)
        for axis, n in enumerate((nx, ny, nz))
    )
    return x[None, None, :], y[None, :, None], z[:, None, None]


def index_box(grid: Grid, low: npt.ArrayLike, high: npt.ArrayLike) -> Box | None:
    """Index box of the LPS box ``low`` to ``high`` mm, a voxel wider; None when it misses the grid."""
    corners = np.stack(np.meshgrid(*np.stack([low, high], axis=1), indexing="ij"), axis=-1).reshape(-1, 3)
    index = grid.patient_to_index(corners)
    start = np.maximum(np.floor(index.min(axis=0)).astype(int) - 1, 0)
    stop = np.minimum(np.ceil(index.max(axis=0)).astype(int) + 2, grid.shape)
    if (start >= stop).any():
        return None
    return slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2])


def coverage(distance: Array, edge_mm: float) -> Array:
    """Share 0–1 of a voxel inside a body, from the signed distance (mm, negative inside) at its centre.

    A plane that cuts a voxel of edge ``edge_mm`` along an axis gives exactly this share; other surfaces nearly so.
    """
    return np.asarray(np.clip(0.5 - distance / np.float32(edge_mm), 0, 1), dtype=np.float32)


def blend(background: Array, distance: Array, value: float | Array, edge_mm: float) -> None:
    """Paint a body of ``value`` over ``background`` in place, its edge mixed by `coverage`."""
    background += coverage(distance, edge_mm) * (np.asarray(value, dtype=np.float32) - background)


def rician(signal: Array, sigma: float, rng: np.random.Generator) -> Array:
    """Magnitude of ``signal`` with Gaussian noise of ``sigma`` in both channels, as MR images have it."""
    shape = signal.shape
    real = signal + rng.normal(0, sigma, shape).astype(np.float32)
    return np.asarray(np.hypot(real, rng.normal(0, sigma, shape).astype(np.float32)), dtype=np.float32)


def centred_grid(centre: npt.ArrayLike, size_mm: npt.ArrayLike, spacing: tuple[float, float, float]) -> Grid:
    """Axis-aligned grid around ``centre`` LPS mm covering ``size_mm`` (x, y, z) with ``spacing`` (z, y, x) mm."""
    size = np.asarray(size_mm, dtype=np.float64)[::-1]
    shape = np.maximum(np.ceil(size / spacing).astype(int), 1)
    origin = np.asarray(centre, dtype=np.float64) - ((shape - 1) * spacing / 2)[::-1]
    return Grid.from_spacing(
        (int(shape[0]), int(shape[1]), int(shape[2])), spacing, (float(origin[0]), float(origin[1]), float(origin[2]))
    )

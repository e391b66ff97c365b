"""Smooth images with a formula: their values are known anywhere, so that a moved copy needs no interpolation."""

from __future__ import annotations

import numpy as np

from ops.registration.transforms import Affine
from ops.volume import Grid, Volume

OBLIQUE = Affine.rigid([20, -10, 30], [0, 0, 0]).matrix


def make_grid(
    shape: tuple[int, int, int] = (40, 44, 48), spacing: float | tuple[float, float, float] = 3.0, oblique: bool = False
) -> Grid:
    """Lattice about the origin of patient space."""
    steps = (spacing,) * 3 if isinstance(spacing, float) else spacing
    centre = (np.array(shape[::-1]) - 1) * np.array(steps[::-1]) / 2
    grid = Grid.from_spacing(shape, steps, tuple(-centre))
    return Grid(shape, OBLIQUE @ grid.affine) if oblique else grid


def blobs(points: np.ndarray, count: int) -> np.ndarray:
    """Sum of ellipsoidal Gaussians of random place, size and brightness within 50 mm of the origin; ``(..., 3)`` mm."""
    rng = np.random.default_rng(3)
    value = np.zeros(points.shape[:-1])
    for _ in range(count):
        place, width, height = rng.uniform(-38, 38, 3), rng.uniform(7, 15, 3), rng.uniform(0.3, 1)
        value += height * np.exp(-0.5 * (((points - place) / width) ** 2).sum(-1))
    return value


def positions(grid: Grid) -> np.ndarray:
    """LPS mm of every voxel, ``(z, y, x, 3)``."""
    return grid.index_to_patient(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1))


def image(grid: Grid, points: np.ndarray | None = None, count: int = 14) -> Volume:
    """Blobs on a grid, seen at other ``points`` (one per voxel) where given."""
    values = blobs(positions(grid) if points is None else points, count)
    return Volume((1000 * values).astype(np.float32), grid, "a.u.")


def landmarks(radius: float = 40.0, count: int = 60) -> np.ndarray:
    """Points spread within a ball about the origin, ``(count, 3)`` mm."""
    points = np.random.default_rng(11).uniform(-radius, radius, (4 * count, 3))
    return points[np.linalg.norm(points, axis=1) < radius][:count]

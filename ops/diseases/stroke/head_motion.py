"""How far a head moves between the frames of a dynamic scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.volume import Grid, Volume

Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Tissue, bone and contrast lie within; beyond, metal and padding would dominate the fit.
CLIP_HU = (-200.0, 800.0)
# Voxels with the steepest edges that are fitted: those of the skull, which contrast does not change.
EDGE_VOXELS = 20_000
# Points of the brain at which the displacement is averaged.
BRAIN_POINTS = 2000


def displacement_mm(frames: Sequence[Volume], brain: BoolArray) -> FloatArray:
    """Root mean square displacement of the brain in each frame against the first, in mm ``(frames,)``.

    A rigid motion u(p) = t + ω × (p − c) changes voxels by −∇I · u to first order; its six numbers are the least
    squares solution over the steepest edges (gradient method, Lucas & Kanade 1981 [R]). Pixels are averaged two by two
    first. Motion up to about a pixel is measured, larger motion is recognised but underestimated.

    Parameters
    ----------
    frames
        CT in HU on one grid.
    brain
        ``(z, y, x)``, at least one voxel.
    """
    grid = frames[0].grid
    first, coarse = _coarse(frames[0]), _coarse_grid(grid)
    per_index = np.stack(
        [np.gradient(first, axis=axis) if first.shape[axis] > 1 else np.zeros_like(first) for axis in range(3)], axis=-1
    )
    gradient = per_index @ np.linalg.inv(coarse.affine[:3, :3]).astype(np.float32)
    steepness = np.linalg.norm(gradient, axis=-1).ravel()
    n_edges = min(EDGE_VOXELS, steepness.size)
    edges = np.argpartition(steepness, -n_edges)[-n_edges:]
    points = coarse.index_to_patient(np.stack(np.unravel_index(edges, first.shape), axis=1))
    index = np.argwhere(brain)
    inside = grid.index_to_patient(index[:: max(1, len(index) // BRAIN_POINTS)])
    centre = inside.mean(axis=0)
    g = gradient.reshape(-1, 3)[edges].astype(np.float64)
    design = -np.concatenate([g, np.cross(points - centre, g)], axis=1)
    changes = np.stack([_coarse(frame).ravel()[edges] - first.ravel()[edges] for frame in frames], axis=1)
    motion = np.linalg.lstsq(design, changes, rcond=1e-6)[0]
    u = motion[:3].T[:, None, :] + np.cross(motion[3:].T[:, None, :], inside - centre)
    return np.asarray(np.sqrt((u**2).sum(axis=2).mean(axis=1)))


def _coarse(frame: Volume) -> Array:
    """Clipped HU ``(z, y / 2, x / 2)``, the mean of two by two pixels, blurred by one of the new pixels."""
    _, ny, nx = frame.grid.shape
    hu = np.clip(frame.physical(), *CLIP_HU)
    if min(ny, nx) >= 2:
        hu = hu[:, : ny // 2 * 2, : nx // 2 * 2]
        hu = (hu[:, ::2, ::2] + hu[:, 1::2, ::2] + hu[:, ::2, 1::2] + hu[:, 1::2, 1::2]) / 4
    return np.asarray(ndimage.gaussian_filter(hu, (0, 1, 1)))


def _coarse_grid(grid: Grid) -> Grid:
    """Grid of `_coarse`."""
    nz, ny, nx = grid.shape
    if min(ny, nx) < 2:
        return grid
    affine = grid.affine.copy()
    affine[:3, 3] = grid.index_to_patient((0, 0.5, 0.5))
    affine[:3, 1:3] *= 2
    return Grid((nz, ny // 2, nx // 2), affine)

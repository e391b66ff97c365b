"""Bring a volume's axes into patient order (slices towards the head, rows towards the back, columns to the left)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ops.volume import Grid, Volume

# Patient direction (LPS: x left, y posterior, z superior) that the voxel axes k, j, i follow in canonical order.
CANONICAL_COMPONENTS = (2, 1, 0)


def axis_order(grid: Grid) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Find which voxel axis lies closest to each canonical direction, and its sign.

    Parameters
    ----------
    grid
        Any grid, also oblique or sheared.

    Returns
    -------
    order, signs
        ``order[a]`` is the source axis that becomes axis ``a`` of ``(z, y, x)``; ``signs[a]`` is −1 when it must
        be flipped. Axes are assigned greedily from the most to the least aligned, so each is used once.
    """
    alignment = grid.directions[list(CANONICAL_COMPONENTS)]  # rows: S, P, L; columns: k, j, i
    remaining = np.abs(alignment)
    order, signs = [0, 0, 0], [1, 1, 1]
    for _ in range(3):
        row, column = np.unravel_index(int(np.argmax(remaining)), remaining.shape)
        order[row] = int(column)
        signs[row] = 1 if alignment[row, column] >= 0 else -1
        remaining[row, :] = remaining[:, column] = -1.0
    return (order[0], order[1], order[2]), (signs[0], signs[1], signs[2])


def canonical_grid(grid: Grid) -> Grid:
    """Grid of the same voxel centres with its axes permuted and flipped to run +S, +P, +L."""
    order, signs = axis_order(grid)
    affine = grid.affine.copy()
    affine[:3, :3] = affine[:3, list(order)]
    shape = tuple(grid.shape[axis] for axis in order)
    for axis, sign in enumerate(signs):
        if sign < 0:
            affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            affine[:3, axis] *= -1
    return Grid((shape[0], shape[1], shape[2]), affine)


def to_canonical(volume: Volume) -> Volume:
    """Permute and flip a volume so that ``(z, y, x)`` run +S, +P, +L as nearly as its axes allow.

    Returns
    -------
    Volume
        A view of the same voxels (nothing is copied or interpolated) on :func:`canonical_grid`.
    """
    order, signs = axis_order(volume.grid)
    voxels = volume.voxels.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
    return replace(volume, voxels=voxels, grid=canonical_grid(volume.grid))

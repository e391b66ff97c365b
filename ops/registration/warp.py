"""Resample a volume of the moving image onto a grid of the fixed image's space through a transform."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ops.registration.fields import identity, sample, transform_points, units_to_patient
from ops.registration.transforms import Transform
from ops.volume import Grid, Volume

# Points mapped at a time: 2²⁰ × 3 coordinates × 4 bytes = 12 MiB beside the part of the image that they need.
SLAB_POINTS = 2**20


def warp(
    moving: Volume,
    target: Grid,
    transform: Transform,
    fill: float = 0.0,
    nearest: bool = False,
    device: str = "cpu",
) -> Volume:
    """Resample ``moving`` onto ``target``: ``out(p) = moving(T(p))``.

    Interpolation does not average: for a target coarser than the image, resample the image to that spacing first.

    Parameters
    ----------
    moving
        Any orientation; its physical values are interpolated.
    target
        Grid in the space of the fixed image.
    transform
        Maps points of ``target`` to points of ``moving``.
    fill
        Physical value of target voxels that fall outside the field of view of ``moving``.
    nearest
        Nearest voxel instead of trilinear: for label maps, whose type is kept.
    device
        Torch device.

    Returns
    -------
    Volume
        On ``target``; float32 with slope 1, or the stored type for ``nearest``.
    """
    out = np.empty(target.shape, dtype=moving.voxels.dtype if nearest else np.float32)
    slices = max(1, SLAB_POINTS // (target.shape[1] * target.shape[2]))
    for first in range(0, target.shape[0], slices):
        stop = min(first + slices, target.shape[0])
        slab = target.crop((first, 0, 0), (stop, *target.shape[1:]))
        values = _warp_slab(moving, slab, transform, fill, nearest, torch.device(device))
        out[first:stop] = values.cpu().numpy()
    if nearest:
        return Volume(out, target, moving.units, moving.slope, moving.intercept)
    return Volume(out, target, moving.units)


def _warp_slab(
    moving: Volume, slab: Grid, transform: Transform, fill: float, nearest: bool, device: torch.device
) -> Tensor:
    """Values ``(z, y, x)`` on a few slices of the target."""
    matrix = torch.from_numpy(units_to_patient(slab))[None].to(device)
    points = transform.map(transform_points(matrix, _units(slab, device)[None])[0])
    to_index = torch.from_numpy(np.linalg.inv(moving.grid.affine))[None].to(device)
    index = transform_points(to_index, points[None])[0]
    size = torch.tensor(moving.grid.shape, device=device)
    # A voxel reaches half a step beyond its centre; 1e-3 as in ops.preprocess.resample.
    inside = ((index > -0.5 - 1e-3) & (index < size - 0.5 + 1e-3)).all(dim=1)
    stored = (fill - moving.intercept) / moving.slope if nearest else fill
    values = torch.full((index.shape[0],), float(stored), device=device)
    if inside.any():
        values[inside] = _interpolate(moving, index[inside], nearest)
    return values.reshape(slab.shape)


def _units(grid: Grid, device: torch.device) -> Tensor:
    """Lattice units ``(n, 3)`` of all voxels, also of an axis with a single one (where −1 to +1 is no length)."""
    units = identity(grid.shape, device)
    for axis, size in enumerate(reversed(grid.shape)):
        if size == 1:
            units[..., axis] = 0
    return units.reshape(-1, 3)


def _interpolate(moving: Volume, index: Tensor, nearest: bool) -> Tensor:
    """Values ``(n,)`` at fractional indices ``(n, 3)`` (k, j, i): physical, or stored values for ``nearest``.

    Only the box of voxels that the points need becomes float and travels to the device.
    """
    low = index.amin(dim=0).floor().long().clamp(min=0).tolist()
    high = (index.amax(dim=0).ceil().long() + 1).tolist()
    # At least two voxels along each axis where there are two: lattice units need a length.
    low = [min(a, max(0, n - 2)) for a, n in zip(low, moving.grid.shape, strict=True)]
    box = tuple(slice(a, max(b, a + 2)) for a, b in zip(low, high, strict=True))
    part = moving.voxels[box]
    values = torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32))[None, None].to(index.device)
    half = torch.tensor([max(n - 1, 1) / 2 for n in part.shape], dtype=index.dtype, device=index.device)
    units = ((index - torch.tensor(low, device=index.device)) / half - 1).flip(-1)
    found = sample(values, units[None], mode="nearest" if nearest else "bilinear")[0, 0]
    return found if nearest else found * moving.slope + moving.intercept

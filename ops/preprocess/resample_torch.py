"""The same resampling as :mod:`ops.preprocess.resample` on a torch device, and that of labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ops.device import to_device
from ops.preprocess.orientation import axis_order, canonical_grid, to_canonical
from ops.preprocess.resample import SLAB_SLICES, AxisWeights, axis_weights, outside_field, stored_range
from ops.volume import Grid, Volume


def resample_tensor(
    volume: Volume,
    target: Grid,
    clip: tuple[float, float],
    fill: float,
    device: torch.device | str,
) -> Tensor:
    """Resample a volume onto a parallel grid and leave it on the device; see :func:`ops.preprocess.resample.resample`.

    Returns
    -------
    Tensor
        Float32 ``(z, y, x)`` of ``target``, in the volume's units.
    """
    source = to_canonical(volume)
    weights = axis_weights(source.grid, target)
    values = apply_weights_torch(source.voxels, weights, stored_range(volume, clip), device)
    values.mul_(source.slope).add_(source.intercept)
    return _fill(values, source.grid, target, fill)


def apply_weights_torch(
    voxels: npt.NDArray[np.generic], weights: AxisWeights, clip: tuple[float, float], device: torch.device | str
) -> Tensor:
    """Apply three interpolation matrices on a torch device; see :func:`ops.preprocess.resample.apply_weights`.

    Slabs travel to the device as stored integers and become float there; the result stays there.
    """
    z, y, x = (torch.from_numpy(w).to(device) for w in weights)
    slabs = []
    for first in range(0, voxels.shape[0], SLAB_SLICES):
        stored = to_device(np.ascontiguousarray(voxels[first : first + SLAB_SLICES]), device)
        slab = stored.to(torch.float32).clamp(*clip)
        slabs.append(y @ (slab @ x.T))
    reduced = torch.cat(slabs)
    return (z @ reduced.reshape(reduced.shape[0], -1)).reshape(z.shape[0], *reduced.shape[1:])


def resample_labels(labels: Tensor, source: Grid, target: Grid) -> Tensor:
    """Bring a label map to another grid, say from the network's resolution to the scan's.

    Every voxel gets the label whose indicator, interpolated as an image would be, is largest there; so borders are
    as smooth as the interpolation and no label is invented. A tie goes to the lower label.

    Parameters
    ----------
    labels
        Uint8 ``(z, y, x)`` on a canonical grid.
    source
        Its grid.
    target
        Any grid whose axes are parallel to it, in any order and direction.

    Returns
    -------
    Tensor
        Uint8 with the shape and axis order of ``target``, on the device of ``labels``; 0 outside its field of view.

    Raises
    ------
    ValueError
        The grids are not parallel.

    Notes
    -----
    Done by slabs of slices and label by label, so that at no time more than one label of one slab is held as float.
    """
    canonical = canonical_grid(target)
    weights = axis_weights(source, canonical)
    out = torch.empty(canonical.shape, dtype=torch.uint8, device=labels.device)
    for first in range(0, len(out), SLAB_SLICES):
        rows = weights.z[first : first + SLAB_SLICES]
        needed = np.flatnonzero(rows.any(axis=0))
        near = slice(int(needed[0]), int(needed[-1]) + 1)
        slab = AxisWeights(rows[:, near], weights.y, weights.x)
        out[first : first + SLAB_SLICES] = _winning_label(labels[near], slab)
    return _to_axes_of(target, _fill(out, source, canonical, 0))


def _winning_label(labels: Tensor, weights: AxisWeights) -> Tensor:
    """Label with the largest interpolated indicator."""
    z, y, x = (torch.from_numpy(w).to(labels.device) for w in weights)
    shape = len(z), len(y), len(x)
    best = torch.zeros(shape, device=labels.device)
    out = torch.zeros(shape, dtype=torch.uint8, device=labels.device)
    for label in labels.flatten().bincount().nonzero().flatten().tolist():
        reduced = y @ ((labels == label).float() @ x.T)
        share = (z @ reduced.reshape(len(reduced), -1)).reshape(shape)
        wins = share > best
        out[wins] = label
        best = torch.maximum(best, share)
    return out


def _fill(values: Tensor, source: Grid, target: Grid, fill: float) -> Tensor:
    """Set what lies outside the source's field of view, in place."""
    for axis, outside in enumerate(outside_field(source, target)):
        values.index_fill_(axis, torch.from_numpy(np.flatnonzero(outside)).to(values.device), fill)
    return values


def _to_axes_of(grid: Grid, canonical: Tensor) -> Tensor:
    """Undo :func:`ops.preprocess.orientation.to_canonical`: axes in the order and direction of ``grid``."""
    order, signs = axis_order(grid)
    flipped = canonical.flip([axis for axis, sign in enumerate(signs) if sign < 0])
    return flipped.permute(*np.argsort(order).tolist()).contiguous()

"""Resample a volume to another spacing or grid, with anti-aliasing, without a full-resolution float copy.

Along each axis the new samples are weighted means of the old ones under a triangle filter whose half width is the
larger of the two spacings (linear interpolation when refining, an anti-aliasing filter when coarsening: the filter
of Pillow's and torch's ``antialias=True``). The three axes are independent, so resampling is three small matrix
products, the same ones on NumPy and on torch. They are applied to slabs of slices: stored integers become float
only a slab at a time, already at the reduced size after the first product.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ops.preprocess.orientation import canonical_grid, to_canonical
from ops.volume import Grid, Volume

Float32Array = npt.NDArray[np.float32]
BoolVector = npt.NDArray[np.bool_]

# Slices converted to float at a time: 8 × 512 × 512 × 4 bytes = 8 MiB stays within a core's share of the cache.
SLAB_SLICES = 8
# Two axes count as parallel when the sine of their angle is below this: 1e-3 rad moves a voxel 0.3 mm over 300 mm.
PARALLEL_TOLERANCE = 1e-3
# Both implementations sum the same float32 products in another order. Largest difference allowed, relative to the
# largest magnitude in the input; tests hold both to it.
BACKEND_TOLERANCE = 2e-6


class AxisWeights(NamedTuple):
    """Interpolation matrices ``(n_out, n_in)`` float32 of the three axes; rows sum to one."""

    z: Float32Array
    y: Float32Array
    x: Float32Array


def spaced_grid(grid: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """Grid of another spacing over the same field of view, in canonical axis order.

    The field of view (voxel edges, not centres) keeps its centre; the number of samples is the field of view over
    the spacing, rounded, at least one. The result therefore does not depend on how the input's axes run.

    Parameters
    ----------
    grid
        Source grid, any axis order.
    spacing_mm
        New ``(dz, dy, dx)`` mm along the canonical axes, all positive.
    """
    if min(spacing_mm) <= 0:
        raise ValueError(f"spacing {spacing_mm} mm must be positive")
    source = canonical_grid(grid)
    extent = np.multiply(source.shape, source.spacing)
    shape = np.maximum(1, np.rint(extent / spacing_mm).astype(int))
    affine = np.eye(4)
    affine[:3, :3] = source.directions * spacing_mm
    centre = source.index_to_patient((np.array(source.shape) - 1) / 2)
    affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def triangle_weights(positions: npt.NDArray[np.float64], n_in: int, step: float) -> Float32Array:
    """Weights of an anti-aliased linear interpolation along one axis.

    Parameters
    ----------
    positions
        ``(n_out,)`` sample positions in input index units; clamped to the input's range.
    n_in
        Number of input samples.
    step
        Distance between output samples in input index units; above 1 the filter widens to it.

    Returns
    -------
    ndarray
        ``(n_out, n_in)`` float32, rows sum to one; a filter cut by the border is renormalised.
    """
    clamped = np.clip(positions, 0, n_in - 1)
    distance = np.abs(clamped[:, None] - np.arange(n_in)[None, :])
    weights = np.maximum(0.0, 1.0 - distance / max(1.0, step))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def axis_weights(source: Grid, target: Grid) -> AxisWeights:
    """Interpolation matrices from one grid to another whose axes are parallel to it.

    Raises
    ------
    ValueError
        The axes are not parallel (within ``PARALLEL_TOLERANCE``): that needs a rotation, not a resampling.
    """
    misaligned = np.abs(source.directions - target.directions).max()
    if misaligned > PARALLEL_TOLERANCE:
        raise ValueError(
            f"grids are not parallel (direction cosines differ by {misaligned:.4f}, tolerance {PARALLEL_TOLERANCE}); "
            "bring the volume into canonical axis order, or rotate it first"
        )
    start = source.patient_to_index(target.origin)
    steps = np.divide(target.spacing, source.spacing)
    z, y, x = (
        triangle_weights(start[a] + steps[a] * np.arange(target.shape[a]), source.shape[a], steps[a]) for a in range(3)
    )
    return AxisWeights(z, y, x)


def apply_weights(voxels: npt.NDArray[np.generic], weights: AxisWeights, clip: tuple[float, float]) -> Float32Array:
    """Apply three interpolation matrices on the CPU with NumPy.

    Parameters
    ----------
    voxels
        ``(z, y, x)``, any real dtype, read a slab of slices at a time.
    weights
        From :func:`axis_weights`.
    clip
        Stored values are clipped to this range before they are averaged.

    Returns
    -------
    ndarray
        Float32 ``(n_z, n_y, n_x)`` of the target, in stored units.
    """
    reduced = np.empty((voxels.shape[0], weights.y.shape[0], weights.x.shape[0]), dtype=np.float32)
    for first in range(0, voxels.shape[0], SLAB_SLICES):
        slab = np.clip(np.asarray(voxels[first : first + SLAB_SLICES], dtype=np.float32, order="C"), *clip)
        reduced[first : first + SLAB_SLICES] = weights.y @ (slab @ weights.x.T)
    flat = weights.z @ reduced.reshape(voxels.shape[0], -1)
    return flat.reshape(weights.z.shape[0], *reduced.shape[1:])


def resample(
    volume: Volume,
    target: Grid,
    clip: tuple[float, float] = (-np.inf, np.inf),
    fill: float = np.nan,
    device: str | None = None,
) -> Volume:
    """Resample a volume onto a parallel grid, in physical units.

    Parameters
    ----------
    volume
        Any orientation; it is viewed in canonical axis order first.
    target
        Canonical grid parallel to the volume, e.g. from :func:`spaced_grid`.
    clip
        Physical values are clipped to this range before averaging, so that padding far below air (−2000, −8192)
        and metal do not bleed into their neighbours.
    fill
        Value of target voxels whose centre lies outside the volume's field of view.
    device
        ``None`` for NumPy; a torch device (``"cpu"``, ``"cuda:0"``) for torch.

    Returns
    -------
    Volume
        Float32 on ``target``, slope 1, intercept 0.

    Raises
    ------
    ValueError
        ``target`` is not parallel to the volume's canonical grid.
    """
    if device is not None:
        from ops.preprocess.resample_torch import resample_tensor

        return Volume(resample_tensor(volume, target, clip, fill, device).cpu().numpy(), target, units=volume.units)
    source = to_canonical(volume)
    weights = axis_weights(source.grid, target)
    values = apply_weights(source.voxels, weights, stored_range(volume, clip))
    values *= np.float32(source.slope)
    values += np.float32(source.intercept)
    for axis, outside in enumerate(outside_field(source.grid, target)):
        values[(slice(None),) * axis + (outside,)] = fill
    return Volume(values, target, units=volume.units)


def stored_range(volume: Volume, clip: tuple[float, float]) -> tuple[float, float]:
    """Express a range of physical values in a volume's stored values, in rising order."""
    low, high = sorted((limit - volume.intercept) / volume.slope for limit in clip)
    return low, high


def outside_field(source: Grid, target: Grid) -> tuple[BoolVector, BoolVector, BoolVector]:
    """Along each axis, mark target samples more than half a voxel beyond the source's outermost centres."""
    start = source.patient_to_index(target.origin)
    z, y, x = (
        _outside(start[a] + target.spacing[a] / source.spacing[a] * np.arange(target.shape[a]), source.shape[a])
        for a in range(3)
    )
    return z, y, x


def _outside(position: npt.NDArray[np.float64], size: int) -> BoolVector:
    # 1e-3: rounding of header positions must not turn the first or last sample into padding.
    return (position < -0.5 - 1e-3) | (position > size - 0.5 + 1e-3)

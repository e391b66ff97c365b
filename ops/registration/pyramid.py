"""Working lattices: both images of a batch of pairs on small isotropic lattices, coarse to fine, anti-aliased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ops.measure.checks import require_finite, require_not_empty, require_same_grid
from ops.measure.errors import NotEvaluableError
from ops.preprocess.resample import resample, spaced_grid
from ops.registration.fields import stacked_units_to_patient
from ops.volume import Grid, Volume

Float32Array = npt.NDArray[np.float32]

# CT numbers that carry anatomy: below is padding and air, above metal and cortical bone, whose exact value does not
# help to align anything.
CT_RANGE_HU = (-1000.0, 1500.0)
# Intensities beyond these percentiles of the lattice are cut before they are scaled to [0, 1].
LOW_PERCENT, HIGH_PERCENT = 0.1, 99.9
# A lattice needs this many voxels along each axis for gradients and cubic neighbourhoods.
FEWEST_VOXELS = 4
# A voxel counts when half of it is inside the mask; a little less, so that rounding does not decide.
HALF = 0.5 - 1e-3
TINY = 1e-6


@dataclass(frozen=True)
class Level:
    """One image of every pair of a batch, on one lattice size.

    Attributes
    ----------
    values
        ``(B, 1, z, y, x)`` float32 in [0, 1].
    mask
        ``(B, 1, z, y, x)`` float32: 1 where the image counts, 0 in padding and outside the mask.
    grids
        Lattice of each, of the common (padded) shape.
    """

    values: Tensor
    mask: Tensor
    grids: tuple[Grid, ...]

    @property
    def matrices(self) -> Tensor:
        """``(B, 4, 4)`` float64, lattice units → patient LPS mm."""
        return stacked_units_to_patient(self.grids, self.values.device)


@dataclass(frozen=True)
class Lattice:
    """One image on one working lattice.

    Attributes
    ----------
    values, mask
        ``(z, y, x)`` float32: intensities in [0, 1], and 1 where the image counts.
    grid
        Where the voxels lie.
    scale
        Physical values that became 0 and 1.
    """

    values: Float32Array
    mask: Float32Array
    grid: Grid
    scale: tuple[float, float]


def working_lattices(
    volume: Volume, mask: Volume | None, spacings_mm: Sequence[float], scale: tuple[float, float] | None, device: str
) -> list[Lattice]:
    """One image on isotropic lattices, coarsest first.

    The finest is made from the volume, each coarser one from the finest: full resolution is read once.

    Parameters
    ----------
    volume
        Image in physical units.
    mask
        Nonzero where the image counts, on the volume's grid; ``None``: everywhere. Nothing outside it bleeds in.
    spacings_mm
        Descending.
    scale
        Physical values that become 0 and 1; ``None``: this image's own percentiles.
    device
        Torch device for the resampling.

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``too_few_slices``, ``flat_image``, ``empty_mask`` or ``grid_mismatch``.
    """
    require_finite(volume)
    grid = _lattice_grid(volume.grid, spacings_mm[-1])
    clip = CT_RANGE_HU if volume.units == "HU" else (-np.inf, np.inf)
    if mask is None:
        finest = resample(volume, grid, clip, device=device).physical()
        weights = np.ones(grid.shape, dtype=np.float32)
    else:
        require_same_grid(volume, mask)
        require_not_empty(mask.voxels != 0, "the region that counts")
        finest, weights = _masked_mean(np.clip(volume.physical(), *clip), mask.voxels != 0, volume.grid, grid, device)
    low, high = scale or _intensity_range(finest, weights)
    values = np.clip((finest - low) / (high - low), 0, 1).astype(np.float32)
    lattices = [Lattice(values, weights, grid, (low, high))]
    for spacing in reversed(spacings_mm[:-1]):
        fine = lattices[0]
        coarse = _lattice_grid(fine.grid, spacing)
        values, weights = _masked_mean(fine.values, fine.mask > 0, fine.grid, coarse, device)
        lattices.insert(0, Lattice(values, weights, coarse, fine.scale))
    return lattices


def _lattice_grid(grid: Grid, spacing: float) -> Grid:
    """Isotropic lattice over a grid's field of view, refused where it is too thin to be registered."""
    lattice = spaced_grid(grid, (spacing, spacing, spacing))
    if min(grid.shape) < FEWEST_VOXELS or min(lattice.shape) < FEWEST_VOXELS:
        detail = f"{grid.shape} voxels of {tuple(round(s, 2) for s in grid.spacing)} mm leave {lattice.shape} at "
        raise NotEvaluableError("too_few_slices", f"{detail}{spacing} mm; at least {FEWEST_VOXELS} along each axis")
    return lattice


def _masked_mean(
    values: Float32Array, inside: npt.NDArray[np.bool_], grid: Grid, coarse: Grid, device: str
) -> tuple[Float32Array, Float32Array]:
    """Mean of the values inside a mask at every voxel of a coarser lattice, and 1 where half of the voxel is inside."""
    if inside.all():
        mean = resample(Volume(values, grid, "a.u."), coarse, device=device).physical()
        return mean, np.ones(coarse.shape, np.float32)
    total = resample(Volume(np.where(inside, values, 0), grid, "a.u."), coarse, fill=0.0, device=device).physical()
    share = resample(Volume(inside.astype(np.float32), grid, "a.u."), coarse, fill=0.0, device=device).physical()
    weights = (share >= HALF).astype(np.float32)
    require_not_empty(weights > 0, f"the region that counts at {coarse.spacing[0]:g} mm")
    return np.asarray(total / np.maximum(share, TINY), np.float32), weights


def _intensity_range(values: npt.NDArray[np.floating], weights: Float32Array) -> tuple[float, float]:
    """Physical values that become 0 and 1: percentiles within the mask.

    Raises
    ------
    NotEvaluableError
        ``flat_image``: they are equal.
    """
    low, high = np.percentile(values[weights > 0], (LOW_PERCENT, HIGH_PERCENT))
    if not high > low:
        raise NotEvaluableError("flat_image", f"the image is {low:g} everywhere within its mask")
    return float(low), float(high)


def stack(lattices: Sequence[Lattice], device: str) -> Level:
    """Put lattices of different shapes into one batch, padded behind with zero weight to a common, odd shape.

    Odd, so that every second voxel of it spans the same extent (:func:`ops.registration.fields.halve`).
    """
    shape = tuple(int(n) // 2 * 2 + 1 for n in np.max([lattice.grid.shape for lattice in lattices], axis=0))
    tensors = []
    for arrays in ([lattice.values for lattice in lattices], [lattice.mask for lattice in lattices]):
        padded = np.zeros((len(lattices), 1, *shape), dtype=np.float32)
        for target, array in zip(padded, arrays, strict=True):
            target[0, : array.shape[0], : array.shape[1], : array.shape[2]] = array
        tensors.append(torch.from_numpy(padded).to(device))
    grids = tuple(Grid((shape[0], shape[1], shape[2]), lattice.grid.affine) for lattice in lattices)
    return Level(tensors[0], tensors[1], grids)

"""Self-similarity context: descriptors of local structure that look alike in images of different modalities.

MIND-SSC of Heinrich 2013 (MICCAI, LNCS 8149:187). The six face neighbours of a voxel form twelve pairs that do not lie
opposite each other. How unlike the patches about the two of a pair are, relative to the mean of the twelve, is decided
by the shape of the tissue there and not by its brightness.
"""

from __future__ import annotations

from itertools import combinations, product

import torch
from torch import Tensor

from ops.registration.fields import box_mean

Offset = tuple[int, int, int]

# Distance of the neighbours from the voxel, and half width of the patches about them, in voxels of a working lattice.
# The authors take two at full resolution; at 2 mm two carried fewer labels from one head to another than one did.
DISTANCE = 1
PATCH_RADIUS = 1
# The mean of a voxel's twelve distances is kept within these multiples of the image's mean. What is below the lower one
# counts as noise: 0.001 in the authors' program, with which air and flat tissue pulled too.
LEAST_SPREAD, LARGEST_SPREAD = 0.3, 1e3
TINY = 1e-12


def neighbour_pairs() -> list[tuple[Offset, Offset]]:
    """Offsets (z, y, x) in voxels of the twelve pairs of face neighbours that do not lie opposite each other."""
    faces = list(product(range(3), (-DISTANCE, DISTANCE)))
    return [(_offset(*a), _offset(*b)) for a, b in combinations(faces, 2) if a[0] != b[0]]


def _offset(axis: int, step: int) -> Offset:
    """Step along one axis."""
    z, y, x = (step if axis == other else 0 for other in range(3))
    return z, y, x


def describe(values: Tensor, weights: Tensor) -> Tensor:
    """Describe every voxel: ``(B, 12, z, y, x)`` in [0, 1], 1 for the most alike pair. Differentiable.

    Parameters
    ----------
    values
        Intensities ``(B, 1, z, y, x)``.
    weights
        Of the same shape. Voxels of weight zero, outside a mask or a field of view, take no part in any patch; two
        patches that share no counted voxel pass for alike.
    """
    unlike = torch.cat([_patch_distance(values, weights, *pair) for pair in neighbour_pairs()], dim=1)
    unlike = unlike - unlike.amin(dim=1, keepdim=True)
    spread = unlike.mean(dim=1, keepdim=True)
    total = weights.sum((2, 3, 4), keepdim=True).clamp(min=TINY)
    typical = (weights * spread).sum((2, 3, 4), keepdim=True) / total
    spread = torch.minimum(torch.maximum(spread, LEAST_SPREAD * typical), LARGEST_SPREAD * typical)
    return torch.exp(-unlike / (spread + TINY))


def _patch_distance(values: Tensor, weights: Tensor, first: Offset, second: Offset) -> Tensor:
    """Weighted mean squared difference of the patches about two neighbours of every voxel, ``(B, 1, z, y, x)``."""
    counted = _shift(weights, first) * _shift(weights, second)
    squares = (_shift(values, first) - _shift(values, second)) ** 2
    total, share = box_mean(torch.cat([counted * squares, counted], dim=1), PATCH_RADIUS).chunk(2, dim=1)
    return total / share.clamp(min=TINY)


def _shift(fields: Tensor, offset: Offset) -> Tensor:
    """Value at ``offset`` from every voxel; the nearest value continues beyond the border."""
    for axis, step in enumerate(offset, start=2):
        if step:
            size = fields.shape[axis]
            index = (torch.arange(size, device=fields.device) + step).clamp(0, size - 1)
            fields = fields.index_select(axis, index)
    return fields

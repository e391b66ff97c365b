"""Similarity of two images: squared differences, global and local correlation, Mattes mutual information, MIND.

Every function takes the values of the fixed and of the moving image at the same points and the weight of each point
(0 outside a mask or a field of view), for a batch of pairs at once, and is differentiable in the moving values and the
weights. Intensities are expected in [0, 1] (:mod:`ops.registration.pyramid`).
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from ops.registration.fields import box_mean
from ops.registration.self_similarity import describe

# Bins of the joint histogram: 50 in Mattes 2003 (IEEE TMI 22:120), 32 in elastix's parameter database.
BINS = 32
# A cubic B-spline Parzen window reaches two bins to either side.
MARGIN_BINS = 2
# Bins that intensities in [0, 1] fall into.
CELLS = BINS - 2 * MARGIN_BINS
# Variance below which a neighbourhood counts as flat: (0.3 % of the intensity range)².
FLAT_VARIANCE = 1e-5
# Half width of the neighbourhood of the local correlation: 5³ voxels (ANTs' usual radius is 4 at full resolution,
# Avants 2008, MedIA 12:26; on a working lattice of 2 mm a radius of 2 spans the same tissue).
LOCAL_RADIUS = 2
# A neighbourhood counts where at least one of its 125 voxels does.
SMALLEST_SHARE = 1 / 125
TINY = 1e-12


class Metric(StrEnum):
    """What is optimised; ``mind`` is the squared difference of the images' :mod:`ops.registration.self_similarity`."""

    SSD = "ssd"
    NCC = "ncc"
    LNCC = "lncc"
    MI = "mi"
    MIND = "mind"

    @property
    def needs_neighbours(self) -> bool:
        """True when it compares neighbourhoods, so that sampled points are not enough."""
        return self in (Metric.LNCC, Metric.MIND)

    @property
    def is_difference(self) -> bool:
        """True when lower values are better."""
        return self in (Metric.SSD, Metric.MIND)


def ssd(fixed: Tensor, moving: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean squared difference of ``(B, n)`` values, ``(B,)``: 0 for equal images."""
    return (weights * (fixed - moving) ** 2).sum(1) / weights.sum(1).clamp(min=TINY)


def ncc(fixed: Tensor, moving: Tensor, weights: Tensor) -> Tensor:
    """Weighted Pearson correlation of ``(B, n)`` values, ``(B,)`` in [−1, 1]; 0 where an image is flat."""
    total = weights.sum(1, keepdim=True).clamp(min=TINY)
    a = fixed - (weights * fixed).sum(1, keepdim=True) / total
    b = moving - (weights * moving).sum(1, keepdim=True) / total
    covariance = (weights * a * b).sum(1)
    return covariance / ((weights * a * a).sum(1) * (weights * b * b).sum(1)).clamp(min=TINY).sqrt()


def lncc(fixed: Tensor, moving: Tensor, weights: Tensor) -> Tensor:
    """Mean squared correlation within cubes of ``2 · LOCAL_RADIUS + 1`` voxels, ``(B,)`` in [0, 1].

    The sign of the contrast does not matter (Avants 2008, MedIA 12:26).

    Parameters
    ----------
    fixed, moving, weights
        ``(B, z, y, x)``.
    """
    share, mean_f, ff = box_mean(torch.stack([weights, weights * fixed, weights * fixed**2], 1), LOCAL_RADIUS).unbind(1)
    wm = weights * moving
    mean_m, mm, fm = box_mean(torch.stack([wm, wm * moving, wm * fixed], dim=1), LOCAL_RADIUS).unbind(1)
    scale = 1 / share.clamp(min=SMALLEST_SHARE)
    mean_f, mean_m = mean_f * scale, mean_m * scale
    covariance = fm * scale - mean_f * mean_m
    variances = (ff * scale - mean_f**2 + FLAT_VARIANCE) * (mm * scale - mean_m**2 + FLAT_VARIANCE)
    return (weights * covariance**2 / variances).sum((1, 2, 3)) / weights.sum((1, 2, 3)).clamp(min=TINY)


def mind(fixed: Tensor, moving: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean squared difference of the descriptors of ``(B, z, y, x)`` intensities, ``(B,)`` in [0, 1]."""
    first, second = (describe(values[:, None], weights[:, None]) for values in (fixed, moving))
    counted = weights[:, None].expand_as(first)
    return ssd(first.flatten(1), second.flatten(1), counted.flatten(1))


def joint_histogram(fixed: Tensor, moving: Tensor, weights: Tensor) -> Tensor:
    """Joint probabilities ``(B, BINS, BINS)`` of ``(B, n)`` intensities in [0, 1], fixed along the first axis.

    Parzen windows as in Mattes 2003 (IEEE TMI 22:120): zero-order B-spline for the fixed image, cubic for the moving.
    """
    row = (fixed * CELLS).long().clamp(0, CELLS - 1) + MARGIN_BINS
    position = moving.clamp(0, 1) * (CELLS - 1) + MARGIN_BINS
    column = position.detach().long()
    parzen = _cubic_weights(position - column) * weights
    pair = torch.arange(len(fixed), device=fixed.device)[:, None] * BINS + row
    target = pair * BINS + column + torch.arange(-1, 3, device=fixed.device)[:, None, None]
    flat = torch.zeros(len(fixed) * BINS * BINS, dtype=parzen.dtype, device=parzen.device)
    histogram = flat.index_add(0, target.reshape(-1), parzen.reshape(-1)).reshape(len(fixed), BINS, BINS)
    return histogram / weights.sum(1).clamp(min=TINY)[:, None, None]


def _cubic_weights(t: Tensor) -> Tensor:
    """Cubic B-spline at −1−t, −t, 1−t and 2−t for ``t`` in [0, 1), stacked first (they sum to one)."""
    s = 1 - t
    t2, s2 = t * t, s * s
    return torch.stack([s2 * s, 4 - 3 * t2 * (1 + s), 4 - 3 * s2 * (1 + t), t2 * t]) / 6


def mattes_mi(fixed: Tensor, moving: Tensor, weights: Tensor) -> Tensor:
    """Mutual information in nats of ``(B, n)`` intensities, ``(B,)``, from :func:`joint_histogram`."""
    joint = joint_histogram(fixed, moving, weights)
    return _entropy(joint.sum(2)) + _entropy(joint.sum(1)) - _entropy(joint.flatten(1))


def shared_information(fixed: Tensor, moving: Tensor, weights: Tensor) -> Tensor:
    """Mutual information over the smaller of the two entropies, ``(B,)`` in [0, 1]: comparable between pairs."""
    joint = joint_histogram(fixed, moving, weights)
    first, second = _entropy(joint.sum(2)), _entropy(joint.sum(1))
    shared = first + second - _entropy(joint.flatten(1))
    return shared / torch.minimum(first, second).clamp(min=1e-6)


def _entropy(p: Tensor) -> Tensor:
    """−Σ p ln p of ``(B, n)`` probabilities in nats."""
    return -(p * p.clamp(min=TINY).log()).sum(1)


def cost(metric: Metric, fixed: Tensor, moving: Tensor, weights: Tensor) -> Tensor:
    """Return what an optimiser lowers, ``(B,)``: the difference itself, or the negative similarity.

    ``(B, n)`` values; ``(B, z, y, x)`` for metrics that need neighbours, and allowed for all.
    """
    if metric is Metric.MIND:
        return mind(fixed, moving, weights)
    if metric is Metric.LNCC:
        return -lncc(fixed, moving, weights)
    flat = (fixed.flatten(1), moving.flatten(1), weights.flatten(1))
    if metric is Metric.SSD:
        return ssd(*flat)
    return -ncc(*flat) if metric is Metric.NCC else -mattes_mi(*flat)

"""Rigid and affine registration: many starts at the coarsest level, then BFGS on sampled points, coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import torch
from torch import Tensor

from ops.registration.fields import sample, transform_points
from ops.registration.optimise import Schedule, minimise
from ops.registration.pyramid import Level
from ops.registration.similarity import Metric, cost

# Sampled points of the coarsest level, where every start is tried, and of the others.
COARSE_SAMPLES, SAMPLES = 8_000, 40_000
# Starts that are optimised at the coarsest level.
BEST_STARTS = 4
# A transform under which a smaller part of the fixed samples meets the moving image is not considered: with little
# overlap any similarity can be large by chance.
LEAST_OVERLAP = 0.25
# Price of squared logarithmic stretches, in the unit of each metric. In a small field of view an affine map may gain
# mutual information by shrinking the image into one tissue (seen on a thigh: volume times 20); stretches of 8 % cost
# 0.004 nats at most.
STRETCH_PRICE = {Metric.MI: 0.1, Metric.NCC: 0.1, Metric.SSD: 0.001}
SEED = 2026


class LinearModel(StrEnum):
    """Freedom of a linear map."""

    RIGID = "rigid"
    AFFINE = "affine"


@dataclass(frozen=True)
class Samples:
    """Points of the fixed image of each case.

    Attributes
    ----------
    centres
        ``(B, 3)`` float64, mean position in LPS mm.
    points
        ``(B, n, 3)`` float32, LPS mm from the centre.
    values, weights
        ``(B, n)`` intensities in [0, 1] and weights.
    """

    centres: Tensor
    points: Tensor
    values: Tensor
    weights: Tensor

    @cached_property
    def radii(self) -> Tensor:
        """Root mean square distance from the centre in mm, ``(B,)``: what one radian moves the points by."""
        return (self.points.double() ** 2).sum(2).mean(1).sqrt()


def draw_samples(level: Level, count: int) -> Samples:
    """Points spread evenly over the mask of each case, off the lattice by chance (the same chance every time).

    On the lattice itself, interpolation would blur all values of one image alike at every voxel shift, and the
    similarity would have ripples of one voxel (Pluim 2000, CVIU 77:211).
    """
    chance = torch.Generator().manual_seed(SEED)
    units = []
    size = torch.tensor(level.values.shape[-3:])
    for mask in level.mask[:, 0].cpu():
        voxels = mask.nonzero()
        rank = (torch.arange(count) + torch.rand(count, generator=chance)) * (len(voxels) / count)
        index = voxels[rank.long().clamp(max=len(voxels) - 1)] + torch.rand(count, 3, generator=chance) - 0.5
        units.append((2 * index / (size - 1) - 1).flip(1).clamp(-1, 1))
    places = torch.stack(units).to(level.values.device)
    points = transform_points(level.matrices, places.double())
    centres = points.mean(1)
    values, weights = sample(torch.cat([level.values, level.mask], dim=1), places).unbind(1)
    return Samples(centres, (points - centres[:, None]).float(), values, weights)


def motion(parameters: Tensor, radii: Tensor) -> Tensor:
    """Linear maps near the identity, ``(B, 4, 4)``.

    Parameters
    ----------
    parameters
        ``(B, 6)`` translation and rotation, or ``(B, 12)`` translation, rotation and stretch, in mm at the radius.
        The linear part is the exponential of a matrix, so it never mirrors or collapses (Lie group parameters).
    radii
        ``(B,)`` in mm.
    """
    basis = _generators(parameters)
    generator = torch.tensordot(parameters[:, 3:] / radii[:, None], basis, dims=1)
    top = torch.cat([torch.matrix_exp(generator), parameters[:, :3, None]], dim=2)
    last = parameters.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(parameters), 1, 4)
    return torch.cat([top, last], dim=1)


def _generators(parameters: Tensor) -> Tensor:
    """Three rotations, and for 12 parameters six symmetric stretches, ``(k, 3, 3)``."""
    pairs = [(2, 1), (0, 2), (1, 0)]
    basis = parameters.new_zeros(parameters.shape[1] - 3, 3, 3)
    for k, (i, j) in enumerate(pairs):
        basis[k, i, j], basis[k, j, i] = 1, -1
        if len(basis) > 3:
            basis[3 + k, i, j] = basis[3 + k, j, i] = 1
            basis[6 + k, k, k] = 1
    return basis


@dataclass(frozen=True)
class LinearProblem:
    """What the optimiser sees: parameters → cost, for ``K`` bases of each of ``B`` cases.

    Attributes
    ----------
    metric
        Any but the local correlation, which needs a lattice.
    samples, moving
        Of the same ``B`` cases.
    bases
        ``(B, K, 4, 4)`` float64, LPS mm → LPS mm: applied after the motion of the parameters.
    """

    metric: Metric
    samples: Samples
    moving: Level
    bases: Tensor

    def matrices(self, parameters: Tensor) -> Tensor:
        """Whole maps ``(B, K, 4, 4)``: the motion about the samples' centre, then the base."""
        count = self.bases.shape[1]
        near = motion(parameters, self.samples.radii.repeat_interleave(count)).reshape(-1, count, 4, 4)
        whole: Tensor = self.bases @ self._centring(1) @ near @ self._centring(-1)
        return whole

    def _centring(self, sign: int) -> Tensor:
        """Shift ``(B, 1, 4, 4)`` by plus or minus the centre."""
        shift = torch.eye(4, dtype=torch.float64, device=self.bases.device).repeat(len(self.bases), 1, 1)
        shift[:, :3, 3] = sign * self.samples.centres
        return shift[:, None]

    def __call__(self, parameters: Tensor) -> Tensor:
        """Cost ``(B·K,)`` of parameters ``(B·K, n)``; infinite where the images hardly meet."""
        cases, count = self.bases.shape[:2]
        from_centre = torch.linalg.inv(self.moving.matrices)[:, None] @ self.matrices(parameters) @ self._centring(1)
        points = self.samples.points.repeat_interleave(count, dim=0)
        places = transform_points(from_centre.flatten(0, 1), points).reshape(cases, count, -1, 3)
        found = sample(self.moving.values, places)[:, 0].flatten(0, 1)
        met = sample(self.moving.mask, places, padding="zeros")[:, 0].flatten(0, 1)
        fixed, weights = (t.repeat_interleave(count, dim=0) for t in (self.samples.values, self.samples.weights))
        shared = weights * met
        stretches = parameters[:, 6:] / self.samples.radii.repeat_interleave(count)[:, None]
        value = cost(self.metric, fixed, found, shared) + STRETCH_PRICE[self.metric] * (stretches**2).sum(1)
        return torch.where(shared.sum(1) >= LEAST_OVERLAP * weights.sum(1), value, torch.inf)


def parameter_count(model: LinearModel) -> int:
    """Six of a rigid map, twelve of an affine one."""
    return 6 if model is LinearModel.RIGID else 12


def best_starts(fixed: Level, moving: Level, candidates: Tensor, metric: Metric) -> Tensor:
    """Best of many candidates per case after rigid optimisation of the most promising, ``(B, 4, 4)``.

    Parameters
    ----------
    fixed, moving
        Coarsest level.
    candidates
        ``(B, S, 4, 4)`` from :func:`ops.registration.starts.start_matrices`.
    metric
        As in :class:`LinearProblem`.
    """
    samples = draw_samples(fixed, COARSE_SAMPLES)
    everywhere = LinearProblem(metric, samples, moving, candidates)
    with torch.no_grad():
        costs = everywhere(candidates.new_zeros(candidates.shape[0] * candidates.shape[1], 6))
    order = costs.reshape(candidates.shape[:2]).argsort(dim=1)[:, :BEST_STARTS]
    chosen = candidates.gather(1, order[:, :, None, None].expand(-1, -1, 4, 4))
    problem = LinearProblem(metric, samples, moving, chosen)
    spacing = fixed.grids[0].spacing[0]
    schedule = Schedule(first_step=spacing, longest_step=2 * spacing, tolerance=spacing / 50, iterations=30)
    found, values = minimise(problem, chosen.new_zeros(chosen.shape[0] * chosen.shape[1], 6), schedule)
    best = values.reshape(chosen.shape[:2]).argmin(dim=1)
    return problem.matrices(found)[torch.arange(len(best), device=best.device), best]


def refine(
    fixed: Sequence[Level], moving: Sequence[Level], start: Tensor, metric: Metric, model: LinearModel
) -> Tensor:
    """Optimise a linear map level by level, ``(B, 4, 4)`` → ``(B, 4, 4)``; the coarsest of several served the start."""
    first_level = min(1, len(fixed) - 1)
    for first, second in zip(fixed[first_level:], moving[first_level:], strict=True):
        problem = LinearProblem(metric, draw_samples(first, SAMPLES), second, start[:, None])
        spacing = first.grids[0].spacing[0]
        schedule = Schedule(first_step=spacing / 4, longest_step=2 * spacing, tolerance=spacing / 400, iterations=40)
        found, _ = minimise(problem, start.new_zeros(len(start), parameter_count(model)), schedule)
        start = problem.matrices(found)[:, 0]
    return start

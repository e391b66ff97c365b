"""Deformable registration by a stationary velocity field: log-domain demons for any differentiable similarity.

Vercauteren 2008 (MICCAI, LNCS 5241:754): the force of the current warp is smoothed (fluid regularisation), added to
the velocity field, which is smoothed again (diffusion regularisation); the map is the exponential of the velocity, so
it is a diffeomorphism and its inverse is the exponential of the opposite velocity. The force is the derivative of the
similarity by the warped intensities times the gradient of the warped image, damped as in Thirion 1998 (MedIA 2:243).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ops.registration.fields import (
    double,
    exponentiate,
    gradient,
    half_shape,
    halve,
    identity,
    sample,
    smooth,
    transform_points,
    voxels_per_unit,
)
from ops.registration.pyramid import Level
from ops.registration.self_similarity import describe
from ops.registration.similarity import Metric, cost

TINY = 1e-12
# A step is halved when the similarity falls, and a level ends when every case's step is below the shortest.
SHORTEST_STEP_VOXELS = 0.05
# Gradients well below the image's root mean square gradient are noise: there the force is damped.
DAMPING = 1.0


@dataclass(frozen=True)
class Regularity:
    """How smooth and how long.

    Attributes
    ----------
    fluid_voxels, diffusion_voxels
        Standard deviation of the Gaussian that smooths every update, and the velocity itself, in voxels of the
        velocity's lattice: every second voxel of the level's.
    step_voxels
        Largest displacement of one update, in the same voxels.
    iterations
        Largest number of updates at each level, coarsest first.
    """

    fluid_voxels: float = 1.0
    diffusion_voxels: float = 0.5
    step_voxels: float = 0.5
    iterations: tuple[int, ...] = (40, 40, 20)

    def __post_init__(self) -> None:
        if min(self.fluid_voxels, self.step_voxels) <= 0 or self.diffusion_voxels < 0 or min(self.iterations) < 0:
            raise ValueError(f"smoothing, step and iterations must be positive: {self}")


def usual_regularity(metric: Metric) -> Regularity:
    """Give what carried labels best between two heads: descriptors need a smoother field than intensities."""
    return Regularity(diffusion_voxels=0.7) if metric is Metric.MIND else Regularity()


def estimate_velocity(
    fixed: Sequence[Level], moving: Sequence[Level], linear: Tensor, metric: Metric, regularity: Regularity
) -> Tensor:
    """Velocity fields of a batch in lattice units, ``(B, 3, z, y, x)`` on every second voxel of the finest lattice.

    The field is far smoother than the images: half the lattice loses nothing of it and costs an eighth.

    Parameters
    ----------
    fixed, moving
        Levels, coarsest first; as many as ``regularity.iterations``.
    linear
        ``(B, 4, 4)`` float64, LPS mm → LPS mm, applied after the flow of the velocity.
    metric, regularity
        What is optimised and how.
    """
    velocity = torch.zeros(len(linear), 3, *half_shape(fixed[0].values.shape), device=linear.device)
    previous = fixed[0]
    for first, second, iterations in zip(fixed, moving, regularity.iterations, strict=True):
        velocity = _carry_over(velocity, previous, first)
        scene = _scene(first, align(first, second, linear), metric)
        velocity = _level(scene, velocity, regularity, iterations)
        previous = first
    return velocity


@dataclass(frozen=True)
class Scene:
    """What one level compares.

    Attributes
    ----------
    fixed
        Channels of the fixed image, ``(B, C, z, y, x)``: its intensities, or their descriptors.
    mask
        ``(B, 1, z, y, x)``, of the fixed image.
    moving
        As many channels of the moving image on the fixed lattice, then its mask, ``(B, C + 1, z, y, x)``.
    metric
        By which each channel is compared.
    """

    fixed: Tensor
    mask: Tensor
    moving: Tensor
    metric: Metric


def _scene(fixed: Level, aligned: Tensor, metric: Metric) -> Scene:
    """Images as they are, or for ``mind`` their descriptors, which are warped like images (Heinrich 2013)."""
    if metric is not Metric.MIND:
        return Scene(fixed.values, fixed.mask, aligned, metric)
    values, mask = aligned.chunk(2, dim=1)
    moving = torch.cat([describe(values, mask), mask], dim=1)
    return Scene(describe(fixed.values, fixed.mask), fixed.mask, moving, Metric.SSD)


def align(fixed: Level, moving: Level, linear: Tensor) -> Tensor:
    """Values and mask of the moving image on the fixed lattice through a linear map, ``(B, 2, z, y, x)``."""
    lattice = identity(fixed.values.shape, fixed.values.device).reshape(1, -1, 3).expand(len(linear), -1, -1)
    to_moving = torch.linalg.inv(moving.matrices) @ linear @ fixed.matrices
    places = transform_points(to_moving, lattice)
    values, mask = sample(moving.values, places), sample(moving.mask, places, padding="zeros")
    return torch.cat([values, mask], dim=1).reshape(len(linear), 2, *fixed.values.shape[-3:])


def _carry_over(velocity: Tensor, old: Level, new: Level) -> Tensor:
    """Velocity on the lattice of the next level."""
    if old is new:
        return velocity
    shape = half_shape(new.values.shape)
    lattice = identity(shape, velocity.device).reshape(1, -1, 3).expand(len(velocity), -1, -1)
    back = torch.linalg.inv(old.matrices) @ new.matrices
    vectors = sample(velocity, transform_points(back, lattice))
    turned: Tensor = torch.linalg.inv(back)[:, :3, :3].to(velocity.dtype) @ vectors
    return turned.reshape(len(velocity), 3, *shape)


def _level(scene: Scene, velocity: Tensor, regularity: Regularity, iterations: int) -> Tensor:
    """Improve the velocities of a batch at one level."""
    coarse, fine = (identity(t.shape, velocity.device) for t in (velocity, scene.moving))
    steps = torch.full((len(velocity),), regularity.step_voxels, device=velocity.device)
    last = torch.full_like(steps, torch.inf)
    for _ in range(iterations):
        places = fine + double(exponentiate(velocity, coarse), scene.moving.shape).movedim(1, -1)
        value, force = _force(scene, places)
        steps = torch.where(value > last, steps / 2, steps)
        last = value
        if bool((steps < SHORTEST_STEP_VOXELS).all()):
            break
        update = smooth(halve(force), regularity.fluid_voxels)
        update = _limit(update, steps[:, None, None, None, None]) / voxels_per_unit(update.shape, update)
        velocity = _keep_inside(smooth(velocity + update, regularity.diffusion_voxels))
    return velocity


def _limit(update: Tensor, longest: Tensor) -> Tensor:
    """Scale vectors so that a typical large one (three times the root mean square) is ``longest``, and cut longer."""
    length = update.norm(dim=1, keepdim=True)
    typical = 3 * (length**2).mean((2, 3, 4), keepdim=True).sqrt().clamp(min=TINY)
    limited: Tensor = update * (longest / torch.maximum(length, typical))
    return limited


def _keep_inside(velocity: Tensor) -> Tensor:
    """Let nothing flow through the faces of the lattice: it then maps onto itself, and exp(−v) undoes exp(v)."""
    for channel, axis in enumerate((3, 2, 1)):
        component = velocity[:, channel]
        component.narrow(axis, 0, 1).zero_()
        component.narrow(axis, component.shape[axis] - 1, 1).zero_()
    return velocity


def _force(scene: Scene, places: Tensor) -> tuple[Tensor, Tensor]:
    """Cost ``(B,)`` and descent direction ``(B, 3, z, y, x)`` per voxel, x y z order, of arbitrary length.

    Every channel pulls along its own gradient; the sum is damped by the gradients' total energy.
    """
    warped = sample(scene.moving, places)
    weights = scene.mask * warped[:, -1:]
    moved = warped[:, :-1].detach().requires_grad_()
    value = _channel_mean(scene, moved, weights)
    (slope,) = torch.autograd.grad(value.sum(), moved)
    pull, energy = torch.zeros_like(places).movedim(-1, 1), torch.zeros_like(weights)
    for channel in range(moved.shape[1]):
        steepness = gradient(warped[:, channel : channel + 1])
        pull -= slope[:, channel : channel + 1] * steepness
        energy += (steepness**2).sum(dim=1, keepdim=True)
    typical = (weights * energy).sum((2, 3, 4), keepdim=True) / weights.sum((2, 3, 4), keepdim=True).clamp(min=TINY)
    return value.detach(), weights.sign() * pull / (energy + DAMPING * typical + TINY)


def _channel_mean(scene: Scene, moved: Tensor, weights: Tensor) -> Tensor:
    """Mean cost of the channels, ``(B,)``."""
    counted = weights.expand_as(moved)
    return cost(scene.metric, *(t.flatten(0, 1) for t in (scene.fixed, moved, counted))).reshape(len(moved), -1).mean(1)

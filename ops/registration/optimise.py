"""A small batched quasi-Newton optimiser: many independent problems of a few parameters, one evaluation for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Armijo's condition and halving of the step: Nocedal & Wright, Numerical Optimization (2006), algorithm 3.1 [R].
SUFFICIENT_DECREASE = 1e-4
BACKTRACK = 0.4
MOST_BACKTRACKS = 6
TINY = 1e-20


@dataclass(frozen=True)
class Schedule:
    """How far and how long to optimise; parameters are lengths in mm.

    Attributes
    ----------
    first_step, longest_step
        Length of the first step and the largest allowed.
    tolerance
        Stop when a step is shorter.
    iterations
        Largest number of steps.
    """

    first_step: float
    longest_step: float
    tolerance: float
    iterations: int


def minimise(function: Callable[[Tensor], Tensor], start: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Minimise ``B`` functions of ``n`` parameters with BFGS (Nocedal & Wright 2006, algorithm 6.1).

    Parameters
    ----------
    function
        ``(B, n)`` → ``(B,)``, differentiable; row b depends on row b only. Infinite where a point is not allowed.
    start
        ``(B, n)`` float64.
    schedule
        Steps and tolerance.

    Returns
    -------
    parameters, values
        ``(B, n)`` and ``(B,)``; never worse than the start.
    """
    x = start
    value, slope = _evaluate(function, x)
    unit = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    inverse = unit * (schedule.first_step / _length(slope))[:, None, None]
    done = ~torch.isfinite(value)
    for iteration in range(schedule.iterations):
        step = _direction(inverse, slope, schedule.longest_step)
        new_x, new_value, new_slope, moved = _line_search(function, x, value, slope, step, done)
        s, y = new_x - x, new_slope - slope
        inverse = _update(inverse, s, y, unit, scale=iteration == 0)
        x, value, slope = new_x, new_value, new_slope
        done = done | ~moved | (_length(s) < schedule.tolerance)
        if bool(done.all()):
            break
    return x, value


def _evaluate(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Values ``(B,)`` and gradients ``(B, n)``; the gradient of a value that is not finite is zero."""
    point = x.detach().requires_grad_()
    value = function(point)
    (slope,) = torch.autograd.grad(torch.where(torch.isfinite(value), value, 0).sum(), point)
    return value.detach().to(x.dtype), torch.nan_to_num(slope)


def _length(vectors: Tensor) -> Tensor:
    """Euclidean length of each row."""
    return (vectors * vectors).sum(1).sqrt().clamp(min=TINY)


def _direction(inverse: Tensor, slope: Tensor, longest: float) -> Tensor:
    """Quasi-Newton step ``(B, n)``, steepest descent where it would climb, no longer than allowed."""
    step = -(inverse @ slope[:, :, None])[:, :, 0]
    climbs = (step * slope).sum(1, keepdim=True) >= 0
    step = torch.where(climbs, -slope * (longest / _length(slope))[:, None], step)
    return step * (longest / _length(step)).clamp(max=1)[:, None]


def _line_search(
    function: Callable[[Tensor], Tensor], x: Tensor, value: Tensor, slope: Tensor, step: Tensor, done: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shorten each step until its value falls enough; rows that never do, or are done, stay where they are."""
    expected = (step * slope).sum(1)
    length = torch.ones_like(value)
    new_x, new_value, new_slope, accepted = x, value, slope, torch.zeros_like(done)
    for _ in range(MOST_BACKTRACKS):
        trial = torch.where((accepted | done)[:, None], new_x, x + length[:, None] * step)
        trial_value, trial_slope = _evaluate(function, trial)
        falls = (trial_value <= value + SUFFICIENT_DECREASE * length * expected) & ~done & ~accepted
        new_x = torch.where(falls[:, None], trial, new_x)
        new_value = torch.where(falls, trial_value, new_value)
        new_slope = torch.where(falls[:, None], trial_slope, new_slope)
        accepted = accepted | falls
        if bool((accepted | done).all()):
            break
        length = torch.where(accepted, length, length * BACKTRACK)
    return new_x, new_value, new_slope, accepted


def _update(inverse: Tensor, s: Tensor, y: Tensor, unit: Tensor, scale: bool) -> Tensor:
    """BFGS update of the inverse Hessians ``(B, n, n)``; skipped where the curvature along the step is not positive.

    ``scale`` sets the size of the first approximation from the first step (Nocedal & Wright 2006, eq. 6.20).
    """
    curvature = (s * y).sum(1)
    curved = curvature > 1e-10 * _length(s) * _length(y)
    safe = torch.where(curved, curvature, 1.0)[:, None, None]
    if scale:
        inverse = torch.where(
            curved[:, None, None], unit * (safe[:, 0, 0] / (y * y).sum(1).clamp(min=TINY))[:, None, None], inverse
        )
    left = unit - s[:, :, None] * y[:, None, :] / safe
    updated = left @ inverse @ left.transpose(1, 2) + s[:, :, None] * s[:, None, :] / safe
    return torch.where(curved[:, None, None], updated, inverse)

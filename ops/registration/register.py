"""Register images: one pair, or a batch of pairs at once on one device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ops.measure.errors import NotEvaluableError
from ops.registration.deformable import Regularity, estimate_velocity, usual_regularity
from ops.registration.fields import half_grid
from ops.registration.linear import LinearModel, best_starts, refine
from ops.registration.pyramid import Lattice, Level, stack, working_lattices
from ops.registration.quality import (
    RegistrationPolicy,
    RegistrationQuality,
    measure_quality,
    require_enough_voxels,
    require_good,
)
from ops.registration.similarity import Metric
from ops.registration.starts import Initialiser, start_matrices
from ops.registration.transforms import Affine, Transform, Velocity, chain, field_to_patient
from ops.volume import Volume


@dataclass(frozen=True)
class RegistrationPlan:
    """What is fitted, and how.

    Attributes
    ----------
    model
        Freedom of the linear map.
    metric
        Of the linear registration: ``mi`` for images of different contrast, ``ncc`` or ``ssd`` of the same.
    deformable
        Metric of the deformable registration that follows; ``None`` for none. ``ssd`` for images of one contrast,
        ``lncc`` also for the reverse of it (T1 and T2 of a head), ``mind`` for brightness related in no simple way: it
        compares local structure.
    regularity
        Of the deformable registration; ``None`` for the usual one of its metric. ``iterations`` has as many entries as
        there are levels.
    spacings_mm
        Isotropic working lattices, descending.

    Raises
    ------
    ValueError
        The linear metric needs a lattice, spacings do not descend, or iterations do not fit the levels.
    """

    model: LinearModel = LinearModel.RIGID
    metric: Metric = Metric.MI
    deformable: Metric | None = None
    regularity: Regularity | None = None
    spacings_mm: tuple[float, ...] = (8.0, 4.0, 2.0)

    def __post_init__(self) -> None:
        spacings = self.spacings_mm
        if self.metric.needs_neighbours:
            raise ValueError(f"the linear registration samples points and cannot use {self.metric}; take 'ncc' or 'mi'")
        if not spacings or min(spacings) <= 0 or any(b >= a for a, b in pairwise(spacings)):
            raise ValueError(f"working spacings {spacings} mm must be positive and descend")
        iterations = self.smoothness.iterations
        if self.deformable is not None and len(iterations) != len(spacings):
            raise ValueError(f"iterations {iterations} do not fit {len(spacings)} levels")

    @property
    def smoothness(self) -> Regularity:
        """Regularity of the deformable registration: the given one, else the usual one."""
        return self.regularity or usual_regularity(self.last_metric)

    @property
    def last_metric(self) -> Metric:
        """Metric of the last stage."""
        return self.deformable or self.metric

    @property
    def compares_values(self) -> bool:
        """True when both images must be scaled alike."""
        return Metric.SSD in (self.metric, self.deformable)


@dataclass(frozen=True)
class Pair:
    """Two images to register, with masks (nonzero: counts) on their grids, or ``None``."""

    fixed: Volume
    moving: Volume
    fixed_mask: Volume | None = None
    moving_mask: Volume | None = None


@dataclass(frozen=True)
class Registration:
    """A transform from fixed to moving patient space (LPS mm) and how good it is."""

    transform: Transform
    quality: RegistrationQuality
    plan: RegistrationPlan


def register(
    fixed: Volume,
    moving: Volume,
    plan: RegistrationPlan,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    policy: RegistrationPolicy | None = None,
    initialiser: Initialiser | None = None,
    device: str = "cpu",
) -> Registration:
    """Find the map of the fixed image's points to those of the moving image.

    Parameters
    ----------
    fixed, moving
        Images in physical units, of any shape, spacing and orientation.
    plan
        What is fitted, and how.
    fixed_mask, moving_mask
        Nonzero where an image counts, on its grid.
    policy
        Limits beyond which the result is refused; the default ones for ``None``.
    initialiser
        A further start, e.g. of a learned registration network.
    device
        Torch device.

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``too_few_slices``, ``flat_image``, ``empty_mask``, ``grid_mismatch``, ``wrong_units``,
        ``small_field_of_view`` for mutual information, or a reason of :func:`ops.registration.quality.require_good`.
    """
    (result,) = register_batch([Pair(fixed, moving, fixed_mask, moving_mask)], plan, policy, initialiser, device)
    if isinstance(result, NotEvaluableError):
        raise result
    return result


def register_batch(
    pairs: Sequence[Pair],
    plan: RegistrationPlan,
    policy: RegistrationPolicy | None = None,
    initialiser: Initialiser | None = None,
    device: str = "cpu",
) -> list[Registration | NotEvaluableError]:
    """Register many pairs at once; see :func:`register`. A pair that cannot be is an error in its place."""
    policy = policy or RegistrationPolicy()
    prepared: dict[int, tuple[list[Lattice], list[Lattice]]] = {}
    results: dict[int, Registration | NotEvaluableError] = {}
    for number, pair in enumerate(pairs):
        try:
            prepared[number] = _prepare(pair, plan, policy, device)
        except NotEvaluableError as error:
            results[number] = error
    if prepared:
        guesses = [[initialiser(pairs[n].fixed, pairs[n].moving)] if initialiser else [] for n in prepared]
        found = _register_prepared(list(prepared.values()), guesses, plan, policy, device)
        results.update(zip(prepared, found, strict=True))
    return [results[number] for number in range(len(pairs))]


def _prepare(
    pair: Pair, plan: RegistrationPlan, policy: RegistrationPolicy, device: str
) -> tuple[list[Lattice], list[Lattice]]:
    """Working lattices of the fixed and of the moving image."""
    if plan.compares_values and pair.fixed.units != pair.moving.units:
        detail = f"images are in {pair.fixed.units!r} and {pair.moving.units!r}: their squared differences mean nothing"
        raise NotEvaluableError("wrong_units", detail)
    fixed = working_lattices(pair.fixed, pair.fixed_mask, plan.spacings_mm, None, device)
    scale = fixed[0].scale if plan.compares_values else None
    moving = working_lattices(pair.moving, pair.moving_mask, plan.spacings_mm, scale, device)
    if plan.metric is Metric.MI:
        smaller = min(_volume(fixed[-1]), _volume(moving[-1]))
        coarser = max(image.grid.voxel_volume for image in (pair.fixed, pair.moving, fixed[-1]))
        require_enough_voxels(smaller / coarser, policy)
    return fixed, moving


def _register_prepared(
    prepared: Sequence[tuple[list[Lattice], list[Lattice]]],
    guesses: list[list[Affine]],
    plan: RegistrationPlan,
    policy: RegistrationPolicy,
    device: str,
) -> list[Registration | NotEvaluableError]:
    """Fit a batch, measure the quality of each fit and refuse the bad ones."""
    linear = _fit_linear(prepared, guesses, plan, policy, device)
    fixed, moving = (_levels([pair[side] for pair in prepared], device) for side in (0, 1))
    velocity = None
    if plan.deformable is not None:
        velocity = estimate_velocity(fixed, moving, linear, plan.deformable, plan.smoothness)
    qualities = measure_quality(fixed[-1], moving[-1], linear, velocity, plan.last_metric)
    results: list[Registration | NotEvaluableError] = []
    for case, quality in enumerate(qualities):
        try:
            require_good(quality, policy)
            results.append(Registration(_transform(fixed[-1], case, linear, velocity), quality, plan))
        except NotEvaluableError as error:
            results.append(error)
    return results


def _fit_linear(
    prepared: Sequence[tuple[list[Lattice], list[Lattice]]],
    guesses: list[list[Affine]],
    plan: RegistrationPlan,
    policy: RegistrationPolicy,
    device: str,
) -> Tensor:
    """Linear maps fixed → moving ``(B, 4, 4)``.

    Points are sampled in the smaller image of each pair, so that most of them have a counterpart in the larger; the
    map found from a smaller moving image is inverted.
    """
    swapped = [_volume(moving[-1]) < _volume(fixed[-1]) for fixed, moving in prepared]
    first = _levels([pair[1] if swap else pair[0] for pair, swap in zip(prepared, swapped, strict=True)], device)
    second = _levels([pair[0] if swap else pair[1] for pair, swap in zip(prepared, swapped, strict=True)], device)
    turned = [[g.inverse() if swap else g for g in case] for case, swap in zip(guesses, swapped, strict=True)]
    candidates = start_matrices(first[0], second[0], turned, policy.largest_rotation_deg)
    start = best_starts(first[0], second[0], candidates, plan.metric)
    found = refine(first, second, start, plan.metric, plan.model)
    back = torch.tensor(swapped, device=found.device)[:, None, None]
    return torch.where(back, torch.linalg.inv(found), found)


def _volume(lattice: Lattice) -> float:
    """Volume within the mask in mm³."""
    return float(lattice.mask.sum()) * lattice.grid.voxel_volume


def _levels(lattices: Sequence[list[Lattice]], device: str) -> list[Level]:
    """One image of every pair, stacked level by level."""
    return [stack(level, device) for level in zip(*lattices, strict=True)]


def _transform(fixed: Level, case: int, linear: Tensor, velocity: Tensor | None) -> Transform:
    """Transform of one case: the flow of its velocity, then its linear map."""
    affine = Affine(np.asarray(linear[case].cpu().numpy()))
    if velocity is None:
        return affine
    grid = half_grid(fixed.grids[case])
    return chain(Velocity(grid, field_to_patient(velocity[case : case + 1], grid)), affine)

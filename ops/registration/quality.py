"""How good a registration is, in figures, and the refusal of one that is not good enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ops.measure.errors import NotEvaluableError
from ops.registration.deformable import align
from ops.registration.fields import (
    compose,
    double,
    exponentiate,
    half_grid,
    identity,
    jacobian_determinant,
    sample,
    units_to_patient,
)
from ops.registration.pyramid import Level
from ops.registration.similarity import CELLS, Metric, cost, shared_information
from ops.registration.transforms import Affine

# Images that were in register stay so, but for interpolation: that moves a correlation, an information in nats or a
# squared difference of intensities in [0, 1] by less than this.
SIMILARITY_NOISE = 0.005
# From so many voxels on, every second one along each axis is enough to tell how similar images are: 60,000 of them at
# least share 0.006 nats by chance. It took a third of a rigid registration to look at all of 1.5 million.
MANY_VOXELS = 500_000
# The one voxel in a thousand beyond is decided by single knots of the lattice.
EXCEEDED_BY_NONE_BUT = 0.999


@dataclass(frozen=True)
class RegistrationQuality:
    """Figures of one registration, all on the finest working lattice (every second voxel of a large one).

    Attributes
    ----------
    metric
        Of the two similarities: the one optimised last.
    similarity_before, similarity_after
        Where the scanner's coordinates put the images, and where the transform does. Higher is better, except for
        ``ssd`` and ``mind``. ``nan`` where the images do not meet.
    shared_information
        Mutual information over the smaller entropy after registration, 0 (unrelated) to 1.
    overlap
        Part of the smaller image (within its mask) that meets the other.
    rotation_deg, translation_mm
        Angle of the linear part's rotation; how far the linear part moves the centre of the fixed lattice.
    smallest_stretch, largest_stretch
        Singular values of the linear part.
    smallest_jacobian, largest_jacobian, folded_share
        Determinant of the whole map's Jacobian, and the part of the lattice where it is not positive.
    inverse_consistency_mm
        Distance between a point and where the transform and its inverse bring it, exceeded by one voxel in a thousand.
    """

    metric: Metric
    similarity_before: float
    similarity_after: float
    shared_information: float
    overlap: float
    rotation_deg: float
    translation_mm: float
    smallest_stretch: float
    largest_stretch: float
    smallest_jacobian: float
    largest_jacobian: float
    folded_share: float
    inverse_consistency_mm: float

    @property
    def improved(self) -> bool:
        """True unless the transform made the images less similar than they were, by more than ``SIMILARITY_NOISE``."""
        if np.isnan(self.similarity_before):
            return True
        fall = self.similarity_before - self.similarity_after
        return (-fall if self.metric.is_difference else fall) <= SIMILARITY_NOISE


@dataclass(frozen=True)
class RegistrationPolicy:
    """Limits beyond which a registration is refused.

    Attributes
    ----------
    least_overlap
        Smallest part of the smaller image that must meet the other.
    least_shared_information
        Below it the images do not show the same anatomy. Measured with rigid maps on the shared real images: CT, MR
        and PET of the same thigh 0.23–0.71; seven pairs of head, abdomen and thigh 0.03–0.13, and one of 0.20, which
        was turned by 64°.
    largest_rotation_deg, largest_stretch
        Patients are positioned within 45° of each other, and grown bodies differ by less than a factor of 1.5 in
        length along any axis; ``largest_stretch`` bounds stretches above and, as 1/x, below.
    smallest_jacobian, largest_jacobian
        Local change of volume.
    largest_inconsistency_mm
        Of transform and inverse.
    largest_chance_nats
        Mutual information that as many unrelated voxels share by chance. With 0.05 nats of it (MR within PET of the
        same thigh, 7,000 PET voxels), turns by 25° and 83° had 0.01 to 0.07 nats more than the right place; with 0.009
        (CT and PET) every start ended at one place.
    """

    least_overlap: float = 0.25
    least_shared_information: float = 0.15
    largest_rotation_deg: float = 45.0
    largest_stretch: float = 1.5
    smallest_jacobian: float = 0.02
    largest_jacobian: float = 20.0
    largest_inconsistency_mm: float = 2.0
    largest_chance_nats: float = 0.02


def require_enough_voxels(count: float, policy: RegistrationPolicy) -> None:
    """Refuse images whose mutual information says too little about where they belong.

    By chance it is about (cells − 1)² / 2n nats (Miller 1955, Information Theory in Psychology, 95).

    Parameters
    ----------
    count
        Voxels of the coarser image within the smaller field of view (or mask), n.
    policy
        With the limit.

    Raises
    ------
    NotEvaluableError
        ``small_field_of_view``.
    """
    chance = (CELLS - 1) ** 2 / (2 * count)
    if chance > policy.largest_chance_nats:
        detail = (
            f"{count:.0f} voxels share {chance:.3f} nats by chance, at most {policy.largest_chance_nats} are allowed"
        )
        raise NotEvaluableError("small_field_of_view", f"registration refused: {detail}")


def require_good(quality: RegistrationQuality, policy: RegistrationPolicy) -> None:
    """Refuse a registration whose figures lie outside the limits.

    Raises
    ------
    NotEvaluableError
        ``little_overlap``, ``images_do_not_match``, ``similarity_fell``, ``implausible_rotation``,
        ``implausible_stretch``, ``folding``, ``implausible_deformation`` or ``inverse_inconsistent``.
    """
    for fine, reason, detail in _checks(quality, policy):
        if not fine:
            raise NotEvaluableError(reason, f"registration refused: {detail}")


def _checks(q: RegistrationQuality, p: RegistrationPolicy) -> list[tuple[bool, str, str]]:
    """Whether each figure is within its limit, the reason if not, and the figures in words."""
    stretch = max(q.largest_stretch, 1 / q.smallest_stretch)
    jacobian = f"Jacobian determinant {q.smallest_jacobian:.3g} to {q.largest_jacobian:.3g}"
    local = p.smallest_jacobian <= q.smallest_jacobian and q.largest_jacobian <= p.largest_jacobian
    overlap = f"images share {q.overlap:.0%}, at least {p.least_overlap:.0%}"
    information = f"shared information {q.shared_information:.3f}, at least {p.least_shared_information}"
    similarity = f"{q.metric} went from {q.similarity_before:.4g} to {q.similarity_after:.4g}"
    inverse = f"transform and inverse disagree by {q.inverse_consistency_mm:.2f} mm"
    return [
        (q.overlap >= p.least_overlap, "little_overlap", overlap),
        (q.shared_information >= p.least_shared_information, "images_do_not_match", information),
        (q.improved, "similarity_fell", similarity),
        (q.rotation_deg <= p.largest_rotation_deg, "implausible_rotation", f"rotation of {q.rotation_deg:.0f}°"),
        (stretch <= p.largest_stretch, "implausible_stretch", f"an axis changes its length by a factor {stretch:.2f}"),
        (q.folded_share == 0, "folding", f"{q.folded_share:.2%} of the field folds ({jacobian})"),
        (local, "implausible_deformation", f"{jacobian}, allowed {p.smallest_jacobian} to {p.largest_jacobian}"),
        (q.inverse_consistency_mm <= p.largest_inconsistency_mm, "inverse_inconsistent", inverse),
    ]


def measure_quality(
    fixed: Level, moving: Level, linear: Tensor, velocity: Tensor | None, metric: Metric
) -> list[RegistrationQuality]:
    """Quality of every registration of a batch.

    Parameters
    ----------
    fixed, moving
        Finest level.
    linear
        ``(B, 4, 4)`` float64, LPS mm → LPS mm.
    velocity
        ``(B, 3, z, y, x)`` from :func:`ops.registration.deformable.estimate_velocity`, or ``None``.
    metric
        Of the similarities.
    """
    unmoved = torch.eye(4, dtype=linear.dtype, device=linear.device).expand_as(linear)
    sizes = [level.mask.sum((1, 2, 3, 4)) for level in (fixed, moving)]
    seen = _every_second(fixed) if velocity is None and float(sizes[0].min()) >= MANY_VOXELS else fixed
    moved = _warped(seen, moving, linear, velocity)
    before = _similarity(seen, align(seen, moving, unmoved), metric).tolist()
    after = _similarity(seen, moved, metric).tolist()
    shared = _shared_information(seen, moved).tolist()
    common = _common(seen, moved).sum((1, 2, 3)) * (sizes[0] / seen.mask.sum((1, 2, 3, 4)))
    overlaps = (common / torch.minimum(sizes[0], sizes[1])).clamp(max=1).tolist()
    rows = []
    for case, grid in enumerate(fixed.grids):
        affine = Affine(linear[case].cpu().numpy())
        centre = grid.index_to_patient((np.array(grid.shape) - 1) / 2)
        field = None if velocity is None else velocity[case : case + 1]
        low, high, folded, inconsistency = _field_figures(fixed, case, affine, field)
        rows.append(
            RegistrationQuality(
                metric=metric,
                similarity_before=before[case],
                similarity_after=after[case],
                shared_information=shared[case],
                overlap=overlaps[case],
                rotation_deg=affine.rotation_angle_deg,
                translation_mm=float(np.linalg.norm(affine.apply(centre) - centre)),
                smallest_stretch=float(affine.stretches[-1]),
                largest_stretch=float(affine.stretches[0]),
                smallest_jacobian=low,
                largest_jacobian=high,
                folded_share=folded,
                inverse_consistency_mm=inconsistency,
            )
        )
    return rows


def _every_second(level: Level) -> Level:
    """Every second voxel along each axis, of the same extent, as sizes are odd."""
    grids = tuple(half_grid(grid) for grid in level.grids)
    return Level(level.values[..., ::2, ::2, ::2], level.mask[..., ::2, ::2, ::2], grids)


def _warped(fixed: Level, moving: Level, linear: Tensor, velocity: Tensor | None) -> Tensor:
    """Values and mask of the moving image on the fixed lattice through the whole transform, ``(B, 2, z, y, x)``."""
    aligned = align(fixed, moving, linear)
    if velocity is None:
        return aligned
    flow = exponentiate(velocity, identity(velocity.shape, velocity.device))
    return sample(aligned, identity(aligned.shape, aligned.device) + double(flow, aligned.shape).movedim(1, -1))


def _common(fixed: Level, moved: Tensor) -> Tensor:
    """Weights ``(B, z, y, x)`` of the voxels where both images count."""
    return fixed.mask[:, 0] * moved[:, 1]


def _similarity(fixed: Level, moved: Tensor, metric: Metric) -> Tensor:
    """Similarity in its natural sense, ``(B,)``; ``nan`` where the images do not meet."""
    weights = _common(fixed, moved)
    value = cost(metric, fixed.values[:, 0], moved[:, 0], weights)
    return torch.where(weights.sum((1, 2, 3)) >= 1, value if metric.is_difference else -value, torch.nan)


def _shared_information(fixed: Level, moved: Tensor) -> Tensor:
    """Mutual information over the smaller entropy, ``(B,)``; 0 where the images do not meet."""
    weights = _common(fixed, moved).flatten(1)
    information = shared_information(fixed.values.flatten(1), moved[:, 0].flatten(1), weights)
    return torch.where(weights.sum(1) >= 1, information, 0)


def _field_figures(
    fixed: Level, case: int, affine: Affine, velocity: Tensor | None
) -> tuple[float, float, float, float]:
    """Smallest and largest Jacobian, folded share and inverse consistency in mm of one case."""
    scale = float(np.linalg.det(affine.matrix[:3, :3]))
    if velocity is None:
        return scale, scale, 0.0, 0.0
    lattice = identity(velocity.shape, velocity.device)
    forward, backward = exponentiate(velocity, lattice), exponentiate(-velocity, lattice)
    jacobian = jacobian_determinant(forward) * scale
    to_mm = torch.from_numpy(units_to_patient(half_grid(fixed.grids[case]))[:3, :3]).to(velocity)
    residual = torch.tensordot(to_mm, compose(forward, backward, lattice)[0], dims=1).norm(dim=0)
    folded = (jacobian <= 0).double().mean()
    worst = residual.flatten().kthvalue(max(1, round(EXCEEDED_BY_NONE_BUT * residual.numel()))).values
    return float(jacobian.min()), float(jacobian.max()), float(folded), float(worst)

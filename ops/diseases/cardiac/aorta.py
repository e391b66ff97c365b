"""Calibre and distensibility of the aorta from label maps, across its centreline (SPEC §8).

A section lies on the plane orthogonal to the centreline; its area on an oblique plane would be too large by the cosine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.diseases.cardiac.volumes import Structure
from ops.measure.centreline import CentrelinePolicy, arc_length, main_centreline, sample, smooth_curve
from ops.measure.centreline import rotation_minimising_frames as frames_along
from ops.measure.checks import require_label_map, require_not_empty, require_orthogonal
from ops.measure.diameters import feret_diameter
from ops.measure.errors import NotEvaluableError
from ops.measure.sections import BRANCH_RATIO, N_DIRECTIONS, RADIAL_STEP_MM, Sections, sections
from ops.volume import Grid, Volume

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

Edge = Literal["inner_to_inner", "outer_to_outer"]
PressureSite = Literal["brachial", "central"]

# No aortic radius exceeds this; nor one three times that of the cylinder of the same length and volume.
LARGEST_RADIUS_MM = 60.0
REACH_RATIO = 3.0
# Pruning spurs of a tube as wide as the aorta must not take its ascending part, a few radii long, for one.
SPUR_RATIO = 1.0
SKELETON_MM = 2.0
# Length over which a skeleton's direction at its ends is taken.
TANGENT_MM = 20.0
OUTLINE_WAVES = 3
# Interpolation needs voxels on both sides of the outline: nearer to the scan's edge a section may be cut off.
EDGE_MARGIN_VOXELS = 0.25


@dataclass(frozen=True)
class AortaPolicy:
    """Every choice that can change an aortic result; recorded with each.

    Attributes
    ----------
    edge
        What the mask delineates: ``inner_to_inner`` (default), the lumen; ``outer_to_outer``, with the wall. Diameters
        of the two differ by two walls and are not converted.
    pressure_site
        Where the pulse pressure was measured: ``brachial`` (default; overestimates the central one) or ``central``.
    smoothing_mm
        Standard deviation of the Gaussian along the centreline, which decides how planes turn.
    step_mm
        Distance between sections.
    max_anisotropy
        Largest ratio of voxel edges; sections of flatter voxels would follow the slices.
    """

    edge: Edge = "inner_to_inner"
    pressure_site: PressureSite = "brachial"
    smoothing_mm: float = 5.0
    step_mm: float = 2.0
    max_anisotropy: float = 6.0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("edge", ("inner_to_inner", "outer_to_outer")),
            ("pressure_site", ("brachial", "central")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name in ("smoothing_mm", "step_mm", "max_anisotropy"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_AORTA_POLICY = AortaPolicy()


def equivalent_diameter_mm(area_mm2: float) -> float:
    """Diameter in mm of the circle of ``area_mm2``: √(4A/π) [M].

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive``.
    """
    _require_area("area", area_mm2)
    return math.sqrt(4 * area_mm2 / math.pi)


def distensibility(largest_mm2: float, smallest_mm2: float, pulse_pressure_mmhg: float) -> float:
    """Distensibility in 10⁻³ mmHg⁻¹: (A_max − A_min) / (A_min · PP) · 1000 (SPEC §8 [R]).

    Parameters
    ----------
    largest_mm2, smallest_mm2
        Areas of one section over the cycle.
    pulse_pressure_mmhg
        Systolic minus diastolic pressure; whether brachial or central belongs to the result.

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive`` (an area), ``areas_swapped``; ``pulse_pressure_not_positive``: undefined.
    """
    _require_area("smallest area", smallest_mm2)
    _require_area("largest area", largest_mm2)
    if largest_mm2 < smallest_mm2:
        raise NotEvaluableError("areas_swapped", f"largest area {largest_mm2:g} is below smallest {smallest_mm2:g} mm2")
    if not math.isfinite(pulse_pressure_mmhg):
        raise NotEvaluableError("not_finite", f"the pulse pressure is {pulse_pressure_mmhg}")
    if pulse_pressure_mmhg <= 0:
        detail = f"pulse pressure {pulse_pressure_mmhg:g} mmHg: distensibility is undefined at 0 and below"
        raise NotEvaluableError("pulse_pressure_not_positive", detail)
    return 1000 * (largest_mm2 - smallest_mm2) / (smallest_mm2 * pulse_pressure_mmhg)


def _require_area(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise NotEvaluableError("not_finite", f"the {name} is {value}")
    if value <= 0:
        raise NotEvaluableError("not_positive", f"the {name} is {value:g} mm2")


@dataclass(frozen=True, eq=False)
class AorticSections:
    """Sections across the aorta in one phase.

    Attributes
    ----------
    arc
        ``(n,)`` mm along the centreline.
    area
        ``(n,)`` mm².
    largest_diameter
        ``(n,)`` mm, longest chord of the outline.
    whole
        ``(n,)``: the outline is closed, away from the ends of the centreline and of the scan and from side branches.
    """

    arc: FloatArray
    area: FloatArray
    largest_diameter: FloatArray
    whole: BoolArray


def aortic_mask(labels: Volume) -> Volume:
    """Voxels labelled `Structure.AORTA`, as uint8 0 and 1.

    Raises
    ------
    NotEvaluableError
        ``not_a_label_map``, ``gantry_tilt``, ``empty_mask``.
    """
    require_label_map(labels)
    require_orthogonal(labels.grid)
    mask = labels.voxels == Structure.AORTA
    require_not_empty(mask, "aorta")
    return Volume(mask.astype(np.uint8), labels.grid, "label")


def aortic_centreline(
    mask: Volume, points: npt.ArrayLike | None = None, policy: AortaPolicy = DEFAULT_AORTA_POLICY
) -> FloatArray:
    """Centreline ``(n, 3)`` LPS mm with a point for every section: the one given, else from the mask's skeleton.

    The skeleton's begins at its end nearer the patient's front, which of a thoracic aorta is the root.

    Raises
    ------
    NotEvaluableError
        ``centreline_too_short``; ``centreline_not_points``: not ``(n, 3)`` finite numbers.
    """
    if points is None:
        own = CentrelinePolicy(spur_ratio=SPUR_RATIO, smoothing_mm=policy.smoothing_mm, step_mm=policy.step_mm)
        found = _extended(main_centreline(_isotropic(mask), own).points, mask, policy)
        return found if found[0, 1] <= found[-1, 1] else found[::-1]
    given = np.asarray(points, dtype=np.float64)
    if given.ndim != 2 or given.shape[1] != 3 or not np.isfinite(given).all():
        raise NotEvaluableError(
            "centreline_not_points", f"centreline of shape {given.shape}: (n, 3) finite LPS mm needed"
        )
    if len(given) < 2:
        raise NotEvaluableError("centreline_too_short", "a centreline needs at least two points")
    return smooth_curve(given, policy.smoothing_mm, policy.step_mm)


def _isotropic(mask: Volume) -> Volume:
    """Mask on cubic voxels of `SKELETON_MM` over its bounding box.

    Thinning takes a voxel at a time from all sides: flat voxels would lose far more at the ends of the tube than it is
    wide, and small ones take long.
    """
    (box,) = ndimage.find_objects(mask.voxels)
    spacing = np.array(mask.grid.spacing)
    size = [math.ceil((s.stop - s.start) * step / SKELETON_MM) + 2 for s, step in zip(box, spacing, strict=True)]
    first = np.array([s.start for s in box]) - SKELETON_MM / spacing
    affine = mask.grid.affine.copy()
    affine[:3, :3] *= SKELETON_MM / spacing
    affine[:3, 3] = mask.grid.index_to_patient(first)
    share = ndimage.affine_transform(
        mask.voxels.astype(np.float32), SKELETON_MM / spacing, first, tuple(size), order=1, mode="constant"
    )
    return Volume((share >= 0.5).astype(np.uint8), Grid((size[0], size[1], size[2]), affine), "label")


def _extended(points: FloatArray, mask: Volume, policy: AortaPolicy) -> FloatArray:
    """Centreline carried on straight from both ends until it leaves the mask: a skeleton ends within a radius of it."""
    ahead = np.arange(1, LARGEST_RADIUS_MM / policy.step_mm)[:, None] * policy.step_mm
    tails = []
    for inward in (points, points[::-1]):
        behind = min(len(points) - 1, round(TANGENT_MM / policy.step_mm))
        tail = inward[0] + ahead * (inward[0] - inward[behind]) / np.linalg.norm(inward[0] - inward[behind])
        inside = np.nan_to_num(sample(mask, tail)) >= 0.5
        tails.append(tail[: len(tail) if inside.all() else int(inside.argmin())])
    return smooth_curve(np.concatenate([tails[0][::-1], points, tails[1]]), policy.smoothing_mm, policy.step_mm)


def aortic_sections(mask: Volume, points: FloatArray) -> AorticSections:
    """Sections of a mask on the planes orthogonal to ``points`` ``(n, 3)`` LPS mm."""
    arc = arc_length(points)
    volume = np.count_nonzero(mask.voxels) * mask.grid.voxel_volume
    reach = min(LARGEST_RADIUS_MM, REACH_RATIO * math.sqrt(volume / (math.pi * arc[-1])))
    found = sections(mask, points, reach)
    outline = _outline(found)
    return AorticSections(
        arc,
        found.area,
        np.array([feret_diameter(row) for row in outline]),
        _whole(found, outline, points, mask.grid, reach),
    )


def _outline(found: Sections) -> FloatArray:
    """Smooth outlines ``(n, N_DIRECTIONS, 2)`` mm in the sections' own planes, without the steps of voxels.

    A longest chord takes the most of every step. Of the radii as a function of the angle the waves up to
    `OUTLINE_WAVES` a turn are kept: oval, bent and off-centre sections have no others of note.
    """
    waves = np.fft.rfft(found.radii, axis=1)
    waves[:, OUTLINE_WAVES + 1 :] = 0
    radii = np.fft.irfft(waves, N_DIRECTIONS, axis=1)
    angle = 2 * np.pi * np.arange(N_DIRECTIONS) / N_DIRECTIONS
    return np.asarray(radii[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1))


def _whole(found: Sections, outline: FloatArray, points: FloatArray, grid: Grid, reach_mm: float) -> BoolArray:
    median = np.median(found.radii, axis=1)
    closed = (found.radii.min(axis=1) > 0) & (found.radii.max(axis=1) < reach_mm - 2 * RADIAL_STEP_MM)
    # `sections` cuts a ray into a side branch to exactly this.
    without_branch = found.radii.max(axis=1) < BRANCH_RATIO * median * (1 - 1e-9)
    axes = frames_along(points)
    across = outline[..., :1] * axes.first[:, None] + outline[..., 1:] * axes.second[:, None]
    index = grid.patient_to_index(points[:, None] + across)
    last = np.array(grid.shape) - 1
    inside = ((index > EDGE_MARGIN_VOXELS) & (index < last - EDGE_MARGIN_VOXELS)).all(axis=(1, 2))
    # Planes turn freely near the ends of a skeleton, which may lean into a corner of the mask.
    arc = arc_length(points)
    within = (arc >= median) & (arc <= arc[-1] - median)
    return np.asarray(closed & without_branch & inside & within)


def section_at(found: Sequence[AorticSections], level_mm: float) -> int:
    """Index of the section nearest to ``level_mm`` along the centreline.

    Raises
    ------
    NotEvaluableError
        ``level_outside_aorta``; ``section_incomplete``: cut by the scan, a branch or the aorta's end in some phase.
    """
    arc = found[0].arc
    if not 0 <= level_mm <= arc[-1]:
        raise NotEvaluableError("level_outside_aorta", f"level {level_mm:g} mm is not within 0–{arc[-1]:.1f} mm")
    index = int(np.abs(arc - level_mm).argmin())
    if not all(phase.whole[index] for phase in found):
        detail = f"the section at {arc[index]:.1f} mm is cut by the scan's edge, a branch or the end of the aorta"
        raise NotEvaluableError("section_incomplete", detail)
    return index

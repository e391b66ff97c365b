"""Ischaemic stroke on diffusion MR and on CT perfusion: core, penumbra, mismatch and trial eligibility (SPEC §6).

`measure_dwi` and `measure_ctp` are the whole of it. The definitions are in `scores`, the maps in `diffusion` and
`perfusion`. Volumes in mL are given as found (``…_ml``) and without small islands (``…_cleaned_ml``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ops.diseases.stroke.diffusion import (
    ADC_UNITS,
    DiffusionPolicy,
    EdgeRule,
    adc_map,
    dwi_core,
    rayleigh_sd,
    require_b_values,
)
from ops.diseases.stroke.head_motion import displacement_mm
from ops.diseases.stroke.hemispheres import midsagittal_plane
from ops.diseases.stroke.perfusion import Perfusion, PerfusionPolicy, perfusion_maps
from ops.diseases.stroke.scores import (
    ZERO_CORE_RULES,
    ZeroCoreRule,
    defuse3_eligible,
    extend_eligible,
    mismatch,
)
from ops.measure.checks import (
    require_finite,
    require_inside,
    require_isotropy,
    require_label_map,
    require_modality,
    require_not_empty,
    require_orthogonal,
    require_same_grid,
    require_units,
    touches_border,
)
from ops.measure.components import VoxelList, label_in_space
from ops.measure.errors import NotEvaluableError
from ops.measure.record import MeasurementRecord
from ops.measure.value import MeasuredValue
from ops.volume import Grid, Volume

DWI_ALGORITHM, CTP_ALGORITHM, VERSION = "stroke_dwi", "stroke_ctp", "1"
BoolArray = npt.NDArray[np.bool_]

# Both limits exclusive (SPEC §6 [R]): core below 30 % of normal CBF, critical hypoperfusion above 6 s.
CORE_RELATIVE_CBF = 0.30
CRITICAL_TMAX = 6.0
MM3_PER_ML = 1000.0
# Voxels whose longest edge is more than this times the shortest are refused. Perfusion slices are thick by design.
LARGEST_ANISOTROPY_MR, LARGEST_ANISOTROPY_CT = 10.0, 25.0
# Normal tissue needed in a hemisphere that the other one is compared with, mL [U].
SMALLEST_REFERENCE_ML = 20.0


@dataclass(frozen=True)
class CtpPolicy:
    """Named choices that change a result from CT perfusion.

    Attributes
    ----------
    perfusion
        How the maps are made.
    cbf_reference
        ``contralateral_median``: median CBF of the other hemisphere's tissue with Tmax ≤ 6 s, without CSF and vessels.
        Hemispheres are parted by the brain mask's own plane of symmetry.
    minimum_island_ml
        26-connected pieces smaller than this are absent from the cleaned volumes. SPEC: 1–3 mL.
    zero_core
        See `defuse3_eligible`.
    largest_motion_mm
        Displacement of the head against the first frame above which the scan is refused [U].
    edge_rule
        What becomes of a lesion that reaches a face of the slab, small islands aside: ``flag`` (default, as most slabs
        are thinner than the territory) or ``refuse``.
    """

    perfusion: PerfusionPolicy = field(default_factory=PerfusionPolicy)
    cbf_reference: Literal["contralateral_median"] = "contralateral_median"
    minimum_island_ml: float = 1.0
    zero_core: ZeroCoreRule = "ratio_satisfied"
    largest_motion_mm: float = 2.0
    edge_rule: EdgeRule = "flag"

    def __post_init__(self) -> None:
        if self.cbf_reference != "contralateral_median" or self.zero_core not in ZERO_CORE_RULES:
            raise ValueError(f"unknown cbf_reference {self.cbf_reference!r} or zero_core {self.zero_core!r}")
        if self.edge_rule not in ("refuse", "flag"):
            raise ValueError(f"edge_rule must be 'refuse' or 'flag', got {self.edge_rule!r}")
        if not (0 <= self.minimum_island_ml < math.inf and 0 < self.largest_motion_mm < math.inf):
            raise ValueError("minimum_island_ml must not be negative, and largest_motion_mm must be positive")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


def measure_dwi(
    dwi: Sequence[Volume],
    b_values: Sequence[float],
    brain: Volume,
    modality: str,
    *,
    adc: Volume | None = None,
    excluded: Volume | None = None,
    policy: DiffusionPolicy | None = None,
    inputs: tuple[str, ...] = (),
) -> MeasurementRecord:
    """Infarct core on diffusion MR: ADC < 620 × 10⁻⁶ mm²/s in bright tissue (SPEC §6).

    Parameters
    ----------
    dwi
        Images on one grid, trace or several directions; the mean of those with the highest b says what is bright.
    b_values
        s/mm², one for each of ``dwi``.
    brain
        Label map on the same grid; > 0 is brain. Ventricles may be in it: their ADC is no core's.
    modality
        DICOM Modality, ``MR``.
    adc
        The scanner's map in ``1e-6 mm2/s`` on the same grid; without it the ADC is computed from ``dwi``.
    excluded
        Label map on the same grid; > 0 is not looked at: ventricles, old infarcts.
    policy
        Choices.
    inputs
        UIDs of the series the images come from.

    Returns
    -------
    MeasurementRecord
        ``core_ml``, ``core_cleaned_ml`` and the mean ``core_adc``; never an exception for a bad scan.
    """
    policy = policy or DiffusionPolicy()
    known: dict[str, Any] = {"policy": policy.to_dict(), "inputs": inputs}
    try:
        where = _checked_brain(dwi, brain, "MR", modality, LARGEST_ANISOTROPY_MR, excluded)
        signals, coefficients = _diffusion(dwi, b_values, adc, where, policy)
        grid = brain.grid
        box = _bounding_box(where)
        inner = grid.crop(tuple(s.start for s in box), tuple(s.stop for s in box))
        core = np.zeros(grid.shape, dtype=bool)
        core[box] = dwi_core(coefficients[box], signals[box], where[box], inner, policy)
        cleaned = without_islands(core, grid, policy.minimum_island_ml)
        flags = _edge_flags(cleaned, "core", policy.edge_rule)
    except NotEvaluableError as error:
        return MeasurementRecord.refused(DWI_ALGORITHM, VERSION, error, **known)
    values = [
        MeasuredValue("core_ml", volume_ml(core, grid), "mL"),
        MeasuredValue("core_cleaned_ml", volume_ml(cleaned, grid), "mL"),
        MeasuredValue("core_adc", float(coefficients[core].mean()), "10*-6.mm2/s")
        if core.any()
        else MeasuredValue.missing("core_adc", "no_core", "10*-6.mm2/s"),
    ]
    if core.any() and not cleaned.any():
        flags = (*flags, "core_only_islands")
    return MeasurementRecord(DWI_ALGORITHM, VERSION, measurements=tuple(values), flags=flags, **known)


def measure_ctp(
    frames: Sequence[Volume],
    times: Sequence[float],
    brain: Volume,
    modality: str,
    *,
    excluded: Volume | None = None,
    policy: CtpPolicy | None = None,
    inputs: tuple[str, ...] = (),
) -> MeasurementRecord:
    """Core, hypoperfusion, penumbra and mismatch on CT perfusion (SPEC §6).

    Parameters
    ----------
    frames
        CT in HU at each time, on one grid.
    times
        s, rising.
    brain
        Label map on the same grid; > 0 is brain, with ventricles and sulci (left out by their HU).
    modality
        DICOM Modality, ``CT``.
    excluded
        Label map on the same grid; > 0 counts in no volume and no reference: old infarcts.
    policy
        Choices.
    inputs
        UIDs of the series the images come from.

    Returns
    -------
    MeasurementRecord
        ``core_ml``, ``hypoperfused_ml``, ``penumbra_ml`` (hypoperfused and not core), ``mismatch_ml`` (difference of
        the two volumes) and ``mismatch_ratio``; ``defuse3_eligible`` and ``extend_eligible`` say ``yes`` or ``no`` to
        the trials' imaging criteria. Each also ``…_cleaned…``. ``motion_mm``, ``tissue_ml`` (what was evaluated) and
        the height of the curves tell what they rest on. Never an exception for a bad scan.
    """
    policy = policy or CtpPolicy()
    known: dict[str, Any] = {"policy": policy.to_dict(), "inputs": inputs}
    measured: list[MeasuredValue] = []
    try:
        everywhere = _checked_brain(frames, brain, "CT", modality, LARGEST_ANISOTROPY_CT, None)
        for frame in frames:
            require_units(frame, "HU")
        where = everywhere & ~_excluded(excluded, brain)
        motion = float(displacement_mm(frames, everywhere).max())
        measured.append(MeasuredValue("motion_mm", motion, "mm"))
        if motion > policy.largest_motion_mm:
            detail = f"the head moves by {motion:.1f} mm, above {policy.largest_motion_mm:g} mm; register the frames"
            raise NotEvaluableError("motion", detail)
        maps = perfusion_maps(frames, times, everywhere, policy.perfusion)
        measured += _bolus_values(maps)
        tissue = maps.tissue & where
        measured.append(MeasuredValue("tissue_ml", volume_ml(tissue, brain.grid), "mL"))
        left = midsagittal_plane(everywhere, brain.grid).distance(brain.grid) > 0
        hypoperfused = tissue & (maps.tmax > CRITICAL_TMAX)
        core = tissue & (maps.cbf < CORE_RELATIVE_CBF * _reference_cbf(maps, tissue, left, brain.grid))
        lesion = without_islands(core | hypoperfused, brain.grid, policy.minimum_island_ml)
        flags = _edge_flags(lesion, "ischaemic tissue", policy.edge_rule)
        measured += _ischaemia(core, hypoperfused, brain.grid, policy)
    except NotEvaluableError as error:
        return MeasurementRecord.refused(CTP_ALGORITHM, VERSION, error, measurements=tuple(measured), **known)
    return MeasurementRecord(CTP_ALGORITHM, VERSION, measurements=tuple(measured), flags=flags, **known)


def volume_ml(mask: BoolArray, grid: Grid) -> float:
    """Volume of a mask ``(z, y, x)`` in mL: voxels × voxel volume."""
    return float(np.count_nonzero(mask) * grid.voxel_volume / MM3_PER_ML)


def without_islands(mask: BoolArray, grid: Grid, minimum_ml: float) -> BoolArray:
    """Mask without its 26-connected pieces smaller than ``minimum_ml``; a piece of just that size stays."""
    index = np.argwhere(mask)
    piece = label_in_space(VoxelList(index, np.zeros(len(index)), grid.spacing))
    small = np.bincount(piece) * grid.voxel_volume / MM3_PER_ML < minimum_ml - 1e-9
    out = mask.copy()
    out[tuple(index[small[piece]].T)] = False
    return out


def _checked_brain(
    images: Sequence[Volume], brain: Volume, expected: str, modality: str, anisotropy: float, excluded: Volume | None
) -> BoolArray:
    """Where to look ``(z, y, x)``, after the checks that both measurements share."""
    require_modality(modality, expected)
    if not images:
        raise NotEvaluableError("no_images", "no image was given")
    require_label_map(brain)
    require_orthogonal(brain.grid)
    require_isotropy(brain.grid, anisotropy)
    for image in images:
        require_same_grid(image, brain)
        require_finite(image)
    where = brain.voxels.astype(bool)
    require_not_empty(where, "brain")
    where = where & ~_excluded(excluded, brain)
    require_not_empty(where, "brain outside what is excluded")
    return where


def _excluded(excluded: Volume | None, brain: Volume) -> BoolArray:
    if excluded is None:
        return np.zeros(brain.grid.shape, dtype=bool)
    require_label_map(excluded)
    require_same_grid(excluded, brain)
    return excluded.voxels.astype(bool)


def _diffusion(
    dwi: Sequence[Volume], b_values: Sequence[float], adc: Volume | None, brain: BoolArray, policy: DiffusionPolicy
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Signal at the highest b-value, and ADC."""
    if len(b_values) != len(dwi):
        raise NotEvaluableError("b_values_unsupported", f"{len(dwi)} images do not go with {len(b_values)} b-values")
    for image in dwi:
        require_units(image, "a.u.")
    if adc is not None:
        require_b_values([0.0, *b_values])
        require_units(adc, ADC_UNITS)
        require_same_grid(adc, dwi[0])
        require_finite(adc, brain)
        highest = [image.physical() for image, b in zip(dwi, b_values, strict=True) if b == max(b_values)]
        return np.asarray(np.mean(highest, axis=0)), adc.physical()
    require_b_values(b_values)
    signals = np.stack([image.physical() for image in dwi])
    strongest = signals[np.equal(b_values, max(b_values))]
    floor = policy.noise_floor_sd * _background_sd(strongest[0])
    return np.asarray(strongest.mean(axis=0)), adc_map(signals, b_values, floor)


def _background_sd(image: npt.NDArray[np.float32]) -> float:
    """Noise in the quietest corner of the field of view, an eighth of the matrix wide: air in a scan of a head."""
    ny, nx = (max(1, n // 8) for n in image.shape[1:])
    return min(rayleigh_sd(image[:, rows, columns]) for rows in _ends(ny) for columns in _ends(nx))


def _ends(n: int) -> tuple[slice, slice]:
    return slice(None, n), slice(-n, None)


def _bounding_box(mask: BoolArray) -> tuple[slice, slice, slice]:
    limits = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    k, j, i = (slice(int(where[0]), int(where[-1]) + 1) for where in limits)
    return k, j, i


def _edge_flags(mask: BoolArray, name: str, rule: EdgeRule) -> tuple[str, ...]:
    if rule == "refuse":
        require_inside(mask, name)
    return ("lesion_at_scan_edge",) if touches_border(mask) else ()


def _reference_cbf(maps: Perfusion, tissue: BoolArray, left: BoolArray, grid: Grid) -> npt.NDArray[np.float32]:
    """Median CBF ``(z, y, x)`` of normal tissue on the other side of each voxel."""
    normal = tissue & (maps.tmax <= CRITICAL_TMAX)
    references = []
    for side, name in ((left, "left"), (~left, "right")):
        found = normal & side
        if volume_ml(found, grid) < SMALLEST_REFERENCE_ML:
            detail = f"{volume_ml(found, grid):.1f} mL of normal tissue on the {name} to compare the other side with"
            raise NotEvaluableError("no_contralateral_reference", detail)
        references.append(np.float32(np.median(maps.cbf[found])))
    return np.asarray(np.where(left, references[1], references[0]))


def _bolus_values(maps: Perfusion) -> list[MeasuredValue]:
    bolus = maps.bolus
    return [
        MeasuredValue("artery_peak_hu", float(bolus.artery.max()), "[hnsf'U]"),
        MeasuredValue("vein_peak_hu", float(bolus.vein.max()), "[hnsf'U]"),
        MeasuredValue("partial_volume_factor", bolus.partial_volume_factor, "1"),
        MeasuredValue("baseline_frames", float(bolus.baseline_frames), "1"),
    ]


def _ischaemia(core: BoolArray, hypoperfused: BoolArray, grid: Grid, policy: CtpPolicy) -> list[MeasuredValue]:
    """Volumes, mismatch and eligibility, as found and cleaned."""
    values = []
    for suffix, minimum in (("", 0.0), ("_cleaned", policy.minimum_island_ml)):
        dead, late = (without_islands(mask, grid, minimum) for mask in (core, hypoperfused))
        core_ml, late_ml = volume_ml(dead, grid), volume_ml(late, grid)
        found = mismatch(core_ml, late_ml)
        values += [
            MeasuredValue(f"core{suffix}_ml", core_ml, "mL"),
            MeasuredValue(f"hypoperfused{suffix}_ml", late_ml, "mL"),
            MeasuredValue(f"penumbra{suffix}_ml", volume_ml(late & ~dead, grid), "mL"),
            MeasuredValue(f"mismatch{suffix}_ml", found.volume_ml, "mL"),
            MeasuredValue.missing(f"mismatch{suffix}_ratio", "no_core", "1")
            if found.ratio is None
            else MeasuredValue(f"mismatch{suffix}_ratio", found.ratio, "1"),
        ]
        for trial, eligible in (("defuse3", defuse3_eligible), ("extend", extend_eligible)):
            values.append(_eligibility(f"{trial}{suffix}_eligible", eligible, core_ml, late_ml, policy))
    return values


def _eligibility(
    name: str, eligible: Callable[[float, float, ZeroCoreRule], bool], core_ml: float, late_ml: float, policy: CtpPolicy
) -> MeasuredValue:
    try:
        return MeasuredValue(name, "yes" if eligible(core_ml, late_ml, policy.zero_core) else "no")
    except NotEvaluableError as error:
        return MeasuredValue.missing(name, error.reason, status=error.status)

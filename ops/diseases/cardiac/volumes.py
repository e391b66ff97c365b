"""Volumes and masses of the heart's chambers from short-axis label maps, by their definitions (SPEC §8).

Evidence marks: [P] read in the primary source, [S] in a secondary one, [R] recalled and not re-read, [M] mathematics.
EF, body surface area and the biplane left atrium are those of echocardiography: `ops.diseases.echo.formulae`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from ops.diseases.echo.formulae import DENSITY, MM3_PER_ML
from ops.measure.checks import require_label_map, require_orthogonal, require_same_grid
from ops.measure.errors import NotEvaluableError
from ops.volume import Volume

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


class Structure(IntEnum):
    """Label values of a cardiac label map; 0 is everything else."""

    LV_BLOOD = 1
    LV_MYOCARDIUM = 2
    RV_BLOOD = 3
    PAPILLARY = 4
    LEFT_ATRIUM = 5
    AORTA = 6


# A basal slice belongs to the ventricle when at least this share of its cavity's circumference is myocardium,
# inclusive (SPEC §8; SCMR post-processing 2013 [R]).
BASAL_SHARE = 0.5
# LV and RV eject the same volume unless a valve leaks or a shunt is open; a larger difference, as a share of their
# mean, more often is a contouring error (SPEC §8 [R]). Exclusive.
MISMATCH_LIMIT = 0.10
# Shares are ratios of sums of pixel edges.
SHARE_TOLERANCE = 1e-9


def slice_sum_volume_ml(areas_mm2: npt.ArrayLike, slice_distance_mm: float) -> float:
    """Volume in mL: Σ slice area × distance between slice centres, i.e. thickness + gap (SPEC §8; SCMR 2013 [R]).

    Parameters
    ----------
    areas_mm2
        ``(n,)`` area in every slice, 0 where the structure is not.
    slice_distance_mm
        Between the centres of neighbouring slices, from their positions; never SliceThickness, which leaves out gaps.

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive``.
    """
    areas = np.asarray(areas_mm2, dtype=np.float64)
    if not (np.isfinite(areas).all() and math.isfinite(slice_distance_mm)):
        raise NotEvaluableError("not_finite", "a slice area or the slice distance is NaN or infinite")
    if (areas < 0).any() or slice_distance_mm <= 0:
        raise NotEvaluableError("not_positive", f"a slice area is negative or the distance {slice_distance_mm:g} mm")
    return float(areas.sum() * slice_distance_mm / MM3_PER_ML)


def myocardial_mass_g(volume_ml: float) -> float:
    """Mass in g of ``volume_ml`` of myocardium: × 1.05 g/mL (SPEC §8; SCMR 2013 [R]).

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive`` (negative volume).
    """
    if not math.isfinite(volume_ml):
        raise NotEvaluableError("not_finite", f"the myocardial volume is {volume_ml}")
    if volume_ml < 0:
        raise NotEvaluableError("not_positive", f"the myocardial volume is {volume_ml:g} mL")
    return DENSITY * volume_ml


def cardiac_output_l_min(stroke_volume_ml: float, heart_rate_bpm: float) -> float:
    """Cardiac output in L/min: SV · heart rate / 1000.

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive``.
    """
    for name, value in (("stroke volume", stroke_volume_ml), ("heart rate", heart_rate_bpm)):
        if not math.isfinite(value):
            raise NotEvaluableError("not_finite", f"the {name} is {value}")
        if value <= 0:
            raise NotEvaluableError("not_positive", f"the {name} is {value:g}; it must be above 0")
    return stroke_volume_ml * heart_rate_bpm / 1000


def stroke_volume_difference(lv_ml: float, rv_ml: float) -> float:
    """Difference |SV_LV − SV_RV| as a share of their mean; above `MISMATCH_LIMIT` it is flagged.

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive``.
    """
    for name, value in (("LV", lv_ml), ("RV", rv_ml)):
        if not math.isfinite(value):
            raise NotEvaluableError("not_finite", f"the {name} stroke volume is {value}")
        if value <= 0:
            raise NotEvaluableError("not_positive", f"the {name} stroke volume is {value:g} mL")
    return abs(lv_ml - rv_ml) / ((lv_ml + rv_ml) / 2)


@dataclass(frozen=True, eq=False)
class CineLabels:
    """Label maps of all phases of a short-axis stack, cut to the box of what is labelled.

    Attributes
    ----------
    labels
        ``(phase, z, y, x)`` `Structure` values.
    spacing
        ``(dz, dy, dx)`` mm between voxel centres; ``dz`` is the slice distance.
    start, stop
        Half-open index box ``(z, y, x)`` of the labels in the scan.
    open_faces
        ``(3, 2)``: whether the lower and upper end of the box along z, y, x is the end of the scan.
    """

    labels: npt.NDArray[np.integer]
    spacing: tuple[float, float, float]
    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    open_faces: BoolArray

    @property
    def pixel_area(self) -> float:
        """Area of a pixel in mm²."""
        return self.spacing[1] * self.spacing[2]

    def of(self, *structures: Structure) -> BoolArray:
        """Voxels ``(phase, z, y, x)`` that carry any of ``structures``."""
        return np.asarray(np.logical_or.reduce([self.labels == structure for structure in structures]))


def cine_labels(frames: Sequence[Volume]) -> CineLabels:
    """Join the label maps of a cycle.

    Parameters
    ----------
    frames
        One label map a phase, on one grid, in the order of time.

    Raises
    ------
    NotEvaluableError
        ``no_phases``, ``not_a_label_map``, ``unknown_label``, ``grid_mismatch``, ``gantry_tilt``, ``empty_mask``
        (no phase has a label).
    """
    if not frames:
        raise NotEvaluableError("no_phases", "there is no label map to measure")
    require_orthogonal(frames[0].grid)
    for frame in frames:
        require_label_map(frame)
        require_same_grid(frames[0], frame)
    highest = max(int(frame.voxels.max()) for frame in frames)
    if highest > max(Structure):
        known = ", ".join(f"{s.value} {s.name}" for s in Structure)
        raise NotEvaluableError("unknown_label", f"label {highest} is none of {known}")
    labelled = np.zeros(frames[0].voxels.shape, dtype=bool)
    for frame in frames:
        labelled |= frame.voxels != 0
    if not labelled.any():
        raise NotEvaluableError("empty_mask", "no phase has a labelled voxel")
    start, stop = _box(labelled)
    faces = np.stack([np.equal(start, 0), np.equal(stop, labelled.shape)], axis=1)
    cut = np.stack([frame.crop(start, stop).voxels for frame in frames])
    return CineLabels(cut, frames[0].grid.spacing, start, stop, faces)


def _box(mask: BoolArray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Smallest half-open box around a mask that has a voxel."""
    ends = [np.flatnonzero(mask.any(axis=other))[[0, -1]] for other in ((1, 2), (0, 2), (0, 1))]
    k, j, i = ((int(first), int(last) + 1) for first, last in ends)
    return (k[0], j[0], i[0]), (k[1], j[1], i[1])


def areas_mm2(mask: BoolArray, cine: CineLabels) -> FloatArray:
    """Area ``(phase, z)`` mm² of a mask ``(phase, z, y, x)`` in every slice."""
    return np.asarray(np.count_nonzero(mask, axis=(2, 3)) * cine.pixel_area)


def volume_curve_ml(areas: FloatArray, cine: CineLabels) -> FloatArray:
    """Volume ``(phase,)`` mL from areas ``(phase, z)`` mm², see `slice_sum_volume_ml`."""
    return np.array([slice_sum_volume_ml(row, cine.spacing[0]) for row in areas])


def myocardial_share(cine: CineLabels) -> FloatArray:
    """Share ``(phase, z)`` of the circumference of the LV cavity that is myocardium; NaN where there is no cavity.

    The cavity is blood and papillary muscle; its circumference is the outline of its pixels, each edge as long as the
    pixel is there.
    """
    cavity = np.pad(cine.of(Structure.LV_BLOOD, Structure.PAPILLARY), ((0, 0), (0, 0), (1, 1), (1, 1)))
    myocardium = np.pad(cine.of(Structure.LV_MYOCARDIUM), ((0, 0), (0, 0), (1, 1), (1, 1)))
    _, dy, dx = cine.spacing
    outline, wall = np.zeros(cavity.shape[:2]), np.zeros(cavity.shape[:2])
    for axis, edge in ((2, dx), (3, dy)):
        n = cavity.shape[axis]
        low, high = ([slice(None)] * 4 for _ in range(2))
        low[axis], high[axis] = slice(0, n - 1), slice(1, n)
        for one, other in ((tuple(low), tuple(high)), (tuple(high), tuple(low))):
            outline += edge * np.count_nonzero(cavity[one] & ~cavity[other], axis=(2, 3))
            wall += edge * np.count_nonzero(cavity[one] & myocardium[other], axis=(2, 3))
    return np.divide(wall, outline, out=np.full_like(outline, np.nan), where=outline > 0)


def slices_by_basal_rule(cine: CineLabels) -> BoolArray:
    """Slices ``(phase, z)`` that belong to the LV by the basal rule.

    From the base on, slices are left out until the first with at least half of the cavity's circumference in
    myocardium. The base is the end of the stack at which the ventricle's sections are larger, in its fullest phase.

    Raises
    ------
    NotEvaluableError
        ``myocardium_incomplete``: no slice passes, or one between two that do fails; then not the base but the label
        map is at fault.
    """
    share = myocardial_share(cine)
    from_base = slice(None, None, -1 if _base_is_last(cine) else 1)
    passes = (share >= BASAL_SHARE - SHARE_TOLERANCE)[:, from_base]
    counts = np.maximum.accumulate(passes, axis=1)
    towards_apex = np.maximum.accumulate(passes[:, ::-1], axis=1)[:, ::-1]
    has_cavity = np.isfinite(share)[:, from_base]
    wrong = ~passes.any(axis=1) | (has_cavity & ~passes & counts & towards_apex).any(axis=1)
    if wrong.any():
        detail = f"phase {int(wrong.argmax())}: under 50 % myocardium around the cavity where the base is not"
        raise NotEvaluableError("myocardium_incomplete", detail)
    return counts[:, from_base]


def _base_is_last(cine: CineLabels) -> bool:
    ventricle = cine.of(Structure.LV_BLOOD, Structure.PAPILLARY, Structure.LV_MYOCARDIUM)
    by_slice = np.count_nonzero(ventricle, axis=(2, 3))
    fullest = by_slice[by_slice.sum(axis=1).argmax()]
    first, last = np.flatnonzero(fullest)[[0, -1]]
    pixels = fullest[first : last + 1]
    half = len(pixels) // 2
    return bool(pixels[len(pixels) - half :].sum() >= pixels[:half].sum())


def require_every_phase(mask: BoolArray, name: str) -> None:
    """Refuse a structure that is missing from a phase: ``empty_mask``."""
    absent = np.flatnonzero(np.count_nonzero(mask, axis=(1, 2, 3)) == 0)
    if len(absent):
        raise NotEvaluableError("empty_mask", f"{name} is not labelled in phase {absent[0]} of {len(mask)}")


def require_complete(mask: BoolArray, cine: CineLabels, name: str) -> None:
    """Refuse a structure that is missing from a phase, has a gap between slices, or reaches the edge of the scan.

    Raises
    ------
    NotEvaluableError
        ``empty_mask``, ``gap_in_mask``, ``touches_border``.
    """
    require_every_phase(mask, name)
    in_slice = np.count_nonzero(mask, axis=(2, 3)) > 0
    pieces = np.count_nonzero(np.diff(in_slice.astype(np.int8), axis=1, prepend=0) == 1, axis=1)
    if (pieces > 1).any():
        phase = int(pieces.argmax())
        raise NotEvaluableError("gap_in_mask", f"{name} is missing from a slice between others in phase {phase}")
    for axis in (1, 2, 3):
        across = tuple(other for other in range(4) if other != axis)
        ends = np.count_nonzero(mask, axis=across)[[0, -1]] > 0
        if (ends & cine.open_faces[axis - 1]).any():
            detail = f"{name} reaches the edge of the scan and may go on beyond it"
            raise NotEvaluableError("touches_border", detail)

"""Suspected haemorrhage on unenhanced head CT, without a trained model: the baseline that a network has to beat.

The intracranial cavity is what soft tissue bone encloses. In it, connected blood-dense regions (SPEC §5: 50–80 HU [R])
count unless they are calcified, thin sheets like falx and tentorium, venous sinuses, or sloping bone. Subtypes are not
told apart.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.diseases.haemorrhage.head_ct import (
    MM3_PER_ML,
    WORKING_SLICE_MM,
    Cavity,
    box_filter,
    intracranial_cavity,
    radii_of,
    slice_normal,
    smooth_within,
    symmetry_plane,
)
from ops.volume import FloatArray, Volume

BoolArray = npt.NDArray[np.bool_]
LabelArray = npt.NDArray[np.uint16]

# Half width of the band beside bone where partial volume looks like blood.
RIM_MM = 1.5


@dataclass(frozen=True)
class DetectionPolicy:
    """Thresholds of the search; all are choices of this project, tuned on simulated heads, except the blood window.

    Attributes
    ----------
    blood_hu
        Window of acute blood after smoothing, inclusive (SPEC §5 [R]).
    smoothing_mm
        In-plane standard deviation of the smoothing; half of it where the edge of a region is drawn.
    edge_hu, min_core_ml
        A region reaches to ``edge_hu`` around a core of at least this volume in the blood window.
    min_volume_ml, min_thickness_mm
        Smaller or thinner regions are not reported.
    calcified_hu
        Voxels from here on are calcium or bone and no part of a region; what is left around them is thin.
    midline_mm, midline_share
        A region with this share of its voxels this near to the symmetry plane of the cavity is falx, unless it is
        thicker than twice this.
    floor_share, floor_mm
        A thinner region with this share of its voxels just above the floor of the skull is sloping bone that fills
        part of a slice.
    sinus_hu, sinus_ml, sinus_core_share
        A region beside the skull that is less dense in the mean is a venous sinus, if it is smaller than the first
        volume, or than the second with less than this share of it in its core.
    """

    blood_hu: tuple[float, float] = (50.0, 80.0)
    smoothing_mm: float = 1.5
    edge_hu: float = 46.0
    min_core_ml: float = 0.1
    min_volume_ml: float = 0.3
    min_thickness_mm: float = 3.0
    calcified_hu: float = 100.0
    midline_mm: float = 5.0
    midline_share: float = 0.7
    floor_share: float = 0.7
    floor_mm: float = 5.0
    sinus_hu: float = 55.0
    sinus_ml: tuple[float, float] = (5.0, 15.0)
    sinus_core_share: float = 0.5

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


DEFAULT_POLICY = DetectionPolicy()


@dataclass(frozen=True)
class Candidate:
    """One suspected haemorrhage.

    Attributes
    ----------
    label
        Its value in the label map.
    volume_ml, mean_hu
        Of its voxels.
    thickness_mm
        Diameter of the largest ball inside.
    centre
        Patient LPS mm.
    """

    label: int
    volume_ml: float
    mean_hu: float
    thickness_mm: float
    centre: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Detection:
    """What was found.

    Attributes
    ----------
    labels
        1, 2, … by candidate, largest core first, on the grid of the scan.
    candidates
        In the same order.
    cavity_ml
        Volume of the intracranial cavity that was searched.
    """

    labels: Volume
    candidates: tuple[Candidate, ...]
    cavity_ml: float


def find_haemorrhage(ct: Volume, modality: str = "CT", policy: DetectionPolicy = DEFAULT_POLICY) -> Detection:
    """Search an unenhanced head CT for blood.

    Parameters
    ----------
    ct
        HU, axial, the whole head or at least most of the cranial vault.
    modality
        DICOM Modality.
    policy
        See `DetectionPolicy`.

    Raises
    ------
    NotEvaluableError
        Wrong modality or units, NaN, sheared or non-axial slices, or ``no_intracranial_cavity``.
    """
    cavity = intracranial_cavity(ct, modality)
    search = _search(cavity, policy)
    components, _ = ndimage.label(search.dense)
    core = np.bincount(components[search.core], minlength=int(components.max()) + 1)
    has_core = core * cavity.grid.voxel_volume / MM3_PER_ML >= policy.min_core_ml
    found: list[tuple[Candidate, int]] = []
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        candidate = _candidate(search, components[box] == number, box, policy) if has_core[number] else None
        if candidate is not None:
            found.append((candidate, number))
    found.sort(key=lambda pair: -pair[0].volume_ml)
    renumber = np.zeros(len(core), dtype=np.uint16)
    renumber[[number for _, number in found]] = np.arange(1, len(found) + 1)
    labels = _into_rim(renumber[components], search, policy)
    volumes = np.bincount(labels.ravel(), minlength=len(found) + 1) * cavity.grid.voxel_volume / MM3_PER_ML
    candidates = tuple(
        replace(candidate, label=label, volume_ml=float(volumes[label]))
        for label, (candidate, _) in enumerate(found, start=1)
    )
    fine = Volume(_refine(labels, cavity.block, ct.grid.shape), ct.grid, "label")
    return Detection(fine, candidates, cavity.volume_ml)


@dataclass(frozen=True, eq=False)
class _Search:
    """What the search goes by, on the lattice of the cavity.

    Attributes
    ----------
    dense, core
        Voxels a region may hold, and those that make it blood.
    rim, floor
        Voxels beside bone, and the lowest of the cavity.
    midline
        Column of the symmetry plane, see `symmetry_plane`.
    """

    cavity: Cavity
    dense: BoolArray
    core: BoolArray
    rim: BoolArray
    floor: BoolArray
    midline: FloatArray


def _search(cavity: Cavity, policy: DetectionPolicy) -> _Search:
    """Smooth within the cavity, away from bone and calcium, and apply the window of blood."""
    dz, dy, dx = cavity.grid.spacing
    rim = _near_bone(cavity)
    searched = cavity.mask & ~rim & (cavity.hu < policy.calcified_hu)
    sigma = (1.0 if dz <= WORKING_SLICE_MM else 0.0, policy.smoothing_mm / dy, policy.smoothing_mm / dx)
    smooth = smooth_within(cavity.hu, searched, sigma)
    edge = smooth_within(cavity.hu, searched, (sigma[0] / 2, sigma[1] / 2, sigma[2] / 2))
    low, high = policy.blood_hu
    dense = searched & (edge >= policy.edge_hu) & (edge <= high)
    core = dense & (smooth >= low) & (smooth <= high)
    return _Search(cavity, dense, core, rim, _lowest(cavity), symmetry_plane(cavity))


def _into_rim(labels: LabelArray, search: _Search, policy: DetectionPolicy) -> LabelArray:
    """Let candidates reach the skull: the rim was left out of the search, but blood beside them lies there too."""
    cavity = search.cavity
    _, j, i = radii_of(RIM_MM, cavity.grid)
    near = ndimage.maximum_filter(labels, (1, 2 * j + 1, 2 * i + 1))
    dense = search.rim & cavity.mask & (cavity.hu >= policy.edge_hu) & (cavity.hu < policy.calcified_hu)
    return np.asarray(np.where(dense & (labels == 0), near, labels))


def _refine(labels: LabelArray, block: tuple[int, int, int], shape: tuple[int, int, int]) -> LabelArray:
    """Spread labels of blocks over the voxels of the scan ``shape``."""
    out = np.zeros(shape, dtype=np.uint16)
    for axis, n in enumerate(block):
        labels = labels.repeat(n, axis=axis)
    out[tuple(slice(0, n) for n in labels.shape)] = labels
    return out


def _near_bone(cavity: Cavity) -> BoolArray:
    """Band beside the skull where a voxel holds some bone; sloping bone also reaches into the next slice."""
    skull = cavity.bone & ~cavity.mask
    _, j, i = radii_of(RIM_MM, cavity.grid)
    return box_filter(skull, (1, j, i), "dilate")


def _lowest(cavity: Cavity) -> BoolArray:
    """Voxels of the cavity with none of it in the slice below, in the patient's sense."""
    covered = np.zeros_like(cavity.mask)
    if slice_normal(cavity.grid) @ cavity.grid.directions[:, 0] > 0:
        covered[1:] = cavity.mask[:-1]
    else:
        covered[:-1] = cavity.mask[1:]
    return np.asarray(cavity.mask & ~covered)


def _candidate(
    search: _Search, mask: BoolArray, box: tuple[slice, slice, slice], policy: DetectionPolicy
) -> Candidate | None:
    """Describe one dense region; None when its size, shape, density or place speaks against blood."""
    grid = search.cavity.grid
    volume = np.count_nonzero(mask) * grid.voxel_volume / MM3_PER_ML
    if volume < policy.min_volume_ml:
        return None
    # From the middle of a voxel to the middle of the nearest one outside, so that a single voxel is one pixel thick.
    inscribed = float(ndimage.distance_transform_edt(np.pad(mask, 1), sampling=grid.spacing).max())
    thickness = 2 * inscribed - grid.spacing[2]
    index = np.argwhere(mask) + [part.start for part in box]
    off_plane = np.abs(index[:, 2] - index[:, [1, 0]] @ search.midline[1:] - search.midline[0]) * grid.spacing[2]
    is_falx = np.mean(off_plane <= policy.midline_mm) >= policy.midline_share and thickness <= 2 * policy.midline_mm
    is_floor = np.mean(search.floor[box][mask]) >= policy.floor_share and thickness < policy.floor_mm
    if thickness < policy.min_thickness_mm or is_falx or is_floor or _is_sinus(search, mask, box, policy):
        return None
    x, y, z = grid.index_to_patient(index.mean(axis=0))
    mean_hu = float(search.cavity.hu[box][mask].mean())
    return Candidate(0, float(volume), mean_hu, thickness, (float(x), float(y), float(z)))


def _is_sinus(search: _Search, mask: BoolArray, box: tuple[slice, slice, slice], policy: DetectionPolicy) -> bool:
    wider = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)
    grown = np.zeros(search.rim[wider].shape, dtype=bool)
    grown[tuple(slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, wider, strict=True))] = mask
    if not (box_filter(grown, (0, 1, 1), "dilate") & search.rim[wider]).any():
        return False
    ml = np.count_nonzero(mask) * search.cavity.grid.voxel_volume / MM3_PER_ML
    small, large = policy.sinus_ml
    fits = ml < small or (ml < large and search.core[box][mask].mean() < policy.sinus_core_share)
    return bool(search.cavity.hu[box][mask].mean() < policy.sinus_hu and fits)

"""Intracranial haemorrhage on CT (SPEC §5): from a map of the five subtypes to volumes, midline shift and scores.

`measure` is the whole of it; the definitions are in `scores`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.diseases.haemorrhage.head_ct import MAX_ANISOTROPY, MM3_PER_ML, require_axial, slice_normal
from ops.diseases.haemorrhage.scores import (
    SUBTYPES,
    EdgeRule,
    abc_over_2,
    ich_mortality,
    ich_score,
    is_surgical_shift,
    modified_fisher,
    signed_midline_shift,
    weighted_height,
)
from ops.measure.checks import (
    require_isotropy,
    require_label_map,
    require_modality,
    require_orthogonal,
)
from ops.measure.diameters import in_plane_diameters
from ops.measure.errors import NotEvaluableError
from ops.measure.record import MeasurementRecord
from ops.measure.value import MeasuredValue
from ops.volume import FloatArray, Grid, Volume

ALGORITHM = "haemorrhage"
VERSION = "1"

IPH = next(label for label, name in SUBTYPES.items() if name == "IPH")
CUT = "touches_border"
# Landmarks of one slice may differ this much along its normal: what is left of header decimals (policy).
COPLANAR_TOLERANCE_MM = 0.5
# Nearer points cannot be the front and the back of one falx; a newborn's are some 90 mm apart (policy).
SHORTEST_FALX_MM = 50.0

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class HaemorrhagePolicy:
    """Named choices that change a value; they go into every record.

    Attributes
    ----------
    abc_edges
        What slices at exactly 25 % and 75 % of the largest area count for C, see `slice_weights`.
    ich_volume
        Volume of the ICH score's 30 mL: ``voxels`` (default) counts them, ``abc2`` is the sum of ABC/2 over lesions,
        as it was estimated for the published cohort [R].
    """

    abc_edges: EdgeRule = "edges_half"
    ich_volume: Literal["voxels", "abc2"] = "voxels"

    def __post_init__(self) -> None:
        for name, allowed in (("abc_edges", get_args(EdgeRule)), ("ich_volume", ("voxels", "abc2"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_POLICY = HaemorrhagePolicy()


@dataclass(frozen=True)
class MidlineLandmarks:
    """Three points of one slice at the foramina of Monro, patient LPS mm.

    Attributes
    ----------
    septum
        Septum pellucidum.
    falx_anterior, falx_posterior
        Attachments of the falx to the inner table.
    """

    septum: tuple[float, float, float]
    falx_anterior: tuple[float, float, float]
    falx_posterior: tuple[float, float, float]


@dataclass(frozen=True)
class ClinicalFindings:
    """What the ICH score needs and no image shows.

    Attributes
    ----------
    gcs
        Glasgow Coma Scale 3–15.
    age
        Years.
    infratentorial
        The intraparenchymal haematoma arose below the tentorium.
    """

    gcs: int
    age: float
    infratentorial: bool


@dataclass(frozen=True)
class Lesion:
    """One connected haematoma.

    Attributes
    ----------
    volume_mm3
        Voxels × voxel volume.
    abc2_mm3
        ABC/2 estimate.
    """

    volume_mm3: float
    abc2_mm3: float


def measure(
    labels: Volume | None,
    modality: str = "CT",
    *,
    landmarks: MidlineLandmarks | None = None,
    sah_is_thick: bool | None = None,
    clinical: ClinicalFindings | None = None,
    policy: HaemorrhagePolicy = DEFAULT_POLICY,
    inputs: tuple[str, ...] = (),
) -> MeasurementRecord:
    """Measure the haemorrhages of one head.

    Parameters
    ----------
    labels
        Label map on the CT's grid: 1 EDH, 2 SDH, 3 SAH, 4 IPH, 5 IVH, 0 elsewhere. All 0 is a finding, no haemorrhage;
        None means that nothing was segmented and is refused.
    modality
        DICOM Modality of the segmented series.
    landmarks
        For the midline shift; None leaves it out.
    sah_is_thick
        A reader's judgement, for the modified Fisher grade. No rule derives it from a label map.
    clinical
        For the ICH score.
    policy
        See `HaemorrhagePolicy`.
    inputs
        UIDs for the record.

    Returns
    -------
    MeasurementRecord
        ``volume_<subtype>`` and ``volume_total`` in mL, ``any_haemorrhage`` 0 or 1; of intraparenchymal lesions (joined
        over 26 neighbours) their count, ``volume_iph_largest``, and ABC/2 of the largest and summed over all;
        ``midline_shift`` in mm with its side; ``modified_fisher``, ``ich_score``, ``ich_mortality_30_day``. What lacks
        an input or does not apply is missing with a reason. Flag ``midline_shift_above_5mm``.
    """
    known: dict[str, Any] = {"policy": policy.to_dict(), "inputs": inputs}
    try:
        require_modality(modality, "CT")
        if labels is None:
            raise NotEvaluableError("not_segmented", "no label map was given; an empty one would say no haemorrhage")
        found = _find(labels)
    except NotEvaluableError as error:
        return MeasurementRecord.refused(ALGORITHM, VERSION, error, **known)
    measured = _volumes(found)
    measured += _iph_values(found, clinical, policy)
    shift = _shift_values(landmarks, labels.grid)
    measured += [*shift, _fisher_grade(found, sah_is_thick)]
    surgical = isinstance(shift[0].value, float) and is_surgical_shift(shift[0].value)
    known |= {"measurements": tuple(measured), "flags": ("midline_shift_above_5mm",) if surgical else ()}
    if found.cut:
        detail = f"{', '.join(sorted(found.cut))} reaches the edge of the scan and may go on beyond it"
        return MeasurementRecord.refused(ALGORITHM, VERSION, NotEvaluableError(CUT, detail), **known)
    return MeasurementRecord(ALGORITHM, VERSION, **known)


def iph_lesions(labels: Volume, policy: HaemorrhagePolicy = DEFAULT_POLICY) -> list[Lesion]:
    """Find connected intraparenchymal haematomas (label 4, 26 neighbours), largest first.

    Raises
    ------
    NotEvaluableError
        ``not_axial``: ABC/2 is defined on axial slices.
    """
    mask = labels.voxels == IPH
    if not mask.any():
        return []
    require_axial(labels.grid)
    components, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    lesions = [
        _lesion(components[box] == number, labels.grid, policy)
        for number, box in enumerate(ndimage.find_objects(components), start=1)
    ]
    return sorted(lesions, key=lambda lesion: lesion.volume_mm3, reverse=True)


def _lesion(mask: BoolArray, grid: Grid, policy: HaemorrhagePolicy) -> Lesion:
    dz, dy, dx = grid.spacing
    pixels = np.count_nonzero(mask, axis=(1, 2))
    # Pixels have edges: a caliper measures from the outer edge of the clot to the other.
    plane = in_plane_diameters(mask[int(pixels.argmax())], (dy, dx), "edge_to_edge")
    height = weighted_height(pixels, dz, policy.abc_edges)
    abc2 = abc_over_2(plane.longest, plane.perpendicular, height)
    return Lesion(float(pixels.sum() * grid.voxel_volume), abc2)


def shift_from_landmarks(landmarks: MidlineLandmarks, grid: Grid) -> float:
    """Midline shift in mm within the slice of the landmarks, positive to the patient's left.

    Raises
    ------
    NotEvaluableError
        ``not_axial``, or ``bad_landmarks``: not finite, not of one slice, the attachments swapped or too close.
    """
    require_axial(grid)
    septum, anterior, posterior = points = np.asarray(
        [landmarks.septum, landmarks.falx_anterior, landmarks.falx_posterior], dtype=np.float64
    )
    if points.shape != (3, 3) or not np.isfinite(points).all():
        raise NotEvaluableError("bad_landmarks", f"three finite LPS points in mm are needed, got {points.tolist()}")
    normal = slice_normal(grid)
    spread = float(np.ptp(points @ normal))
    if spread > COPLANAR_TOLERANCE_MM:
        raise NotEvaluableError("bad_landmarks", f"landmarks lie {spread:.1f} mm apart along the slice normal")
    back = posterior - anterior
    if float(np.linalg.norm(back)) < SHORTEST_FALX_MM or back[1] <= 0:
        detail = f"from the anterior to the posterior attachment of the falx it is {back.round(1).tolist()} mm in LPS"
        raise NotEvaluableError("bad_landmarks", detail)
    # In-plane axes: patient's left, and backwards, as far as the slice has them.
    left = _in_plane(np.array([1.0, 0.0, 0.0]), normal)
    axes = np.stack([left, np.cross(normal, left)], axis=1)
    return signed_midline_shift(septum @ axes, anterior @ axes, posterior @ axes)


def _in_plane(direction: FloatArray, normal: FloatArray) -> FloatArray:
    projected = direction - (direction @ normal) * normal
    return np.asarray(projected / np.linalg.norm(projected))


@dataclass(frozen=True, eq=False)
class _Found:
    """Label map cropped to the haemorrhages, voxels by subtype, and the subtypes that a face of the scan cuts off."""

    crop: Volume
    voxels: dict[str, int]
    cut: frozenset[str]


def _find(labels: Volume) -> _Found:
    require_label_map(labels)
    require_orthogonal(labels.grid)
    require_isotropy(labels.grid, MAX_ANISOTROPY)
    crop = _crop_to_labels(labels)
    largest = int(crop.voxels.max())
    if largest > max(SUBTYPES):
        raise NotEvaluableError("unknown_label", f"label {largest} is none of {SUBTYPES}")
    faces = np.concatenate([labels.voxels.take(end, axis=axis).ravel() for axis in range(3) for end in (0, -1)])
    cut = frozenset(name for label, name in SUBTYPES.items() if (faces == label).any())
    voxels = {name: int(np.count_nonzero(crop.voxels == label)) for label, name in SUBTYPES.items()}
    return _Found(crop, voxels, cut)


def _crop_to_labels(labels: Volume) -> Volume:
    """Box around all that is labelled; one voxel where nothing is."""
    crop = labels
    for axis in range(3):
        used = np.flatnonzero(crop.voxels.any(axis=tuple(other for other in range(3) if other != axis)))
        start, stop = [0, 0, 0], list(crop.grid.shape)
        start[axis], stop[axis] = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        crop = crop.crop((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    return crop


def _volumes(found: _Found) -> list[MeasuredValue]:
    to_ml = found.crop.grid.voxel_volume / MM3_PER_ML
    values = [
        MeasuredValue.missing(f"volume_{name.lower()}", CUT, "mL")
        if name in found.cut
        else MeasuredValue(f"volume_{name.lower()}", n * to_ml, "mL")
        for name, n in found.voxels.items()
    ]
    total = sum(found.voxels.values())
    whole = MeasuredValue.missing("volume_total", CUT, "mL")
    if not found.cut:
        whole = MeasuredValue("volume_total", total * to_ml, "mL")
    return [*values, whole, MeasuredValue("any_haemorrhage", float(total > 0), "1")]


def _iph_values(found: _Found, clinical: ClinicalFindings | None, policy: HaemorrhagePolicy) -> list[MeasuredValue]:
    """Lesion count, sizes and the ICH score, each with its reason where there is none."""
    sizes = {"volume_iph_largest": "mL", "abc2_iph_largest": "mL", "abc2_iph_sum": "mL"}
    grades = {"ich_score": "1", "ich_mortality_30_day": "%"}
    try:
        if "IPH" in found.cut:
            raise NotEvaluableError(CUT, "an intraparenchymal haematoma reaches the edge of the scan")
        lesions = iph_lesions(found.crop, policy)
    except NotEvaluableError as error:
        return [MeasuredValue.missing(n, error.reason, u) for n, u in ({"iph_lesions": "1"} | sizes | grades).items()]
    count = MeasuredValue("iph_lesions", float(len(lesions)), "1")
    if not lesions:
        return [count, *(MeasuredValue.missing(name, "no_iph", unit) for name, unit in (sizes | grades).items())]
    ml = [
        volume / MM3_PER_ML
        for volume in (lesions[0].volume_mm3, lesions[0].abc2_mm3, sum(lesion.abc2_mm3 for lesion in lesions))
    ]
    measured = [count, *(MeasuredValue(name, value, "mL") for name, value in zip(sizes, ml, strict=True))]
    total_ml = sum(lesion.volume_mm3 for lesion in lesions) / MM3_PER_ML if policy.ich_volume == "voxels" else ml[2]
    try:
        if clinical is None:
            raise NotEvaluableError("no_clinical_findings", "the ICH score needs GCS, age and the site")
        has_ivh = found.voxels["IVH"] > 0
        score = ich_score(clinical.gcs, total_ml, has_ivh, clinical.infratentorial, clinical.age)
    except NotEvaluableError as error:
        return [*measured, *(MeasuredValue.missing(name, error.reason, unit) for name, unit in grades.items())]
    return [
        *measured,
        MeasuredValue("ich_score", float(score), "1"),
        MeasuredValue("ich_mortality_30_day", ich_mortality(score), "%"),
    ]


def _shift_values(landmarks: MidlineLandmarks | None, grid: Grid) -> list[MeasuredValue]:
    names = {"midline_shift": "mm", "midline_shift_side": ""}
    try:
        if landmarks is None:
            raise NotEvaluableError("no_landmarks", "septum pellucidum and falx attachments were not given")
        shift = shift_from_landmarks(landmarks, grid)
    except NotEvaluableError as error:
        return [MeasuredValue.missing(name, error.reason, unit) for name, unit in names.items()]
    side = "left" if shift > 0 else "right" if shift < 0 else "none"
    return [MeasuredValue("midline_shift", abs(shift), "mm"), MeasuredValue("midline_shift_side", side)]


def _fisher_grade(found: _Found, sah_is_thick: bool | None) -> MeasuredValue:
    sah, ivh = found.voxels["SAH"] > 0, found.voxels["IVH"] > 0
    if sah and sah_is_thick is None:
        return MeasuredValue.missing("modified_fisher", "sah_thickness_unknown", "1")
    try:
        return MeasuredValue("modified_fisher", float(modified_fisher(sah, bool(sah_is_thick), ivh)), "1")
    except NotEvaluableError as error:
        return MeasuredValue.missing("modified_fisher", error.reason, "1")

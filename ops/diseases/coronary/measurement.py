"""Coronary stenosis on CT angiography: from lumen masks or points on the vessels to CAD-RADS (SPEC §9).

A vessel is measured on the sections across its centreline. The left main and the LAD are one course, so that a
narrowing of the left main has the LAD as its distal reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ops.diseases.coronary.cad_rads import cad_rads_category
from ops.diseases.coronary.lumen import lumen_from_points
from ops.diseases.coronary.stenosis import Lesion, StenosisPolicy, find_lesions
from ops.diseases.coronary.vessel_course import (
    Course,
    acquisition,
    calcium_threshold,
    connected_lumens,
    follow,
    lumen_attenuation,
    require_angiogram,
    vessel_mask,
)
from ops.measure.centreline import CentrelinePolicy, straightened
from ops.measure.checks import require_label_map, require_not_empty, require_same_grid
from ops.measure.errors import NotEvaluableError
from ops.measure.record import MeasurementRecord
from ops.measure.value import MeasuredValue
from ops.phantoms.labels import ARTERIES, ARTERY_LABELS
from ops.volume import Volume

ALGORITHM = "coronary_stenosis"
VERSION = "1"

FloatArray = npt.NDArray[np.float64]

# Arteries that are followed as one, by the artery that names the course.
COURSES = {"LAD": ("LM", "LAD"), "LCX": ("LCX",), "RCA": ("RCA",)}
# Blooming reaches about a millimetre over the edge of calcium; calcium beyond that does not narrow the lumen.
BLOOMING_MM = 1.5
BLOOMING_PIXEL_MM = 0.25
_NOT_FOLLOWED = NotEvaluableError("artery_not_labelled", "no part of the vessel's course carries the artery's label")
FINEST_LUMEN_VOXELS = 2.0  # a lumen of fewer voxels across is flagged: its size hangs on where the voxels lie


@dataclass(frozen=True)
class CoronaryPolicy:
    """Named choices that change a result; they go into every record.

    Attributes
    ----------
    diameter
        Of a section: ``area_equivalent`` (default), the circle of the same area, or ``smallest``, the shortest chord
        through the centreline, which is the smaller the more oval the lumen.
    stenosis, centreline
        What is a lesion, and how the vessel is followed.
    """

    diameter: Literal["area_equivalent", "smallest"] = "area_equivalent"
    stenosis: StenosisPolicy = field(default_factory=StenosisPolicy)
    centreline: CentrelinePolicy = field(default_factory=CentrelinePolicy)

    def __post_init__(self) -> None:
        if self.diameter not in ("area_equivalent", "smallest"):
            raise ValueError(f"diameter must be area_equivalent or smallest, got {self.diameter!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_POLICY = CoronaryPolicy()


def measure(
    image: Volume,
    modality: str,
    kvp: float,
    *,
    lumen: Volume | None = None,
    vessels: Mapping[str, npt.ArrayLike] | None = None,
    plaque: bool | None = None,
    policy: CoronaryPolicy = DEFAULT_POLICY,
    inputs: tuple[str, ...] = (),
) -> MeasurementRecord:
    """Stenosis of each coronary artery and the CAD-RADS 2.0 category.

    Parameters
    ----------
    image
        CT angiogram in HU.
    modality
        DICOM Modality.
    kvp
        Tube voltage in kV, stored with the result.
    lumen
        Label map of the lumens on the image's grid: LM 1, LAD 2, LCX 3, RCA 4. None segments them along ``vessels``.
    vessels
        Artery (LM and LAD together as LAD, LCX, RCA) → points ``(n, 3)`` LPS mm in its lumen, from proximal to distal.
        Two points fix the ends of an artery in ``lumen``. Without one they lead a segmentation by threshold, which
        beside calcium is far less accurate than a mask; the result is then flagged ``lumen_by_threshold``.
    plaque
        Plaque anywhere, as read; without a stenosis CAD-RADS is 1 with plaque and 0 without.
    inputs
        Series UIDs of image and lumen.

    Returns
    -------
    MeasurementRecord
        Per artery ``diameter_stenosis_…`` and ``area_stenosis_…`` (%), ``minimal_lumen_diameter_…`` (mm),
        ``minimal_lumen_area_…`` (mm²), ``lesions_…``, and of the narrowest lesion ``reference_diameter_…`` (mm),
        ``reference_sides_…``, ``lesion_position_…`` (from the ostium) and ``lesion_length_…`` (mm); ``cad_rads``,
        ``lumen_attenuation`` and ``kvp``. An artery that cannot be measured has the reason in its place.
    """
    known: dict[str, Any] = {"policy": policy.to_dict(), "inputs": inputs}
    try:
        require_angiogram(image, modality, kvp)
        points = course_points(vessels)
        flags: tuple[str, ...] = ()
        if lumen is None:
            lumen, flags = lumen_from_points(image, points, policy.centreline), ("lumen_by_threshold",)
        require_label_map(lumen)
        require_same_grid(image, lumen)
        require_not_empty(lumen.voxels != 0, "a coronary artery")
        return _measure(image, lumen, points, kvp, plaque, policy, flags, known)
    except NotEvaluableError as error:
        return MeasurementRecord.refused(ALGORITHM, VERSION, error, **known)


def course_points(vessels: Mapping[str, npt.ArrayLike] | None) -> dict[str, FloatArray]:
    """Points of each vessel as arrays.

    Raises
    ------
    NotEvaluableError
        ``unknown_vessel``, ``invalid_points``.
    """
    points = {name: np.asarray(value, dtype=np.float64) for name, value in (vessels or {}).items()}
    for name, value in points.items():
        if name not in COURSES:
            raise NotEvaluableError("unknown_vessel", f"vessels are {sorted(COURSES)}, got {name!r}")
        if value.ndim != 2 or value.shape[1] != 3 or len(value) < 2 or not np.isfinite(value).all():
            detail = f"{name} needs two or more finite points (n, 3) LPS mm, got shape {value.shape}"
            raise NotEvaluableError("invalid_points", detail)
    return points


def _measure(
    image: Volume,
    lumen: Volume,
    points: Mapping[str, FloatArray],
    kvp: float,
    plaque: bool | None,
    policy: CoronaryPolicy,
    origin: tuple[str, ...],
    known: dict[str, Any],
) -> MeasurementRecord:
    tree = connected_lumens(lumen)
    mean, sd = lumen_attenuation(image, tree)
    stored, enhancement = acquisition(mean, kvp)
    measurements, flags = list(stored), [*origin, *enhancement]
    stenosis: dict[str, float | None] = dict.fromkeys(ARTERIES)
    errors: list[NotEvaluableError] = []
    for name, arteries in COURSES.items():
        ends = points[name][[0, -1]] if name in points else None
        try:
            mask = vessel_mask(lumen, tuple(ARTERY_LABELS[artery] for artery in arteries), name)
            course = follow(mask, tree, policy.centreline, ends)
            found = {
                artery: (part, _lesions(course, part, artery, policy))
                for artery, part in _parts(course, lumen, arteries).items()
            }
        except NotEvaluableError as error:
            measurements += [_missing(artery, error) for artery in arteries]
            errors.append(error)
            continue
        measurements += [_missing(artery, _NOT_FOLLOWED) for artery in arteries if artery not in found]
        for artery, (part, own) in found.items():
            stenosis[artery] = max((lesion.diameter_stenosis for lesion in own), default=0.0)
            measurements += _values(artery, own, _diameter(course, policy)[part], course.lumen.area[part])
            if any(_blooms(image, course, lesion, calcium_threshold(mean, sd)) for lesion in own):
                flags.append(f"calcium_blooming_{artery.lower()}")
            if any(lesion.minimal_diameter < FINEST_LUMEN_VOXELS * max(image.grid.spacing) for lesion in own):
                flags.append(f"lumen_near_voxel_size_{artery.lower()}")
    refuse_when_all_failed(errors)
    measurements.append(_category(stenosis, plaque))
    return MeasurementRecord(ALGORITHM, VERSION, measurements=tuple(measurements), flags=tuple(flags), **known)


def refuse_when_all_failed(errors: Sequence[NotEvaluableError]) -> None:
    """Raise what kept the arteries from being measured when it kept all of them."""
    if len(errors) == len(COURSES):
        raise next((error for error in errors if error.reason != "empty_mask"), errors[0])


def _diameter(course: Course, policy: CoronaryPolicy) -> FloatArray:
    return course.lumen.diameter if policy.diameter == "area_equivalent" else course.lumen.smallest_diameter


def _lesions(course: Course, part: npt.NDArray[np.bool_], artery: str, policy: CoronaryPolicy) -> list[Lesion]:
    """Lesions of one artery of a course.

    The left main is wider than the LAD, which therefore is compared with itself; the left main is too short for that.
    """
    compared = np.ones_like(part) if artery == "LM" else part
    arc, inside = course.position[compared], part[compared]
    lesions = find_lesions(arc, _diameter(course, policy)[compared], course.lumen.area[compared], policy.stenosis)
    return [lesion for lesion in lesions if inside[int(np.searchsorted(arc, lesion.narrowest))]]


def _parts(course: Course, lumen: Volume, arteries: tuple[str, ...]) -> dict[str, npt.NDArray[np.bool_]]:
    """Which points of a course belong to which artery; the left main ends at the last point labelled so."""
    here = np.ones(len(course.line.points), dtype=bool)
    if len(arteries) == 1:
        return {arteries[0]: here}
    index = np.clip(
        np.round(lumen.grid.patient_to_index(course.line.points)).astype(int), 0, np.array(lumen.grid.shape) - 1
    )
    in_first = np.flatnonzero(lumen.voxels[tuple(index.T)] == ARTERY_LABELS[arteries[0]])
    first = np.arange(len(here)) <= in_first.max(initial=-1)
    return {artery: part for artery, part in zip(arteries, (first, ~first), strict=True) if part.any()}


def _values(artery: str, lesions: list[Lesion], diameter: FloatArray, area: FloatArray) -> list[MeasuredValue]:
    values = [
        MeasuredValue(f"minimal_lumen_diameter_{artery}", float(diameter.min()), "mm"),
        MeasuredValue(f"minimal_lumen_area_{artery}", float(area.min()), "mm2"),
        MeasuredValue(f"lesions_{artery}", float(len(lesions)), "1"),
    ]
    if not lesions:
        none = [MeasuredValue(f"{kind}_stenosis_{artery}", 0.0, "%") for kind in ("diameter", "area")]
        return none + values
    worst = max(lesions, key=lambda lesion: lesion.diameter_stenosis)
    return [
        MeasuredValue(f"diameter_stenosis_{artery}", worst.diameter_stenosis, "%"),
        MeasuredValue(f"area_stenosis_{artery}", worst.area_stenosis, "%"),
        *values,
        MeasuredValue(f"reference_diameter_{artery}", worst.reference_diameter, "mm"),
        MeasuredValue(f"reference_sides_{artery}", float(worst.reference_sides), "1"),
        MeasuredValue(f"lesion_position_{artery}", worst.narrowest, "mm"),
        MeasuredValue(f"lesion_length_{artery}", worst.stop - worst.start, "mm"),
    ]


def _missing(artery: str, error: NotEvaluableError) -> MeasuredValue:
    return MeasuredValue.missing(f"diameter_stenosis_{artery}", error.reason, "%", error.status)


def _blooms(image: Volume, course: Course, lesion: Lesion, threshold: float) -> bool:
    """Tell whether calcium beside a lesion may make its lumen look narrower than it is."""
    points = course.line.points[(course.position >= lesion.start) & (course.position <= lesion.stop)]
    if len(points) < 2:
        return False
    half = lesion.reference_diameter / 2 + BLOOMING_MM
    block = straightened(image, points, half, BLOOMING_PIXEL_MM)
    offset = np.linspace(-1, 1, block.shape[1])
    disc = np.hypot(offset[:, None], offset[None, :]) <= 1
    return bool((block[:, disc] > threshold).any())


def _category(stenosis: Mapping[str, float | None], plaque: bool | None) -> MeasuredValue:
    """CAD-RADS of the four arteries; 0 and 1 cannot be told apart before plaque was looked for."""
    category = cad_rads_category(stenosis, plaque=bool(plaque))
    if category == "0" and plaque is None:
        return MeasuredValue.missing("cad_rads", "plaque_not_read")
    unread = None in stenosis.values() and category != "N"
    return MeasuredValue("cad_rads", f"{category}/N" if unread else category)

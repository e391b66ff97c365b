"""Coronary plaque on CT angiography: plaque is the wall without the lumen (SPEC §2).

HU bands, volumes, burden, remodelling, high-risk features and the attenuation of the fat around the right coronary
artery; the definitions are in `plaque_formulae`. All of them move with tube voltage and lumen enhancement, which are
stored with every result. Evidence marks: [R] recalled from the literature, [S] secondary source, [U] uncertain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from ops.diseases.coronary.measurement import COURSES, course_points, refuse_when_all_failed
from ops.diseases.coronary.plaque_formulae import (
    COMPONENTS,
    BandSet,
    components,
    fat_attenuation_index,
    is_high_attenuation,
    is_high_risk,
    plaque_burden,
    plaque_class,
    remodelling_index,
)
from ops.diseases.coronary.stenosis import StenosisPolicy, local_line, reference_sizes, runs
from ops.diseases.coronary.vessel_course import (
    Course,
    acquisition,
    connected_lumens,
    follow,
    lumen_attenuation,
    on_grid,
    require_angiogram,
    vessel_mask,
)
from ops.measure.centreline import CentrelinePolicy
from ops.measure.checks import require_label_map, require_not_empty, require_same_grid
from ops.measure.diameters import feret_diameter
from ops.measure.errors import NotEvaluableError
from ops.measure.record import MeasurementRecord
from ops.measure.sections import centred_sections
from ops.measure.value import MeasuredValue
from ops.phantoms.labels import ARTERY_LABELS
from ops.volume import Volume

ALGORITHM = "coronary_plaque"
VERSION = "1"

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
# Voxels of low attenuation beside calcium are none: their HU is that of two tissues or of the kernel's undershoot.
PARTIAL_VOLUME = "partial_volume"

POSITIVE_REMODELLING = 1.1  # inclusive; "positive remodelling > 10 %" [S]
SPOTTY_MM = 3.0  # exclusive, CAD-RADS 2.0 [R]
# Around the proximal right coronary artery (Oikonomou 2018 [R]).
FAT_SEGMENT_MM = (10.0, 50.0)
FAT_ARTERY = "RCA"
SHORTEST_LESION_MM = 2.0
WALL_REACH = 2.5  # of the largest radius of the lumen
FAT_MARGIN_MM = 3.0


@dataclass(frozen=True)
class PlaquePolicy:
    """Named choices that change a result; they go into every record.

    Attributes
    ----------
    bands
        ``A`` (default) or ``motoyama``, see `components`.
    remodelling
        Ratio of vessel ``area`` (default) or ``diameter``; the former is the square of the latter.
    site
        Where along a lesion burden and remodelling are taken: at the ``largest_plaque`` area (default) or at the
        ``narrowest_lumen``.
    outer_edge
        ``keep`` (default) counts voxels of low attenuation on the outside of the wall as plaque of low attenuation;
        ``exclude`` takes them for wall mixed with fat, as those beside calcium.
    class_fractions
        Largest calcified share of volume of a non-calcified plaque, and smallest of a calcified one; mixed lies
        between. There is no agreed value [U]: None (default) leaves plaques unclassified.
    smallest_low_attenuation_mm3
        Connected volume of low attenuation that is a high-risk feature; less is noise. No published value.
    lesion_burden
        Share of the vessel's area taken by plaque from which on there is a lesion. No published value.
    reference, centreline
        Healthy vessel beside a lesion, and how the vessel is followed.
    """

    bands: BandSet = "A"
    remodelling: Literal["area", "diameter"] = "area"
    site: Literal["largest_plaque", "narrowest_lumen"] = "largest_plaque"
    outer_edge: Literal["keep", "exclude"] = "keep"
    class_fractions: tuple[float, float] | None = None
    smallest_low_attenuation_mm3: float = 1.0
    lesion_burden: float = 0.2
    reference: StenosisPolicy = field(default_factory=StenosisPolicy)
    centreline: CentrelinePolicy = field(default_factory=CentrelinePolicy)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("bands", tuple(COMPONENTS)),
            ("remodelling", ("area", "diameter")),
            ("site", ("largest_plaque", "narrowest_lumen")),
            ("outer_edge", ("keep", "exclude")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.class_fractions is not None:
            low, high = self.class_fractions
            if not 0 <= low < high <= 1:
                raise ValueError(f"class_fractions must rise within 0–1, got {self.class_fractions}")
        if not (0 < self.lesion_burden < 1 and self.smallest_low_attenuation_mm3 > 0):
            raise ValueError(
                f"lesion_burden must lie within 0–1 and smallest_low_attenuation_mm3 above 0, "
                f"got {self.lesion_burden} and {self.smallest_low_attenuation_mm3}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_POLICY = PlaquePolicy()


def measure(
    image: Volume,
    modality: str,
    kvp: float,
    *,
    lumen: Volume,
    wall: Volume,
    vessels: Mapping[str, npt.ArrayLike] | None = None,
    napkin_ring: Mapping[str, bool] | None = None,
    policy: PlaquePolicy = DEFAULT_POLICY,
    inputs: tuple[str, ...] = (),
) -> MeasurementRecord:
    """Plaque of each coronary artery, and the fat around the proximal RCA.

    Parameters
    ----------
    image
        CT angiogram in HU.
    modality
        DICOM Modality.
    kvp
        Tube voltage in kV, stored with the result.
    lumen, wall
        Label maps on the image's grid, LM 1, LAD 2, LCX 3, RCA 4: the lumen, and everything within the outer wall.
    vessels
        Artery → its ends ``(2, 3)`` LPS mm, proximal first; by default the longest way through the lumen.
    napkin_ring
        Artery (LM and LAD together as LAD) → whether a reader saw a napkin-ring sign in it.
    inputs
        Series UIDs of image, lumen and wall.

    Returns
    -------
    MeasurementRecord
        Per artery ``plaque_volume_…``, ``…_volume_…`` of each component (mm³), ``percent_atheroma_volume_…`` (% of the
        vessel), ``plaques_…``; per plaque, numbered from the ostium, ``plaque_burden_…_1`` (%),
        ``remodelling_index_…_1``, ``plaque_class_…_1`` and ``high_risk_plaque_…_1``; ``fat_attenuation_index`` (HU),
        ``fat_attenuation``, ``lumen_attenuation`` and ``kvp``.
    """
    known: dict[str, Any] = {"policy": policy.to_dict(), "inputs": inputs}
    try:
        require_angiogram(image, modality, kvp)
        ends = course_points(vessels)
        for labels, name in ((lumen, "a lumen"), (wall, "a vessel wall")):
            require_label_map(labels)
            require_same_grid(image, labels)
            require_not_empty(labels.voxels != 0, name)
        return _measure(image, kvp, lumen, wall, ends, napkin_ring or {}, policy, known)
    except NotEvaluableError as error:
        return MeasurementRecord.refused(ALGORITHM, VERSION, error, **known)


def _measure(
    image: Volume,
    kvp: float,
    lumen: Volume,
    wall: Volume,
    ends: Mapping[str, FloatArray],
    napkin_ring: Mapping[str, bool],
    policy: PlaquePolicy,
    known: dict[str, Any],
) -> MeasurementRecord:
    tree = connected_lumens(lumen)
    mean, _ = lumen_attenuation(image, tree)
    stored, flags = acquisition(mean, kvp)
    measurements = list(stored)
    errors: list[NotEvaluableError] = []
    for name, arteries in COURSES.items():
        try:
            vessel = _vessel(image, lumen, tree, wall, arteries, name, policy, ends.get(name))
        except NotEvaluableError as error:
            errors.append(error)
            measurements.append(MeasuredValue.missing(f"plaque_volume_{name}", error.reason, "mm3", error.status))
            if name == FAT_ARTERY:
                measurements.append(_missing_fat(error))
            continue
        measurements += _artery_values(vessel, name, policy, napkin_ring.get(name))
        if name == FAT_ARTERY:
            measurements += _fat(image, wall, vessel, kvp)
    refuse_when_all_failed(errors)
    return MeasurementRecord(ALGORITHM, VERSION, measurements=tuple(measurements), flags=flags, **known)


@dataclass(frozen=True, eq=False)
class _Vessel:
    """One artery in its own box.

    Attributes
    ----------
    course
        Centreline and lumen.
    wall_area
        ``(n,)`` mm² within the outer wall.
    component
        ``(z, y, x)`` index into ``COMPONENTS``; that of partial volume comes after them; -1 outside the plaque.
    nearest
        ``(z, y, x)`` nearest point of the centreline of every voxel of the plaque; -1 outside it.
    voxels
        Voxels within the outer wall.
    """

    course: Course
    wall_area: FloatArray
    component: npt.NDArray[np.int64]
    nearest: npt.NDArray[np.int64]
    voxels: int
    spacing: tuple[float, float, float]
    voxel_volume: float


def _vessel(
    image: Volume,
    lumen: Volume,
    tree: Volume,
    wall: Volume,
    arteries: tuple[str, ...],
    name: str,
    policy: PlaquePolicy,
    ends: FloatArray | None,
) -> _Vessel:
    values = tuple(ARTERY_LABELS[artery] for artery in arteries)
    tube = vessel_mask(lumen, values, f"the lumen of {name}")
    course = follow(tube, tree, policy.centreline, ends)
    outer = vessel_mask(wall, values, f"the wall of {name}")
    inner = np.isin(on_grid(lumen, outer).voxels, values)
    inside = outer.voxels != 0
    n_outside = int(tube.voxels.sum()) - int((inner & inside).sum())
    if n_outside:
        raise NotEvaluableError("lumen_outside_wall", f"{n_outside} lumen voxels of {name} lie outside its wall")
    part = on_grid(image, outer)
    component = np.full(inside.shape, -1, dtype=np.int64)
    plaque = inside & ~inner
    component[plaque] = components(part.physical(np.float64)[plaque], policy.bands)
    _exclude_partial_volume(component, inside, policy)
    nearest = np.full(inside.shape, -1, dtype=np.int64)
    at = outer.grid.index_to_patient(np.argwhere(plaque))
    nearest[plaque] = cKDTree(course.line.points).query(at)[1] if len(at) else 0
    return _Vessel(
        course=course,
        wall_area=_wall_area(outer, course),
        component=component,
        nearest=nearest,
        voxels=int(inside.sum()),
        spacing=outer.grid.spacing,
        voxel_volume=outer.grid.voxel_volume,
    )


def _exclude_partial_volume(component: npt.NDArray[np.int64], inside: BoolArray, policy: PlaquePolicy) -> None:
    """Turn voxels of low attenuation that touch calcium (26 neighbours) into partial volume, in place (SPEC §2)."""
    names = COMPONENTS[policy.bands]
    full = np.ones((3, 3, 3), dtype=bool)
    mixed = ndimage.binary_dilation(component == names.index("calcified"), full)
    if policy.outer_edge == "exclude":
        mixed |= inside & ~ndimage.binary_erosion(inside, full)
    component[mixed & (component == names.index("low_attenuation"))] = len(names)


def _wall_area(outer: Volume, course: Course) -> FloatArray:
    """Area within the outer wall; sections start from its own middle, which the lumen may lie far from."""
    # From an eccentric lumen the far side of the wall is up to two healthy radii away, more with remodelling.
    reach = WALL_REACH * float(course.line.radii.max()) + 1
    # A plaque has no negative area: the outlines of a healthy lumen and its wall differ by interpolation only.
    return np.asarray(np.maximum(centred_sections(outer, course.line.points, reach).area, course.lumen.area))


def _artery_values(vessel: _Vessel, name: str, policy: PlaquePolicy, napkin_ring: bool | None) -> list[MeasuredValue]:
    names = (*COMPONENTS[policy.bands], PARTIAL_VOLUME)
    volumes = _volumes(vessel, vessel.component >= 0)
    total = float(volumes.sum())
    lesions = _lesions(vessel, policy)
    values = [
        MeasuredValue(f"plaque_volume_{name}", total, "mm3"),
        *(
            MeasuredValue(f"{component}_volume_{name}", float(volume), "mm3")
            for component, volume in zip(names, volumes, strict=True)
        ),
        MeasuredValue(f"percent_atheroma_volume_{name}", 100 * total / (vessel.voxels * vessel.voxel_volume), "%"),
        MeasuredValue(f"plaques_{name}", float(len(lesions)), "1"),
    ]
    for number, span in enumerate(lesions, start=1):
        values += _lesion_values(vessel, span, f"{name}_{number}", policy, napkin_ring)
    return values


def _volumes(vessel: _Vessel, where: BoolArray) -> FloatArray:
    """Volume of each component in mm³, partial volume last."""
    n = len(COMPONENTS["A"]) + 1
    return np.asarray(np.bincount(vessel.component[where], minlength=n) * vessel.voxel_volume)


def _lesions(vessel: _Vessel, policy: PlaquePolicy) -> list[tuple[int, int]]:
    """Stretches of the vessel with plaque of some length."""
    burden = 1 - vessel.course.lumen.area / vessel.wall_area
    arc = vessel.course.line.arc
    return [(a, b) for a, b in runs(burden >= policy.lesion_burden) if arc[b - 1] - arc[a] >= SHORTEST_LESION_MM]


def _lesion_values(
    vessel: _Vessel, span: tuple[int, int], suffix: str, policy: PlaquePolicy, napkin_ring: bool | None
) -> list[MeasuredValue]:
    start, stop = span
    lumen_area = vessel.course.lumen.area
    plaque_area = (vessel.wall_area - lumen_area)[start:stop]
    narrowest = policy.site == "narrowest_lumen"
    site = start + int(lumen_area[start:stop].argmin() if narrowest else plaque_area.argmax())
    where = (vessel.nearest >= start) & (vessel.nearest < stop)
    volumes = _volumes(vessel, where)
    position = vessel.course.position
    values = [
        MeasuredValue(f"plaque_position_{suffix}", float(position[site]), "mm"),
        MeasuredValue(f"plaque_length_{suffix}", float(position[stop - 1] - position[start]), "mm"),
        MeasuredValue(f"plaque_volume_{suffix}", float(volumes.sum()), "mm3"),
        MeasuredValue(
            f"plaque_burden_{suffix}", plaque_burden(float(vessel.wall_area[site]), float(lumen_area[site])), "%"
        ),
    ]
    remodelling: float | None = None
    try:
        remodelling = _remodelling(vessel, span, site, policy)
        values.append(MeasuredValue(f"remodelling_index_{suffix}", remodelling, "1"))
    except NotEvaluableError as error:
        values.append(MeasuredValue.missing(f"remodelling_index_{suffix}", error.reason, "1", error.status))
    features = {
        "positive_remodelling": None if remodelling is None else remodelling >= POSITIVE_REMODELLING,
        "low_attenuation": _low_attenuation(vessel, where, policy),
        "spotty_calcification": _spotty(vessel, where, policy),
        "napkin_ring": napkin_ring,
    }
    values += [
        MeasuredValue(f"{feature}_{suffix}", "present" if found else "absent")
        for feature, found in features.items()
        if found is not None
    ]
    total = float(volumes.sum())
    share = float(volumes[COMPONENTS[policy.bands].index("calcified")]) / total if total else 0.0
    answers: tuple[tuple[str, Callable[[], str]], ...] = (
        ("plaque_class", lambda: plaque_class(share, policy.class_fractions)),
        ("high_risk_plaque", lambda: "present" if is_high_risk(features) else "absent"),
    )
    for kind, answer in answers:
        try:
            values.append(MeasuredValue(f"{kind}_{suffix}", answer()))
        except NotEvaluableError as error:
            values.append(MeasuredValue.missing(f"{kind}_{suffix}", error.reason, "", error.status))
    return values


def _remodelling(vessel: _Vessel, span: tuple[int, int], site: int, policy: PlaquePolicy) -> float:
    size = vessel.wall_area if policy.remodelling == "area" else 2 * np.sqrt(vessel.wall_area / np.pi)
    arc = vessel.course.line.arc
    healthy = 1 - vessel.course.lumen.area / vessel.wall_area < policy.lesion_burden / 2
    line = local_line(arc, size, healthy.astype(np.float64)) if healthy.any() else size
    sides: list[float | None] = [*reference_sizes(arc, size, line, healthy, span, policy.reference), None, None]
    return remodelling_index(float(size[site]), sides[0], sides[1])


def _low_attenuation(vessel: _Vessel, where: BoolArray, policy: PlaquePolicy) -> bool:
    low = where & (vessel.component == COMPONENTS[policy.bands].index("low_attenuation"))
    pieces, n = ndimage.label(low, structure=np.ones((3, 3, 3)))
    largest = int(np.bincount(pieces.reshape(-1), minlength=n + 1)[1:].max(initial=0))
    return bool(largest * vessel.voxel_volume >= policy.smallest_low_attenuation_mm3)


def _spotty(vessel: _Vessel, where: BoolArray, policy: PlaquePolicy) -> bool:
    """Tell whether there is calcium, all of whose pieces measure less than 3 mm from edge to edge."""
    calcium = where & (vessel.component == COMPONENTS[policy.bands].index("calcified"))
    pieces, n = ndimage.label(calcium, structure=np.ones((3, 3, 3)))
    edge = vessel.voxel_volume ** (1 / 3)
    sizes = [
        feret_diameter(np.argwhere(pieces[box] == number) * vessel.spacing) + edge
        for number, box in enumerate(ndimage.find_objects(pieces), start=1)
    ]
    return bool(n > 0 and max(sizes) < SPOTTY_MM)


def _missing_fat(error: NotEvaluableError) -> MeasuredValue:
    return MeasuredValue.missing("fat_attenuation_index", error.reason, "[hnsf'U]", error.status)


def _fat(image: Volume, wall: Volume, vessel: _Vessel, kvp: float) -> list[MeasuredValue]:
    """Fat attenuation index of the proximal RCA, and whether it is high."""
    try:
        index = _proximal_fat(image, wall, vessel)
    except NotEvaluableError as error:
        return [_missing_fat(error)]
    try:
        level = MeasuredValue("fat_attenuation", "high" if is_high_attenuation(index, kvp) else "normal")
    except NotEvaluableError as error:
        level = MeasuredValue.missing("fat_attenuation", error.reason, "", error.status)
    return [MeasuredValue("fat_attenuation_index", index, "[hnsf'U]"), level]


def _proximal_fat(image: Volume, wall: Volume, vessel: _Vessel) -> float:
    course = vessel.course
    low, high = FAT_SEGMENT_MM
    reached = float(course.position[-1])
    if reached < high:
        detail = f"the RCA was followed for {reached:.0f} mm; its fat is measured from {low:g} to {high:g} mm"
        raise NotEvaluableError("vessel_too_short", detail)
    segment = (course.position >= low) & (course.position <= high)
    diameter = float(2 * np.sqrt(vessel.wall_area[segment] / np.pi).mean())
    box = _around(image, course.line.points[segment], 2 * diameter + FAT_MARGIN_MM)
    labels = on_grid(wall, box).voxels
    distance = ndimage.distance_transform_edt(labels != ARTERY_LABELS[FAT_ARTERY], sampling=image.grid.spacing)
    near = (labels == 0) & (distance <= diameter)
    nearest = cKDTree(course.line.points).query(box.grid.index_to_patient(np.argwhere(near)))[1]
    return fat_attenuation_index(box.physical(np.float64)[near][segment[nearest]])


def _around(image: Volume, points: FloatArray, margin_mm: float) -> Volume:
    index = image.grid.patient_to_index(points)
    margin = margin_mm / np.array(image.grid.spacing)
    start = np.maximum(np.floor(index.min(axis=0) - margin), 0).astype(int)
    stop = np.minimum(np.ceil(index.max(axis=0) + margin) + 1, image.grid.shape).astype(int)
    return image.crop((int(start[0]), int(start[1]), int(start[2])), (int(stop[0]), int(stop[1]), int(stop[2])))

"""Liver fibrosis staging: from a map of liver segments and spleen to volumes and markers (SPEC §4).

`measure` is the whole of it. What is read from the label map is in `organs` (with the table of labels), the
formulae and cut-offs in `markers`, the surface's nodularity in `liver_surface`, the stages of a model in
`stage`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np

from ops.diseases.fibrosis import markers
from ops.diseases.fibrosis.liver_surface import SurfacePolicy, surface_nodularity
from ops.diseases.fibrosis.organs import LABELS, SEGMENTS, SPLEEN, Landmark, Organs, caudate_widths, mask_of
from ops.measure.checks import (
    require_finite,
    require_isotropy,
    require_label_map,
    require_modality,
    require_orthogonal,
    require_same_grid,
    require_units,
)
from ops.measure.errors import NotEvaluableError, OutOfModelRangeError
from ops.measure.record import MeasurementRecord
from ops.measure.value import MeasuredValue
from ops.verdict import ResultStatus
from ops.volume import Volume

Value = TypeVar("Value")

ALGORITHM = "liver_fibrosis"
VERSION = "1"

SURFACE_MARGIN_MM = 10.0  # around the liver, for the profiles across its edge

VOLUME, RATIO, HU, TENTHS_MM, STIFFNESS = "cm3", "1", "[hnsf'U]", "10*-1.mm", "kPa"  # UCUM


@dataclass(frozen=True)
class FibrosisPolicy:
    """Named choices that change a result; recorded with each.

    Attributes
    ----------
    confounders
        What becomes of the shape ratios (LSVR, caudate, liver/spleen) after hepatectomy, with TIPS or Budd–Chiari
        syndrome: ``withhold`` (default) makes them not evaluable, ``flag`` gives them and flags the record.
    fib4_cuts, mre_table
        Which published cuts apply.
    erosion_mm
        Attenuation is the mean of the middle half of the HU at least about this far from the organ's edge.
    largest_anisotropy
        Longest over shortest voxel edge.
    surface
        See `SurfacePolicy`.
    """

    confounders: Literal["withhold", "flag"] = "withhold"
    fib4_cuts: markers.Fib4Cuts = "sterling2006"
    mre_table: markers.MreTable = "liang2023_nafld"
    erosion_mm: float = 5.0
    largest_anisotropy: float = 9.5
    surface: SurfacePolicy = field(default_factory=SurfacePolicy)

    def __post_init__(self) -> None:
        for name, allowed in (
            ("confounders", ("withhold", "flag")),
            ("fib4_cuts", tuple(markers.FIB4_CUTS)),
            ("mre_table", tuple(markers.MRE_CUTS)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if not (0 <= self.erosion_mm <= 20 and self.largest_anisotropy >= 1):
            raise ValueError(f"erosion is 0 to 20 mm and anisotropy at least 1, got {self}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


@dataclass(frozen=True)
class Patient:
    """What is known of the patient; None for what is not.

    Attributes
    ----------
    sex
        DICOM code ``F`` or ``M``.
    age
        Years.
    height_cm
        Centimetres.
    splenectomy, hepatectomy, tips, budd_chiari
        Facts that make markers meaningless. Without ``splenectomy`` an empty spleen mask is a failed segmentation.
    """

    sex: str | None = None
    age: float | None = None
    height_cm: float | None = None
    splenectomy: bool = False
    hepatectomy: bool = False
    tips: bool = False
    budd_chiari: bool = False


@dataclass(frozen=True)
class Laboratory:
    """Blood values; AST, ALT and the upper limit of normal of AST in U/L, platelets in 10⁹/L; None where not taken."""

    ast: float | None = None
    alt: float | None = None
    ast_upper_limit: float | None = None
    platelets: float | None = None


@dataclass(frozen=True)
class Elastogram:
    """MR elastography at 60 Hz: stiffness in kPa and area in mm² of each ROI."""

    stiffness_kpa: tuple[float, ...]
    areas_mm2: tuple[float, ...]


@dataclass(frozen=True)
class CtAcquisition:
    """How the CT was taken: tube voltage, and whether contrast was given; None when not known."""

    kvp: float | None = None
    enhanced: bool | None = None


@dataclass(frozen=True)
class PortalLandmarks:
    """Where the linear caudate ratios are read, patient LPS mm ``(x, y, z)``; None when not placed.

    Attributes
    ----------
    main
        Right wall of the main portal vein at its bifurcation, midway in depth between portal vein and vena cava.
    right
        The same at the bifurcation of the right portal vein.
    """

    main: Landmark | None = None
    right: Landmark | None = None


DEFAULT_POLICY = FibrosisPolicy()
NO_ACQUISITION = CtAcquisition()
NO_PATIENT = Patient()
NO_LABORATORY = Laboratory()
NO_LANDMARKS = PortalLandmarks()


def measure(
    segments: Volume,
    modality: str,
    image: Volume | None = None,
    *,
    acquisition: CtAcquisition = NO_ACQUISITION,
    patient: Patient = NO_PATIENT,
    laboratory: Laboratory = NO_LABORATORY,
    elastogram: Elastogram | None = None,
    landmarks: PortalLandmarks = NO_LANDMARKS,
    policy: FibrosisPolicy = DEFAULT_POLICY,
    inputs: Sequence[str] = (),
) -> MeasurementRecord:
    """Measure everything that the given inputs allow; each marker is there with its value or with its reason.

    Parameters
    ----------
    segments
        Label map, see `LABELS`, any orientation.
    modality
        DICOM Modality of the image the segments were drawn on, ``CT`` or ``MR``.
    image
        CT in HU on the grid of ``segments``, for attenuation and surface. Without it the surface's nodularity comes
        from the mask, under another name. An MR image is not used.
    acquisition, patient, laboratory, elastogram, landmarks
        What is known besides the image.
    policy
        All choices.
    inputs
        UIDs of segments and image.

    Returns
    -------
    MeasurementRecord
        Never an exception for bad data. Not evaluable when the label map or the image is unfit, or no liver is
        labelled; markers of the blood and the spleen are kept even then. Volumes in cm³, nodularity in tenths of mm.
        Classes are ``positive`` or ``negative``.
    """
    found = _Measurements()
    _add_blood(found, patient, laboratory, elastogram, policy)
    flags: list[str] = []
    refusal: NotEvaluableError | None = None
    try:
        _check(segments, modality, image, policy)
        organs = Organs(segments)
        flags += _flags(organs, patient)
        _add_volumes(found, organs, patient, policy)
        _add_widths(found, segments, landmarks, patient, policy)
        ct = image if modality == "CT" else None
        _add_attenuation(found, organs, ct, acquisition, patient, policy)
        _add_surface(found, organs, ct, policy)
        if not organs.has(*SEGMENTS):
            raise NotEvaluableError("empty_mask", "no voxel is labelled as a segment of the liver (1–8)")
    except NotEvaluableError as error:
        refusal = error
    if patient.age is not None and found.has("fib4") and markers.fib4_age_caveat(patient.age):
        flags.append("fib4_age_caveat")
    known: dict[str, Any] = {
        "measurements": tuple(found.items.values()),
        "flags": tuple(flags),
        "policy": policy.to_dict(),
        "inputs": tuple(inputs),
    }
    if refusal is not None:
        return MeasurementRecord.refused(ALGORITHM, VERSION, refusal, **known)
    return MeasurementRecord(ALGORITHM, VERSION, **known)


class _Measurements:
    """Measurements by name, each computed once; one that fails leaves its reason, and so do those that need it."""

    def __init__(self) -> None:
        self.items: dict[str, MeasuredValue] = {}

    def add(self, name: str, unit: str, compute: Callable[[], float | str | bool]) -> None:
        try:
            value = compute()
        except NotEvaluableError as error:
            self.items[name] = MeasuredValue.missing(name, error.reason, unit, error.status)
            return
        if isinstance(value, bool | np.bool_):
            value = "positive" if value else "negative"
        self.items[name] = MeasuredValue(name, value if isinstance(value, str) else float(value), unit)

    def number(self, name: str) -> float:
        """Value of an earlier measurement, or its own reason raised again."""
        item = self.items[name]
        if item.value is None:
            kind = OutOfModelRangeError if item.status is ResultStatus.OUT_OF_MODEL_RANGE else NotEvaluableError
            raise kind(item.reason, f"{name} is missing: {item.reason}")
        return float(item.value)

    def has(self, name: str) -> bool:
        return self.items[name].value is not None


def _given(value: Value | None, name: str) -> Value:
    if value is None:
        raise NotEvaluableError("not_provided", f"{name} was not given")
    return value


def _add_blood(
    found: _Measurements,
    patient: Patient,
    laboratory: Laboratory,
    elastogram: Elastogram | None,
    policy: FibrosisPolicy,
) -> None:
    def fib4() -> float:
        lab = laboratory
        return markers.fib4(
            _given(patient.age, "age"),
            _given(lab.ast, "AST"),
            _given(lab.alt, "ALT"),
            _given(lab.platelets, "platelets"),
        )

    def apri() -> float:
        lab = laboratory
        limit = _given(lab.ast_upper_limit, "upper limit of AST")
        return markers.apri(_given(lab.ast, "AST"), limit, _given(lab.platelets, "platelets"))

    def stiffness() -> float:
        rois = _given(elastogram, "an elastogram")
        return markers.mre_stiffness(rois.stiffness_kpa, rois.areas_mm2)

    found.add("fib4", RATIO, fib4)
    found.add("fib4_class", "", lambda: markers.fib4_class(found.number("fib4"), policy.fib4_cuts))
    found.add("apri", RATIO, apri)
    found.add("apri_class_significant", "", lambda: markers.apri_class(found.number("apri"), "significant"))
    found.add("apri_class_cirrhosis", "", lambda: markers.apri_class(found.number("apri"), "cirrhosis"))
    found.add("mre_stiffness", STIFFNESS, stiffness)
    found.add("mre_stage", "", lambda: markers.mre_stage(found.number("mre_stiffness"), policy.mre_table))
    found.add("mefib", "", lambda: markers.mefib(found.number("mre_stiffness"), found.number("fib4")))


def _check(segments: Volume, modality: str, image: Volume | None, policy: FibrosisPolicy) -> None:
    require_modality(modality, "CT", "MR")
    require_label_map(segments)
    highest = int(segments.voxels.max())
    if highest > LABELS[SPLEEN]:
        detail = f"label {highest} is not in the table 1–8 = segments I–VIII, 9 = spleen; translate the labels first"
        raise NotEvaluableError("unknown_label", detail)
    require_orthogonal(segments.grid)
    require_isotropy(segments.grid, policy.largest_anisotropy)
    if image is not None:
        require_same_grid(segments, image)
        if modality == "CT":
            require_units(image, "HU")
            require_finite(image, np.asarray(segments.voxels != 0))


def _flags(organs: Organs, patient: Patient) -> list[str]:
    flags = [name for name in ("splenectomy", "hepatectomy", "tips", "budd_chiari") if getattr(patient, name)]
    if organs.cut_off(*SEGMENTS):
        flags.append("liver_touches_border")
    if organs.cut_off(SPLEEN):
        flags.append("spleen_touches_border")
    if patient.splenectomy and organs.has(SPLEEN):
        flags.append("spleen_label_despite_splenectomy")
    if organs.has(*SEGMENTS) and not organs.connected(SEGMENTS):
        flags.append("fragmented_liver")
    return flags


def _unconfounded(patient: Patient, policy: FibrosisPolicy) -> None:
    """Refuse shape ratios that an operation, a shunt or a congested liver has made meaningless (SPEC §4)."""
    for fact in ("hepatectomy", "tips", "budd_chiari"):
        if policy.confounders == "withhold" and getattr(patient, fact):
            raise NotEvaluableError(fact, f"{fact} changes the liver's shape for reasons other than fibrosis")


def _add_volumes(found: _Measurements, organs: Organs, patient: Patient, policy: FibrosisPolicy) -> None:
    def segment(name: str) -> float:
        if patient.hepatectomy and not organs.has(name):
            raise NotEvaluableError("hepatectomy", f"segment {name} is absent after hepatectomy")
        return organs.volume(name)

    def liver() -> float:
        # What is left after an operation is the liver; else a segment without a voxel is a hole in the sum.
        present = [name for name in SEGMENTS if organs.has(name) or not patient.hepatectomy]
        if not present:
            raise NotEvaluableError("empty_mask", "no voxel is labelled as a segment of the liver (1–8)")
        return sum(map(organs.volume, present))

    def spleen() -> float:
        if patient.splenectomy:
            raise NotEvaluableError("splenectomy", "the spleen was removed")
        return organs.volume(SPLEEN)

    def segments() -> list[float]:
        _unconfounded(patient, policy)
        return [found.number(f"segment_{name}_volume") for name in SEGMENTS]

    def liver_over_spleen() -> float:
        _unconfounded(patient, policy)
        return markers.liver_spleen_volume_ratio(found.number("liver_volume"), found.number("spleen_volume"))

    def spleen_limit() -> float:
        return markers.spleen_volume_limit(_given(patient.sex, "sex"), _given(patient.height_cm, "height"))

    for name in SEGMENTS:
        found.add(f"segment_{name}_volume", VOLUME, partial(segment, name))
    found.add("liver_volume", VOLUME, liver)
    found.add("lsvr", RATIO, lambda: markers.lsvr(segments()))
    found.add("lsvr_cirrhosis", "", lambda: markers.lsvr_cirrhosis(found.number("lsvr")))
    found.add("lsvr_advanced", "", lambda: markers.lsvr_advanced(found.number("lsvr")))
    found.add("caudate_right_lobe_volume_ratio", RATIO, lambda: markers.caudate_right_lobe_volume_ratio(segments()))
    found.add("spleen_volume", VOLUME, spleen)
    found.add("liver_spleen_volume_ratio", RATIO, liver_over_spleen)
    found.add("spleen_volume_limit", VOLUME, spleen_limit)
    found.add("splenomegaly", "", lambda: found.number("spleen_volume") > found.number("spleen_volume_limit"))


def _add_widths(
    found: _Measurements, segments: Volume, landmarks: PortalLandmarks, patient: Patient, policy: FibrosisPolicy
) -> None:
    def ratio(landmark: Landmark | None) -> float:
        _unconfounded(patient, policy)
        widths = caudate_widths(segments, _given(landmark, "the portal vein's landmark"))
        return markers.caudate_right_lobe_ratio(*widths)

    main, right = "caudate_right_lobe_ratio_main", "caudate_right_lobe_ratio_right"
    found.add(main, RATIO, lambda: ratio(landmarks.main))
    found.add("caudate_classic", "", lambda: markers.caudate_classic_positive(found.number(main)))
    found.add(right, RATIO, lambda: ratio(landmarks.right))
    found.add("caudate_modified", "", lambda: markers.caudate_modified_positive(found.number(right)))
    found.add("crl_r", "", lambda: markers.crl_r_positive(found.number(right)))


def _add_attenuation(
    found: _Measurements,
    organs: Organs,
    ct: Volume | None,
    acquisition: CtAcquisition,
    patient: Patient,
    policy: FibrosisPolicy,
) -> None:
    def attenuation(*names: str) -> float:
        return organs.attenuation(names, _given(ct, "a CT image"), policy.erosion_mm)

    def spleen() -> float:
        if patient.splenectomy:
            raise NotEvaluableError("splenectomy", "the spleen was removed")
        return attenuation(SPLEEN)

    def ratio() -> float:
        liver_hu, spleen_hu = found.number("liver_attenuation"), found.number("spleen_attenuation")
        if spleen_hu <= 0:
            raise NotEvaluableError("not_positive", f"spleen of {spleen_hu:g} HU; a ratio to it has no meaning")
        return liver_hu / spleen_hu

    def steatosis(with_spleen: bool) -> markers.SteatosisFindings:
        spleen_hu = found.number("spleen_attenuation") if with_spleen else None
        return markers.steatosis(found.number("liver_attenuation"), spleen_hu, acquisition.kvp, acquisition.enhanced)

    def mild() -> bool:
        found.number("liver_spleen_attenuation_ratio")
        return bool(steatosis(with_spleen=True).mild_by_ratio)

    found.add("liver_attenuation", HU, lambda: attenuation(*SEGMENTS))
    found.add("spleen_attenuation", HU, spleen)
    found.add(
        "liver_minus_spleen_attenuation",
        HU,
        lambda: found.number("liver_attenuation") - found.number("spleen_attenuation"),
    )
    found.add("liver_spleen_attenuation_ratio", RATIO, ratio)
    found.add("steatosis_moderate_to_severe", "", lambda: steatosis(with_spleen=False).moderate_to_severe)
    found.add("steatosis_at_least_30_percent", "", lambda: steatosis(with_spleen=False).at_least_30_percent)
    found.add("steatosis_by_difference", "", lambda: bool(steatosis(with_spleen=True).by_difference))
    found.add("steatosis_mild_by_ratio", "", mild)


def _add_surface(found: _Measurements, organs: Organs, ct: Volume | None, policy: FibrosisPolicy) -> None:
    name = "liver_surface_nodularity" + ("" if ct is not None else "_from_mask")
    rois: list[float] = []

    def nodularity() -> float:
        box = organs.corners(SEGMENTS, SURFACE_MARGIN_MM)
        labels = organs.labels.crop(*box)
        mask = mask_of(labels.voxels, SEGMENTS)
        liver = Volume(mask, labels.grid, "label")
        surface = surface_nodularity(liver, None if ct is None else ct.crop(*box), policy.surface)
        rois.extend(surface.rois)
        return surface.value

    def n_rois() -> float:
        found.number(name)
        return float(len(rois))

    found.add(name, TENTHS_MM, nodularity)
    found.add("liver_surface_rois", RATIO, n_rois)

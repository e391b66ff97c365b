"""Structure of the heart and aorta on MR and CT (SPEC §8): chambers over the cycle, scar, aortic calibre.

`measure_cine`, `measure_scar` and `measure_aorta` are the whole of it. The definitions are in `volumes`,
`scar` and `aorta`; label values are `Structure`. The biplane left atrium is `ops.diseases.echo.formulae.la_volume_ml`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ops.diseases.cardiac.aorta import (
    DEFAULT_AORTA_POLICY,
    AortaPolicy,
    AorticSections,
    aortic_centreline,
    aortic_mask,
    aortic_sections,
    distensibility,
    equivalent_diameter_mm,
    section_at,
)
from ops.diseases.cardiac.scar import (
    DEFAULT_SCAR_POLICY,
    VISIBLE_SD,
    ScarPolicy,
    bright_myocardium,
    fwhm_threshold,
    microvascular_obstruction,
    n_sd_threshold,
    remote_statistics,
    scar_percent,
    visible_enhancement,
)
from ops.diseases.cardiac.volumes import (
    MISMATCH_LIMIT,
    CineLabels,
    Structure,
    areas_mm2,
    cardiac_output_l_min,
    cine_labels,
    myocardial_mass_g,
    require_complete,
    require_every_phase,
    slices_by_basal_rule,
    stroke_volume_difference,
    volume_curve_ml,
)
from ops.diseases.echo.formulae import MM3_PER_ML, BsaFormula, body_surface_area_m2, ejection_fraction
from ops.measure.checks import (
    require_finite,
    require_isotropy,
    require_label_map,
    require_modality,
    require_not_empty,
    require_same_grid,
    require_units,
    touches_border,
)
from ops.measure.errors import NotEvaluableError
from ops.measure.record import MeasurementRecord
from ops.measure.value import MeasuredValue
from ops.volume import Volume

CINE_ALGORITHM, SCAR_ALGORITHM, AORTA_ALGORITHM = "cardiac_cine", "cardiac_scar", "aorta"
VERSION = "1"

BoolArray = npt.NDArray[np.bool_]
BasalRule = Literal["myocardium_50_percent", "as_labelled"]
PapillaryRule = Literal["in_blood", "in_mass"]

# In-plane pixels are square or nearly so; a larger ratio is a label map on the wrong axes (policy).
MAX_PIXEL_RATIO = 2.0
# Slice distances come from positions with few decimals.
DISTANCE_TOLERANCE_MM = 0.01


@dataclass(frozen=True)
class CinePolicy:
    """Every choice that can change a cine result; recorded with each.

    Attributes
    ----------
    basal_rule
        ``myocardium_50_percent`` (default) counts for the LV no basal slices in which under half of the cavity's
        circumference is myocardium; ``as_labelled`` counts all. The RV has no labelled wall and is as labelled.
    papillary_rule
        Papillary muscles are ``in_blood`` (default) or ``in_mass``.
    bsa_formula
        ``mosteller`` (default) or ``dubois``.
    max_slice_distance_mm
        Largest distance of slice centres that is measured. The ratio to the pixel size does not matter: areas are
        counted within slices.
    """

    basal_rule: BasalRule = "myocardium_50_percent"
    papillary_rule: PapillaryRule = "in_blood"
    bsa_formula: BsaFormula = "mosteller"
    max_slice_distance_mm: float = 10.0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("basal_rule", ("myocardium_50_percent", "as_labelled")),
            ("papillary_rule", ("in_blood", "in_mass")),
            ("bsa_formula", ("mosteller", "dubois")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if not (math.isfinite(self.max_slice_distance_mm) and self.max_slice_distance_mm > 0):
            raise ValueError(f"max_slice_distance_mm must be positive, got {self.max_slice_distance_mm}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_CINE_POLICY = CinePolicy()


def measure_cine(
    frames: Sequence[Volume],
    *,
    modality: str,
    heart_rate_bpm: float | None = None,
    height_cm: float | None = None,
    weight_kg: float | None = None,
    policy: CinePolicy = DEFAULT_CINE_POLICY,
    inputs: Sequence[str] = (),
) -> MeasurementRecord:
    """Measure volumes, ejection fractions and LV mass from the label maps of a short-axis cine.

    Parameters
    ----------
    frames
        One label map (`Structure`) a phase on one grid, ``(z, y, x)`` with z across the slices, over one cycle.
    modality
        DICOM Modality of the images the labels belong to, ``MR`` or ``CT``.
    heart_rate_bpm
        For cardiac output; None: not known.
    height_cm, weight_kg
        For indices to body surface area; None: not known.
    policy
        See `CinePolicy`.
    inputs
        UIDs of the series.

    Returns
    -------
    MeasurementRecord
        Of ``lv`` and ``rv``: ``_end_diastolic_volume``, ``_end_systolic_volume``, ``_stroke_volume`` (mL),
        ``_ejection_fraction`` (%), ``_end_diastolic_phase``, ``_end_systolic_phase`` (0-based, each chamber's own);
        ``lv_mass`` (g, at LV end-diastole), ``cardiac_output`` (L/min), ``stroke_volume_difference`` (%),
        ``la_maximum_volume``, ``la_minimum_volume`` (mL), ``body_surface_area`` (m2), and the volumes and the mass
        with ``_index`` per m2. Flags: ``stroke_volume_mismatch``, ``basal_slice_left_out``,
        ``papillary_not_labelled``. A chamber that cannot be measured has its own reason; without the LV the record has
        none but a reason.
    """
    known: dict[str, Any] = {"policy": policy.to_dict(), "inputs": tuple(inputs)}
    try:
        require_modality(modality, "MR", "CT")
        cine = cine_labels(frames)
        _require_short_axis(cine.spacing, policy.max_slice_distance_mm)
        if len(frames) < 2:
            raise NotEvaluableError("one_phase", "end-diastole and end-systole need at least two phases")
        left, flags = _left_ventricle(cine, policy)
    except NotEvaluableError as error:
        return MeasurementRecord.refused(CINE_ALGORITHM, VERSION, error, **known)
    right = _right_ventricle(cine)
    values = {item.name: item for item in (*left, *right, *_left_atrium(cine))}
    values |= {item.name: item for item in _combined(values, heart_rate_bpm)}
    values |= {item.name: item for item in _indices(values, height_cm, weight_kg, policy)}
    difference = values["stroke_volume_difference"].value
    if isinstance(difference, float) and difference > 100 * MISMATCH_LIMIT:
        flags.append("stroke_volume_mismatch")
    return MeasurementRecord(CINE_ALGORITHM, VERSION, measurements=tuple(values.values()), flags=tuple(flags), **known)


def _require_short_axis(spacing: tuple[float, float, float], max_distance_mm: float) -> None:
    dz, dy, dx = spacing
    if dz > max_distance_mm + DISTANCE_TOLERANCE_MM:
        detail = f"slice centres are {dz:.3g} mm apart, at most {max_distance_mm:g} mm can be measured"
        raise NotEvaluableError("anisotropic", detail)
    if max(dy, dx) > MAX_PIXEL_RATIO * min(dy, dx):
        raise NotEvaluableError("anisotropic", f"pixels of {dy:.3g} × {dx:.3g} mm; is z the axis across the slices?")


def _left_ventricle(cine: CineLabels, policy: CinePolicy) -> tuple[list[MeasuredValue], list[str]]:
    blood, muscle = [Structure.LV_BLOOD], [Structure.LV_MYOCARDIUM]
    walls = {"LV blood": cine.of(*blood), "LV myocardium": cine.of(*muscle)}
    for name, mask in walls.items():
        require_every_phase(mask, name)
    counted = np.ones(cine.labels.shape[:2], dtype=bool)
    if policy.basal_rule == "myocardium_50_percent":
        counted = slices_by_basal_rule(cine)
    in_slice = counted[..., None, None]
    for name, mask in walls.items():
        require_complete(mask & in_slice, cine, name)
    (blood if policy.papillary_rule == "in_blood" else muscle).append(Structure.PAPILLARY)
    cavity, myocardium = cine.of(*blood) & in_slice, cine.of(*muscle) & in_slice
    values, end_diastole = _cycle("lv", volume_curve_ml(areas_mm2(cavity, cine), cine))
    area = areas_mm2(myocardium[end_diastole : end_diastole + 1], cine)
    mass = myocardial_mass_g(float(volume_curve_ml(area, cine)[0]))
    flags = []
    if (walls["LV blood"] & ~in_slice).any():
        flags.append("basal_slice_left_out")
    if not cine.of(Structure.PAPILLARY)[end_diastole].any():
        flags.append("papillary_not_labelled")
    return [*values, MeasuredValue("lv_mass", mass, "g")], flags


def _right_ventricle(cine: CineLabels) -> list[MeasuredValue]:
    def measured() -> list[MeasuredValue]:
        blood = cine.of(Structure.RV_BLOOD)
        require_complete(blood, cine, "RV blood")
        return _cycle("rv", volume_curve_ml(areas_mm2(blood, cine), cine))[0]

    return _or_missing(measured, {f"rv_{name}": unit for name, unit in CYCLE_UNITS.items()})


def _left_atrium(cine: CineLabels) -> list[MeasuredValue]:
    """Largest and smallest volume of the atrium in the stack, which seldom covers all of it."""

    def measured() -> list[MeasuredValue]:
        blood = cine.of(Structure.LEFT_ATRIUM)
        require_complete(blood, cine, "left atrium")
        curve = volume_curve_ml(areas_mm2(blood, cine), cine)
        return [
            MeasuredValue("la_maximum_volume", float(curve.max()), "mL"),
            MeasuredValue("la_minimum_volume", float(curve.min()), "mL"),
        ]

    return _or_missing(measured, {"la_maximum_volume": "mL", "la_minimum_volume": "mL"})


CYCLE_UNITS = {
    "end_diastolic_volume": "mL",
    "end_systolic_volume": "mL",
    "stroke_volume": "mL",
    "ejection_fraction": "%",
    "end_diastolic_phase": "1",
    "end_systolic_phase": "1",
}


def _cycle(chamber: str, curve: npt.NDArray[np.float64]) -> tuple[list[MeasuredValue], int]:
    """Values of a ventricle from its volume curve (mL), and the phase of its end-diastole."""
    end_diastole, end_systole = int(curve.argmax()), int(curve.argmin())
    largest, smallest = float(curve[end_diastole]), float(curve[end_systole])
    if largest == smallest:
        raise NotEvaluableError(
            "no_contraction", f"{chamber} has {largest:.1f} mL in every phase: is it one label map?"
        )
    found = (
        largest,
        smallest,
        largest - smallest,
        ejection_fraction(largest, smallest),
        float(end_diastole),
        float(end_systole),
    )
    values = zip(CYCLE_UNITS.items(), found, strict=True)
    return [MeasuredValue(f"{chamber}_{name}", value, unit) for (name, unit), value in values], end_diastole


def _or_missing(measured: Callable[[], list[MeasuredValue]], units: dict[str, str]) -> list[MeasuredValue]:
    """Call ``measured``, or give every name of ``units`` the reason why not."""
    try:
        return measured()
    except NotEvaluableError as error:
        return [MeasuredValue.missing(name, error.reason, unit, error.status) for name, unit in units.items()]


def _number(value: MeasuredValue) -> float:
    """Value of a measurement; a missing one passes on its reason."""
    if not isinstance(value.value, float):
        raise NotEvaluableError(value.reason, f"{value.name} is missing")
    return value.value


def _combined(values: dict[str, MeasuredValue], heart_rate_bpm: float | None) -> list[MeasuredValue]:
    left, right = values["lv_stroke_volume"], values["rv_stroke_volume"]

    def output() -> list[MeasuredValue]:
        if heart_rate_bpm is None:
            raise NotEvaluableError("heart_rate_missing", "cardiac output needs the heart rate")
        return [MeasuredValue("cardiac_output", cardiac_output_l_min(_number(left), heart_rate_bpm), "L/min")]

    def difference() -> list[MeasuredValue]:
        share = stroke_volume_difference(_number(left), _number(right))
        return [MeasuredValue("stroke_volume_difference", 100 * share, "%")]

    return [
        *_or_missing(output, {"cardiac_output": "L/min"}),
        *_or_missing(difference, {"stroke_volume_difference": "%"}),
    ]


def _indices(
    values: dict[str, MeasuredValue], height_cm: float | None, weight_kg: float | None, policy: CinePolicy
) -> list[MeasuredValue]:
    def surface() -> list[MeasuredValue]:
        if height_cm is None or weight_kg is None:
            raise NotEvaluableError("body_size_missing", "indices need height and weight")
        area = body_surface_area_m2(height_cm, weight_kg, policy.bsa_formula)
        return [MeasuredValue("body_surface_area", area, "m2")]

    (area,) = _or_missing(surface, {"body_surface_area": "m2"})
    indexed = [item for item in values.values() if item.unit in ("mL", "g", "L/min")]
    return [area, *(_index(item, area) for item in indexed)]


def _index(item: MeasuredValue, area: MeasuredValue) -> MeasuredValue:
    name, unit = f"{item.name}_index", f"{item.unit}/m2"
    try:
        return MeasuredValue(name, _number(item) / _number(area), unit)
    except NotEvaluableError as error:
        return MeasuredValue.missing(name, error.reason, unit, error.status)


def measure_scar(
    lge: Volume,
    labels: Volume,
    remote: Volume,
    *,
    modality: str,
    policy: ScarPolicy = DEFAULT_SCAR_POLICY,
    inputs: Sequence[str] = (),
) -> MeasurementRecord:
    """Measure the scar of the left ventricle on a late enhancement stack.

    Parameters
    ----------
    lge
        Short-axis signal in ``a.u.``, magnitude or phase-sensitive.
    labels
        `Structure` labels on its grid; LV myocardium includes scar and microvascular obstruction.
    remote
        Mask on its grid of myocardium without scar, away from borders.
    modality
        DICOM Modality; ``MR`` only.
    policy
        See `ScarPolicy`.
    inputs
        UIDs of the series.

    Returns
    -------
    MeasurementRecord
        ``lv_mass`` (g, label LV myocardium), ``remote_mean``, ``remote_sd`` (the image's unit), ``hyperenhancement``
        (``present`` or ``none``), ``scar_threshold``, ``scar_mass`` (g, with obstruction), ``scar_percent`` (% of LV
        mass), ``microvascular_obstruction_mass`` (g). With ``none`` the masses are 0 and there is no threshold.
    """
    known: dict[str, Any] = {"policy": policy.to_dict(), "inputs": tuple(inputs)}
    values: list[MeasuredValue] = []
    try:
        _measure_scar(lge, labels, remote, modality, policy, values)
    except NotEvaluableError as error:
        return MeasurementRecord.refused(SCAR_ALGORITHM, VERSION, error, measurements=tuple(values), **known)
    return MeasurementRecord(SCAR_ALGORITHM, VERSION, measurements=tuple(values), **known)


def _measure_scar(
    lge: Volume, labels: Volume, remote: Volume, modality: str, policy: ScarPolicy, values: list[MeasuredValue]
) -> None:
    """Append the values of `measure_scar` one by one, so that those known before a refusal are kept."""
    require_modality(modality, "MR")
    require_units(lge, "a.u.")
    require_same_grid(lge, labels)
    stack = cine_labels([labels])
    _require_short_axis(stack.spacing, policy.max_slice_distance_mm)
    require_complete(stack.of(Structure.LV_MYOCARDIUM), stack, "LV myocardium")
    _require_remote(remote, labels)
    myocardium = stack.of(Structure.LV_MYOCARDIUM)[0]
    cavity = stack.of(Structure.LV_BLOOD, Structure.PAPILLARY)[0]
    image = lge.crop(stack.start, stack.stop)
    require_finite(image, myocardium)
    signal = image.physical(np.float64)
    voxel_ml = lge.grid.voxel_volume / MM3_PER_ML
    lv_mass = myocardial_mass_g(int(np.count_nonzero(myocardium)) * voxel_ml)
    values.append(MeasuredValue("lv_mass", lv_mass, "g"))
    mean, sd = remote_statistics(signal[remote.crop(stack.start, stack.stop).voxels != 0])
    values += [MeasuredValue("remote_mean", mean, lge.units), MeasuredValue("remote_sd", sd, lge.units)]

    bright = bright_myocardium(signal, myocardium, n_sd_threshold(mean, sd, VISIBLE_SD), policy.border_rule)
    visible = visible_enhancement(bright, voxel_ml, policy.visible_ml)
    scar = obstruction = np.zeros_like(myocardium)
    if visible.any():
        threshold = n_sd_threshold(mean, sd, policy.n_sd)
        if policy.method == "fwhm":
            threshold = fwhm_threshold(float(signal[visible].max()), mean, policy.fwhm_reference)
        scar = bright_myocardium(signal, myocardium, threshold, policy.border_rule)
        obstruction = microvascular_obstruction(scar, myocardium, cavity, policy.obstruction_rule)
        values.append(MeasuredValue("hyperenhancement", "present"))
        values.append(MeasuredValue("scar_threshold", threshold, lge.units))
    else:
        values.append(MeasuredValue("hyperenhancement", "none"))
        values.append(MeasuredValue.missing("scar_threshold", "no_hyperenhancement", lge.units))
    scar_mass = myocardial_mass_g(int(np.count_nonzero(scar | obstruction)) * voxel_ml)
    obstruction_mass = myocardial_mass_g(int(np.count_nonzero(obstruction)) * voxel_ml)
    values += [
        MeasuredValue("scar_mass", scar_mass, "g"),
        MeasuredValue("scar_percent", scar_percent(scar_mass, lv_mass), "%"),
        MeasuredValue("microvascular_obstruction_mass", obstruction_mass, "g"),
    ]


def _require_remote(remote: Volume, labels: Volume) -> None:
    require_label_map(remote)
    require_same_grid(labels, remote)
    inside = remote.voxels != 0
    require_not_empty(inside, "remote myocardium")
    outside = np.count_nonzero(inside & (labels.voxels != Structure.LV_MYOCARDIUM))
    if outside:
        detail = f"{outside} voxels of the remote region are not LV myocardium"
        raise NotEvaluableError("remote_outside_myocardium", detail)


def measure_aorta(
    frames: Sequence[Volume],
    *,
    modality: str,
    centreline: npt.ArrayLike | None = None,
    level_mm: float | None = None,
    pulse_pressure_mmhg: float | None = None,
    policy: AortaPolicy = DEFAULT_AORTA_POLICY,
    inputs: Sequence[str] = (),
) -> MeasurementRecord:
    """Measure the calibre of the aorta, and its distensibility when there is more than one phase.

    Parameters
    ----------
    frames
        Label maps (`Structure.AORTA`) of one or more phases on one grid.
    modality
        DICOM Modality of the images the labels belong to, ``CT`` or ``MR``.
    centreline
        ``(n, 3)`` LPS mm; None takes the skeleton of the first phase's mask.
    level_mm
        Where along the centreline the areas of the phases are compared; None: half-way.
    pulse_pressure_mmhg
        Systolic minus diastolic pressure; `AortaPolicy.pressure_site` says where. None: not known.
    policy
        See `AortaPolicy`.
    inputs
        UIDs of the series.

    Returns
    -------
    MeasurementRecord
        ``aorta_length`` (mm, of the centreline); of the phase in which the aorta is narrowest at the level
        (diastole), over all whole sections: ``aorta_maximum_area`` (mm2), ``aorta_maximum_equivalent_diameter`` (mm),
        ``aorta_maximum_diameter`` (mm, longest chord of any section), ``aorta_maximum_diameter_position`` (mm along
        the centreline), and between which sections that holds: ``aorta_measured_from``, ``aorta_measured_to`` (mm),
        as nothing is measured within a radius of the centreline's ends. ``aorta_level`` (mm),
        ``aorta_level_largest_area``, ``aorta_level_smallest_area`` (mm2), ``aorta_distensibility`` (10⁻³ mmHg⁻¹). Flag
        ``aorta_touches_border``: it goes on beyond the scan, and sections there are left out.
    """
    known: dict[str, Any] = {"policy": policy.to_dict(), "inputs": tuple(inputs)}
    try:
        require_modality(modality, "CT", "MR")
        masks = _aortic_masks(frames, policy)
        points = aortic_centreline(masks[0], centreline, policy)
        phases = [aortic_sections(mask, points) for mask in masks]
        if not all(phase.whole.any() for phase in phases):
            detail = "no section across the centreline is closed and away from the scan's edge and the aorta's ends"
            raise NotEvaluableError("no_whole_section", detail)
    except NotEvaluableError as error:
        return MeasurementRecord.refused(AORTA_ALGORITHM, VERSION, error, **known)
    length = float(phases[0].arc[-1])
    level, level_values = _aortic_level(phases, length / 2 if level_mm is None else level_mm, pulse_pressure_mmhg)
    diastole = phases[0] if level is None else min(phases, key=lambda phase: float(phase.area[level]))
    values = [MeasuredValue("aorta_length", length, "mm"), *_aortic_calibre(diastole), *level_values]
    flags = ("aorta_touches_border",) if any(touches_border(mask.voxels != 0) for mask in masks) else ()
    return MeasurementRecord(AORTA_ALGORITHM, VERSION, measurements=tuple(values), flags=flags, **known)


def _aortic_masks(frames: Sequence[Volume], policy: AortaPolicy) -> list[Volume]:
    if not frames:
        raise NotEvaluableError("no_phases", "there is no label map to measure")
    for frame in frames:
        require_same_grid(frames[0], frame)
    if frames[0].grid.shape[0] < 2:
        detail = "one slice has no centreline; `aorta.distensibility` takes areas of a slice known to be orthogonal"
        raise NotEvaluableError("single_slice", detail)
    require_isotropy(frames[0].grid, policy.max_anisotropy)
    return [aortic_mask(frame) for frame in frames]


def _aortic_calibre(phase: AorticSections) -> list[MeasuredValue]:
    largest_area = float(phase.area[phase.whole].max())
    chord = np.where(phase.whole, phase.largest_diameter, -np.inf)
    measured = phase.arc[phase.whole]
    return [
        MeasuredValue("aorta_measured_from", float(measured[0]), "mm"),
        MeasuredValue("aorta_measured_to", float(measured[-1]), "mm"),
        MeasuredValue("aorta_maximum_area", largest_area, "mm2"),
        MeasuredValue("aorta_maximum_equivalent_diameter", equivalent_diameter_mm(largest_area), "mm"),
        MeasuredValue("aorta_maximum_diameter", float(chord.max()), "mm"),
        MeasuredValue("aorta_maximum_diameter_position", float(phase.arc[chord.argmax()]), "mm"),
    ]


def _aortic_level(
    phases: Sequence[AorticSections], level_mm: float, pulse_pressure_mmhg: float | None
) -> tuple[int | None, list[MeasuredValue]]:
    """Section at the level, None when it is not whole, and the values there."""
    units = {
        "aorta_level": "mm",
        "aorta_level_largest_area": "mm2",
        "aorta_level_smallest_area": "mm2",
        "aorta_distensibility": "10*-3/mm[Hg]",
    }
    try:
        index = section_at(phases, level_mm)
    except NotEvaluableError as error:
        return None, [MeasuredValue.missing(name, error.reason, unit) for name, unit in units.items()]
    areas = [float(phase.area[index]) for phase in phases]

    def stretch() -> list[MeasuredValue]:
        if len(phases) < 2:
            raise NotEvaluableError("one_phase", "distensibility needs at least two phases")
        if pulse_pressure_mmhg is None:
            raise NotEvaluableError("pulse_pressure_missing", "distensibility needs the pulse pressure")
        value = distensibility(max(areas), min(areas), pulse_pressure_mmhg)
        return [MeasuredValue("aorta_distensibility", value, units["aorta_distensibility"])]

    return index, [
        MeasuredValue("aorta_level", float(phases[0].arc[index]), "mm"),
        MeasuredValue("aorta_level_largest_area", max(areas), "mm2"),
        MeasuredValue("aorta_level_smallest_area", min(areas), "mm2"),
        *_or_missing(stretch, {"aorta_distensibility": units["aorta_distensibility"]}),
    ]

"""Left ventricle and left atrium from segmented echo clips: volumes, EF, strain, mass, classes (SPEC §7)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.diseases.echo.beats import RECOMMENDED_BEATS, Beat, Rhythm, find_beats
from ops.diseases.echo.contours import (
    AnnulusRule,
    BoolArray,
    Chamber,
    chamber_from_mask,
    largest_piece,
    pixel_size,
    require_inside_image,
)
from ops.diseases.echo.formulae import (
    CURRENT_RANGES,
    FORESHORTENING_LIMIT,
    REFERENCE_RANGES,
    BsaFormula,
    body_surface_area_m2,
    ejection_fraction,
    global_longitudinal_strain,
    la_volume_grade,
    la_volume_ml,
    length_difference,
    longitudinal_strain,
    lv_mass_area_length_g,
    lv_mass_cube_g,
    reference_class,
    relative_wall_thickness,
    simpson_volume_ml,
)
from ops.diseases.echo.views import APICAL_VIEWS, require_apical_view
from ops.measure.checks import require_label_map, require_modality, require_not_empty
from ops.measure.errors import NotEvaluableError
from ops.measure.record import MeasurementRecord
from ops.measure.value import MeasuredValue
from ops.volume import Grid, Volume

ALGORITHM = "echo"
VERSION = "1"

# Labels of a clip; others are ignored.
LV_CAVITY, LV_MYOCARDIUM, LEFT_ATRIUM, AORTA = 1, 2, 3, 4
PSAX = "psax_pap"
MM_PER_CM = 10.0
MM2_PER_CM2 = 100.0
# Long axes of human ventricles, with room on both sides; what lies outside has a wrong pixel size.
LV_LENGTH_MM = (20.0, 200.0)

RhythmKind = Literal["regular", "atrial_fibrillation"]
TooFewBeats = Literal["flag", "refuse"]


@dataclass(frozen=True, eq=False)
class EchoClip:
    """A segmented loop of one view.

    Attributes
    ----------
    labels
        Label map ``(t, rows, columns)``: 1 LV cavity with papillary muscles, 2 LV myocardium, 3 left atrium, 4 aorta;
        its grid comes from `clip_grid`. Every frame shows the ventricle: leave out those without, and their times. Cut
        it to the calibrated region, whose edge would else cut a chamber unnoticed.
    frame_times_ms
        Time of every frame from any origin, rising.
    """

    labels: Volume
    frame_times_ms: tuple[float, ...]


@dataclass(frozen=True)
class Subject:
    """Who was scanned, as far as known: DICOM sex ``F`` or ``M``, height in cm, weight in kg."""

    sex: str = ""
    height_cm: float | None = None
    weight_kg: float | None = None


@dataclass(frozen=True)
class LinearMeasures:
    """End-diastolic septum, cavity diameter and posterior wall from the parasternal long axis, in mm."""

    ivsd_mm: float
    lvidd_mm: float
    pwd_mm: float


@dataclass(frozen=True)
class EchoPolicy:
    """Named choices that change a value; they go into every record.

    Attributes
    ----------
    annulus_rule
        How the mitral annulus of the ventricle is found, see `chamber_from_mask`: ``base_contact`` (default; needs the
        left atrium, and the aorta in ``a3c``, in the label map) or ``corners``. The atrium's is always its contact with
        the ventricle.
    bsa_formula
        ``mosteller`` (default) or ``dubois``.
    too_few_beats
        A clip with fewer beats than recommended (3, or 5 in atrial fibrillation) is measured with a flag (default), or
        refused.
    irregular_rr_percent
        RR intervals that spread more than this share of their mean are flagged. Ours; no cut is published.
    reference_version
        Key of `REFERENCE_RANGES`.
    """

    annulus_rule: AnnulusRule = "base_contact"
    bsa_formula: BsaFormula = "mosteller"
    too_few_beats: TooFewBeats = "flag"
    irregular_rr_percent: float = 20.0
    reference_version: str = CURRENT_RANGES

    def __post_init__(self) -> None:
        for name, allowed in (
            ("annulus_rule", ("base_contact", "corners")),
            ("bsa_formula", ("mosteller", "dubois")),
            ("too_few_beats", ("flag", "refuse")),
            ("reference_version", tuple(REFERENCE_RANGES)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if not self.irregular_rr_percent > 0:
            raise ValueError(f"irregular_rr_percent must be above 0, got {self.irregular_rr_percent}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record."""
        return asdict(self)


DEFAULT_POLICY = EchoPolicy()


def clip_grid(shape: tuple[int, int, int], spacing_mm: tuple[float, float]) -> Grid:
    """Grid of a clip ``(t, rows, columns)`` with pixels of ``spacing_mm`` (row, column); frames count 0, 1, …

    An ultrasound image has no place in the patient, so positions mean nothing; signs of the spacing are dropped.

    Raises
    ------
    NotEvaluableError
        As `pixel_size`.
    """
    return Grid.from_spacing(shape, (1.0, *pixel_size(spacing_mm)))


def measure(
    clips: Mapping[str, EchoClip],
    *,
    modality: str,
    subject: Subject,
    linear: LinearMeasures | None = None,
    rhythm: RhythmKind = "regular",
    policy: EchoPolicy = DEFAULT_POLICY,
    inputs: tuple[str, ...] = (),
) -> MeasurementRecord:
    """Measure one study; bad data lead to missing values or a refused record, never to an exception.

    Every complete beat of a clip is measured. Biplane volumes pair the beats of both views in order; volumes are then
    averaged over beats, and EF is that of the averages.

    Parameters
    ----------
    clips
        One clip a view, by the names of `ops.diseases.echo.views.VIEWS`: ``a4c``, ``a2c``, ``a3c``, ``psax_pap``.
    modality
        DICOM Modality of the clips: ``US``.
    subject
        For indices and reference ranges.
    linear
        For the cube formula and RWT.
    rhythm
        As known from the ECG; decides how many beats are recommended.
    policy
        See `EchoPolicy`.
    inputs
        UIDs of the series, in the order of ``clips``.

    Returns
    -------
    MeasurementRecord
        For every clip ``beats_<view>``; ``edv_``, ``esv_`` (mL) and ``ef_`` (%) ``a4c`` and ``a2c`` (single plane)
        and ``biplane``; ``longitudinal_strain_<view>`` and ``gls`` (%), the latter of three views, else
        ``gls_2_views`` or ``gls_1_view``; ``la_volume`` (mL, biplane area–length at LV end-systole) with index and
        ``la_grade``; ``lv_mass_area_length`` and ``lv_mass_cube`` (g) with indices, ``rwt``; ``length_difference``
        (%), ``heart_rate`` (/min), ``bsa`` (m2); for those with a reference range ``<name>_class``: ``below``,
        ``within`` or ``above``.
    """
    known: dict[str, Any] = {"policy": policy.to_dict() | {"rhythm": rhythm}, "inputs": inputs}
    try:
        require_modality(modality, "US")
        if not clips and linear is None:
            raise NotEvaluableError("no_view", "neither a clip nor linear measures: there is nothing to measure")
    except NotEvaluableError as error:
        return MeasurementRecord.refused(ALGORITHM, VERSION, error, **known)
    study = _Study(clips, subject, rhythm, policy)
    known["measurements"] = study.all_values(linear)
    refusal = study.refusal(known["measurements"])
    if refusal is not None:
        return MeasurementRecord.refused(ALGORITHM, VERSION, refusal, **known)
    return MeasurementRecord(ALGORITHM, VERSION, flags=study.flags(), **known)


@dataclass(frozen=True, eq=False)
class _ApicalView:
    """Chambers at end-diastole and end-systole of every complete beat."""

    diastole: tuple[Chamber, ...]
    systole: tuple[Chamber, ...]

    @property
    def strain(self) -> float:
        pairs = zip(self.diastole, self.systole, strict=True)
        strains = [longitudinal_strain(ed.wall_length_mm, es.wall_length_mm) for ed, es in pairs]
        return sum(strains) / len(strains)

    @property
    def diastolic_length(self) -> float:
        return _mean([chamber.length_mm for chamber in self.diastole])


@dataclass(eq=False)
class _Study:
    """What the clips show, and why not where they do not."""

    clips: Mapping[str, EchoClip]
    subject: Subject
    rhythm: RhythmKind
    policy: EchoPolicy
    rhythms: dict[str, Rhythm] = field(default_factory=dict)
    apical: dict[str, _ApicalView] = field(default_factory=dict)
    problems: dict[str, NotEvaluableError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for view, clip in self.clips.items():
            try:
                self._look_at(view, clip)
            except NotEvaluableError as error:
                self.problems[view] = error

    def _look_at(self, view: str, clip: EchoClip) -> None:
        if view != PSAX:
            require_apical_view(view)
        rhythm = _beats(clip)
        needed = RECOMMENDED_BEATS[self.rhythm]
        if self.policy.too_few_beats == "refuse" and len(rhythm.beats) < needed:
            raise NotEvaluableError("too_few_beats", f"{view}: {len(rhythm.beats)} beats, {needed} are to be averaged")
        if view != PSAX:
            self.apical[view] = _apical_view(clip, rhythm.beats, self.policy.annulus_rule)
        self.rhythms[view] = rhythm

    def refusal(self, values: tuple[MeasuredValue, ...]) -> NotEvaluableError | None:
        """Why there is no answer at all; None when anything of the heart was measured."""
        of_heart = [item for item in values if item.name != "bsa"]
        if any(item.value is not None for item in of_heart):
            return None
        named = NotEvaluableError(of_heart[0].reason, f"{of_heart[0].name} cannot be measured, nor anything else")
        return next(iter(self.problems.values()), named)

    def flags(self) -> tuple[str, ...]:
        """Quality-control codes."""
        needed = RECOMMENDED_BEATS[self.rhythm]
        spreads = [rhythm.rr_spread_percent or 0.0 for rhythm in self.rhythms.values()]
        found = {
            "too_few_beats": any(len(rhythm.beats) < needed for rhythm in self.rhythms.values()),
            "irregular_rr": any(spread > self.policy.irregular_rr_percent for spread in spreads),
            "foreshortened": {"a4c", "a2c"} <= set(self.apical) and self._length_difference() > FORESHORTENING_LIMIT,
        }
        return tuple(code for code, raised in found.items() if raised)

    def all_values(self, linear: LinearMeasures | None) -> tuple[MeasuredValue, ...]:
        """Every value that the given clips and measures call for, in the order of the record."""
        values = [_value(f"beats_{view}", "1", partial(self._n_beats, view)) for view in self.clips]
        if any(view in APICAL_VIEWS for view in self.clips):
            values += [*self._volumes(), *self._strains(), *self._atrium()]
        if PSAX in self.clips:
            mass = _value("lv_mass_area_length", "g", self._mass_area_length)
            values += [mass, *self._indexed(mass, "lv_mass_2d_index")]
        if linear is not None:
            values += self._linear(linear)
        if self.clips:
            values.append(_value("heart_rate", "/min", self._heart_rate))
        return (*values, _value("bsa", "m2", self._bsa))

    def _volumes(self) -> list[MeasuredValue]:
        values = []
        for view in ("a4c", "a2c"):
            if view in self.clips:
                values += _volumes_and_ef(view, partial(self._single_plane, view))
        biplane = _volumes_and_ef("biplane", lambda: _biplane(self._apical("a4c"), self._apical("a2c")))
        edv, esv, ef = biplane
        values += [edv, self._class(edv, "edv"), *self._indexed(edv, "edv_index")]
        values += [esv, self._class(esv, "esv"), ef, self._class(ef, "ef")]
        return [*values, _value("length_difference", "%", lambda: 100 * self._length_difference())]

    def _strains(self) -> list[MeasuredValue]:
        views = [view for view in APICAL_VIEWS if view in self.clips]
        values = [_value(f"longitudinal_strain_{view}", "%", partial(self._strain, view)) for view in views]
        strains = [item.value for item in values if isinstance(item.value, float)]
        values.append(
            _value("gls", "%", lambda: global_longitudinal_strain([self._strain(view) for view in APICAL_VIEWS]))
        )
        if 0 < len(strains) < len(APICAL_VIEWS):
            name = "gls_1_view" if len(strains) == 1 else f"gls_{len(strains)}_views"
            values.append(MeasuredValue(name, global_longitudinal_strain(strains), "%"))
        return values

    def _atrium(self) -> list[MeasuredValue]:
        volume = _value("la_volume", "mL", self._la_volume)
        index, index_class = self._indexed(volume, "la_volume_index")
        return [volume, index, index_class, _from("la_grade", "", index, la_volume_grade)]

    def _linear(self, linear: LinearMeasures) -> list[MeasuredValue]:
        ivsd, lvidd, pwd = (value / MM_PER_CM for value in (linear.ivsd_mm, linear.lvidd_mm, linear.pwd_mm))
        mass = _value("lv_mass_cube", "g", lambda: lv_mass_cube_g(ivsd, lvidd, pwd))
        rwt = _value("rwt", "1", lambda: relative_wall_thickness(pwd, lvidd))
        diameter = _from("lvidd", "cm", mass, lambda _: lvidd)
        return [
            *(mass, *self._indexed(mass, "lv_mass_linear_index")),
            *(rwt, self._class(rwt, "rwt"), diameter, self._class(diameter, "lvidd")),
        ]

    def _indexed(self, value: MeasuredValue, quantity: str) -> tuple[MeasuredValue, MeasuredValue]:
        """Value per body surface and its class against the range of ``quantity``."""
        index = _from(f"{value.name}_index", f"{value.unit}/m2", value, lambda number: number / self._bsa())
        return index, self._class(index, quantity)

    def _class(self, value: MeasuredValue, quantity: str) -> MeasuredValue:
        sex, version = self.subject.sex, self.policy.reference_version
        return _from(f"{value.name}_class", "", value, lambda number: reference_class(quantity, number, sex, version))

    def _apical(self, view: str) -> _ApicalView:
        self._require(view)
        return self.apical[view]

    def _single_plane(self, view: str) -> tuple[float, float]:
        return _single_plane(self._apical(view))

    def _strain(self, view: str) -> float:
        return self._apical(view).strain

    def _require(self, view: str) -> None:
        if view in self.problems:
            raise self.problems[view]
        if view not in self.clips:
            raise NotEvaluableError("view_missing", f"no {view} clip")

    def _n_beats(self, view: str) -> float:
        self._require(view)
        return float(len(self.rhythms[view].beats))

    def _length_difference(self) -> float:
        return length_difference(self._apical("a4c").diastolic_length, self._apical("a2c").diastolic_length)

    def _la_volume(self) -> float:
        four, two = (self._atria(view) for view in ("a4c", "a2c"))
        pairs = zip(four, two, strict=False)
        return _mean([la_volume_ml((a.area_mm2, b.area_mm2), (a.length_mm, b.length_mm)) for a, b in pairs])

    def _atria(self, view: str) -> list[Chamber]:
        self._require(view)
        labels, frames = self.clips[view].labels, [beat.end_systole for beat in self.rhythms[view].beats]
        size = labels.grid.spacing[1:]
        planes = [labels.voxels[frame] for frame in frames]
        return [chamber_from_mask(plane == LEFT_ATRIUM, plane == LV_CAVITY, size) for plane in planes]

    def _mass_area_length(self) -> float:
        self._require(PSAX)
        lengths = [view.diastolic_length for name, view in self.apical.items() if name in ("a4c", "a2c")]
        if not lengths:
            raise NotEvaluableError("view_missing", "the length of the ventricle needs an a4c or a2c clip")
        labels = self.clips[PSAX].labels
        areas = [_short_axis_areas_cm2(labels, beat.end_diastole) for beat in self.rhythms[PSAX].beats]
        # The longer of two views is the less foreshortened one.
        return _mean([lv_mass_area_length_g(outer, inner, max(lengths) / MM_PER_CM) for outer, inner in areas])

    def _heart_rate(self) -> float:
        intervals = [interval for rhythm in self.rhythms.values() for interval in rhythm.rr_ms]
        if not intervals:
            raise NotEvaluableError("too_few_beats", "no clip shows two systoles: there is no RR interval")
        return 60_000.0 / _mean(intervals)

    def _bsa(self) -> float:
        height, weight = self.subject.height_cm, self.subject.weight_kg
        if height is None or weight is None:
            raise NotEvaluableError("no_height_or_weight", "height and weight are needed for the body surface area")
        return body_surface_area_m2(height, weight, self.policy.bsa_formula)


def _beats(clip: EchoClip) -> Rhythm:
    labels = clip.labels
    require_label_map(labels)
    pixel_size((labels.grid.spacing[1], labels.grid.spacing[2]))
    cavity = labels.voxels == LV_CAVITY
    require_not_empty(cavity, "LV cavity")
    areas = _largest_areas(cavity)
    if not areas.all():
        n_empty = int(np.count_nonzero(areas == 0))
        raise NotEvaluableError("empty_mask", f"{n_empty} of {len(areas)} frames show no LV cavity; leave them out")
    return find_beats(areas, clip.frame_times_ms)


def _largest_areas(mask: BoolArray) -> npt.NDArray[np.float64]:
    """Pixels ``(t,)`` of the largest 8-connected piece of every frame of ``(t, rows, columns)``."""
    rows, columns = ndimage.find_objects(mask.any(axis=0).astype(np.uint8))[0]
    mask = mask[:, rows, columns]
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = True
    pieces, n = ndimage.label(mask, structure=in_plane)
    inside = np.flatnonzero(mask)
    piece, frame = pieces.reshape(-1)[inside], inside // mask[0].size
    frame_of_piece = np.zeros(n + 1, dtype=np.int64)
    frame_of_piece[piece] = frame
    areas = np.zeros(len(mask))
    np.maximum.at(areas, frame_of_piece, np.bincount(piece, minlength=n + 1))
    return areas


def _apical_view(clip: EchoClip, beats: tuple[Beat, ...], rule: AnnulusRule) -> _ApicalView:
    labels = clip.labels

    def chamber(frame: int) -> Chamber:
        plane = labels.voxels[frame]
        base = (plane == LEFT_ATRIUM) | (plane == AORTA)
        found = chamber_from_mask(plane == LV_CAVITY, base, labels.grid.spacing[1:], rule)
        low, high = LV_LENGTH_MM
        if not low <= found.length_mm <= high:
            detail = f"an LV of {found.length_mm:.3g} mm, not {low:g}–{high:g}: is the pixel spacing in mm?"
            raise NotEvaluableError("implausible_size", detail)
        return found

    return _ApicalView(
        tuple(chamber(beat.end_diastole) for beat in beats), tuple(chamber(beat.end_systole) for beat in beats)
    )


def _short_axis_areas_cm2(labels: Volume, frame: int) -> tuple[float, float]:
    """Areas inside the epicardium and of the cavity with its papillary muscles, in cm²."""
    plane = labels.voxels[frame]
    heart = (plane == LV_CAVITY) | (plane == LV_MYOCARDIUM)
    require_not_empty(plane == LV_MYOCARDIUM, "LV myocardium")
    require_inside_image(heart)
    pixel = math.prod(labels.grid.spacing[1:]) / MM2_PER_CM2
    outer, inner = (int(np.count_nonzero(largest_piece(mask))) * pixel for mask in (heart, plane == LV_CAVITY))
    return outer, inner


def _single_plane(view: _ApicalView) -> tuple[float, float]:
    """EDV and ESV in mL with circular discs, means over beats."""
    diastole, systole = (
        _mean([simpson_volume_ml(chamber.diameters_mm, chamber.length_mm) for chamber in chambers])
        for chambers in (view.diastole, view.systole)
    )
    return diastole, systole


def _biplane(four: _ApicalView, two: _ApicalView) -> tuple[float, float]:
    """EDV and ESV in mL with elliptical discs, means over the beats that both views have."""
    diastole, systole = (
        _mean(
            [
                simpson_volume_ml(a.diameters_mm, a.length_mm, b.diameters_mm, b.length_mm)
                for a, b in zip(*chambers, strict=False)
            ]
        )
        for chambers in ((four.diastole, two.diastole), (four.systole, two.systole))
    )
    return diastole, systole


def _volumes_and_ef(name: str, volumes: Callable[[], tuple[float, float]]) -> list[MeasuredValue]:
    edv = _value(f"edv_{name}", "mL", lambda: volumes()[0])
    esv = _value(f"esv_{name}", "mL", lambda: volumes()[1])
    return [edv, esv, _value(f"ef_{name}", "%", lambda: ejection_fraction(*volumes()))]


def _value(name: str, unit: str, compute: Callable[[], float | str]) -> MeasuredValue:
    """Compute a value, or keep the reason why there is none."""
    try:
        return MeasuredValue(name, compute(), unit)
    except NotEvaluableError as error:
        return MeasuredValue.missing(name, error.reason, unit, error.status)


def _from(name: str, unit: str, source: MeasuredValue, compute: Callable[[float], float | str]) -> MeasuredValue:
    """Compute a value from another; without that one, its reason is passed on."""
    if not isinstance(source.value, float):
        return MeasuredValue.missing(name, source.reason, unit, source.status)
    number = source.value
    return _value(name, unit, lambda: compute(number))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)

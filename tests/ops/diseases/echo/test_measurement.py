from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ops.diseases.echo.measurement import (
    AORTA,
    LEFT_ATRIUM,
    LV_CAVITY,
    EchoClip,
    EchoPolicy,
    LinearMeasures,
    Subject,
    clip_grid,
    measure,
)
from ops.measure.errors import NotEvaluableError
from ops.measure.record import MeasurementRecord
from ops.phantoms.heart.chambers import BeatingHeart, TruncatedEllipsoid
from ops.phantoms.heart.left_ventricle import VIEWS, View, paint_labels, truths, view_plane
from ops.phantoms.heart.ultrasound import Sector
from ops.verdict import ResultStatus
from ops.volume import Grid, Volume

HEART = BeatingHeart(
    diastole=TruncatedEllipsoid(50, 20, 24, 26),
    systole=TruncatedEllipsoid(49, 10, 18, 19),
    wall=9.0,
    atrial_lengths=(32, 50),
    atrial_widening=(1.03, 1.2),
    r_peaks_ms=(0.0, 900.0, 1800.0, 2700.0, 3600.0),
)
TRUTH = truths(HEART)
SPACING = (0.9, 1.0)
SUBJECT = Subject("M", 180.0, 80.0)
LINEAR = LinearMeasures(9.0, 48.0, 9.0)
MEASURED: tuple[View, ...] = ("a4c", "a2c", "a3c", "psax_pap")


def clip(view: View, heart: BeatingHeart = HEART, start: float = 450, stop: float = 3550, **plane: float) -> EchoClip:
    sector = Sector(160, half_angle=30, pixel_mm=SPACING, margins=(1, 1, 1, 1))
    times = np.arange(start, stop, 30.0)
    labels = paint_labels(heart, view, view_plane(heart, view, **plane), sector, times)
    return EchoClip(Volume(labels, clip_grid(labels.shape, SPACING), "label"), tuple(times))


@pytest.fixture(scope="module")
def clips() -> dict[str, EchoClip]:
    return {view: clip(view) for view in MEASURED}


def run(clips: Mapping[str, EchoClip], **arguments: Any) -> MeasurementRecord:
    return measure(clips, **({"modality": "US", "subject": SUBJECT} | arguments))


def value(record: MeasurementRecord, name: str) -> float:
    found = record[name]
    assert isinstance(found, float), (name, record.measurement(name))
    return found


def relabelled(clip: EchoClip, change: Callable[[np.ndarray], None]) -> EchoClip:
    labels = clip.labels.voxels.copy()
    change(labels)
    return replace(clip, labels=replace(clip.labels, voxels=labels))


def test_truths(clips: dict[str, EchoClip]) -> None:
    record = run(clips, linear=LINEAR, inputs=("1.2.3",))
    assert record.status is ResultStatus.OK
    assert record.flags == ()
    assert record.inputs == ("1.2.3",)
    tolerances = {"edv_biplane": 2.0, "esv_biplane": 1.5, "ef_biplane": 1.0, "gls": 0.5, "la_volume": 1.5}
    for name, tolerance in (tolerances | {"lv_mass_area_length": 3.0}).items():
        assert value(record, name) == pytest.approx(TRUTH[name], abs=tolerance), name
    # The two views differ, so a single plane does not give the biplane volume.
    assert value(record, "edv_a4c") < value(record, "edv_biplane") < value(record, "edv_a2c")
    assert value(record, "heart_rate") == pytest.approx(66.67, abs=0.3)
    assert all(value(record, f"beats_{view}") == 3 for view in MEASURED)
    assert value(record, "bsa") == pytest.approx(2.0)
    assert value(record, "edv_biplane_index") == pytest.approx(value(record, "edv_biplane") / 2)
    assert record["ef_biplane_class"] == "within"
    assert value(record, "lv_mass_cube") == pytest.approx(0.8 * 1.04 * (6.6**3 - 4.8**3) + 0.6)
    assert value(record, "rwt") == pytest.approx(0.375)
    assert record["rwt_class"] == record["lvidd_class"] == "within"
    assert MeasurementRecord.from_json(record.to_json()) == record


def test_labels_agree_with_the_phantom() -> None:
    from ops.phantoms.heart import left_ventricle

    assert (LV_CAVITY, LEFT_ATRIUM, AORTA) == (
        left_ventricle.LV_CAVITY,
        left_ventricle.LEFT_ATRIUM,
        left_ventricle.AORTA,
    )
    assert set(MEASURED) < set(VIEWS)


def test_sign_of_the_spacing_is_a_direction(clips: dict[str, EchoClip]) -> None:
    plain = run(clips)
    signed = {}
    for view, one in clips.items():
        grid = Grid.from_spacing(one.labels.grid.shape, (1.0, SPACING[0], -SPACING[1]))
        signed[view] = replace(one, labels=replace(one.labels, grid=grid))
    assert run(signed).measurements == plain.measurements


def test_single_plane_is_named_as_such(clips: dict[str, EchoClip]) -> None:
    record = run({"a4c": clips["a4c"]})
    assert record.status is ResultStatus.OK
    assert value(record, "ef_a4c") == pytest.approx(TRUTH["ef_biplane"], abs=1.5)
    assert record["ef_biplane"] is None
    assert record.measurement("ef_biplane").reason == "view_missing"
    assert record.measurement("ef_biplane_class").reason == "view_missing"
    assert record["gls"] is None
    assert value(record, "gls_1_view") == value(record, "longitudinal_strain_a4c")
    with pytest.raises(KeyError):
        record["ef_a2c"]


def test_strain_of_two_views(clips: dict[str, EchoClip]) -> None:
    record = run({view: clips[view] for view in ("a4c", "a3c")})
    strains = [value(record, f"longitudinal_strain_{view}") for view in ("a4c", "a3c")]
    assert value(record, "gls_2_views") == pytest.approx(sum(strains) / 2)
    assert all(strain < 0 for strain in strains)


def test_foreshortened_view_is_flagged(clips: dict[str, EchoClip]) -> None:
    record = run({"a4c": clips["a4c"], "a2c": clip("a2c", foreshortening=24.0)})
    assert "foreshortened" in record.flags
    assert value(record, "length_difference") > 10


def test_occluded_view_is_not_measured(clips: dict[str, EchoClip]) -> None:
    record = run({"a4c_lvocc_s": clips["a4c"], "a2c": clips["a2c"]})
    assert record.measurement("beats_a4c_lvocc_s").reason == "occluded_view"
    assert record["edv_biplane"] is None
    assert value(record, "edv_a2c") > 0
    refused = run({"a4c_lvocc_s": clips["a4c"]})
    assert (refused.status, refused.reason) == (ResultStatus.NOT_EVALUABLE, "occluded_view")


def test_few_beats_are_flagged_or_refused_as_the_policy_says() -> None:
    short = {"a4c": clip("a4c", start=850, stop=2300)}
    flagged = run(short)
    assert value(flagged, "beats_a4c") == 2
    assert flagged.flags == ("too_few_beats",)
    refused = run(short, policy=EchoPolicy(too_few_beats="refuse"))
    assert (refused.status, refused.reason) == (ResultStatus.NOT_EVALUABLE, "too_few_beats")


def test_atrial_fibrillation_asks_for_five_beats(clips: dict[str, EchoClip]) -> None:
    three = {"a4c": clips["a4c"]}
    assert run(three).flags == ()
    assert run(three, rhythm="atrial_fibrillation").flags == ("too_few_beats",)


def test_irregular_rhythm_is_flagged() -> None:
    irregular = replace(HEART, r_peaks_ms=(0.0, 700.0, 1700.0, 2350.0, 3500.0))
    record = run({"a4c": clip("a4c", irregular, start=400, stop=3400)})
    assert "irregular_rr" in record.flags
    assert (
        "irregular_rr"
        not in run(
            {"a4c": clip("a4c", irregular, start=400, stop=3400)}, policy=EchoPolicy(irregular_rr_percent=80)
        ).flags
    )


def test_ventricle_alone_needs_the_corners(clips: dict[str, EchoClip]) -> None:
    def only_the_cavity(labels: np.ndarray) -> None:
        labels[labels != LV_CAVITY] = 0

    alone = {view: relabelled(clips[view], only_the_cavity) for view in ("a4c", "a2c")}
    assert run(alone).reason == "annulus_not_found"
    record = run(alone, policy=EchoPolicy(annulus_rule="corners"))
    assert value(record, "edv_biplane") == pytest.approx(TRUTH["edv_biplane"], rel=0.03)
    assert record.measurement("la_volume").reason == "empty_mask"
    assert record.policy["annulus_rule"] == "corners"


def test_body_surface_formula_is_the_named_one(clips: dict[str, EchoClip]) -> None:
    record = run({"a4c": clips["a4c"]}, policy=EchoPolicy(bsa_formula="dubois"))
    assert value(record, "bsa") == pytest.approx(0.007184 * 180**0.725 * 80**0.425)
    assert record.policy["bsa_formula"] == "dubois"


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (Subject("M"), "no_height_or_weight"),
        (Subject("M", 1.8, 80), "implausible_body"),
        (Subject("M", math.nan, 80), "not_finite"),
    ],
)
def test_no_index_without_a_body(clips: dict[str, EchoClip], subject: Subject, reason: str) -> None:
    record = run({view: clips[view] for view in ("a4c", "a2c")}, subject=subject)
    assert value(record, "edv_biplane") > 0
    for name in ("edv_biplane_index", "edv_biplane_index_class", "la_volume_index", "la_grade", "bsa"):
        assert record.measurement(name).reason == reason


def test_no_class_without_a_sex(clips: dict[str, EchoClip]) -> None:
    record = run({view: clips[view] for view in ("a4c", "a2c")}, subject=Subject("", 180, 80))
    assert record.measurement("ef_biplane_class").status is ResultStatus.OUT_OF_MODEL_RANGE
    assert record.measurement("ef_biplane_class").reason == "sex_not_in_table"


def test_ranges_differ_by_sex() -> None:
    thick = LinearMeasures(10.5, 50.0, 10.5)
    classes = {
        sex: measure({}, modality="US", subject=Subject(sex, 170, 70), linear=thick)["lv_mass_cube_index_class"]
        for sex in ("F", "M")
    }
    assert classes == {"F": "above", "M": "within"}


@pytest.mark.parametrize(
    ("linear", "reason"),
    [
        (LinearMeasures(90.0, 480.0, 90.0), "implausible_size"),
        (LinearMeasures(math.nan, 48.0, 9.0), "not_finite"),
        (LinearMeasures(0.0, 48.0, 9.0), "not_positive"),
    ],
)
def test_bad_linear_measures(linear: LinearMeasures, reason: str) -> None:
    record = measure({}, modality="US", subject=SUBJECT, linear=linear)
    assert record.measurement("lv_mass_cube").reason == reason
    assert record["lv_mass_cube_index"] is None


def spaced(clip: EchoClip, spacing: tuple[float, float]) -> EchoClip:
    grid = Grid.from_spacing(clip.labels.grid.shape, (1.0, *spacing))
    return replace(clip, labels=replace(clip.labels, grid=grid))


def cut_above(clip: EchoClip) -> EchoClip:
    row = int(np.flatnonzero((clip.labels.voxels == LV_CAVITY).any(axis=(0, 2)))[0]) + 8
    return replace(clip, labels=clip.labels.crop((0, row, 0), clip.labels.grid.shape))


def one_pixel_wide(labels: np.ndarray) -> None:
    """As beats need motion, a strip that lengthens and shortens."""
    for n, frame in enumerate(labels):
        frame[:] = 0
        frame[30 : 90 + round(20 * math.cos(n * 0.2)), 60] = LV_CAVITY


def empty_in_one_frame(labels: np.ndarray) -> None:
    labels[7] = 0


def as_float(clip: EchoClip) -> EchoClip:
    return replace(
        clip, labels=replace(clip.labels, voxels=np.full(clip.labels.voxels.shape, np.nan, dtype=np.float32))
    )


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("empty_mask", lambda c: relabelled(c, lambda labels: labels.fill(0))),
        ("empty_mask", lambda c: relabelled(c, empty_in_one_frame)),
        ("touches_border", cut_above),
        ("too_coarse", lambda c: relabelled(c, one_pixel_wide)),
        ("not_a_label_map", as_float),
        ("not_a_label_map", lambda c: replace(c, labels=replace(c.labels, units="HU"))),
        ("anisotropic", lambda c: spaced(c, (0.5, 5.0))),
        ("implausible_size", lambda c: spaced(c, (0.09, 0.1))),
        ("implausible_size", lambda c: spaced(c, (9.0, 10.0))),
        ("frame_times_mismatch", lambda c: replace(c, frame_times_ms=c.frame_times_ms[:-1])),
        ("not_finite", lambda c: replace(c, frame_times_ms=(math.nan, *c.frame_times_ms[1:]))),
        ("frame_times_not_rising", lambda c: replace(c, frame_times_ms=c.frame_times_ms[::-1])),
        ("clip_too_short", lambda c: replace(c, frame_times_ms=tuple(t / 1000 for t in c.frame_times_ms))),
        ("no_beat", lambda c: relabelled(c, lambda labels: labels.__setitem__(slice(None), labels[0].copy()))),
        ("annulus_not_found", lambda c: relabelled(c, lambda labels: labels.__imul__(labels == LV_CAVITY))),
    ],
)
def test_bad_clips(clips: dict[str, EchoClip], reason: str, change: Callable[[EchoClip], EchoClip]) -> None:
    bad = change(clips["a4c"])
    alone = run({"a4c": bad})
    assert (alone.status, alone.reason) == (ResultStatus.NOT_EVALUABLE, reason)
    assert alone.detail
    assert alone.policy["annulus_rule"] == "base_contact"
    # The other view still counts, and what needs both says why it is missing.
    beside = run({"a4c": bad, "a2c": clips["a2c"]})
    assert beside.status is ResultStatus.OK
    assert value(beside, "ef_a2c") > 50
    assert beside.measurement("ef_biplane").reason == reason
    assert beside.measurement("la_volume").reason == reason
    assert beside.measurement("gls").reason == reason
    assert value(beside, "gls_1_view") == value(beside, "longitudinal_strain_a2c")


def test_cut_atrium_has_no_volume(clips: dict[str, EchoClip]) -> None:
    voxels = clips["a4c"].labels.voxels
    row = int(np.flatnonzero((voxels == LEFT_ATRIUM).any(axis=(0, 2)))[-1]) - 5
    _, _, columns = voxels.shape
    cropped = replace(clips["a4c"], labels=clips["a4c"].labels.crop((0, 0, 0), (len(voxels), row, columns)))
    record = run({"a4c": cropped, "a2c": clips["a2c"]})
    assert record.measurement("la_volume").reason == "touches_border"
    assert value(record, "ef_biplane") > 50


def test_short_axis_needs_a_long_one(clips: dict[str, EchoClip]) -> None:
    record = run({"psax_pap": clips["psax_pap"]})
    assert record.measurement("lv_mass_area_length").reason == "view_missing"
    assert value(record, "beats_psax_pap") == 3

    def without_wall(labels: np.ndarray) -> None:
        labels[labels == 2] = 0

    bare = {"a4c": clips["a4c"], "psax_pap": relabelled(clips["psax_pap"], without_wall)}
    assert run(bare).measurement("lv_mass_area_length").reason == "empty_mask"


@pytest.mark.parametrize("modality", ["CT", "", "OT"])
def test_wrong_modality(clips: dict[str, EchoClip], modality: str) -> None:
    assert run(clips, modality=modality).reason == "wrong_modality"


def test_nothing_to_measure() -> None:
    assert run({}).reason == "no_view"


@pytest.mark.parametrize(
    "choice",
    [
        {"annulus_rule": "guess"},
        {"bsa_formula": "haycock"},
        {"too_few_beats": "ignore"},
        {"irregular_rr_percent": 0},
        {"reference_version": "2025"},
    ],
)
def test_unknown_policy(choice: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(choice))):
        EchoPolicy(**choice)


def test_policy_is_plain_json() -> None:
    assert json.loads(json.dumps(EchoPolicy().to_dict()))["too_few_beats"] == "flag"


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (1.0, math.nan), (0.5, 5.0)])
def test_no_grid_of_bad_pixels(spacing: tuple[float, float]) -> None:
    with pytest.raises(NotEvaluableError):
        clip_grid((3, 4, 5), spacing)

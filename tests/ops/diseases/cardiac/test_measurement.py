"""Chambers over the cycle, scar and aorta: the whole measurements, on shapes with known answers and on bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.diseases.cardiac.aorta import AortaPolicy
from ops.diseases.cardiac.measurement import CinePolicy, measure_aorta, measure_cine, measure_scar
from ops.diseases.cardiac.scar import ScarPolicy
from ops.diseases.cardiac.volumes import Structure
from ops.measure.record import MeasurementRecord
from ops.phantoms.heart.aortic_tube import AorticTube
from ops.phantoms.sdf import rotation
from ops.verdict import ResultStatus
from ops.volume import Grid, Volume

SPACING = (8.0, 1.5, 1.25)
SHAPE = (7, 40, 40)


def oblique(shape: tuple[int, int, int], spacing: tuple[float, float, float], yaw: float = 35.0) -> Grid:
    """Doubly angulated grid; angles of 0 make it axis-aligned."""
    affine = np.eye(4)
    turned = rotation(yaw, yaw / 2, yaw / 3)
    affine[:3, :3] = turned[:, [2, 1, 0]] * spacing
    affine[:3, 3] = (5, -40, 12)
    return Grid(shape, affine)


def ventricle(half: int, slices: range = range(1, 6), grid: Grid | None = None, wall: int = 4) -> Volume:
    """Square LV cavity of ``2 half`` pixels in a wall, RV beside it, papillary muscle of 4 pixels; all in pixels."""
    grid = grid or oblique(SHAPE, SPACING)
    labels = np.zeros(grid.shape, dtype=np.uint8)
    box = slice(slices.start, slices.stop)
    outer = slice(20 - half - wall, 20 + half + wall)
    labels[box, outer, outer] = Structure.LV_MYOCARDIUM
    labels[box, 20 - half : 20 + half, 20 - half : 20 + half] = Structure.LV_BLOOD
    labels[box, 19:21, 19:21] = Structure.PAPILLARY
    labels[box, 10:30, 2 : 2 + half] = Structure.RV_BLOOD
    return Volume(labels, grid, "label")


def volume_ml(pixels: int, slices: int = 5) -> float:
    return pixels * slices * math.prod(SPACING) / 1000


def replaced(volume: Volume, edit: Callable[[Any], None]) -> Volume:
    voxels = volume.voxels.copy()
    edit(voxels)
    return replace(volume, voxels=voxels)


@pytest.mark.parametrize("yaw", [0.0, 35.0, -120.0])
def test_cine_of_boxes(yaw: float) -> None:
    grid = oblique(SHAPE, SPACING, yaw)
    frames = [ventricle(half, grid=grid) for half in (5, 4, 3, 4)]
    record = measure_cine(frames, modality="MR", heart_rate_bpm=60, height_cm=180, weight_kg=80, inputs=("1.2",))
    assert record.status is ResultStatus.OK
    assert record.inputs == ("1.2",)
    expected = {
        "lv_end_diastolic_volume": volume_ml(100),
        "lv_end_systolic_volume": volume_ml(36),
        "lv_stroke_volume": volume_ml(64),
        "lv_ejection_fraction": 64.0,
        "lv_end_diastolic_phase": 0.0,
        "lv_end_systolic_phase": 2.0,
        "lv_mass": 1.05 * volume_ml(18**2 - 10**2),
        "rv_end_diastolic_volume": volume_ml(100),
        "rv_ejection_fraction": 40.0,
        "cardiac_output": volume_ml(64) * 60 / 1000,
        "body_surface_area": 2.0,
        "lv_mass_index": 1.05 * volume_ml(224) / 2,
        "cardiac_output_index": volume_ml(64) * 0.03,
        "stroke_volume_difference": 100 * 24 / 52,
    }
    assert {name: record[name] for name in expected} == pytest.approx(expected)
    assert record.flags == ("stroke_volume_mismatch",)
    assert record.measurement("la_maximum_volume").reason == "empty_mask"


def test_papillary_muscles_move_from_blood_to_mass() -> None:
    frames = [ventricle(5), ventricle(3)]
    in_blood, in_mass = (
        measure_cine(frames, modality="MR", policy=CinePolicy(papillary_rule=rule)) for rule in ("in_blood", "in_mass")
    )
    assert in_blood["lv_end_diastolic_volume"] - in_mass["lv_end_diastolic_volume"] == pytest.approx(volume_ml(4))
    assert in_mass["lv_mass"] - in_blood["lv_mass"] == pytest.approx(1.05 * volume_ml(4))
    assert in_mass.policy["papillary_rule"] == "in_mass"


def test_unlabelled_papillary_muscles_are_flagged() -> None:
    frames = [replaced(ventricle(half), lambda v: np.place(v, v == 4, 1)) for half in (5, 3)]
    assert "papillary_not_labelled" in measure_cine(frames, modality="MR").flags


def test_each_chamber_has_its_own_phases() -> None:
    frames = [ventricle(5), ventricle(3), ventricle(4)]
    frames[0] = replaced(frames[0], lambda v: np.place(v[:, :25], v[:, :25] == 3, 0))
    record = measure_cine(frames, modality="MR")
    assert (record["lv_end_diastolic_phase"], record["lv_end_systolic_phase"]) == (0, 1)
    assert (record["rv_end_diastolic_phase"], record["rv_end_systolic_phase"]) == (2, 0)


def open_wall(edges: int) -> Callable[[Any], None]:
    """Take away the wall along ``edges`` of the 40 pixel edges around the cavity of the last slice."""

    def edit(voxels: Any) -> None:
        walls = voxels[5, 15:25, 11:15], voxels[5, 15:25, 25:29], voxels[5, 11:15, 15:25].T
        for side, wall in enumerate(walls):
            wall[: np.clip(edges - 10 * side, 0, 10)] = 0

    return edit


def narrow_apex(voxels: Any) -> None:
    voxels[1] = ventricle(3).voxels[1]


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("edges", "basal_pixels"), [(20, 100), (21, 0)])
def test_basal_slice_counts_from_half_a_circumference_of_myocardium(
    edges: int, basal_pixels: int, flipped: bool
) -> None:
    grid = oblique(SHAPE, (8.0, 1.25, 1.25))
    diastole = replaced(replaced(ventricle(5, grid=grid), narrow_apex), open_wall(edges))
    frames = [diastole, ventricle(3, range(1, 5), grid)]
    if flipped:
        frames = [replaced(frame, lambda v: v.__setitem__(..., v[::-1].copy())) for frame in frames]
    record = measure_cine(frames, modality="MR")
    pixel_ml = 8 * 1.25**2 / 1000
    assert record["lv_end_diastolic_volume"] == pytest.approx((36 + 3 * 100 + basal_pixels) * pixel_ml)
    assert ("basal_slice_left_out" in record.flags) == (basal_pixels == 0)
    as_labelled = measure_cine(frames, modality="MR", policy=CinePolicy(basal_rule="as_labelled"))
    assert as_labelled["lv_end_diastolic_volume"] == pytest.approx((36 + 4 * 100) * pixel_ml)


def test_the_basal_rule_is_not_for_the_apex() -> None:
    def open_apex(voxels: Any) -> None:
        voxels[1] = np.where(voxels[1] == Structure.LV_MYOCARDIUM, 0, voxels[1])

    frames = [replaced(replaced(ventricle(half), narrow_apex), open_apex) for half in (5, 3)]
    record = measure_cine(frames, modality="MR")
    assert record["lv_end_diastolic_volume"] == pytest.approx(volume_ml(36, 1) + volume_ml(100, 4))
    assert record.flags == ("stroke_volume_mismatch",)


def test_blood_without_a_wall_is_no_ventricle() -> None:
    frames = [replaced(ventricle(half), lambda v: v[:, 9:31, 9:20].fill(0)) for half in (5, 3)]
    frames = [replaced(frame, lambda v: np.place(v[:, 16:25], v[:, 16:25] == 2, 0)) for frame in frames]
    assert measure_cine(frames, modality="MR").reason == "myocardium_incomplete"


def test_wall_missing_in_the_middle_is_no_base() -> None:
    frames = [replaced(ventricle(5), lambda v: np.place(v[3], v[3] == 2, 0)), ventricle(3)]
    assert measure_cine(frames, modality="MR").reason == "myocardium_incomplete"


def test_slice_distance_counts_not_thickness() -> None:
    with_gap = oblique(SHAPE, (10.0, 1.5, 1.25))
    record = measure_cine([ventricle(5, grid=with_gap), ventricle(3, grid=with_gap)], modality="MR")
    assert record["lv_end_diastolic_volume"] == pytest.approx(volume_ml(100) * 10 / 8)


def sized_right(pixels: int) -> Callable[[Any], None]:
    def edit(voxels: Any) -> None:
        voxels[voxels == 3] = 0
        plane = np.zeros((38, 8), dtype=np.uint8)
        plane.ravel()[:pixels] = 3
        voxels[1:6, 1:39, 1:9] = np.maximum(voxels[1:6, 1:39, 1:9], plane)

    return edit


@pytest.mark.parametrize(("lv", "rv", "flagged"), [(64, 64, False), (64, 70, False), (64, 71, True), (64, 57, True)])
def test_stroke_volume_mismatch(lv: int, rv: int, flagged: bool) -> None:
    frames = [replaced(ventricle(5), sized_right(rv + 20)), replaced(ventricle(3), sized_right(20))]
    record = measure_cine(frames, modality="MR")
    assert record["stroke_volume_difference"] == pytest.approx(100 * abs(lv - rv) / ((lv + rv) / 2))
    assert ("stroke_volume_mismatch" in record.flags) == flagged


def bad_cine(case: str) -> tuple[list[Volume], dict[str, Any]]:
    good = [ventricle(5), ventricle(3)]
    sheared = np.eye(4)
    sheared[:3, :3] = good[0].grid.affine[:3, :3]
    sheared[:3, 0] += sheared[:3, 1] * 2
    frames: dict[str, list[Volume]] = {
        "no_phases": [],
        "one_phase": good[:1],
        "empty_mask": [replaced(v, lambda a: a.fill(0)) for v in good],
        "empty_phase": [good[0], replaced(good[1], lambda a: np.place(a, a == 1, 0))],
        "no_contraction": [good[0], good[0]],
        "touches_border": [ventricle(5, range(5)), ventricle(3)],
        "gap_in_mask": [replaced(good[0], lambda a: a[3].fill(0)), good[1]],
        "unknown_label": [replaced(good[0], lambda a: a[3, 0].fill(9)), good[1]],
        "grid_mismatch": [good[0], ventricle(3, grid=oblique(SHAPE, (8.0, 1.5, 1.3)))],
        "anisotropic": [ventricle(n, grid=oblique(SHAPE, (11.0, 1.5, 1.25))) for n in (5, 3)],
        "flat_pixels": [ventricle(n, grid=oblique(SHAPE, (8.0, 15.0, 1.5))) for n in (5, 3)],
        "gantry_tilt": [replace(v, grid=Grid(SHAPE, sheared)) for v in good],
        "not_a_label_map": [replace(good[0], units="HU"), good[1]],
        "float_labels": [replace(good[0], voxels=good[0].voxels.astype(float)), good[1]],
    }
    return frames.get(case, good), {"modality": "US" if case == "wrong_modality" else "CT"}


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("no_phases", ""), ("one_phase", ""), ("empty_mask", ""), ("empty_phase", "empty_mask"),
        ("no_contraction", ""), ("touches_border", ""), ("gap_in_mask", ""), ("unknown_label", ""),
        ("grid_mismatch", ""), ("anisotropic", ""), ("flat_pixels", "anisotropic"), ("gantry_tilt", ""),
        ("not_a_label_map", ""), ("float_labels", "not_a_label_map"), ("wrong_modality", ""),
    ],
)  # fmt: skip
def test_bad_cine_has_a_reason(case: str, reason: str) -> None:
    frames, options = bad_cine(case)
    record = measure_cine(frames, inputs=("1.2.3",), **options)
    assert record.reason == (reason or case)
    assert record.status is ResultStatus.NOT_EVALUABLE
    assert record.policy == CinePolicy().to_dict()
    assert record.inputs == ("1.2.3",)
    assert MeasurementRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    ("options", "name", "reason"),
    [
        ({}, "cardiac_output", "heart_rate_missing"),
        ({"heart_rate_bpm": math.nan}, "cardiac_output", "not_finite"),
        ({"heart_rate_bpm": 0.0}, "cardiac_output", "not_positive"),
        ({"height_cm": 180.0}, "lv_mass_index", "body_size_missing"),
        ({"height_cm": 1.8, "weight_kg": 80.0}, "body_surface_area", "implausible_body"),
        ({"height_cm": 1.8, "weight_kg": 80.0}, "lv_end_diastolic_volume_index", "implausible_body"),
    ],
)
def test_a_value_may_be_missing_while_others_stand(options: dict[str, float], name: str, reason: str) -> None:
    record = measure_cine([ventricle(5), ventricle(3)], modality="MR", **options)
    assert record.status is ResultStatus.OK
    assert record.measurement(name).reason == reason
    assert record["lv_end_diastolic_volume"] == pytest.approx(volume_ml(100))


def test_a_right_ventricle_cut_off_by_the_scan_is_not_measured() -> None:
    frames = [replaced(ventricle(n), lambda v: v[6, 10:20, 2:5].fill(3)) for n in (5, 3)]
    record = measure_cine(frames, modality="MR")
    assert record.measurement("rv_stroke_volume").reason == "touches_border"
    assert record.measurement("stroke_volume_difference").reason == "touches_border"
    assert record.status is ResultStatus.OK


def test_left_atrium_of_a_stack_that_covers_it() -> None:
    def atrium(pixels: int) -> Callable[[Any], None]:
        return lambda v: v[3:5, 36, 1 : 1 + pixels].fill(5)

    frames = [replaced(ventricle(5), atrium(10)), replaced(ventricle(3), atrium(24))]
    record = measure_cine(frames, modality="MR")
    assert record["la_maximum_volume"] == pytest.approx(volume_ml(24, 2))
    assert record["la_minimum_volume"] == pytest.approx(volume_ml(10, 2))


@settings(max_examples=10, deadline=None)
@given(shift=st.tuples(st.integers(-1, 9), st.integers(-1, 9)), order=st.permutations(range(3)))
def test_place_and_time_shift_do_not_matter(shift: tuple[int, int], order: list[int]) -> None:
    grid = oblique((7, 50, 50), SPACING)
    frames = [ventricle(half, grid=grid) for half in (5, 4, 3)]
    moved = [replaced(frames[n], lambda v: v.__setitem__(..., np.roll(v, shift, (1, 2)))) for n in order]
    before, after = (measure_cine(item, modality="MR") for item in (frames, moved))
    for name in ("lv_end_diastolic_volume", "lv_ejection_fraction", "lv_mass", "rv_end_systolic_volume"):
        assert after[name] == before[name]


@pytest.mark.parametrize(
    "options", [{"basal_rule": "x"}, {"papillary_rule": "x"}, {"bsa_formula": "x"}, {"max_slice_distance_mm": 0.0}]
)
def test_cine_policy_is_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        CinePolicy(**options)


# ---- scar


SCAR_PIXELS, WALL_PIXELS = 36, 22**2 - 10**2


def enhanced(scar: float = 400.0) -> tuple[Volume, Volume, Volume]:
    """LGE, labels and remote region: remote 90 and 110 by turns (mean 100), a scar of 6 × 6 pixels in three slices."""
    labels = replaced(ventricle(5, wall=6), lambda v: np.place(v, v == 3, 0))
    k, j, i = np.indices(SHAPE)
    signal = np.where((k + j + i) % 2, 110, 90).astype(np.int16)
    signal[labels.voxels == 1] = 250
    signal[2:5, 9:15, 17:23] = scar
    remote = np.zeros(SHAPE, dtype=np.uint8)
    remote[2:5, 27:29, 16:24] = 1
    return Volume(signal, labels.grid, "a.u."), labels, Volume(remote, labels.grid, "label")


def scar_g(pixels: int) -> float:
    return 1.05 * volume_ml(pixels, 1)


def test_scar_of_a_box() -> None:
    record = measure_scar(*enhanced(), modality="MR")
    sd = 10 * math.sqrt(48 / 47)
    assert record["remote_mean"] == pytest.approx(100)
    assert record["remote_sd"] == pytest.approx(sd)
    assert record["scar_threshold"] == pytest.approx(100 + 5 * sd)
    assert record["hyperenhancement"] == "present"
    assert record["scar_mass"] == pytest.approx(scar_g(3 * SCAR_PIXELS))
    assert record["lv_mass"] == pytest.approx(scar_g(5 * WALL_PIXELS))
    assert record["scar_percent"] == pytest.approx(100 * 3 * SCAR_PIXELS / (5 * WALL_PIXELS))
    assert record["microvascular_obstruction_mass"] == 0


@pytest.mark.parametrize(
    ("policy", "threshold"),
    [
        (ScarPolicy(n_sd=2), 100 + 20 * math.sqrt(48 / 47)),
        (ScarPolicy(method="fwhm"), 200),
        (ScarPolicy(method="fwhm", fwhm_reference="half_between_remote_and_maximum"), 250),
    ],
)
def test_thresholds_by_policy(policy: ScarPolicy, threshold: float) -> None:
    record = measure_scar(*enhanced(), modality="MR", policy=policy)
    assert record["scar_threshold"] == pytest.approx(threshold)
    assert record["scar_mass"] == pytest.approx(scar_g(3 * SCAR_PIXELS))
    lge, labels, remote = enhanced()
    for signal, counted in ((math.floor(threshold), 0), (math.floor(threshold) + 1, 1)):
        beside = replaced(lge, lambda v, signal=signal: v[3, 11, 23:24].fill(signal))
        record = measure_scar(beside, labels, remote, modality="MR", policy=policy)
        assert record["scar_mass"] == pytest.approx(scar_g(3 * SCAR_PIXELS + counted))


@pytest.mark.parametrize("method", ["n_sd", "fwhm"])
def test_without_hyperenhancement_the_answer_is_none(method: Any) -> None:
    record = measure_scar(*enhanced(scar=130), modality="MR", policy=ScarPolicy(method=method))
    assert record.status is ResultStatus.OK
    assert record["hyperenhancement"] == "none"
    assert record["scar_mass"] == record["scar_percent"] == 0
    assert record.measurement("scar_threshold").reason == "no_hyperenhancement"


@pytest.mark.parametrize(("more_ml", "found"), [(0.0, "present"), (0.001, "none")])
def test_smallest_visible_enhancement(more_ml: float, found: str) -> None:
    policy = ScarPolicy(visible_ml=volume_ml(SCAR_PIXELS, 3) + more_ml)
    assert measure_scar(*enhanced(), modality="MR", policy=policy)["hyperenhancement"] == found


@pytest.mark.parametrize(
    ("rule", "within", "at_cavity"),
    [("enclosed_by_scar_or_cavity", 4, 4), ("enclosed_by_scar", 4, 0), ("not_filled", 0, 0)],
)
def test_obstruction_is_filled_by_policy(rule: Any, within: int, at_cavity: int) -> None:
    policy = ScarPolicy(obstruction_rule=rule)
    lge, labels, remote = enhanced()
    for rows, filled in ((slice(11, 13), within), (slice(13, 15), at_cavity)):
        dark = replaced(lge, lambda v, rows=rows: v[3, rows, 19:21].fill(95))
        record = measure_scar(dark, labels, remote, modality="MR", policy=policy)
        assert record["microvascular_obstruction_mass"] == pytest.approx(scar_g(filled))
        assert record["scar_mass"] == pytest.approx(scar_g(3 * SCAR_PIXELS - 4 + filled))


def test_a_ring_of_scar_does_not_take_the_cavity_with_it() -> None:
    lge, labels, remote = enhanced()
    ring = replaced(lge, lambda v: np.place(v[1], labels.voxels[1] == 2, 400))
    record = measure_scar(ring, labels, remote, modality="MR")
    # The outer corner pixels of the square have no neighbour within the border.
    assert record["scar_mass"] == pytest.approx(scar_g(3 * SCAR_PIXELS + WALL_PIXELS - 4))
    assert record["microvascular_obstruction_mass"] == 0


def test_bright_rim_beside_the_blood_is_no_scar() -> None:
    lge, labels, remote = enhanced()
    rim = replaced(lge, lambda v: v[5, 14, 15:25].fill(240))
    assert measure_scar(rim, labels, remote, modality="MR")["scar_mass"] == pytest.approx(scar_g(3 * SCAR_PIXELS))
    every = measure_scar(rim, labels, remote, modality="MR", policy=ScarPolicy(border_rule="all_voxels"))
    assert every["scar_mass"] == pytest.approx(scar_g(3 * SCAR_PIXELS + 10))


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("wrong_units", lambda a, b, c: (replace(a, units="HU"), b, c)),
        ("grid_mismatch", lambda a, b, c: (replace(a, grid=oblique(SHAPE, (8, 1.5, 1.3))), b, c)),
        ("grid_mismatch", lambda a, b, c: (a, b, replace(c, grid=oblique(SHAPE, (8, 1.5, 1.3))))),
        ("not_finite", lambda a, b, c: (replace(a, voxels=np.where(b.voxels == 2, np.nan, 1.0)), b, c)),
        ("empty_mask", lambda a, b, c: (a, b, replaced(c, lambda v: v.fill(0)))),
        ("empty_mask", lambda a, b, c: (a, replaced(b, lambda v: np.place(v, v == 2, 0)), c)),
        ("not_a_label_map", lambda a, b, c: (a, b, replace(c, units="HU"))),
        ("remote_outside_myocardium", lambda a, b, c: (a, b, replaced(c, lambda v: v[3, 20].fill(1)))),
        ("remote_too_small", lambda a, b, c: (a, b, replaced(c, lambda v: v[3:].fill(0)))),
        ("not_positive", lambda a, b, c: (replaced(a, lambda v: v.fill(7)), b, c)),
        ("touches_border", lambda a, b, c: (a, replaced(b, lambda v: v[0, 20:25, 20:25].fill(2)), c)),
    ],
)
def test_bad_late_enhancement_has_a_reason(reason: str, change: Callable[..., tuple[Volume, Volume, Volume]]) -> None:
    record = measure_scar(*change(*enhanced()), modality="MR")
    assert record.reason == reason
    assert record.status is ResultStatus.NOT_EVALUABLE


def test_scar_is_for_mr_only() -> None:
    assert measure_scar(*enhanced(), modality="CT").reason == "wrong_modality"


def test_values_before_a_refusal_are_kept() -> None:
    lge, labels, remote = enhanced()
    record = measure_scar(lge, labels, replaced(remote, lambda v: v[3:].fill(0)), modality="MR")
    assert record["lv_mass"] == pytest.approx(scar_g(5 * WALL_PIXELS))


# ---- aorta

TUBE = AorticTube(ascending=62, descending=50, arch_radius=30, bulge_position=46)
FEW_SECTIONS = AortaPolicy(step_mm=8)


@pytest.fixture(scope="module")
def phases() -> list[Volume]:
    grid = TUBE.grid((3.0, 1.5, 1.5))
    return [TUBE.mask(grid, stretch) for stretch in (1.0, 1.05)]


def test_aorta_of_known_diameter(phases: list[Volume]) -> None:
    record = measure_aorta(phases, modality="CT", centreline=TUBE.centreline(), pulse_pressure_mmhg=50)
    assert record.status is ResultStatus.OK
    assert record["aorta_length"] == pytest.approx(TUBE.length, abs=2)
    assert record["aorta_maximum_equivalent_diameter"] == pytest.approx(35, abs=0.5)
    assert record["aorta_maximum_diameter"] == pytest.approx(35, abs=1.2)
    assert record["aorta_maximum_diameter_position"] == pytest.approx(46, abs=4)
    # Within a radius of the ends nothing is measured.
    assert record["aorta_measured_from"] == pytest.approx(13, abs=2)
    assert record["aorta_measured_to"] == pytest.approx(TUBE.length - 13, abs=4)
    assert record["aorta_level"] == pytest.approx(TUBE.length / 2, abs=2)
    level = float(TUBE.diameter_at(TUBE.length / 2))
    assert record["aorta_level_smallest_area"] == pytest.approx(math.pi * level**2 / 4, rel=0.03)
    assert record["aorta_distensibility"] == pytest.approx(1000 * (1.05**2 - 1) / 50, rel=0.2)


def test_centreline_of_its_own(phases: list[Volume]) -> None:
    record = measure_aorta(phases[:1], modality="CT")
    assert record["aorta_maximum_equivalent_diameter"] == pytest.approx(35, abs=0.7)
    # From the front, where the ascending aorta and its bulge are.
    assert record["aorta_maximum_diameter_position"] < record["aorta_length"] / 2
    assert record.measurement("aorta_distensibility").reason == "one_phase"


def test_section_is_orthogonal_to_the_aorta_not_to_the_slices() -> None:
    """A straight tube at 50° to the slices: an axial section would have 1/cos 50° of the area."""
    grid = Grid.from_spacing((60, 60, 60), (1.5, 1.5, 1.5))
    p = grid.index_to_patient(np.stack(np.indices(grid.shape), axis=-1)) - 44
    axis = np.array([math.sin(math.radians(50)), 0, math.cos(math.radians(50))])
    inside = np.linalg.norm(np.cross(p, axis), axis=-1) < 10
    mask = Volume(np.where(inside, 6, 0).astype(np.uint8), grid, "label")
    record = measure_aorta([mask], modality="CT", centreline=44 + np.array([[-35.0], [0.0], [35.0]]) * axis)
    assert record["aorta_level_smallest_area"] == pytest.approx(100 * math.pi, rel=0.02)
    assert record.flags == ("aorta_touches_border",)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "pulse_pressure_missing"),
        ({"pulse_pressure_mmhg": 0.0}, "pulse_pressure_not_positive"),
        ({"pulse_pressure_mmhg": -5.0}, "pulse_pressure_not_positive"),
        ({"pulse_pressure_mmhg": math.nan}, "not_finite"),
        ({"pulse_pressure_mmhg": 50.0, "level_mm": -1.0}, "level_outside_aorta"),
        ({"pulse_pressure_mmhg": 50.0, "level_mm": math.nan}, "level_outside_aorta"),
        ({"pulse_pressure_mmhg": 50.0, "level_mm": 0.5}, "section_incomplete"),
    ],
)
def test_distensibility_may_be_missing(phases: list[Volume], options: dict[str, float], reason: str) -> None:
    record = measure_aorta(phases, modality="MR", centreline=TUBE.centreline(), policy=FEW_SECTIONS, **options)
    assert record.status is ResultStatus.OK
    assert record.measurement("aorta_distensibility").reason == reason
    assert record["aorta_maximum_diameter"] is not None


@pytest.mark.parametrize(
    ("reason", "change", "options"),
    [
        ("no_phases", lambda v: [], {}),
        ("wrong_modality", lambda v: [v], {"modality": "US"}),
        ("empty_mask", lambda v: [replaced(v, lambda a: a.fill(1))], {}),
        ("not_a_label_map", lambda v: [replace(v, units="HU")], {}),
        ("grid_mismatch", lambda v: [v, v.crop((0, 0, 0), (9, 9, 9))], {}),
        ("single_slice", lambda v: [v.crop((20, 0, 0), (21, *v.grid.shape[1:]))], {}),
        ("anisotropic", lambda v: [replace(v, grid=Grid.from_spacing(v.grid.shape, (10, 1, 1)))], {}),
        ("centreline_not_points", lambda v: [v], {"centreline": [[1.0, 2.0]]}),
        ("centreline_not_points", lambda v: [v], {"centreline": [[1.0, 2.0, math.nan]] * 3}),
        ("centreline_too_short", lambda v: [v], {"centreline": [[1.0, 2.0, 3.0]]}),
        ("centreline_too_short", lambda v: [v], {"centreline": [[1.0, 2.0, 3.0]] * 2}),
        ("no_whole_section", lambda v: [v], {"centreline": [[500.0, 0, 0], [600.0, 0, 0]]}),
    ],
)
def test_bad_aorta_has_a_reason(
    phases: list[Volume], reason: str, change: Callable[[Volume], list[Volume]], options: dict[str, Any]
) -> None:
    record = measure_aorta(change(phases[0]), **{"modality": "CT", **options}, policy=FEW_SECTIONS)
    assert record.reason == reason
    assert record.status is ResultStatus.NOT_EVALUABLE
    assert record.policy == FEW_SECTIONS.to_dict()


@pytest.mark.parametrize(
    "options", [{"edge": "x"}, {"pressure_site": "x"}, {"step_mm": 0.0}, {"smoothing_mm": math.nan}]
)
def test_aorta_policy_is_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        AortaPolicy(**options)

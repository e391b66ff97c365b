from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from ops.diseases.fibrosis.liver_surface import SurfacePolicy
from ops.diseases.fibrosis.measurement import (
    CtAcquisition,
    Elastogram,
    FibrosisPolicy,
    Laboratory,
    Patient,
    PortalLandmarks,
    measure,
)
from ops.diseases.fibrosis.organs import LABELS, SEGMENTS, caudate_widths
from ops.measure.errors import NotEvaluableError
from ops.measure.record import MeasurementRecord
from ops.verdict import ResultStatus
from ops.volume import Grid, Volume

SPACING = (3.0, 2.0, 1.5)
VOXEL_CM3 = 9.0 / 1000
UNENHANCED = CtAcquisition(kvp=120.0, enhanced=False)
LIVER_HU, SPLEEN_HU = 38, 50

# Blocks of the segments in voxels, (k, j, i) start and stop: caudate in the middle, right lobe at low x.
BLOCKS = {
    "I": ((8, 30, 40), (20, 40, 56)),
    "II": ((20, 10, 40), (30, 30, 70)),
    "III": ((8, 10, 40), (20, 30, 70)),
    "IV": ((8, 10, 30), (30, 30, 40)),
    "V": ((4, 10, 10), (18, 30, 30)),
    "VI": ((4, 30, 10), (18, 50, 30)),
    "VII": ((18, 30, 10), (32, 50, 30)),
    "VIII": ((18, 10, 10), (32, 30, 30)),
    "spleen": ((12, 34, 74), (30, 54, 90)),
}
COUNTS = {name: math.prod(b - a for a, b in zip(*block, strict=True)) for name, block in BLOCKS.items()}


SHEAR = np.outer([0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0])  # each slice 1 mm further back


def blocks(without: tuple[str, ...] = ()) -> Volume:
    voxels = np.zeros((36, 60, 96), dtype=np.uint8)
    for name, (start, stop) in BLOCKS.items():
        if name not in without:
            voxels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = LABELS[name]
    return Volume(voxels, Grid.from_spacing(voxels.shape, SPACING, (-100.0, -60.0, 20.0)), "label")


def image(labels: Volume, liver: float = LIVER_HU, spleen: float = SPLEEN_HU) -> Volume:
    hu = np.select([labels.voxels == 9, labels.voxels > 0], [spleen, liver], -100).astype(np.int16)
    return Volume(hu, labels.grid)


def test_volumes_ratios_and_attenuation_by_hand() -> None:
    labels = blocks()
    patient = Patient(sex="F", height_cm=165, age=50)
    record = measure(labels, "CT", image(labels), acquisition=UNENHANCED, patient=patient, inputs=("1.2", "1.3"))
    assert record.status is ResultStatus.OK
    assert record.inputs == ("1.2", "1.3")
    assert record.policy == FibrosisPolicy().to_dict()
    for name in SEGMENTS:
        assert record[f"segment_{name}_volume"] == pytest.approx(COUNTS[name] * VOXEL_CM3)
    left = sum(COUNTS[name] for name in SEGMENTS[:3])
    right = sum(COUNTS[name] for name in SEGMENTS[3:])
    assert record["liver_volume"] == pytest.approx((left + right) * VOXEL_CM3)
    assert record["lsvr"] == pytest.approx(left / right)
    assert record["lsvr_cirrhosis"] == "positive"
    assert record["spleen_volume"] == pytest.approx(COUNTS["spleen"] * VOXEL_CM3)
    assert record["liver_spleen_volume_ratio"] == pytest.approx((left + right) / COUNTS["spleen"])
    assert record["caudate_right_lobe_volume_ratio"] == pytest.approx(COUNTS["I"] / (4 * COUNTS["V"]))
    assert record["spleen_volume_limit"] == pytest.approx(7.0996 * 165 - 939.5)
    assert record["splenomegaly"] == "negative"
    assert (record["liver_attenuation"], record["spleen_attenuation"]) == (38.0, 50.0)
    assert record["liver_minus_spleen_attenuation"] == -12.0
    assert record["liver_spleen_attenuation_ratio"] == pytest.approx(0.76)
    for rule in ("moderate_to_severe", "at_least_30_percent", "by_difference", "mild_by_ratio"):
        assert record[f"steatosis_{rule}"] == "positive"
    # Pixels of 2 mm are too large for a surface, and nothing else suffers from it.
    surface = record.measurement("liver_surface_nodularity")
    assert (surface.status, surface.reason) == (ResultStatus.OUT_OF_MODEL_RANGE, "pixel_too_large")
    assert MeasurementRecord.from_json(record.to_json()) == record


def test_blood_and_elastogram() -> None:
    lab = Laboratory(ast=80, alt=64, ast_upper_limit=40, platelets=120)
    record = measure(
        blocks(), "MR", patient=Patient(age=70), laboratory=lab, elastogram=Elastogram((3.0, 5.0), (100.0, 100.0))
    )
    assert record["fib4"] == pytest.approx(70 * 80 / (120 * 8))
    assert record["fib4_class"] == "rule_in"
    assert record["apri"] == pytest.approx(80 / 40 * 100 / 120)
    assert (record["apri_class_significant"], record["apri_class_cirrhosis"]) == ("rule_in", "indeterminate")
    assert (record["mre_stiffness"], record["mre_stage"], record["mefib"]) == (4.0, "F3", "positive")
    assert "fib4_age_caveat" in record.flags
    assert record.measurement("liver_attenuation").reason == "not_provided"
    assert "fib4_age_caveat" not in measure(blocks(), "MR", patient=Patient(age=70)).flags


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("flip", [(), (0,), (1, 2)])
def test_orientation_does_not_matter(order: tuple[int, ...], flip: tuple[int, ...]) -> None:
    labels = blocks()
    affine = labels.grid.affine.copy()
    for axis in flip:
        affine[:3, 3] += affine[:3, axis] * (labels.grid.shape[axis] - 1)
        affine[:3, axis] *= -1
    voxels = np.flip(labels.voxels, flip).transpose(order)
    turned = Volume(voxels, Grid(voxels.shape, affine[:, [*order, 3]]), "label")
    ct = image(turned)
    place = (-100 + 1.5 * 35.0, -60 + 2 * 35.0, 20 + 3 * 12.0)
    first, second = (
        measure(a, "CT", b, acquisition=UNENHANCED, landmarks=PortalLandmarks(main=place))
        for a, b in ((labels, image(labels)), (turned, ct))
    )
    assert second["liver_volume"] == pytest.approx(first["liver_volume"])
    assert second["liver_attenuation"] == first["liver_attenuation"]
    assert second["caudate_right_lobe_ratio_main"] == pytest.approx(first["caudate_right_lobe_ratio_main"])


def test_linear_widths_by_hand() -> None:
    labels = blocks()
    # On the left edge of voxel 34: the caudate ends at the left edge of voxel 55, the right lobe begins at voxel 10.
    place = (-100 + 1.5 * 34.5, -60 + 2 * 35.0, 20 + 3 * 12.2)
    assert caudate_widths(labels, place) == pytest.approx((21 * 1.5, 25 * 1.5))
    record = measure(labels, "CT", landmarks=PortalLandmarks(main=place, right=place))
    assert record["caudate_right_lobe_ratio_main"] == pytest.approx(21 / 25)
    assert (record["caudate_classic"], record["caudate_modified"], record["crl_r"]) == (
        "positive",
        "negative",
        "negative",
    )


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ((-48.0, 10.0, 500.0), "landmark_outside_scan"),
        ((math.nan, 10.0, 50.0), "landmark_outside_scan"),
        ((-48.0, 10.0, 20 + 3 * 25.0), "caudate_not_in_slice"),
        ((0.0, 10.0, 56.0), "landmark_outside_liver"),
        ((-99.0, 10.0, 56.0), "landmark_outside_liver"),
        ((-48.0, 57.0, 56.0), "landmark_outside_liver"),
    ],
)
def test_landmarks_that_do_not_fit(place: tuple[float, float, float], reason: str) -> None:
    with pytest.raises(NotEvaluableError) as error:
        caudate_widths(blocks(), place)
    assert error.value.reason == reason


def reasons(record: MeasurementRecord, *names: str) -> list[str]:
    return [record.measurement(name).reason for name in names]


def test_no_spleen_is_a_failed_mask_unless_it_was_removed() -> None:
    labels = blocks(without=("spleen",))
    spleen = (
        "spleen_volume",
        "spleen_attenuation",
        "liver_spleen_volume_ratio",
        "splenomegaly",
        "steatosis_by_difference",
    )
    patient = Patient(sex="F", height_cm=165)
    failed = measure(labels, "CT", image(labels), acquisition=UNENHANCED, patient=patient)
    assert reasons(failed, *spleen) == ["empty_mask"] * 5
    removed = measure(labels, "CT", image(labels), acquisition=UNENHANCED, patient=replace(patient, splenectomy=True))
    assert reasons(removed, *spleen) == ["splenectomy"] * 5
    assert removed.flags == ("splenectomy",)
    for record in (failed, removed):
        assert record.status is ResultStatus.OK
        assert record["lsvr"] is not None
        assert record["steatosis_moderate_to_severe"] == "positive"
    contradiction = measure(blocks(), "CT", patient=Patient(splenectomy=True))
    assert contradiction["spleen_volume"] is None
    assert "spleen_label_despite_splenectomy" in contradiction.flags


@pytest.mark.parametrize("fact", ["hepatectomy", "tips", "budd_chiari"])
def test_what_makes_shape_meaningless(fact: str) -> None:
    patient = Patient(**{fact: True})
    ratios = ("lsvr", "lsvr_cirrhosis", "caudate_right_lobe_volume_ratio", "liver_spleen_volume_ratio")
    record = measure(blocks(), "CT", patient=patient)
    assert reasons(record, *ratios) == [fact] * 4
    assert record.flags == (fact,)
    assert record["liver_volume"] is not None
    flagged = measure(blocks(), "CT", patient=patient, policy=FibrosisPolicy(confounders="flag"))
    assert flagged["lsvr"] is not None
    assert flagged.flags == (fact,)


def test_missing_segments() -> None:
    labels = blocks(without=("II", "III"))
    record = measure(labels, "CT", image(labels))
    assert reasons(record, "segment_II_volume", "liver_volume", "lsvr") == ["empty_mask"] * 3
    assert record["segment_I_volume"] == pytest.approx(COUNTS["I"] * VOXEL_CM3)
    assert record["liver_attenuation"] == 38.0
    resected = measure(labels, "CT", patient=Patient(hepatectomy=True))
    assert reasons(resected, "segment_II_volume", "lsvr") == ["hepatectomy"] * 2
    rest = sum(COUNTS[name] for name in SEGMENTS if name not in ("II", "III"))
    assert resected["liver_volume"] == pytest.approx(rest * VOXEL_CM3)


def test_cut_off_organs() -> None:
    labels = blocks().crop((6, 0, 0), (36, 60, 96))
    record = measure(labels, "CT", image(labels))
    assert reasons(record, "segment_V_volume", "segment_VI_volume", "liver_volume", "lsvr") == ["touches_border"] * 4
    assert record["segment_VIII_volume"] is not None
    assert record["spleen_volume"] is not None
    assert record.flags == ("liver_touches_border",)
    assert measure(blocks().crop((0, 0, 0), (36, 60, 85)), "CT").flags == ("spleen_touches_border",)


def test_fragments_are_flagged() -> None:
    labels = blocks()
    labels.voxels[2:4, 55:59, 5:90] = 6
    assert "fragmented_liver" in measure(labels, "CT").flags
    assert "fragmented_liver" not in measure(blocks(), "CT").flags


def changed(volume: Volume, **changes: Any) -> Volume:
    return replace(volume, **changes)


@pytest.mark.parametrize(
    ("labels", "modality", "ct", "reason"),
    [
        (blocks(), "US", None, "wrong_modality"),
        (changed(blocks(), units="HU"), "CT", None, "not_a_label_map"),
        (changed(blocks(), voxels=blocks().voxels.astype(np.float32)), "CT", None, "not_a_label_map"),
        (changed(blocks(), voxels=blocks().voxels * np.uint8(20)), "CT", None, "unknown_label"),
        (changed(blocks(), voxels=blocks().voxels * np.uint8(0)), "CT", None, "empty_mask"),
        (changed(blocks(), grid=Grid.from_spacing((36, 60, 96), (10.0, 1.0, 1.0))), "CT", None, "anisotropic"),
        (changed(blocks(), grid=Grid((36, 60, 96), blocks().grid.affine + SHEAR)), "CT", None, "gantry_tilt"),
        (blocks(), "CT", changed(image(blocks()), units="a.u."), "wrong_units"),
        (blocks(), "CT", image(blocks().crop((0, 0, 0), (36, 60, 90))), "grid_mismatch"),
        (blocks(), "CT", changed(image(blocks()), voxels=np.full((36, 60, 96), np.nan)), "not_finite"),
    ],
)
def test_unfit_input_is_refused_with_its_reason(labels: Volume, modality: str, ct: Volume | None, reason: str) -> None:
    lab = Laboratory(ast=80, alt=64, platelets=120)
    record = measure(labels, modality, ct, patient=Patient(age=60), laboratory=lab)
    assert (record.status, record.reason) == (ResultStatus.NOT_EVALUABLE, reason)
    assert record.detail
    assert record["fib4"] == pytest.approx(5.0)
    assert record.policy


def test_spleen_is_kept_without_liver() -> None:
    record = measure(blocks(without=SEGMENTS), "CT")
    assert (record.status, record.reason) == (ResultStatus.NOT_EVALUABLE, "empty_mask")
    assert record["spleen_volume"] == pytest.approx(COUNTS["spleen"] * VOXEL_CM3)


def test_bad_scalars_leave_a_reason() -> None:
    lab = Laboratory(ast=math.nan, alt=64, platelets=120, ast_upper_limit=40)
    record = measure(blocks(), "CT", patient=Patient(age=60, sex="M", height_cm=150), laboratory=lab)
    assert reasons(record, "fib4", "fib4_class", "apri", "mefib") == [
        "not_finite",
        "not_finite",
        "not_finite",
        "not_provided",
    ]
    limit = record.measurement("spleen_volume_limit")
    assert (limit.status, limit.reason) == (ResultStatus.OUT_OF_MODEL_RANGE, "height_out_of_range")
    assert record.measurement("splenomegaly").status is ResultStatus.OUT_OF_MODEL_RANGE
    tiny = Laboratory(ast=80, alt=1e-320, platelets=1e-300)
    assert reasons(measure(blocks(), "CT", patient=Patient(age=60), laboratory=tiny), "fib4") == ["not_positive"]


@pytest.mark.parametrize(
    ("acquisition", "reason"),
    [
        (CtAcquisition(), "phase_unknown"),
        (CtAcquisition(120.0, True), "contrast_enhanced"),
        (CtAcquisition(None, False), "kvp_missing"),
        (CtAcquisition(100.0, False), "kvp_out_of_table"),
    ],
)
def test_steatosis_only_from_unenhanced_120_kvp(acquisition: CtAcquisition, reason: str) -> None:
    labels = blocks()
    record = measure(labels, "CT", image(labels), acquisition=acquisition)
    assert reasons(record, "steatosis_moderate_to_severe", "steatosis_mild_by_ratio") == [reason] * 2
    assert record["liver_attenuation"] == 38.0


def test_attenuation_keeps_off_the_edge_and_can_be_implausible() -> None:
    labels = blocks()
    ct = image(labels)
    # A bright rim around the liver does not count.
    liver = (labels.voxels > 0) & (labels.voxels < 9)
    ct.voxels[liver & ~ndimage.binary_erosion(liver, iterations=3)] = 200
    assert measure(labels, "CT", ct)["liver_attenuation"] == 38.0
    assert measure(labels, "CT", ct, policy=FibrosisPolicy(erosion_mm=0))["liver_attenuation"] > 38.0
    assert reasons(measure(labels, "CT", image(labels, liver=-1000)), "liver_attenuation") == ["implausible_hu"]
    assert reasons(measure(labels, "CT", ct, policy=FibrosisPolicy(erosion_mm=20)), "spleen_attenuation") == [
        "mask_too_thin"
    ]
    stored = Volume((image(labels).voxels.astype(np.int32) + 1024).astype(np.uint16), labels.grid, "HU", 1.0, -1024.0)
    assert measure(labels, "CT", stored)["liver_attenuation"] == 38.0


def test_policy_is_obeyed_and_validated() -> None:
    lab = Laboratory(ast=40, alt=64, platelets=200)
    record = measure(blocks(), "CT", patient=Patient(age=55), laboratory=lab)
    nafld = measure(blocks(), "CT", patient=Patient(age=55), laboratory=lab, policy=FibrosisPolicy(fib4_cuts="nafld"))
    assert record["fib4"] == nafld["fib4"] == pytest.approx(1.375)
    assert (record["fib4_class"], nafld["fib4_class"]) == ("rule_out", "indeterminate")
    stiff = Elastogram((3.6,), (100.0,))
    singh = FibrosisPolicy(mre_table="singh2015_mixed")
    assert measure(blocks(), "CT", elastogram=stiff)["mre_stage"] == "F3"
    assert measure(blocks(), "CT", elastogram=stiff, policy=singh)["mre_stage"] == "F1"
    coarse = FibrosisPolicy(surface=SurfacePolicy(max_pixel_mm=3.0))
    assert reasons(measure(blocks(), "CT", policy=coarse), "liver_surface_nodularity_from_mask") != ["pixel_too_large"]
    for bad in ({"confounders": "ignore"}, {"fib4_cuts": "other"}, {"mre_table": ""}, {"erosion_mm": -1}):
        with pytest.raises(ValueError, match=r"must be|erosion"):
            FibrosisPolicy(**bad)  # type: ignore[arg-type]

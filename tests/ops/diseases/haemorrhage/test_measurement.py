"""The whole measurement, on clots of known size and on bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ops.diseases.haemorrhage.measurement import (
    ClinicalFindings,
    HaemorrhagePolicy,
    MidlineLandmarks,
    iph_lesions,
    measure,
    shift_from_landmarks,
)
from ops.measure.record import MeasurementRecord
from ops.phantoms.sdf import rotation
from ops.verdict import ResultStatus
from ops.volume import Grid, Volume

SHAPE, SPACING = (16, 60, 60), (5.0, 1.0, 1.0)
GRID = Grid.from_spacing(SHAPE, SPACING, (-30, -30, 0))
LANDMARKS = MidlineLandmarks((6.0, 0.0, 40.0), (0.0, -70.0, 40.0), (0.0, 70.0, 40.0))


def head(grid: Grid = GRID, **boxes: tuple[slice, slice, slice]) -> Volume:
    """Label map with a box for each subtype named."""
    labels = np.zeros(grid.shape, dtype=np.uint8)
    for name, box in boxes.items():
        labels[box] = ["edh", "sdh", "sah", "iph", "ivh"].index(name) + 1
    return Volume(labels, grid, "label")


def box(z: int, y: int, x: int, at: int = 3) -> tuple[slice, slice, slice]:
    return slice(at, at + z), slice(at, at + y), slice(at, at + x)


def ellipsoid(axes: tuple[float, float, float], grid: Grid) -> Volume:
    z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in grid.shape), indexing="ij")
    dz, dy, dx = grid.spacing
    inside = (z * dz / axes[0]) ** 2 + (y * dy / axes[1]) ** 2 + (x * dx / axes[2]) ** 2 <= 1
    return Volume(np.where(inside, 4, 0).astype(np.uint8), grid, "label")


def test_volumes_are_voxels() -> None:
    record = measure(head(edh=box(2, 10, 10), iph=box(4, 10, 5, at=6), ivh=box(1, 3, 3, at=12)), inputs=("1.2",))
    assert record.status is ResultStatus.OK
    assert record["volume_edh"] == pytest.approx(2 * 10 * 10 * 5 / 1000)
    assert record["volume_iph"] == pytest.approx(4 * 10 * 5 * 5 / 1000)
    assert record["volume_sdh"] == record["volume_sah"] == 0
    assert record["volume_total"] == pytest.approx(1 + 1 + 0.045)
    assert record["any_haemorrhage"] == 1
    assert record.inputs == ("1.2",)
    assert record.policy == {"abc_edges": "edges_half", "ich_volume": "voxels"}


def test_no_haemorrhage_is_a_finding_and_no_map_is_not() -> None:
    record = measure(head())
    assert (record.status, record["any_haemorrhage"], record["volume_total"]) == (ResultStatus.OK, 0, 0)
    assert record["iph_lesions"] == record["modified_fisher"] == 0
    assert record.measurement("abc2_iph_largest").reason == "no_iph"
    missing = measure(None)
    assert (missing.status, missing.reason, missing.measurements) == (ResultStatus.NOT_EVALUABLE, "not_segmented", ())


def test_abc2_beside_the_true_volume() -> None:
    grid = Grid.from_spacing((121, 90, 90), (0.5, 0.5, 0.5), (0, 0, 0))
    record = measure(ellipsoid((25, 15, 20), grid))
    volume = 4 / 3 * math.pi * 25 * 15 * 20 / 1000
    share = 0.5 + (math.sqrt(0.75) - 0.5) / 2
    assert record["volume_iph_largest"] == pytest.approx(volume, rel=0.01)
    assert record["abc2_iph_largest"] == pytest.approx(40 * 30 * 50 * share / 2 / 1000, rel=0.04)


def test_lesions_join_over_corners_and_come_largest_first() -> None:
    labels = head(iph=box(2, 4, 4)).voxels
    labels[5, 7, 7] = 4  # touches the first at a corner
    labels[9:12, 20:30, 20:30] = 4
    lesions = iph_lesions(Volume(labels, GRID, "label"))
    assert [lesion.volume_mm3 for lesion in lesions] == pytest.approx([3 * 100 * 5, 33 * 5])
    record = measure(Volume(labels, GRID, "label"))
    assert record["iph_lesions"] == 2
    assert record["abc2_iph_sum"] == pytest.approx(sum(lesion.abc2_mm3 for lesion in lesions) / 1000)


@pytest.mark.parametrize(("voxels", "score"), [(5999, 0), (6000, 1), (6001, 1)])
def test_ich_score_at_thirty_millilitres(voxels: int, score: int) -> None:
    labels = np.zeros((50 * 50 * 14,), dtype=np.uint8)
    labels[:voxels] = 4
    padded = np.pad(labels.reshape(14, 50, 50), ((1, 1), (5, 5), (5, 5)))
    record = measure(Volume(padded, GRID, "label"), clinical=ClinicalFindings(15, 60, False))
    assert record["ich_score"] == score


def test_ich_score_uses_what_the_image_shows() -> None:
    labels = head(iph=box(4, 10, 10), ivh=box(1, 2, 2, at=12))
    record = measure(labels, clinical=ClinicalFindings(4, 80, True))
    assert (record["ich_score"], record["ich_mortality_30_day"]) == (5, 100)
    assert measure(labels).measurement("ich_score").reason == "no_clinical_findings"
    assert measure(labels, clinical=ClinicalFindings(2, 80, True)).measurement("ich_score").reason == "bad_gcs"
    assert measure(head(), clinical=ClinicalFindings(4, 80, True)).measurement("ich_score").reason == "no_iph"


def test_ich_volume_by_abc2() -> None:
    """A cross of 23.5 mL: its diameters are those of a far larger clot."""
    labels = head(iph=(slice(4, 9), slice(4, 56), slice(25, 35))).voxels
    labels[4:9, 25:35, 4:56] = 4
    cross, clinical = Volume(labels, GRID, "label"), ClinicalFindings(15, 60, False)
    assert measure(cross, clinical=clinical)["volume_iph"] == pytest.approx(23.5)
    assert measure(cross, clinical=clinical)["ich_score"] == 0
    assert measure(cross, clinical=clinical, policy=HaemorrhagePolicy(ich_volume="abc2"))["ich_score"] == 1


@pytest.mark.parametrize(
    ("sah", "thick", "ivh", "grade"), [(1, False, 0, 1), (1, False, 1, 2), (1, True, 0, 3), (1, True, 1, 4)]
)
def test_modified_fisher(sah: bool, thick: bool, ivh: bool, grade: int) -> None:
    boxes = ({"sah": box(2, 4, 4)} if sah else {}) | ({"ivh": box(2, 4, 4, at=9)} if ivh else {})
    assert measure(head(**boxes), sah_is_thick=thick)["modified_fisher"] == grade


def test_modified_fisher_needs_a_reader() -> None:
    assert measure(head(sah=box(2, 4, 4))).measurement("modified_fisher").reason == "sah_thickness_unknown"
    assert measure(head(), sah_is_thick=True).measurement("modified_fisher").reason == "contradictory_input"


@pytest.mark.parametrize(("x", "side", "flagged"), [(5.0, "left", False), (5.01, "left", True), (-6, "right", True)])
def test_midline_shift(x: float, side: str, flagged: bool) -> None:
    record = measure(head(), landmarks=replace(LANDMARKS, septum=(x, 10.0, 40.0)))
    assert record["midline_shift"] == pytest.approx(abs(x))
    assert record["midline_shift_side"] == side
    assert ("midline_shift_above_5mm" in record.flags) is flagged


def test_midline_shift_in_angled_slices() -> None:
    """Gantry and head turned: the same points, seen in the slice, give the same distance."""
    turn = rotation(7.0, 12.0, 18.0)
    affine = np.eye(4)
    affine[:3, :3] = turn[:, [2, 1, 0]] * SPACING
    points = np.array([LANDMARKS.septum, LANDMARKS.falx_anterior, LANDMARKS.falx_posterior]) @ turn.T
    turned = MidlineLandmarks(*(tuple(map(float, point)) for point in points))
    assert shift_from_landmarks(turned, Grid(SHAPE, affine)) == pytest.approx(6.0)


@pytest.mark.parametrize(
    "change",
    [
        {"septum": (6.0, 0.0, 41.0)},  # another slice
        {"septum": (6.0, 0.0, float("nan"))},
        {"falx_anterior": (0.0, 70.0, 40.0), "falx_posterior": (0.0, -70.0, 40.0)},  # swapped
        {"falx_posterior": (0.0, -25.0, 40.0)},  # too close
    ],
)
def test_bad_landmarks(change: dict[str, Any]) -> None:
    record = measure(head(iph=box(2, 4, 4)), landmarks=replace(LANDMARKS, **change))
    assert record.status is ResultStatus.OK
    assert record.measurement("midline_shift").reason == "bad_landmarks"
    assert record["volume_iph"] is not None


def test_cut_off_haematoma_is_not_evaluable() -> None:
    labels = head(sdh=(slice(0, 3), slice(5, 9), slice(5, 9)), iph=box(2, 4, 4, at=9))
    record = measure(labels)
    assert (record.status, record.reason) == (ResultStatus.NOT_EVALUABLE, "touches_border")
    assert record.measurement("volume_sdh").reason == record.measurement("volume_total").reason == "touches_border"
    assert record["volume_iph"] == pytest.approx(0.16)
    assert "SDH" in record.detail


def _bad_labels() -> dict[str, tuple[Volume, str]]:
    fine = head(iph=box(2, 4, 4))
    sheared = GRID.affine.copy()
    sheared[1, 0] = 2.0
    sagittal = GRID.affine[:, [2, 1, 0, 3]]
    return {
        "float": (replace(fine, voxels=fine.voxels.astype(np.float32) * np.nan), "not_a_label_map"),
        "unknown": (replace(fine, voxels=fine.voxels * 2), "unknown_label"),
        "sheared": (replace(fine, grid=Grid(SHAPE, sheared)), "gantry_tilt"),
        "anisotropic": (replace(fine, grid=Grid.from_spacing(SHAPE, (30, 1, 1), (0, 0, 0))), "anisotropic"),
        "sagittal": (replace(fine, grid=Grid(SHAPE, sagittal)), ""),
    }


@pytest.mark.parametrize("kind", ["float", "unknown", "sheared", "anisotropic"])
def test_bad_label_maps(kind: str) -> None:
    labels, reason = _bad_labels()[kind]
    record = measure(labels)
    assert (record.status, record.reason) == (ResultStatus.NOT_EVALUABLE, reason)


def test_ten_to_one_slices_are_ordinary_here() -> None:
    grid = Grid.from_spacing(SHAPE, (5, 0.5, 0.5), (0, 0, 0))
    assert measure(head(grid, iph=box(4, 10, 10)))["volume_iph"] == pytest.approx(0.5)


def test_abc2_needs_axial_slices() -> None:
    record = measure(_bad_labels()["sagittal"][0])
    assert record["volume_iph"] == pytest.approx(0.16)
    assert record.measurement("abc2_iph_largest").reason == "not_axial"


@pytest.mark.parametrize("modality", ["MR", "", "XA"])
def test_wrong_modality(modality: str) -> None:
    assert measure(head(), modality).reason == "wrong_modality"


def test_policy_is_checked() -> None:
    with pytest.raises(ValueError, match="abc_edges"):
        HaemorrhagePolicy(abc_edges="sometimes")  # type: ignore[arg-type]


def test_record_survives_json_and_parquet() -> None:
    record = measure(head(iph=box(2, 4, 4)), landmarks=LANDMARKS, clinical=ClinicalFindings(15, 60, False))
    assert MeasurementRecord.from_json(record.to_json()) == record
    assert MeasurementRecord.from_row(record.to_row()) == record

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.diseases.liver_lesion.li_rads import MajorFeatures, check_population, li_rads, threshold_growth
from ops.diseases.liver_lesion.measurement import LESION, LIVER, LiverLesionPolicy, find_lesions, measure, size_class
from ops.diseases.liver_lesion.recist import Target, is_measurable, select_targets, target_response
from ops.measure.errors import NotEvaluableError
from ops.phantoms.sdf import rotation
from ops.verdict import ResultStatus
from ops.volume import Grid, Volume

SPACING = (2.5, 0.8, 0.8)
SHAPE = (40, 100, 110)


def liver(*lesions: tuple[tuple[float, float, float], tuple[float, float, float]], grid: Grid | None = None) -> Volume:
    """Label map of a block of liver with ellipsoids: centre and semi-axes ``(z, y, x)`` mm from the corner."""
    grid = Grid.from_spacing(SHAPE, SPACING) if grid is None else grid
    voxels = np.zeros(SHAPE, dtype=np.uint8)
    voxels[2:-2, 4:-4, 4:-4] = LIVER
    place = np.moveaxis(np.indices(SHAPE), 0, -1) * SPACING
    for centre, semi in lesions:
        voxels[(((place - centre) / np.asarray(semi)) ** 2).sum(axis=-1) <= 1] = LESION
    return Volume(voxels, grid, "label")


LARGE, SMALL = ((50.0, 40.0, 45.0), (8.0, 12.0, 20.0)), ((30.0, 60.0, 60.0), (4.0, 4.0, 4.0))


@pytest.mark.parametrize("turned", [False, True])
def test_ellipsoids_have_their_diameters_and_volume(turned: bool) -> None:
    affine = np.eye(4)
    affine[:3, :3] = (rotation(25, -20, 40) @ np.diag(SPACING[::-1]))[:, ::-1]
    grid = Grid(SHAPE, affine) if turned else Grid.from_spacing(SHAPE, SPACING)
    labels = liver(LARGE, SMALL, grid=grid)
    record = measure(labels)
    assert record.status is ResultStatus.OK
    assert record["lesion_count"] == 2
    assert record["lesion_1_longest_diameter"] == record["largest_diameter"] == pytest.approx(40, abs=1.6)
    assert record["lesion_1_short_axis"] == pytest.approx(24, abs=1.6)
    assert record["lesion_1_volume"] == pytest.approx(4 / 3 * math.pi * 8 * 12 * 20 / 1000, rel=0.03)
    assert record["lesion_2_longest_diameter"] == pytest.approx(8, abs=1.6)
    assert record["lesion_volume"] == pytest.approx(record["lesion_1_volume"] + record["lesion_2_volume"])
    assert record["sum_of_targets"] == record["lesion_1_longest_diameter"], "8 mm is not measurable"
    counts = [record[f"lesion_count_{name}"] for name in ("below_10_mm", "10_to_20_mm", "above_20_mm")]
    assert counts == [1, 0, 1]
    (largest, _), _ = find_lesions(labels)
    assert grid.patient_to_index(largest.centre) * SPACING == pytest.approx(LARGE[0], abs=0.2)


def test_centre_to_centre_is_a_pixel_less() -> None:
    by_edge, by_centre = (
        measure(liver(LARGE), LiverLesionPolicy(diameter=convention))["largest_diameter"]
        for convention in ("edge_to_edge", "centre_to_centre")
    )
    assert 0.8 < by_edge - by_centre < 1.2


def test_lesions_that_touch_at_a_corner_are_one() -> None:
    labels = liver()
    labels.voxels[10, 20, 20] = labels.voxels[11, 21, 21] = LESION
    assert measure(labels)["lesion_count"] == 1
    labels.voxels[13, 21, 21] = LESION
    assert measure(labels)["lesion_count"] == 2
    record = measure(labels, LiverLesionPolicy(min_voxels=2))
    assert record["lesion_count"] == 1
    assert record.flags == ("specks_left_out",)


def test_a_liver_without_lesions_is_a_finding_of_none() -> None:
    record = measure(liver())
    assert record.status is ResultStatus.OK
    assert (record["lesion_count"], record["lesion_volume"]) == (0, 0)
    assert record.measurement("largest_diameter").reason == "no_lesion"
    assert record.measurement("sum_of_targets").reason == "no_target"


def test_a_lesion_cut_by_the_edge_has_no_size() -> None:
    labels = liver(SMALL, ((0.0, 40.0, 40.0), (10.0, 10.0, 10.0)))
    record = measure(labels)
    assert record["lesion_count"] == 2
    assert "lesion_touches_scan_edge" in record.flags
    assert record.measurement("lesion_1_longest_diameter").reason == "touches_border"
    assert record.measurement("lesion_volume").reason == "touches_border"
    assert record["lesion_2_longest_diameter"] is not None


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (replace(liver(), voxels=np.zeros(SHAPE, dtype=np.uint8)), "empty_mask"),
        (replace(liver(LARGE), units="HU"), "not_a_label_map"),
        (replace(liver(LARGE), voxels=np.full(SHAPE, np.nan)), "not_a_label_map"),
        (replace(liver(LARGE), grid=Grid.from_spacing(SHAPE, (8.0, 0.8, 0.8))), "anisotropic"),
        (
            replace(liver(LARGE), grid=Grid(SHAPE, Grid.from_spacing(SHAPE, SPACING).affine + np.eye(4, k=-1) * 0.3)),
            "gantry_tilt",
        ),
    ],
)
def test_what_cannot_be_measured_has_a_reason(labels: Volume, reason: str) -> None:
    record = measure(labels, inputs=("1.2.3",))
    assert (record.status, record.reason) == (ResultStatus.NOT_EVALUABLE, reason)
    assert record.measurements == ()
    assert record.inputs == ("1.2.3",)
    assert record.policy == LiverLesionPolicy().to_dict()


@pytest.mark.parametrize(
    ("diameter", "expected"), [(9.999, "<10"), (10, "10-20"), (20, "10-20"), (20.001, ">20"), (0.1, "<10")]
)
def test_size_classes_either_side(diameter: float, expected: str) -> None:
    assert size_class(diameter) == expected


def test_measurable_either_side() -> None:
    assert is_measurable(Target("liver", 10.0, 3.0), 5.0)
    assert not is_measurable(Target("liver", 9.99, 9.0), 5.0)
    assert not is_measurable(Target("liver", 10.0, 3.0), 5.1)
    assert is_measurable(Target("liver", 10.2, 3.0), 5.1)
    assert is_measurable(Target("node", 30.0, 15.0, is_node=True), 5.0)
    assert not is_measurable(Target("node", 30.0, 14.9, is_node=True), 5.0)


def test_at_most_five_targets_and_two_of_an_organ() -> None:
    lesions = [Target(organ, size, size) for organ in "abcd" for size in (12.0, 40.0, 30.0)]
    chosen = select_targets(lesions, 2.5)
    assert len(chosen) == 5
    assert [target.longest for target in chosen] == [40.0] * 4 + [30.0]


@pytest.mark.parametrize(
    ("baseline", "nadir", "current", "response"),
    [
        (90, 90, 63, "PR"),  # 0.7 × 90 is 62.99… in floating point
        (90, 90, 63.01, "SD"),
        (50, 25, 30, "PD"),
        (50, 25, 29.99, "PR"),
        (50, 20, 24.9, "PR"),  # + 24.5 % but less than 5 mm
        (50, 20, 25, "PD"),
        (100, 120, 119, "SD"),  # the nadir includes the baseline: + 19 %
        (100, 120, 120, "PD"),
        (100, 40, 0, "CR"),
    ],
)
def test_response_either_side(baseline: float, nadir: float, current: float, response: str) -> None:
    assert target_response(baseline, nadir, current) == response
    assert target_response(baseline, nadir, current, new_lesion=True) == "PD"


def test_nodes_of_normal_size_may_be_left_in_complete_response() -> None:
    assert target_response(60, 30, 9, only_normal_nodes=True) == "CR"
    assert target_response(60, 30, 9) == "PR"


@given(st.floats(1, 300), st.floats(0, 300), st.floats(0.5, 2))
def test_response_does_not_depend_on_the_unit_of_a_large_sum(baseline: float, current: float, scale: float) -> None:
    """But for the 5 mm and ties: scaled well above 5 mm, the answer is the same."""
    first, second = (target_response(f * baseline, f * baseline, f * current) for f in (1000.0, 1000.0 * scale))
    ratio = current / baseline
    if min(abs(ratio - 0.7), abs(ratio - 1.2)) > 1e-6:
        assert first == second


@pytest.mark.parametrize(
    ("sums", "reason"),
    [
        ((0, 0, 10), "no_target"),
        ((math.nan, 1, 1), "invalid_diameter"),
        ((10, math.inf, 1), "invalid_diameter"),
        ((10, 10, -1), "invalid_diameter"),
    ],
)
def test_impossible_sums_are_refused(sums: tuple[float, float, float], reason: str) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        target_response(*sums)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("size", "expected"), [(9.99, "LR-4"), (10, "LR-5"), (19.99, "LR-5"), (20, "LR-5")])
def test_size_edges_with_washout(size: float, expected: str) -> None:
    assert li_rads(MajorFeatures(size, True, True, False, False)) == expected


@pytest.mark.parametrize(("size", "expected"), [(19.99, "LR-4"), (20, "LR-5")])
def test_size_edge_with_capsule_only(size: float, expected: str) -> None:
    assert li_rads(MajorFeatures(size, True, False, True, False)) == expected


@pytest.mark.parametrize(("size", "expected"), [(19.99, "LR-3"), (20, "LR-4")])
def test_size_edge_without_enhancement(size: float, expected: str) -> None:
    assert li_rads(MajorFeatures(size, False, True, False, False)) == expected


@given(
    st.floats(1, 60),
    st.tuples(*[st.booleans()] * 4),
    st.integers(0, 3),
)
def test_a_further_feature_never_lowers_the_category(size: float, seen: tuple[bool, ...], more: int) -> None:
    added = tuple(has or place == more for place, has in enumerate(seen))
    assert li_rads(MajorFeatures(size, *seen)) <= li_rads(MajorFeatures(size, *added))


@pytest.mark.parametrize(
    ("prior", "current", "days", "grew"),
    [(10, 15, 183, True), (10, 14.99, 183, False), (10, 15, 184, False), (10, 30, 365, False), (20, 10, 30, False)],
)
def test_threshold_growth_either_side(prior: float, current: float, days: float, grew: bool) -> None:
    assert threshold_growth(prior, current, days) is grew


@pytest.mark.parametrize("numbers", [(0, 10, 10), (10, math.nan, 10), (10, 15, 0), (10, 15, -3), (10, 15, math.nan)])
def test_impossible_growth_is_refused(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(NotEvaluableError):
        threshold_growth(*numbers)


@pytest.mark.parametrize(
    ("person", "reason"),
    [
        ((17.9, True, False), "age_out_of_range"),
        ((math.nan, True, False), "age_out_of_range"),
        ((50, False, False), "not_at_risk"),
        ((50, True, True), "vascular_cirrhosis"),
    ],
)
def test_li_rads_is_not_for_everybody(person: tuple[float, bool, bool], reason: str) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        check_population(*person)
    assert (caught.value.reason, caught.value.status) == (reason, ResultStatus.OUT_OF_MODEL_RANGE)
    check_population(18, True, False)


@pytest.mark.parametrize("size", [0, -1, math.nan, math.inf])
def test_li_rads_needs_a_size(size: float) -> None:
    with pytest.raises(NotEvaluableError):
        li_rads(MajorFeatures(size, True, True, True, True))

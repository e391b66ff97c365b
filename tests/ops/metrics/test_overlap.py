from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ops.measure.errors import NotEvaluableError
from ops.metrics.overlap import LesionCounts, LesionPolicy, Overlap, lesion_counts, overlap, summarise
from ops.volume import Grid, Volume

SHAPE = (6, 8, 10)
masks = hnp.arrays(np.uint8, SHAPE, elements=st.integers(0, 1))


def mask(voxels: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> Volume:
    return Volume(voxels, Grid.from_spacing(voxels.shape, spacing), "label")


def lesions(*boxes: tuple[slice, slice, slice]) -> Volume:
    voxels = np.zeros(SHAPE, dtype=np.uint8)
    for box in boxes:
        voxels[box] = 1
    return mask(voxels)


A, B = np.s_[0:2, 0:2, 0:2], np.s_[4:6, 4:8, 6:10]
BESIDE_A = np.s_[0:2, 1:3, 0:2]


@settings(max_examples=30, deadline=None)
@given(masks, masks)
def test_dice_and_iou_are_those_of_simpleitk(first: np.ndarray, second: np.ndarray) -> None:
    found = overlap(mask(first), mask(second))
    if found.both_empty:
        assert math.isnan(found.dice)
        assert math.isnan(found.iou)
        return
    measure = SimpleITK.LabelOverlapMeasuresImageFilter()
    measure.Execute(SimpleITK.GetImageFromArray(first), SimpleITK.GetImageFromArray(second))
    assert found.dice == pytest.approx(measure.GetDiceCoefficient())
    assert found.iou == pytest.approx(measure.GetJaccardCoefficient())
    assert found.dice == pytest.approx(2 * found.iou / (1 + found.iou))


def test_one_empty_is_zero_and_counted_and_both_empty_is_no_number() -> None:
    empty, full = lesions(), lesions(A)
    cases = [overlap(full, full), overlap(full, empty), overlap(empty, full), overlap(empty, empty)]
    assert [case.one_empty for case in cases] == [False, True, True, False]
    found = summarise(cases)
    assert found.dice == pytest.approx(1 / 3), "the undefined case is left out, not counted as 1 or 0"
    assert (found.n, found.n_both_empty, found.n_one_empty) == (4, 1, 2)
    assert found.pooled == Overlap(8, 8, 8)
    assert math.isnan(summarise([cases[3]]).dice)
    assert math.isnan(summarise([]).dice)


def test_pooled_is_not_the_mean() -> None:
    cases = [Overlap(1, 0, 9), Overlap(90, 0, 0)]
    assert summarise(cases).dice == pytest.approx((2 / 11 + 1) / 2)
    assert summarise(cases).pooled.dice == pytest.approx(182 / 191)


def test_lesions_by_any_overlap() -> None:
    truth = lesions(A, B)
    assert lesion_counts(lesions(BESIDE_A), truth) == LesionCounts(found=1, missed=1, false=0)
    assert lesion_counts(lesions(np.s_[3, 0, 0:1]), truth) == LesionCounts(found=0, missed=2, false=1)
    assert math.isnan(lesion_counts(lesions(), lesions()).f1)
    assert lesion_counts(truth, truth).f1 == 1


def test_lesions_by_iou_either_side_of_the_threshold() -> None:
    """`BESIDE_A` shares 4 of 12 voxels with `A`."""
    truth, predicted = lesions(A), lesions(BESIDE_A)
    assert lesion_counts(predicted, truth, LesionPolicy("iou", 1 / 3)) == LesionCounts(1, 0, 0)
    assert lesion_counts(predicted, truth, LesionPolicy("iou", 0.34)) == LesionCounts(0, 1, 1)


def test_one_prediction_over_two_lesions_finds_one_by_iou() -> None:
    whole = mask(np.ones(SHAPE, dtype=np.uint8))
    assert lesion_counts(whole, lesions(A, B)) == LesionCounts(2, 0, 0)
    assert lesion_counts(whole, lesions(A, B), LesionPolicy("iou", 0.01)) == LesionCounts(1, 1, 0)


@pytest.mark.parametrize(
    ("predicted", "reason"),
    [
        (mask(np.zeros(SHAPE, dtype=np.uint8), (2, 1, 1)), "grid_mismatch"),
        (mask(np.zeros((2, 2, 2), dtype=np.uint8)), "grid_mismatch"),
        (mask(np.zeros(SHAPE, dtype=np.float32)), "not_a_label_map"),
    ],
)
def test_what_cannot_be_compared_has_a_reason(predicted: Volume, reason: str) -> None:
    for compare in (overlap, lesion_counts):
        with pytest.raises(NotEvaluableError) as caught:
            compare(predicted, lesions(A))
        assert caught.value.reason == reason


def test_unknown_policies() -> None:
    with pytest.raises(ValueError, match="hit must be"):
        LesionPolicy("centroid")
    with pytest.raises(ValueError, match="min_iou"):
        LesionPolicy("iou", 0.0)

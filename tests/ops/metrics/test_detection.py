from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.measure.errors import NotEvaluableError
from ops.metrics.detection import (
    HitPolicy,
    Matches,
    Ranking,
    ScoredBoxes,
    TrueBoxes,
    average_precision,
    box_iou,
    coco_map,
    false_positives_at_recall,
    match,
    rank,
)

IOU = HitPolicy("box_iou", 0.5)


def matches(scores: list[float], hits: list[int], n_true: int) -> Matches:
    return Matches(np.array(scores, dtype=float), np.array(hits, dtype=bool), n_true)


def toy() -> Ranking:
    """DET-03: by falling score hit, false positive, hit, hit of four lesions in four images."""
    return rank([matches([0.9], [1], 1), matches([0.8], [0], 1), matches([0.7], [1], 1), matches([0.6], [1], 1)])


@pytest.mark.parametrize(
    ("convention", "expected"), [("11_point", 0.6136), ("all_point", 0.6250), ("101_point", 0.6287)]
)
def test_three_conventions_are_three_numbers(convention: str, expected: float) -> None:
    assert average_precision(toy(), convention) == pytest.approx(expected, abs=5e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_the_101_point_value_is_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = [], []
    for _ in range(4):
        low = rng.uniform(0, 50, (2, 2))
        true = np.concatenate([low, low + rng.uniform(5, 30, (2, 2))], axis=1)
        n = int(rng.integers(0, 4))
        shift = rng.uniform(-6, 6, (n, 4))
        boxes = true[rng.integers(0, 2, n)] + shift
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        truth.append(TrueBoxes(true, np.ones(2, dtype=np.int64)))
        predicted.append(ScoredBoxes(boxes, rng.uniform(0, 1, n), np.ones(n, dtype=np.int64)))
    found = rank([match(p.corners, p.scores, t.corners, IOU) for p, t in zip(predicted, truth, strict=True)])
    assert average_precision(found, "101_point") == pytest.approx(coco_map(predicted, truth, ious=(0.5,)), abs=0.011)


def test_mean_over_classes_leaves_out_classes_without_a_lesion() -> None:
    box = np.array([[0.0, 0, 10, 10]])
    truth = [TrueBoxes(box, np.array([1]))]
    predicted = [ScoredBoxes(np.repeat(box, 2, axis=0), np.array([0.9, 0.8]), np.array([1, 2]))]
    assert coco_map(predicted, truth) == pytest.approx(1)
    assert math.isnan(coco_map(predicted, [TrueBoxes(np.zeros((0, 4)), np.zeros(0, dtype=np.int64))]))


def test_a_second_hit_is_a_false_positive() -> None:
    truth = [[0.0, 0, 10, 10]]
    found = match([[0, 0, 10, 10], [0, 0, 10, 9]], [0.5, 0.9], truth, IOU)
    assert found.is_hit.tolist() == [False, True], "the higher score takes the lesion"


def test_iou_threshold_is_inclusive() -> None:
    half = [[0.0, 0, 10, 5]]
    assert match(half, [1.0], [[0.0, 0, 10, 10]], IOU).is_hit.all()
    assert not match(half, [1.0], [[0.0, 0, 10, 10.01]], IOU).is_hit.any()


def test_points_hit_by_distance_inclusive() -> None:
    near = HitPolicy("centre_distance", 5.0)
    found = match([[0, 3, 4], [20, 0, 0]], [0.5, 0.4], [[0.0, 0, 0], [20.0, 0, 5.01]], near)
    assert found.is_hit.tolist() == [True, False]


def test_box_iou_in_three_dimensions() -> None:
    assert box_iou([[0, 0, 0, 2, 2, 2]], [[1, 0, 0, 3, 2, 2]])[0, 0] == pytest.approx(4 / 12)
    assert box_iou([[0, 0, 0, 0]], [[0, 0, 0, 0]])[0, 0] == 0


def test_false_positives_at_recall() -> None:
    assert false_positives_at_recall(toy(), 0.25) == 0
    assert false_positives_at_recall(toy(), 0.5) == 0.25
    assert false_positives_at_recall(toy(), 0.76) == "not_reached"
    assert math.isnan(false_positives_at_recall(rank([matches([0.5], [0], 0)]), 0.5))
    for recall in (0, 1.1, math.nan):
        with pytest.raises(ValueError, match="recall"):
            false_positives_at_recall(toy(), recall)


def test_equal_scores_are_one_operating_point() -> None:
    tied = rank([matches([0.5, 0.5], [0, 1], 1)])
    assert false_positives_at_recall(tied, 1.0) == 1
    assert false_positives_at_recall(rank([matches([0.5, 0.5], [1, 0], 1)]), 1.0) == 1


def test_without_lesions_or_predictions() -> None:
    assert math.isnan(average_precision(rank([]), "all_point"))
    assert math.isnan(average_precision(rank([matches([0.4], [0], 0)]), "101_point"))
    assert average_precision(rank([matches([], [], 3)]), "11_point") == 0


@pytest.mark.parametrize(
    ("predicted", "scores", "reason"),
    [
        ([[0, 0, 1, 1]], [0.1, 0.2], "length_mismatch"),
        ([[0, 0, 1, math.nan]], [0.1], "not_finite"),
        ([[0, 0, 1, 1]], [math.inf], "not_finite"),
    ],
)
def test_bad_predictions_have_a_reason(predicted: list[list[float]], scores: list[float], reason: str) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        match(predicted, scores, [[0.0, 0, 1, 1]], IOU)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "arguments", [("overlap", 0.5), ("box_iou", 0.0), ("box_iou", 1.1), ("centre_distance", math.inf)]
)
def test_unknown_hit_policies(arguments: tuple[str, float]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 — each with its own message
        HitPolicy(*arguments)

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from ensemble_boxes import nms, weighted_boxes_fusion
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.diseases.fracture.measurement import (
    FracturePolicy,
    View,
    fuse,
    measure,
    non_maximum_suppression,
    weighted_box_fusion,
)
from ops.measure.errors import NotEvaluableError
from ops.metrics.detection import ScoredBoxes
from ops.verdict import ResultStatus


def boxes(*entries: tuple[float, ...], label: int = 0) -> ScoredBoxes:
    """Entries ``(x0, y0, x1, y1, score)``."""
    array = np.array(entries, dtype=float).reshape(-1, 5)
    return ScoredBoxes(array[:, :4], array[:, 4], np.full(len(array), label, dtype=np.int64))


def random_boxes(seed: int) -> ScoredBoxes:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    low = rng.uniform(0, 0.4, (n, 2))
    corners = np.concatenate([low, low + rng.uniform(0.2, 0.5, (n, 2))], axis=1)
    return ScoredBoxes(corners, rng.uniform(0.05, 1, n), rng.integers(0, 2, n))


VIEW = View(
    "wrist_pa", "DX", (900, 600), (boxes((100, 200, 180, 260, 0.9)), boxes((104, 204, 184, 260, 0.7))), uid="1.2"
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.3, 0.5, 0.55, 0.7]))
def test_fusion_and_suppression_are_ensemble_boxes(seed: int, threshold: float) -> None:
    detectors = [random_boxes(seed), random_boxes(seed + 1)]
    lists = [[list(map(f, detectors)) for f in (lambda d: d.corners, lambda d: d.scores, lambda d: d.labels)]][0]
    for ours, theirs in (
        (weighted_box_fusion(detectors, threshold), weighted_boxes_fusion(*lists, iou_thr=threshold)),
        (
            non_maximum_suppression(ScoredBoxes(*(np.concatenate(each) for each in lists)), threshold),
            nms(*lists, iou_thr=threshold),
        ),
    ):
        order, other = np.argsort(-ours.scores), np.argsort(-theirs[1])
        np.testing.assert_allclose(ours.scores[order], theirs[1][other], atol=1e-5)
        np.testing.assert_allclose(ours.corners[order], theirs[0][other], atol=1e-5)


def test_fusion_by_hand() -> None:
    fused = weighted_box_fusion([boxes((0, 0, 0.5, 0.5, 0.9)), boxes((0.1, 0, 0.6, 0.5, 0.6)), boxes()], 0.5)
    assert fused.corners[0] == pytest.approx([0.04, 0, 0.54, 0.5])
    assert fused.scores[0] == pytest.approx(0.75 * 2 / 3), "two of three detectors saw it"


def test_threshold_of_fusion_is_inclusive_and_of_suppression_is_not() -> None:
    first, second = (0, 0, 0.4, 0.4, 0.9), (0, 0, 0.4, 0.2, 0.8)
    assert len(weighted_box_fusion([boxes(first), boxes(second)], 0.5)) == 1
    assert len(non_maximum_suppression(boxes(first, second), 0.5)) == 2
    assert len(non_maximum_suppression(boxes(first, second), 0.499)) == 1


def test_classes_do_not_mix() -> None:
    same = [boxes((0, 0, 0.5, 0.5, 0.9)), boxes((0, 0, 0.5, 0.5, 0.8), label=1)]
    assert len(weighted_box_fusion(same, 0.5)) == 2


def test_record_of_two_views() -> None:
    other = replace(VIEW, name="wrist_lateral", detections=(boxes(), boxes((10, 10, 60, 60, 0.4))), uid="1.3")
    record = measure([VIEW, other])
    assert record.status is ResultStatus.OK
    assert record["fracture_probability_wrist_pa"] == pytest.approx(0.8)
    assert record["fracture_probability_wrist_lateral"] == pytest.approx(0.2)
    assert record["fracture_probability"] == record["fracture_probability_wrist_pa"]
    assert (record["fracture_call"], record["fracture_box_count"]) == ("positive", 1)
    assert record.inputs == ("1.2", "1.3")
    assert fuse(VIEW).corners[0] == pytest.approx(
        (np.array([100, 200, 180, 260]) * 0.9 + np.array([104, 204, 184, 260]) * 0.7) / 1.6
    )


def test_no_box_is_a_finding_of_none() -> None:
    record = measure([replace(VIEW, detections=(boxes(), boxes()))])
    assert record.status is ResultStatus.OK
    assert (record["fracture_probability"], record["fracture_box_count"], record["fracture_call"]) == (0, 0, "negative")


def test_operating_threshold_is_inclusive() -> None:
    view = replace(VIEW, detections=(boxes((10, 10, 60, 60, 0.5)),))
    assert measure([view])["fracture_call"] == "positive"
    assert measure([view], FracturePolicy(operating_threshold=0.5001))["fracture_call"] == "negative"


def test_policy_of_the_probability_is_followed() -> None:
    head = FracturePolicy(probability="separate_head")
    assert measure([replace(VIEW, probability=0.3)], head)["fracture_probability"] == 0.3
    assert measure([VIEW], head).reason == "no_probability"
    assert measure([replace(VIEW, probability=1.3)], head).reason == "invalid_probability"
    assert measure([VIEW], FracturePolicy(fusion="nms"))["fracture_probability"] == 0.9


def test_a_view_that_fails_makes_the_participant_not_evaluable_and_keeps_the_other() -> None:
    record = measure([VIEW, replace(VIEW, name="wrist_lateral", modality="CT")])
    assert (record.status, record.reason) == (ResultStatus.NOT_EVALUABLE, "wrong_modality")
    assert record["fracture_probability_wrist_pa"] == pytest.approx(0.8)
    assert record.measurement("fracture_probability_wrist_lateral").reason == "wrong_modality"


@pytest.mark.parametrize(
    ("detections", "reason"),
    [
        ((), "no_detector"),
        ((boxes((10, 10, 700, 60, 0.5)),), "box_outside_image"),
        ((boxes((-5, 10, 60, 60, 0.5)),), "box_outside_image"),
        ((boxes((10, 10, 10, 60, 0.5)),), "invalid_box"),
        ((boxes((60, 10, 10, 60, 0.5)),), "invalid_box"),
        ((boxes((10, 10, 60, 60, math.nan)),), "not_finite"),
        ((boxes((10, 10, math.inf, 60, 0.4)),), "not_finite"),
        ((boxes((10, 10, 60, 60, 1.1)),), "invalid_score"),
        ((ScoredBoxes(np.zeros((2, 4)), np.zeros(1), np.zeros(1, dtype=np.int64)),), "length_mismatch"),
    ],
)
def test_boxes_that_are_none_have_a_reason(detections: tuple[ScoredBoxes, ...], reason: str) -> None:
    record = measure([replace(VIEW, detections=detections)])
    assert (record.status, record.reason) == (ResultStatus.NOT_EVALUABLE, reason)
    assert record.policy == FracturePolicy().to_dict()


def test_views_must_be_there_and_distinct() -> None:
    assert measure([]).reason == "no_view"
    assert measure([VIEW, VIEW]).reason == "duplicate_view"
    with pytest.raises(NotEvaluableError):
        weighted_box_fusion([], 0.5)


@pytest.mark.parametrize(
    "change", [{"fusion": "soft"}, {"probability": "mean"}, {"iou_threshold": 0.0}, {"operating_threshold": 1.1}]
)
def test_unknown_policies(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        FracturePolicy(**change)

"""The detection cases, DET-*."""

from __future__ import annotations

import numpy as np

from ops.diseases.fracture.measurement import weighted_box_fusion
from ops.metrics.detection import (
    HitPolicy,
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
from tests.ops.reference.expect import Case, Check, check

BOX, ELSEWHERE = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def toy() -> tuple[list[ScoredBoxes], list[TrueBoxes]]:
    """Four images with a lesion each: by falling score hit, false positive, hit, hit; one lesion is missed."""
    one = np.ones(1, dtype=np.int64)
    found = ((BOX, 0.9), (ELSEWHERE, 0.8), (BOX, 0.7), (BOX, 0.6))
    predicted = [ScoredBoxes(np.array([box]), np.array([score]), one) for box, score in found]
    return predicted, [TrueBoxes(np.array([BOX]), one)] * 4


def toy_ranking() -> Ranking:
    policy = HitPolicy("box_iou", 0.5)
    return rank([match(p.corners, p.scores, t.corners, policy) for p, t in zip(*toy(), strict=True)])


def det_01(case: Case) -> None:
    check(case, box_iou([case["inputs"]["a"]], [case["inputs"]["b"]])[0, 0])


def det_02(case: Case) -> None:
    inputs, label = case["inputs"], np.zeros(1, dtype=np.int64)
    models = [ScoredBoxes(np.array([inputs[f"b{n}"]], dtype=float), np.array([inputs[f"s{n}"]]), label) for n in (1, 2)]
    fused = weighted_box_fusion(models, inputs["iou"])
    assert len(fused) == 1
    check(case, {"box": fused.corners[0].tolist(), "score": fused.scores[0]})


def det_04(case: Case) -> None:
    check(case, coco_map(*toy(), ious=(0.5,)))
    check(case, average_precision(toy_ranking(), "101_point"))


def det_05(case: Case) -> None:
    ranking = toy_ranking()
    assert ranking.n_images == case["inputs"]["images"]
    check(case, false_positives_at_recall(ranking, case["inputs"]["recall"]))


CHECKS: dict[str, Check] = {"DET-01": det_01, "DET-02": det_02, "DET-04": det_04, "DET-05": det_05}

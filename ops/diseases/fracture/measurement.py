"""Fractures on the radiographs of one participant: boxes of detectors fused, probability and count (SPEC §11).

Boxes are ``(x0, y0, x1, y1)`` in pixels: x along the columns, y along the rows, from the outer edge of the first pixel,
so that the image spans 0 … columns and 0 … rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ops.measure.checks import require_modality
from ops.measure.errors import NotEvaluableError
from ops.measure.record import MeasurementRecord
from ops.measure.value import MeasuredValue
from ops.metrics.detection import ScoredBoxes, box_iou
from ops.volume import FloatArray

ALGORITHM, VERSION = "fracture", "1"

# Detectors compute in float32: a box at the edge of the image may lie this far outside and is then cut off there.
EDGE_TOLERANCE_PX = 0.01

Fusion = Literal["wbf", "nms"]
ProbabilityRule = Literal["max_box_score", "separate_head"]


@dataclass(frozen=True)
class FracturePolicy:
    """Choices that change the numbers.

    Attributes
    ----------
    fusion
        ``wbf`` (default): `weighted_box_fusion`; ``nms``: `non_maximum_suppression` of all detectors' boxes together.
    iou_threshold
        From which overlap two boxes of a class are the same finding; 0.55 is the default of Solovyev 2021 [S].
    probability
        Of an image: ``max_box_score`` (default), the highest score of its fused boxes, 0 without a box; or
        ``separate_head``, what a classifier said. That of the participant is the highest of all views.
    operating_threshold
        A box or participant counts from this score on (inclusive). A choice of this project: set it on validation data.
    """

    fusion: Fusion = "wbf"
    iou_threshold: float = 0.55
    probability: ProbabilityRule = "max_box_score"
    operating_threshold: float = 0.5

    def __post_init__(self) -> None:
        for name, allowed in (("fusion", ("wbf", "nms")), ("probability", ("max_box_score", "separate_head"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name in ("iou_threshold", "operating_threshold"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_POLICY = FracturePolicy()


@dataclass(frozen=True, eq=False)
class View:
    """One radiograph and what detectors found in it.

    Attributes
    ----------
    name
        Names its measurements, e.g. ``wrist_pa_left``; different for each view of a participant.
    modality
        DICOM Modality.
    shape
        ``(rows, columns)``.
    detections
        One entry for each detector, also for those that found nothing.
    probability
        Of a separate classifier, 0–1; None without one.
    uid
        UID of the series.
    """

    name: str
    modality: str
    shape: tuple[int, int]
    detections: tuple[ScoredBoxes, ...]
    probability: float | None = None
    uid: str = ""


def non_maximum_suppression(boxes: ScoredBoxes, iou_threshold: float) -> ScoredBoxes:
    """Keep boxes by falling score; each suppresses those of its class with an IoU > ``iou_threshold``.

    Equal scores keep their order.

    Raises
    ------
    NotEvaluableError
        As `require_boxes`.
    """
    require_boxes(boxes)
    boxes = boxes.select(np.argsort(-boxes.scores, kind="stable"))
    rival = (box_iou(boxes.corners, boxes.corners) > iou_threshold) & (boxes.labels[:, None] == boxes.labels)
    keep = np.ones(len(boxes), dtype=bool)
    for n in range(len(boxes)):
        if keep[n]:
            keep[n + 1 :] &= ~rival[n, n + 1 :]
    return boxes.select(keep)


def weighted_box_fusion(detectors: Sequence[ScoredBoxes], iou_threshold: float) -> ScoredBoxes:
    """Fuse the boxes of several detectors; by falling score of the result.

    Solovyev 2021, Image Vis Comput 107:104117 [S]. By falling score, a box joins the fused box of its class with the
    highest IoU if that is ≥ ``iou_threshold``, else it starts a new one. The corners of a fused box are the mean of its
    members', weighted by score; its score is the mean of theirs times min(members, detectors) / detectors. All
    detectors have the same weight; boxes with a score of 0 are left out. ``ensemble_boxes`` asks for an IoU strictly
    above the threshold.

    Parameters
    ----------
    detectors
        One entry for each, also for those that found nothing; corners as shares 0–1 of the image's columns and rows.

    Raises
    ------
    NotEvaluableError
        ``no_detector``; ``box_outside_image`` for corners outside 0–1; and those of `require_boxes`.
    """
    if not detectors:
        raise NotEvaluableError("no_detector", "there is no detector's output to fuse")
    for boxes in detectors:
        require_boxes(boxes)
        _require_within(boxes, np.ones(4), 0.0)
    pooled = _pool(detectors)
    pooled = pooled.select(pooled.scores > 0)
    pooled = pooled.select(np.argsort(-pooled.scores, kind="stable"))
    members: list[list[int]] = []
    fused = np.zeros((len(pooled), 4))
    labels = np.zeros(len(pooled), dtype=np.int64)
    for n in range(len(pooled)):
        found = len(members)
        overlap = box_iou(pooled.corners[n : n + 1], fused[:found])[0]
        overlap[labels[:found] != pooled.labels[n]] = -1
        best = int(overlap.argmax()) if found and overlap.max() >= iou_threshold else found
        if best == found:
            members.append([])
            labels[best] = pooled.labels[n]
        members[best].append(n)
        fused[best] = _weighted_mean(pooled.select(np.array(members[best])))
    scores = np.array(
        [pooled.scores[each].mean() * min(len(each), len(detectors)) / len(detectors) for each in members]
    )
    order = np.argsort(-scores, kind="stable")
    return ScoredBoxes(fused[order], scores[order], labels[order])


def fuse(view: View, policy: FracturePolicy = DEFAULT_POLICY) -> ScoredBoxes:
    """Fused boxes of one view in pixels, by falling score.

    Raises
    ------
    NotEvaluableError
        ``wrong_modality`` for all but ``CR`` and ``DX``; ``invalid_shape``; ``no_detector``; ``box_outside_image``;
        and those of `require_boxes`.
    """
    require_modality(view.modality, "CR", "DX")
    if min(view.shape) < 1:
        raise NotEvaluableError("invalid_shape", f"{view.name}: an image of {view.shape} rows and columns has no pixel")
    if not view.detections:
        raise NotEvaluableError("no_detector", f"{view.name}: there is no detector's output")
    size = np.tile(np.array(view.shape[::-1], dtype=np.float64), 2)
    inside = []
    for boxes in view.detections:
        require_boxes(boxes)
        _require_within(boxes, size, EDGE_TOLERANCE_PX)
        inside.append(ScoredBoxes(np.clip(boxes.corners / size, 0, 1), boxes.scores, boxes.labels))
    if policy.fusion == "wbf":
        fused = weighted_box_fusion(inside, policy.iou_threshold)
    else:
        fused = non_maximum_suppression(_pool(inside), policy.iou_threshold)
    return ScoredBoxes(fused.corners * size, fused.scores, fused.labels)


def measure(views: Sequence[View], policy: FracturePolicy = DEFAULT_POLICY) -> MeasurementRecord:
    """Measure all radiographs of one participant.

    Parameters
    ----------
    views
        At least one. A fracture seen in two views has a box in both: boxes are not matched across views.

    Returns
    -------
    MeasurementRecord
        ``fracture_probability``, ``fracture_call`` (``positive`` or ``negative`` at the operating threshold) and
        ``fracture_box_count`` of the participant (boxes of all views, not fractures); of each view
        ``fracture_probability_<view>`` and ``fracture_box_count_<view>``. No box is a finding of zero boxes. When a
        view cannot be evaluated, the participant is not either, as the fracture may be in it; the values of the other
        views are kept.
    """
    known: dict[str, Any] = {"policy": policy.to_dict(), "inputs": tuple(view.uid for view in views if view.uid)}
    try:
        _require_distinct_views(views)
    except NotEvaluableError as error:
        return MeasurementRecord.refused(ALGORITHM, VERSION, error, **known)
    each: list[MeasuredValue] = []
    probabilities, counts = [], []
    refusal: NotEvaluableError | None = None
    for view in views:
        names = (f"fracture_probability_{view.name}", f"fracture_box_count_{view.name}")
        try:
            probability, count = _answer(view, policy)
        except NotEvaluableError as error:
            refusal = refusal or NotEvaluableError(error.reason, f"{view.name}: {error.detail}")
            each += [MeasuredValue.missing(name, error.reason, "1") for name in names]
            continue
        probabilities.append(probability)
        counts.append(count)
        each += [MeasuredValue(names[0], probability, "1"), MeasuredValue(names[1], float(count), "1")]
    if refusal:
        return MeasurementRecord.refused(ALGORITHM, VERSION, refusal, measurements=tuple(each), **known)
    highest = max(probabilities)
    whole = (
        MeasuredValue("fracture_probability", highest, "1"),
        MeasuredValue("fracture_call", "positive" if highest >= policy.operating_threshold else "negative"),
        MeasuredValue("fracture_box_count", float(sum(counts)), "1"),
    )
    return MeasurementRecord(ALGORITHM, VERSION, measurements=(*whole, *each), **known)


def require_boxes(boxes: ScoredBoxes) -> None:
    """Refuse boxes that are none.

    Raises
    ------
    NotEvaluableError
        ``length_mismatch`` unless there are ``(n, 4)`` corners, ``(n,)`` scores and ``(n,)`` labels; ``not_finite``;
        ``invalid_box`` for one without area; ``invalid_score`` for one outside [0, 1].
    """
    corners, scores = boxes.corners, boxes.scores
    if corners.shape != (len(scores), 4) or scores.ndim != 1 or boxes.labels.shape != scores.shape:
        detail = (
            f"corners {corners.shape}, scores {scores.shape}, labels {boxes.labels.shape}; (n, 4), (n,), (n,) needed"
        )
        raise NotEvaluableError("length_mismatch", detail)
    if not (np.isfinite(corners).all() and np.isfinite(scores).all()):
        raise NotEvaluableError("not_finite", "a box or score is NaN or infinite")
    if (corners[:, 2:] <= corners[:, :2]).any():
        raise NotEvaluableError("invalid_box", "a box has no area; corners are (x0, y0, x1, y1) with x0 < x1, y0 < y1")
    if ((scores < 0) | (scores > 1)).any():
        detail = f"scores run from {scores.min():g} to {scores.max():g}; they must lie in [0, 1]"
        raise NotEvaluableError("invalid_score", detail)


def _answer(view: View, policy: FracturePolicy) -> tuple[float, int]:
    """Probability of a view and the number of its boxes from the operating threshold on."""
    boxes = fuse(view, policy)
    count = int((boxes.scores >= policy.operating_threshold).sum())
    if policy.probability == "max_box_score":
        return float(boxes.scores.max(initial=0.0)), count
    if view.probability is None:
        raise NotEvaluableError("no_probability", "the policy takes a classifier's probability, and there is none")
    if not (math.isfinite(view.probability) and 0 <= view.probability <= 1):
        raise NotEvaluableError("invalid_probability", f"probability {view.probability} must lie between 0 and 1")
    return float(view.probability), count


def _require_distinct_views(views: Sequence[View]) -> None:
    if not views:
        raise NotEvaluableError("no_view", "there is no radiograph to evaluate")
    names = [view.name for view in views]
    if len(set(names)) < len(names):
        raise NotEvaluableError("duplicate_view", f"two views have one name: {names}")


def _require_within(boxes: ScoredBoxes, size: FloatArray, tolerance: float) -> None:
    if ((boxes.corners < -tolerance) | (boxes.corners > size + tolerance)).any():
        detail = f"boxes reach {boxes.corners.min():g} … {boxes.corners.max():g}, the image {size[:2].tolist()}"
        raise NotEvaluableError("box_outside_image", detail)


def _pool(detectors: Sequence[ScoredBoxes]) -> ScoredBoxes:
    return ScoredBoxes(
        np.concatenate([boxes.corners for boxes in detectors]),
        np.concatenate([boxes.scores for boxes in detectors]),
        np.concatenate([boxes.labels for boxes in detectors]),
    )


def _weighted_mean(members: ScoredBoxes) -> FloatArray:
    return np.asarray(members.scores @ members.corners / members.scores.sum(), dtype=np.float64)

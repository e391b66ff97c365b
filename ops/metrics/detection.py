"""Detection of boxes and points: IoU, greedy matching, average precision, false positives at a recall (SPEC §12.3).

A box is ``(low corner, high corner)``: ``(x0, y0, x1, y1)`` in two dimensions, ``(x0, y0, z0, x1, y1, z1)`` in three,
in any one unit; a box of ten pixels goes from 0 to 10. An undefined value is NaN.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ops.measure.errors import NotEvaluableError
from ops.volume import FloatArray

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
HitRule = Literal["box_iou", "centre_distance"]
ApConvention = Literal["11_point", "all_point", "101_point"]

# Mean over IoU .50, .55 … .95: Lin 2014, ECCV (COCO) [R].
COCO_IOUS = tuple(n / 100 for n in range(50, 100, 5))
COCO_MAX_DETECTIONS = 100


@dataclass(frozen=True)
class HitPolicy:
    """When a prediction is a hit.

    Attributes
    ----------
    rule
        ``box_iou``: boxes with an IoU ≥ ``threshold``. ``centre_distance``: points at most ``threshold`` apart.
    threshold
        IoU, or a distance in the unit of the points; both inclusive.
    """

    rule: HitRule
    threshold: float

    def __post_init__(self) -> None:
        if self.rule not in ("box_iou", "centre_distance"):
            raise ValueError(f"rule must be 'box_iou' or 'centre_distance', got {self.rule!r}")
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ValueError(f"threshold must be finite and positive, got {self.threshold}")
        if self.rule == "box_iou" and self.threshold > 1:
            raise ValueError(f"an IoU of {self.threshold} is never reached")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class ScoredBoxes:
    """Predicted boxes of one image.

    Attributes
    ----------
    corners
        ``(n, 4)``.
    scores
        ``(n,)``.
    labels
        ``(n,)`` class of each.
    """

    corners: FloatArray
    scores: FloatArray
    labels: IntArray

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.scores)

    def select(self, which: npt.NDArray[Any]) -> ScoredBoxes:
        """Boxes by index or mask ``(n,)``."""
        return ScoredBoxes(self.corners[which], self.scores[which], self.labels[which])


@dataclass(frozen=True, eq=False)
class TrueBoxes:
    """Reference boxes of one image, ``(m, 4)``, and the class of each, ``(m,)``."""

    corners: FloatArray
    labels: IntArray


@dataclass(frozen=True, eq=False)
class Matches:
    """Predictions of one class in one image or scan, compared with the reference.

    Attributes
    ----------
    scores, is_hit
        ``(n,)`` of the predictions; those that are no hit are false positives, a second hit of one lesion too.
    n_true
        Lesions there are; may be 0.
    """

    scores: FloatArray
    is_hit: BoolArray
    n_true: int


@dataclass(frozen=True, eq=False)
class Ranking:
    """Predictions of all images together, by falling score.

    Attributes
    ----------
    scores
        ``(n,)``.
    hits, false_positives
        ``(n,)`` int64: how many there are among the first 1 … n predictions.
    n_true
        Lesions in all images.
    n_images
        All images or scans, also those without a lesion or without a prediction.
    """

    scores: FloatArray
    hits: IntArray
    false_positives: IntArray
    n_true: int
    n_images: int

    def operating_points(self) -> Ranking:
        """Only the last of each run of equal scores: thresholds that can be set."""
        last = np.append(np.diff(self.scores) != 0, True)[: len(self.scores)]
        return Ranking(self.scores[last], self.hits[last], self.false_positives[last], self.n_true, self.n_images)


def box_iou(first: npt.ArrayLike, second: npt.ArrayLike) -> FloatArray:
    """Intersection over union ``(n, m)`` of boxes ``(n, 2d)`` and ``(m, 2d)``; 0 where both have no area."""
    a, b = (np.asarray(boxes, dtype=np.float64) for boxes in (first, second))
    d = a.shape[1] // 2
    low = np.maximum(a[:, None, :d], b[None, :, :d])
    high = np.minimum(a[:, None, d:], b[None, :, d:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    union = _sizes(a)[:, None] + _sizes(b)[None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def match(predicted: npt.ArrayLike, scores: npt.ArrayLike, truth: npt.ArrayLike, policy: HitPolicy) -> Matches:
    """Compare the predictions of one class in one image with the reference.

    By falling score, each prediction takes the best free lesion that it hits; what takes none is a false positive, so
    that the second of two hits of one lesion is one. Equal scores keep their order.

    Parameters
    ----------
    predicted, truth
        ``(n, 2d)`` and ``(m, 2d)`` boxes for ``box_iou``, ``(n, d)`` and ``(m, d)`` points for ``centre_distance``;
        either may be empty.
    scores
        ``(n,)``.

    Raises
    ------
    NotEvaluableError
        ``not_finite`` or ``length_mismatch``.
    """
    p, s, t = (np.asarray(values, dtype=np.float64) for values in (predicted, scores, truth))
    if s.ndim != 1 or len(p) != len(s):
        raise NotEvaluableError("length_mismatch", f"{len(p)} predictions have scores of shape {s.shape}")
    if not all(np.isfinite(values).all() for values in (p, s, t)):
        raise NotEvaluableError("not_finite", "a prediction, score or reference is NaN or infinite")
    is_hit = np.zeros(len(s), dtype=bool)
    if len(s) == 0 or len(t) == 0:
        return Matches(s, is_hit, len(t))
    if policy.rule == "box_iou":
        affinity, least = box_iou(p, t), policy.threshold
    else:
        affinity, least = -np.linalg.norm(p[:, None] - t[None], axis=2), -policy.threshold
    for n in np.argsort(-s, kind="stable"):
        best = int(affinity[n].argmax())
        if affinity[n, best] >= least:
            is_hit[n] = True
            affinity[:, best] = -np.inf
    return Matches(s, is_hit, len(t))


def rank(images: Sequence[Matches]) -> Ranking:
    """Put the predictions of all images in one order; equal scores keep the order of the images."""
    scores = np.concatenate([image.scores for image in images]) if images else np.zeros(0)
    is_hit = np.concatenate([image.is_hit for image in images]) if images else np.zeros(0, dtype=bool)
    order = np.argsort(-scores, kind="stable")
    is_hit = is_hit[order]
    n_true = sum(image.n_true for image in images)
    return Ranking(scores[order], np.cumsum(is_hit), np.cumsum(~is_hit), n_true, len(images))


def average_precision(ranking: Ranking, convention: ApConvention) -> float:
    """Area under the curve of the precision, made non-increasing, over the recall.

    ``11_point`` averages it at recalls 0, 0.1 … 1 (PASCAL VOC to 2009), ``all_point`` integrates it (VOC from 2010),
    ``101_point`` averages it at 0, 0.01 … 1 (COCO): three different numbers of one curve. Recalls are compared
    exactly, where pycocotools compares rounded ones and may miss a point at a recall like 0.35. Equal scores count one
    by one in their order, as there. NaN without a lesion; 0 with lesions but no prediction.
    """
    if convention not in ("11_point", "all_point", "101_point"):
        raise ValueError(f"convention must be '11_point', 'all_point' or '101_point', got {convention!r}")
    if ranking.n_true == 0:
        return math.nan
    precision = ranking.hits / (ranking.hits + ranking.false_positives)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    if convention == "all_point":
        gained = np.diff(ranking.hits, prepend=0)
        return float((gained * precision).sum() / ranking.n_true)
    steps = 10 if convention == "11_point" else 100
    reached = np.searchsorted(steps * ranking.hits, np.arange(steps + 1) * ranking.n_true)
    return float(np.append(precision, 0.0)[reached].mean())


def false_positives_at_recall(ranking: Ranking, recall: float) -> float | Literal["not_reached"]:
    """FP per image at the highest threshold whose recall is ≥ ``recall`` (FP/I@r); NaN without a lesion.

    Images without a lesion count in the denominator.

    Raises
    ------
    ValueError
        ``recall`` is not in (0, 1].
    """
    if not 0 < recall <= 1:
        raise ValueError(f"recall must lie in (0, 1], got {recall}")
    if ranking.n_true == 0:
        return math.nan
    points = ranking.operating_points()
    reached = np.flatnonzero(points.hits / ranking.n_true >= recall)
    return float(points.false_positives[reached[0]] / ranking.n_images) if len(reached) else "not_reached"


def coco_map(predicted: Sequence[ScoredBoxes], truth: Sequence[TrueBoxes], ious: Sequence[float] = COCO_IOUS) -> float:
    """Mean 101-point AP over ``ious`` and over the classes that have a lesion, by pycocotools; NaN without any.

    All box sizes, no crowds, at most 100 boxes an image; ``ious=(0.5,)`` gives mAP@0.5.

    Parameters
    ----------
    predicted, truth
        One entry for each image, in the same order.

    Raises
    ------
    NotEvaluableError
        ``length_mismatch``, or ``not_finite`` for a box or score.
    """
    if len(predicted) != len(truth):
        raise NotEvaluableError("length_mismatch", f"{len(predicted)} images were predicted, {len(truth)} are true")
    for values in (array for image in (*predicted, *truth) for array in vars(image).values()):
        if not np.isfinite(values).all():
            raise NotEvaluableError("not_finite", "a box or score is NaN or infinite")
    if not any(len(image.labels) for image in truth):
        return math.nan
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(truth), _coco(predicted), "bbox")
        evaluation.params.iouThrs = np.asarray(ious, dtype=np.float64)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, math.inf]], ["all"]
        evaluation.params.maxDets = [COCO_MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # -1 for a class without a lesion
    return float(precision[precision > -1].mean())


def _coco(images: Sequence[ScoredBoxes | TrueBoxes]) -> COCO:
    """Build pycocotools' index of boxes without its files."""
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        scores = image.scores if isinstance(image, ScoredBoxes) else np.ones(len(image.labels))
        for (x0, y0, x1, y1), score, label in zip(image.corners, scores, image.labels, strict=True):
            box = [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "score": float(score),
                }
            )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(1, len(images) + 1)],
        "annotations": annotations,
        "categories": [{"id": label} for label in sorted({each["category_id"] for each in annotations})],
    }
    coco.createIndex()
    return coco


def _sizes(boxes: FloatArray) -> FloatArray:
    d = boxes.shape[1] // 2
    return np.asarray(np.clip(boxes[:, d:] - boxes[:, :d], 0, None).prod(axis=1))

"""Evaluation metrics at full size against plain SciPy, scikit-learn, pycocotools and loops, in the same run."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from ops.metrics.classification import auc
from ops.metrics.detection import (
    COCO_IOUS,
    HitPolicy,
    ScoredBoxes,
    TrueBoxes,
    average_precision,
    coco_map,
    match,
    rank,
)
from ops.metrics.intervals import bootstrap
from ops.metrics.overlap import overlap
from ops.metrics.surface_distance import surface_distances
from ops.volume import Grid, Volume
from tests.benchmarks.timing import best_of

SHAPE, SPACING = (256, 384, 384), (1.0, 0.75, 0.75)
TOLERANCE_MM = 2.0
IMAGES, BOXES_PER_IMAGE, LESIONS_PER_IMAGE = 100, 50, 5
PARTICIPANTS, REPLICATES = 2000, 2000


@pytest.fixture(scope="module")
def masks() -> tuple[Volume, Volume]:
    """An organ of 1.5 litres with a rough surface, and a prediction of it that is 3 mm off and rough elsewhere."""
    grid = Grid.from_spacing(SHAPE, SPACING)
    rng = np.random.default_rng(4)
    z, y, x = np.meshgrid(
        *(np.arange(n, dtype=np.float32) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij"
    )

    def organ(centre: tuple[float, float, float]) -> Volume:
        # Bumps of about a centimetre; the box's noise is tiled from a small block.
        block = ndimage.gaussian_filter(rng.standard_normal((64, 96, 96), dtype=np.float32), 8, mode="wrap")
        bumps = np.tile(block / block.std(), (4, 4, 4)) * np.float32(0.02)
        r = np.sqrt(((z - centre[0]) / 60) ** 2 + ((y - centre[1]) / 75) ** 2 + ((x - centre[2]) / 85) ** 2)
        return Volume((r + bumps < 1).astype(np.uint8), grid, "label")

    return organ((128, 144, 144)), organ((128, 146, 142))


@pytest.fixture(scope="module")
def detections() -> tuple[list[ScoredBoxes], list[TrueBoxes]]:
    """Most lesions found within a few pixels, the rest of the boxes anywhere; scores are all different."""
    rng = np.random.default_rng(6)
    scores = rng.permutation(IMAGES * BOXES_PER_IMAGE).reshape(IMAGES, -1) / (IMAGES * BOXES_PER_IMAGE)
    predicted, truth = [], []
    for number in range(IMAGES):
        low = rng.uniform(0, 900, (LESIONS_PER_IMAGE, 2))
        lesions = np.concatenate([low, low + rng.uniform(40, 100, low.shape)], axis=1)
        near = np.repeat(lesions, 3, axis=0) + rng.normal(0, 6, (3 * LESIONS_PER_IMAGE, 4))
        low = rng.uniform(0, 900, (BOXES_PER_IMAGE - len(near), 2))
        boxes = np.concatenate([near, np.concatenate([low, low + rng.uniform(40, 100, low.shape)], axis=1)])
        score = scores[number].copy()
        score[: len(near)] = np.sqrt(score[: len(near)])
        predicted.append(ScoredBoxes(boxes, score, np.zeros(len(boxes), dtype=np.int64)))
        truth.append(TrueBoxes(lesions, np.zeros(len(lesions), dtype=np.int64)))
    return predicted, truth


@pytest.fixture(scope="module")
def readings() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    rng = np.random.default_rng(8)
    truth = (rng.uniform(size=PARTICIPANTS) < 0.1).astype(np.int64)
    return truth, rng.normal(truth * 1.2, 1.0)


def plain_surface_distances(predicted: Volume, truth: Volume) -> tuple[float, float]:
    """HD95 and NSD by Euclidean distance transforms of the box around both masks."""
    a, b = predicted.voxels > 0, truth.voxels > 0
    (box,) = ndimage.find_objects((a | b).astype(np.uint8))
    a, b = np.pad(a[box], 1), np.pad(b[box], 1)
    first, second = (mask & ~ndimage.binary_erosion(mask) for mask in (a, b))
    to_second = ndimage.distance_transform_edt(~second, sampling=predicted.grid.spacing)[first]
    to_first = ndimage.distance_transform_edt(~first, sampling=predicted.grid.spacing)[second]
    hd95 = max(np.percentile(to_second, 95), np.percentile(to_first, 95))
    return float(hd95), float((np.concatenate([to_second, to_first]) <= TOLERANCE_MM).mean())


def plain_overlap(predicted: Volume, truth: Volume) -> tuple[float, float]:
    """Dice and IoU with NumPy."""
    a, b = predicted.voxels.astype(bool), truth.voxels.astype(bool)
    both, either = np.logical_and(a, b).sum(), np.logical_or(a, b).sum()
    return 2 * both / (a.sum() + b.sum()), both / either


def plain_average_precision(predicted: list[ScoredBoxes], truth: list[TrueBoxes], threshold: float) -> float:
    """101-point AP, box by box."""
    entries = sorted(
        (
            (float(score), image, box)
            for image, each in enumerate(predicted)
            for score, box in zip(each.scores, each.corners, strict=True)
        ),
        key=lambda entry: -entry[0],
    )
    taken = [set[int]() for _ in truth]
    hits, curve, lesions = 0, [], sum(len(each.corners) for each in truth)
    for place, (_, image, (x0, y0, x1, y1)) in enumerate(entries, start=1):
        best, best_iou = -1, threshold
        for number, (u0, v0, u1, v1) in enumerate(truth[image].corners):
            shared = max(0.0, min(x1, u1) - max(x0, u0)) * max(0.0, min(y1, v1) - max(y0, v0))
            iou = shared / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - shared)
            if number not in taken[image] and iou >= best_iou:
                best, best_iou = number, iou
        if best >= 0:
            taken[image].add(best)
            hits += 1
        curve.append((hits, hits / place))
    return sum(max((p for h, p in curve if 100 * h >= level * lesions), default=0.0) for level in range(101)) / 101


def plain_coco_map(predicted: list[ScoredBoxes], truth: list[TrueBoxes]) -> float:
    """All that COCOeval computes for its table, as in its own example."""
    images = [{"id": n, "width": 1000, "height": 1000} for n in range(len(truth))]

    def entries(each: list[Any], scored: bool) -> list[dict[str, Any]]:
        listed = []
        for image, boxes in enumerate(each):
            for n, (x0, y0, x1, y1) in enumerate(boxes.corners):
                entry = {"image_id": image, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
                entry |= {"area": (x1 - x0) * (y1 - y0), "iscrowd": 0, "id": len(listed) + 1}
                listed.append(entry | ({"score": boxes.scores[n]} if scored else {}))
        return listed

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {"images": images, "annotations": entries(truth, False), "categories": [{"id": 1}]}
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(entries(predicted, True)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def test_surface_distances(masks: tuple[Volume, Volume]) -> None:
    found, seconds = best_of(2, lambda: surface_distances(*masks))
    (hd95, nsd), plain_seconds = best_of(1, lambda: plain_surface_distances(*masks))
    print(f"\nsurface distances in {SHAPE}: {seconds:.2f} s; SciPy's transform in the box: {plain_seconds:.2f} s")
    assert len(found.to_truth) > 20_000
    assert found.hd95 == pytest.approx(hd95, rel=1e-9)
    assert found.nsd(TOLERANCE_MM) == pytest.approx(nsd, rel=1e-6)
    assert 1 < found.hd95 < 10
    assert seconds < plain_seconds


def test_overlap(masks: tuple[Volume, Volume]) -> None:
    found, seconds = best_of(3, lambda: overlap(*masks))
    (dice, iou), plain_seconds = best_of(3, lambda: plain_overlap(*masks))
    print(f"\noverlap in {SHAPE}: {seconds:.3f} s; NumPy: {plain_seconds:.3f} s")
    assert (found.dice, found.iou) == pytest.approx((dice, iou), rel=1e-12)
    assert seconds < plain_seconds


def test_average_precision(detections: tuple[list[ScoredBoxes], list[TrueBoxes]]) -> None:
    predicted, truth = detections

    def ours(threshold: float) -> float:
        policy = HitPolicy("box_iou", threshold)
        each = [match(p.corners, p.scores, t.corners, policy) for p, t in zip(predicted, truth, strict=True)]
        return average_precision(rank(each), "101_point")

    found, seconds = best_of(3, lambda: [ours(threshold) for threshold in COCO_IOUS])
    expected, plain_seconds = best_of(1, lambda: [plain_average_precision(*detections, t) for t in COCO_IOUS])
    print(f"\nAP of {IMAGES} × {BOXES_PER_IMAGE} boxes, 10 IoUs: {seconds:.3f} s; plain loop: {plain_seconds:.3f} s")
    assert found == pytest.approx(expected, rel=1e-9)
    assert 0.3 < found[0] < 1
    assert seconds < plain_seconds


def test_coco_map(detections: tuple[list[ScoredBoxes], list[TrueBoxes]]) -> None:
    found, seconds = best_of(3, lambda: coco_map(*detections))
    expected, plain_seconds = best_of(3, lambda: plain_coco_map(*detections))
    print(f"\nmAP of {IMAGES} × {BOXES_PER_IMAGE} boxes: {seconds:.3f} s; pycocotools' table: {plain_seconds:.3f} s")
    assert found == pytest.approx(expected, rel=1e-9)
    assert seconds < plain_seconds


def test_bootstrap_of_auc(readings: tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]) -> None:
    truth, scores = readings

    def plain() -> tuple[float, float]:
        rng = np.random.default_rng(3)
        values = []
        for _ in range(REPLICATES):
            rows = rng.choice(PARTICIPANTS, PARTICIPANTS)
            values.append(roc_auc_score(truth[rows], scores[rows]))
        lower, upper = np.quantile(values, (0.025, 0.975))
        return float(lower), float(upper)

    found, seconds = best_of(
        2,
        lambda: bootstrap(
            lambda rows: auc(truth[rows], scores[rows]), np.arange(PARTICIPANTS), seed=3, replicates=REPLICATES
        ),
    )
    expected, plain_seconds = best_of(1, plain)
    print(f"\nAUC of {PARTICIPANTS}, {REPLICATES} replicates: {seconds:.2f} s; scikit-learn: {plain_seconds:.2f} s")
    assert (found.lower, found.upper) == pytest.approx(expected, abs=1e-9)
    assert found.n_degenerate == 0
    assert seconds < plain_seconds

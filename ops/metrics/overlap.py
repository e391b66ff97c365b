"""Overlap of two masks: Dice and IoU per case and pooled, and detection of lesions by their components (SPEC §12).

An undefined value is NaN, never 0 or 1. Averages leave undefined cases out and count them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from ops.measure.checks import require_label_map, require_same_grid
from ops.volume import Volume

LesionHit = Literal["any_overlap", "iou"]

_NEIGHBOURS_26 = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class Overlap:
    """Voxels of a predicted mask (P) and a true one (T); the sum of two pools their voxels.

    Attributes
    ----------
    tp, fp, fn
        In both, in P only, in T only.
    """

    tp: int
    fp: int
    fn: int

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN when both masks are empty, 0 when one is (SPEC §12.1)."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN); NaN when both masks are empty, 0 when one is."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def both_empty(self) -> bool:
        """Neither mask has a voxel."""
        return self.tp + self.fp + self.fn == 0

    @property
    def one_empty(self) -> bool:
        """Exactly one of the masks has no voxel."""
        return self.tp == 0 and (self.fp == 0) != (self.fn == 0)

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)


@dataclass(frozen=True)
class OverlapSummary:
    """Overlap over many cases.

    Attributes
    ----------
    dice, iou
        Means over the cases where they are defined; NaN without any. Dice = 2 IoU / (1 + IoU) does not hold for them.
    pooled
        All voxels of all cases taken together.
    n, n_both_empty, n_one_empty
        Cases in all; those left out of the means because both masks are empty; those with Dice 0 because one is.
    """

    dice: float
    iou: float
    pooled: Overlap
    n: int
    n_both_empty: int
    n_one_empty: int


@dataclass(frozen=True)
class LesionPolicy:
    """What counts as a found lesion; a lesion is a 26-connected component.

    Attributes
    ----------
    hit
        ``any_overlap`` (default): a true lesion is found when a predicted voxel lies in it, and a predicted lesion is
        false when it touches no true one; several predictions of one lesion, or one of several lesions, are no error.
        ``iou``: predictions and lesions are paired one to one, those with the largest IoU first, and what stays
        unpaired is false or missed.
    min_iou
        Least IoU of a pair, inclusive; used only by ``iou``.
    """

    hit: LesionHit = "any_overlap"
    min_iou: float = 0.1

    def __post_init__(self) -> None:
        if self.hit not in ("any_overlap", "iou"):
            raise ValueError(f"hit must be 'any_overlap' or 'iou', got {self.hit!r}")
        if not 0 < self.min_iou <= 1:
            raise ValueError(f"min_iou must lie in (0, 1], got {self.min_iou}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_POLICY = LesionPolicy()


@dataclass(frozen=True)
class LesionCounts:
    """True lesions found and missed, and predicted lesions that are false; sums pool cases."""

    found: int
    missed: int
    false: int

    @property
    def f1(self) -> float:
        """2 found / (2 found + missed + false); NaN without any lesion, true or predicted."""
        return _ratio(2 * self.found, 2 * self.found + self.missed + self.false)

    def __add__(self, other: LesionCounts) -> LesionCounts:
        return LesionCounts(self.found + other.found, self.missed + other.missed, self.false + other.false)


def overlap(predicted: Volume, truth: Volume) -> Overlap:
    """Count the voxels two masks share; nonzero = inside.

    Raises
    ------
    NotEvaluableError
        ``not_a_label_map`` or ``grid_mismatch``.
    """
    _require_masks(predicted, truth)
    first, second = predicted.voxels != 0, truth.voxels != 0
    both = int(np.count_nonzero(first & second))
    return Overlap(both, int(np.count_nonzero(first)) - both, int(np.count_nonzero(second)) - both)


def summarise(cases: Sequence[Overlap]) -> OverlapSummary:
    """Average the overlap of many cases and pool it."""
    defined = [case for case in cases if not case.both_empty]
    return OverlapSummary(
        dice=_mean([case.dice for case in defined]),
        iou=_mean([case.iou for case in defined]),
        pooled=sum(cases, Overlap(0, 0, 0)),
        n=len(cases),
        n_both_empty=len(cases) - len(defined),
        n_one_empty=sum(case.one_empty for case in cases),
    )


def lesion_counts(predicted: Volume, truth: Volume, policy: LesionPolicy = DEFAULT_POLICY) -> LesionCounts:
    """Count lesions found, missed and falsely predicted in one case; nonzero = lesion.

    Raises
    ------
    NotEvaluableError
        ``not_a_label_map`` or ``grid_mismatch``.
    """
    _require_masks(predicted, truth)
    first, n_predicted = ndimage.label(predicted.voxels != 0, structure=_NEIGHBOURS_26)
    second, n_true = ndimage.label(truth.voxels != 0, structure=_NEIGHBOURS_26)
    pair, shared = np.unique(np.stack([first, second])[:, (first > 0) & (second > 0)], axis=1, return_counts=True)
    if policy.hit == "any_overlap":
        found, touched = len(np.unique(pair[1])), len(np.unique(pair[0]))
        return LesionCounts(found, n_true - found, n_predicted - touched)
    union = np.bincount(first.ravel())[pair[0]] + np.bincount(second.ravel())[pair[1]] - shared
    iou = shared / union
    free_predicted, free_true = np.ones(n_predicted + 1, dtype=bool), np.ones(n_true + 1, dtype=bool)
    found = 0
    for n in np.argsort(-iou, kind="stable"):
        a, b = pair[:, n]
        if iou[n] >= policy.min_iou and free_predicted[a] and free_true[b]:
            free_predicted[a] = free_true[b] = False
            found += 1
    return LesionCounts(found, n_true - found, n_predicted - found)


def _require_masks(predicted: Volume, truth: Volume) -> None:
    require_label_map(predicted)
    require_label_map(truth)
    require_same_grid(predicted, truth)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan

"""Agreement of classes and of scores with the truth: confusion, F1, kappa, AUC with DeLong's variance (SPEC §12).

An undefined value is NaN, never 0 or 1: count such values beside an average of the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from ops.measure.errors import NotEvaluableError
from ops.metrics.intervals import UNDEFINED, Interval
from ops.volume import FloatArray

BoolArray = npt.NDArray[np.bool_]
KappaWeights = Literal["unweighted", "linear", "quadratic"]


@dataclass(frozen=True)
class BinaryCounts:
    """Cases by truth and call: true and false positives and negatives."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def precision(self) -> float:
        """TP / (TP + FP), the positive predictive value; NaN without a positive call."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN), the sensitivity; NaN without a positive case."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        """TN / (TN + FP); NaN without a negative case."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def accuracy(self) -> float:
        """(TP + TN) / n; NaN without a case."""
        return _ratio(self.tp + self.tn, self.tp + self.fp + self.fn + self.tn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN without a positive case, whatever was called (SPEC §12.1)."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn) if self.tp + self.fn else math.nan


@dataclass(frozen=True)
class AucEstimate:
    """Area under the ROC curve and its variance; either is NaN where undefined."""

    auc: float
    variance: float

    def interval(self, confidence: float = 0.95) -> Interval:
        """Symmetric interval AUC ± z·SD, cut off at 0 and 1.

        NaN bounds when the variance is undefined or 0: at an AUC of 0 or 1 it says nothing about uncertainty.
        """
        if not self.variance > 0:
            return UNDEFINED
        half = float(ndtri((1 + confidence) / 2)) * math.sqrt(self.variance)
        return Interval(max(self.auc - half, 0.0), min(self.auc + half, 1.0))


def binary_counts(truth: npt.ArrayLike, called: npt.ArrayLike) -> BinaryCounts:
    """Count cases by truth and call, both ``(n,)`` of 0 and 1 or bool.

    Raises
    ------
    NotEvaluableError
        ``not_binary`` or ``length_mismatch``.
    """
    t, c = _binary(truth), _binary(called)
    _require_same_length(t, c)
    return BinaryCounts(int((t & c).sum()), int((~t & c).sum()), int((t & ~c).sum()), int((~t & ~c).sum()))


def counts_at(truth: npt.ArrayLike, scores: npt.ArrayLike, threshold: float) -> BinaryCounts:
    """Count cases, a score ≥ ``threshold`` (inclusive) being a positive call.

    Raises
    ------
    NotEvaluableError
        ``not_binary``, ``not_finite`` or ``length_mismatch``.
    """
    _, s = scored_cases(truth, scores)
    return binary_counts(truth, s >= threshold)


def auc(truth: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties counting ½ (Mann–Whitney).

    NaN with one class only. Errors as for `counts_at`.
    """
    t, s = scored_cases(truth, scores)
    m, n = int(t.sum()), int((~t).sum())
    if m == 0 or n == 0:
        return math.nan
    return float((_midrank(s)[t].sum() - m * (m + 1) / 2) / (m * n))


def delong(truth: npt.ArrayLike, scores: npt.ArrayLike) -> AucEstimate:
    """AUC with its variance after DeLong 1988 Biometrics 44:837 [R], by midranks (Sun & Xu 2014 [R]).

    The variance is NaN with fewer than two cases of a class. Errors as for `counts_at`.
    """
    t, s = scored_cases(truth, scores)
    m, n = int(t.sum()), int((~t).sum())
    if m < 2 or n < 2:
        return AucEstimate(auc(truth, scores), math.nan)
    rank = _midrank(s)
    # Share of the negatives below each positive, and of the positives above each negative; ties count ½.
    below = (rank[t] - _midrank(s[t])) / n
    above = 1 - (rank[~t] - _midrank(s[~t])) / m
    return AucEstimate(float(below.mean()), float(below.var(ddof=1) / m + above.var(ddof=1) / n))


def confusion(first: Sequence[str], second: Sequence[str], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Count pairs ``(len(labels), len(labels))``: rows by ``first``, columns by ``second``.

    Parameters
    ----------
    labels
        All classes there are, in their order, including those that do not occur: their places set the weights of
        `cohen_kappa`.

    Raises
    ------
    KeyError
        A reading that is not in ``labels``.
    """
    place = {label: n for n, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for a, b in zip(first, second, strict=True):
        counts[place[a], place[b]] += 1
    return counts


def cohen_kappa(counts: npt.ArrayLike, weights: KappaWeights) -> float:
    """Kappa 1 − Σw·O / Σw·E of a confusion matrix (Cohen 1960, 1968 [R]); NaN where both readings are constant.

    Parameters
    ----------
    counts
        ``(k, k)`` from `confusion`.
    weights
        Disagreement of classes i and j: ``unweighted`` 1, ``linear`` |i − j|, ``quadratic`` (i − j)².
    """
    observed = np.asarray(counts, dtype=np.float64)
    total = observed.sum()
    if total == 0:
        return math.nan
    expected = observed.sum(axis=1)[:, None] * observed.sum(axis=0)[None, :] / total
    place = np.arange(len(observed))
    steps = np.abs(place[:, None] - place[None, :])
    w = {"unweighted": steps > 0, "linear": steps, "quadratic": steps**2}[weights]
    by_chance = (w * expected).sum()
    return float(1 - (w * observed).sum() / by_chance) if by_chance > 0 else math.nan


def scored_cases(truth: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[BoolArray, FloatArray]:
    """Check truth of 0 and 1 and finite scores, both ``(n,)``, and return them as arrays.

    Raises
    ------
    NotEvaluableError
        ``not_binary``, ``not_finite`` or ``length_mismatch``.
    """
    t, s = _binary(truth), np.asarray(scores, dtype=np.float64)
    _require_same_length(t, s)
    if not np.isfinite(s).all():
        n_bad = int((~np.isfinite(s)).sum())
        raise NotEvaluableError("not_finite", f"{n_bad} of {s.size} scores are NaN or infinite; leave those cases out")
    return t, s


def _midrank(scores: FloatArray) -> FloatArray:
    # scipy.stats takes a second to import, which all who only count cases would wait for.
    from scipy.stats import rankdata

    return np.asarray(rankdata(scores), dtype=np.float64)


def _binary(values: npt.ArrayLike) -> BoolArray:
    array = np.asarray(values)
    if array.size and not np.isin(array, (0, 1)).all():
        raise NotEvaluableError("not_binary", "truth and calls must be 0 or 1; leave out cases without a reference")
    return array.astype(bool)


def _require_same_length(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic]) -> None:
    if first.ndim != 1 or first.shape != second.shape:
        detail = f"truth of shape {first.shape} and scores or calls of shape {second.shape}; both must be (n,)"
        raise NotEvaluableError("length_mismatch", detail)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan

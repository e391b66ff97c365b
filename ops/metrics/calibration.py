"""Calibration of probabilities and what decisions gain from them (SPEC §12).

An undefined value is NaN. Truth is ``(n,)`` of 0 and 1, probabilities are ``(n,)`` within 0–1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from ops.measure.errors import NotEvaluableError
from ops.metrics.classification import BoolArray, counts_at, scored_cases
from ops.volume import FloatArray


@dataclass(frozen=True)
class Platt:
    """Calibration by a logistic curve: probability 1 / (1 + exp(−(intercept + slope · score)))."""

    slope: float
    intercept: float

    def __call__(self, scores: npt.ArrayLike) -> FloatArray:
        """Probabilities of scores."""
        return np.asarray(expit(self.intercept + self.slope * np.asarray(scores, dtype=np.float64)))


@dataclass(frozen=True, eq=False)
class Isotonic:
    """Calibration by a non-decreasing curve through ``(scores, probabilities)``, constant beyond its ends."""

    scores: FloatArray
    probabilities: FloatArray

    def __call__(self, scores: npt.ArrayLike) -> FloatArray:
        """Probabilities of scores."""
        return np.asarray(np.interp(np.asarray(scores, dtype=np.float64), self.scores, self.probabilities))


@dataclass(frozen=True)
class CalibrationFit:
    """How probabilities relate to what happened; ideal are slope 1, intercept 0, in the large 0.

    Attributes
    ----------
    slope, intercept
        Of the logistic regression of truth on logit(p) (Cox 1958, Biometrika 45:562 [R]): a slope below 1 means
        probabilities too extreme.
    in_the_large
        Intercept with the slope held at 1: above 0 means probabilities too low on average.
    """

    slope: float
    intercept: float
    in_the_large: float


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit ``(k,)`` of the model and of treating everybody at each threshold; treating nobody has 0."""

    thresholds: FloatArray
    model: FloatArray
    treat_all: FloatArray


def fit_platt(truth: npt.ArrayLike, scores: npt.ArrayLike) -> Platt:
    """Fit a logistic curve with Platt's targets (N₊+1)/(N₊+2) and 1/(N₋+2) (1999 [R]), which also exists when the
    classes are separated.

    Raises
    ------
    NotEvaluableError
        ``one_class``, ``constant_scores``, ``not_binary``, ``not_finite`` or ``length_mismatch``.
    """
    t, s = _two_classes(truth, scores)
    target = np.where(t, (t.sum() + 1) / (t.sum() + 2), 1 / ((~t).sum() + 2))
    # A target between 0 and 1 is the case counted once with each outcome, weighted.
    centre, spread = s.mean(), s.std()
    twice = np.tile((s - centre) / spread, 2)[:, None]
    slope, intercept = _logistic(twice, np.repeat([1, 0], len(s)), np.concatenate([target, 1 - target]))
    return Platt(float(slope / spread), float(intercept - slope * centre / spread))


def fit_isotonic(truth: npt.ArrayLike, scores: npt.ArrayLike) -> Isotonic:
    """Fit a non-decreasing step curve by pooling adjacent violators (scikit-learn).

    Raises
    ------
    NotEvaluableError
        As `fit_platt`.
    """
    t, s = _two_classes(truth, scores)
    fitted = IsotonicRegression(out_of_bounds="clip").fit(s, t.astype(np.float64))
    return Isotonic(np.asarray(fitted.X_thresholds_), np.asarray(fitted.y_thresholds_))


def brier_score(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Mean squared difference of probability and outcome (Brier 1950 [R]); NaN without a case.

    Raises
    ------
    NotEvaluableError
        ``not_a_probability``, ``not_binary``, ``not_finite`` or ``length_mismatch``.
    """
    t, p = _probabilities(truth, probabilities)
    return float(((p - t) ** 2).mean()) if len(p) else math.nan


def expected_calibration_error(truth: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 10) -> float:
    """Mean distance of mean probability and share of events over bins, weighted by cases (Naeini 2015 [R]).

    ``bins`` of equal width, each with its upper edge and without its lower one, the first with both. NaN without a
    case. Errors as for `brier_score`.
    """
    t, p = _probabilities(truth, probabilities)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if len(p) == 0:
        return math.nan
    which = np.searchsorted(np.arange(1, bins) / bins, p)
    gap = np.bincount(which, p - t, minlength=bins)
    return float(np.abs(gap).sum() / len(p))


def calibration_fit(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> CalibrationFit:
    """Slope, intercept and calibration in the large.

    Slope and intercept are NaN when they do not exist: the probabilities separate the classes, or are all equal.

    Raises
    ------
    NotEvaluableError
        ``probability_at_limit`` for a probability of exactly 0 or 1, whose logit is infinite; ``one_class``; and those
        of `brier_score`.
    """
    t, p = _probabilities(truth, probabilities)
    if ((p == 0) | (p == 1)).any():
        raise NotEvaluableError("probability_at_limit", "a probability is exactly 0 or 1; its logit is infinite")
    _require_two_classes(t)
    x = logit(p)
    # Beyond the extreme logits every residual has one sign.
    shift = float(np.abs(x).max()) + float(np.abs(logit(t.mean()))) + 1
    in_the_large = float(brentq(lambda a: (t - expit(a + x)).sum(), -shift, shift))
    if x[t].min() >= x[~t].max() or x[t].max() <= x[~t].min():
        return CalibrationFit(math.nan, math.nan, in_the_large)
    slope, intercept = _logistic(x[:, None], t, np.ones(len(x)))
    return CalibrationFit(slope, intercept, in_the_large)


def net_benefit(truth: npt.ArrayLike, probabilities: npt.ArrayLike, threshold: float) -> float:
    """TP/n − FP/n · pt/(1 − pt) of acting at p ≥ ``threshold`` (Vickers & Elkin 2006 [R]); NaN without a case.

    Raises
    ------
    ValueError
        ``threshold`` is not in (0, 1).
    NotEvaluableError
        As `brier_score`.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie in (0, 1), got {threshold}")
    t, p = _probabilities(truth, probabilities)
    if len(t) == 0:
        return math.nan
    counts = counts_at(t, p, threshold)
    return (counts.tp - counts.fp * threshold / (1 - threshold)) / len(t)


def decision_curve(truth: npt.ArrayLike, probabilities: npt.ArrayLike, thresholds: npt.ArrayLike) -> DecisionCurve:
    """Net benefit at each of ``thresholds`` ``(k,)`` in (0, 1). Errors as for `net_benefit`."""
    levels = np.asarray(thresholds, dtype=np.float64)
    everybody = np.ones(np.asarray(truth).shape)
    return DecisionCurve(
        levels,
        np.array([net_benefit(truth, probabilities, float(level)) for level in levels]),
        np.array([net_benefit(truth, everybody, float(level)) for level in levels]),
    )


def _logistic(x: FloatArray, outcome: npt.NDArray[np.generic], weight: FloatArray) -> tuple[float, float]:
    """Slope and intercept of a logistic regression without a penalty."""
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    model.fit(x, outcome, sample_weight=weight)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _two_classes(truth: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[BoolArray, FloatArray]:
    t, s = scored_cases(truth, scores)
    _require_two_classes(t)
    if np.ptp(s) == 0:
        raise NotEvaluableError("constant_scores", f"all {len(s)} scores are {s[0]:g}: nothing to calibrate")
    return t, s


def _require_two_classes(truth: BoolArray) -> None:
    if truth.all() or not truth.any():
        raise NotEvaluableError("one_class", f"{len(truth)} cases of one outcome; calibration needs both")


def _probabilities(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[BoolArray, FloatArray]:
    t, p = scored_cases(truth, probabilities)
    if ((p < 0) | (p > 1)).any():
        detail = f"probabilities run from {p.min():g} to {p.max():g}; calibrate scores outside 0–1 first"
        raise NotEvaluableError("not_a_probability", detail)
    return t, p

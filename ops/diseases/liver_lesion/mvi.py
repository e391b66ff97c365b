"""Risk of microvascular invasion (MVI) of hepatocellular carcinoma from a classifier's score (SPEC §10).

A classifier is not a risk: its score becomes one by calibration on cases it was not trained on, for each site anew,
with the threshold fixed beforehand. Whoever was calibrated on is never evaluated on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ops.measure.errors import NotEvaluableError, OutOfModelRangeError
from ops.measure.record import MeasurementRecord
from ops.measure.value import MeasuredValue
from ops.metrics.calibration import (
    Isotonic,
    Platt,
    brier_score,
    calibration_fit,
    expected_calibration_error,
    fit_isotonic,
    fit_platt,
    net_benefit,
)
from ops.metrics.classification import delong

ALGORITHM, VERSION = "mvi", "1"

ECE_BINS = 10
MIN_EVENTS = 10
"""Participants with and without invasion that a calibration needs at least (policy)."""

Method = Literal["platt", "isotonic"]


@dataclass(frozen=True, eq=False)
class MviCalibration:
    """Score → risk at one site.

    Attributes
    ----------
    curve
        The fitted curve.
    method
        ``platt`` or ``isotonic``.
    site
        Where it holds.
    threshold
        Risk from which on a participant counts as at risk, fixed before any test set is opened; inclusive.
    participants
        Who it was fitted on.
    """

    curve: Platt | Isotonic
    method: Method
    site: str
    threshold: float
    participants: frozenset[str]

    def to_dict(self) -> dict[str, Any]:
        """Named choices for the record of a result."""
        return {
            "calibration": self.method,
            "site": self.site,
            "threshold": self.threshold,
            "n_calibration": len(self.participants),
        }


def calibrate(
    truth: npt.ArrayLike,
    scores: npt.ArrayLike,
    participants: Sequence[str],
    *,
    site: str,
    threshold: float,
    method: Method = "platt",
) -> MviCalibration:
    """Fit risk to held-out scores of one site.

    Parameters
    ----------
    truth
        ``(n,)`` 0 or 1: invasion found by histology.
    scores
        ``(n,)`` of the classifier, any scale.
    participants
        Whose they are; each once.
    threshold
        Risk in (0, 1), see `MviCalibration`.
    method
        ``platt`` (default) for small samples, ``isotonic`` where hundreds are known.

    Raises
    ------
    ValueError
        ``threshold`` or ``method`` is none, or ``participants`` has another length or somebody twice.
    NotEvaluableError
        ``too_few_events``, and the reasons of `ops.metrics.calibration.fit_platt`.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be a risk within (0, 1), got {threshold}")
    outcomes = np.asarray(truth)
    if len(participants) != len(outcomes) or len(set(participants)) != len(participants):
        raise ValueError(f"{len(participants)} participants for {len(outcomes)} outcomes: one each, nobody twice")
    if method not in ("platt", "isotonic"):
        raise ValueError(f"method must be 'platt' or 'isotonic', got {method!r}")
    curve = fit_platt(outcomes, scores) if method == "platt" else fit_isotonic(outcomes, scores)
    rarer = int(min(np.count_nonzero(outcomes), np.count_nonzero(outcomes == 0)))
    if rarer < MIN_EVENTS:
        detail = f"{rarer} participants of the rarer outcome; a calibration needs at least {MIN_EVENTS}"
        raise NotEvaluableError("too_few_events", detail)
    return MviCalibration(curve, method, site, threshold, frozenset(participants))


def measure(score: float, calibration: MviCalibration, *, site: str, inputs: tuple[str, ...] = ()) -> MeasurementRecord:
    """Risk of one participant: ``mvi_risk`` (0–1), and ``mvi_class`` ``at_risk`` or ``not_at_risk``.

    Out of model range (``site_not_calibrated``) at a site that the calibration was not made for.
    """
    try:
        if site != calibration.site:
            detail = f"calibrated at {calibration.site!r}, asked at {site!r}; recalibrate for that site"
            raise OutOfModelRangeError("site_not_calibrated", detail)
        if not np.isfinite(score):
            raise NotEvaluableError("not_finite", f"the classifier's score is {score}")
    except NotEvaluableError as error:
        return MeasurementRecord.refused(ALGORITHM, VERSION, error, policy=calibration.to_dict(), inputs=inputs)
    risk = float(calibration.curve([score])[0])
    called = "at_risk" if risk >= calibration.threshold else "not_at_risk"
    values = (MeasuredValue("mvi_risk", risk, "1"), MeasuredValue("mvi_class", called))
    return MeasurementRecord(ALGORITHM, VERSION, measurements=values, policy=calibration.to_dict(), inputs=inputs)


def evaluate(
    calibration: MviCalibration, truth: npt.ArrayLike, scores: npt.ArrayLike, participants: Sequence[str]
) -> MeasurementRecord:
    """How good the calibrated risk is on participants it has not seen.

    Returns
    -------
    MeasurementRecord
        ``auc`` with ``auc_lower`` and ``auc_upper`` (DeLong, 95 %), ``brier``, ``ece`` (10 bins of equal width),
        ``calibration_slope`` and ``calibration_intercept``, ``net_benefit`` and ``net_benefit_treat_all`` at the
        threshold. Refused with ``not_held_out`` when somebody was calibrated on. What does not exist has a reason.
    """
    try:
        seen = calibration.participants.intersection(participants)
        if seen:
            raise NotEvaluableError("not_held_out", f"{len(seen)} participants were calibrated on; leave them out")
        risks = calibration.curve(scores)
        values = _evaluation(np.asarray(truth), risks, calibration.threshold)
    except NotEvaluableError as error:
        return MeasurementRecord.refused("mvi_evaluation", VERSION, error, policy=calibration.to_dict())
    policy = {**calibration.to_dict(), "ece_bins": ECE_BINS, "n_test": len(participants)}
    return MeasurementRecord("mvi_evaluation", VERSION, measurements=tuple(values), policy=policy)


def _evaluation(
    truth: npt.NDArray[np.generic], risks: npt.NDArray[np.float64], threshold: float
) -> list[MeasuredValue]:
    area = delong(truth, risks)
    named = {
        "auc": area.auc,
        "auc_lower": area.interval().lower,
        "auc_upper": area.interval().upper,
        "brier": brier_score(truth, risks),
        "ece": expected_calibration_error(truth, risks, ECE_BINS),
        "net_benefit": net_benefit(truth, risks, threshold),
        "net_benefit_treat_all": net_benefit(truth, np.ones(len(risks)), threshold),
    }
    values = [_unless_undefined(name, value) for name, value in named.items()]
    names = ("calibration_slope", "calibration_intercept")
    try:
        fit = calibration_fit(truth, risks)
    except NotEvaluableError as error:
        return [*values, *(MeasuredValue.missing(name, error.reason, "1") for name in names)]
    return [*values, *map(_unless_undefined, names, (fit.slope, fit.intercept))]


def _unless_undefined(name: str, value: float) -> MeasuredValue:
    return MeasuredValue.missing(name, "undefined", "1") if np.isnan(value) else MeasuredValue(name, value, "1")

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit

from ops.diseases.liver_lesion.mvi import Method, MviCalibration, calibrate, evaluate, measure
from ops.measure.errors import NotEvaluableError
from ops.verdict import ResultStatus

N = 4000


def cohort(seed: int, name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Overconfident scores: the true risk is that of half the logit, shifted."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3, N)
    truth = (rng.uniform(size=N) < expit(-0.8 + 0.5 * scores)).astype(int)
    return truth, scores, [f"{name}{n}" for n in range(N)]


def fitted(method: Method = "platt") -> MviCalibration:
    return calibrate(*cohort(1, "a"), site="Bern", threshold=0.3, method=method)


@pytest.mark.parametrize(("method", "tolerance"), [("platt", 0.02), ("isotonic", 0.08)])
def test_calibration_finds_the_true_risk(method: Method, tolerance: float) -> None:
    calibration = fitted(method)
    for score in (-4.0, -1.0, 0.0, 2.0, 4.0):
        record = measure(score, calibration, site="Bern")
        assert record["mvi_risk"] == pytest.approx(expit(-0.8 + 0.5 * score), abs=tolerance)
        assert record.policy["calibration"] == method


def test_threshold_is_inclusive() -> None:
    calibration = fitted()
    at = (math.log(0.3 / 0.7) - calibration.curve.intercept) / calibration.curve.slope
    assert measure(at + 1e-9, calibration, site="Bern")["mvi_class"] == "at_risk"
    assert measure(at - 1e-6, calibration, site="Bern")["mvi_class"] == "not_at_risk"


def test_another_site_is_out_of_range() -> None:
    record = measure(0.0, fitted(), site="Basel")
    assert (record.status, record.reason) == (ResultStatus.OUT_OF_MODEL_RANGE, "site_not_calibrated")
    assert record.measurements == ()


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_none_has_no_risk(score: float) -> None:
    assert measure(score, fitted(), site="Bern").reason == "not_finite"


def test_evaluation_on_others() -> None:
    truth, scores, participants = cohort(2, "b")
    record = evaluate(fitted(), truth, scores, participants)
    assert record.status is ResultStatus.OK
    assert record["calibration_slope"] == pytest.approx(1, abs=0.1)
    assert record["calibration_intercept"] == pytest.approx(0, abs=0.1)
    assert record["ece"] < 0.03
    assert record["auc_lower"] < record["auc"] < record["auc_upper"]
    assert record["net_benefit"] > max(record["net_benefit_treat_all"], 0)
    raw = MviCalibration(lambda s: expit(np.asarray(s)), "platt", "Bern", 0.3, frozenset())
    uncalibrated = evaluate(raw, truth, scores, participants)
    assert uncalibrated["auc"] == record["auc"], "ranking is not changed"
    assert uncalibrated["calibration_slope"] == pytest.approx(0.5, abs=0.05)
    assert uncalibrated["brier"] > record["brier"]


def test_who_was_calibrated_on_is_not_evaluated_on() -> None:
    truth, scores, participants = cohort(2, "b")
    record = evaluate(fitted(), truth, scores, [*participants[:-1], "a17"])
    assert record.reason == "not_held_out"


def test_what_is_undefined_has_a_reason() -> None:
    record = evaluate(fitted(), [1, 1], [0.0, 1.0], ["b0", "b1"])
    assert record.measurement("auc").reason == "undefined"
    assert record.measurement("calibration_slope").reason == "one_class"
    assert record["brier"] is not None


@pytest.mark.parametrize(
    ("truth", "scores", "reason"),
    [
        ([1] * 9 + [0] * 11, range(20), "too_few_events"),
        ([1] * 20, range(20), "one_class"),
        ([0, 1] * 10, [3] * 20, "constant_scores"),
        ([0, 1] * 10, [math.nan] * 20, "not_finite"),
        ([0, 2] * 10, range(20), "not_binary"),
    ],
)
def test_what_cannot_be_calibrated_has_a_reason(truth: list[int], scores: list[float], reason: str) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        calibrate(truth, list(scores), [str(n) for n in range(20)], site="Bern", threshold=0.5)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"method": "splines"}, "method"),
        ({"participants": ["x"] * N}, "nobody twice"),
        ({"participants": ["x"]}, "nobody twice"),
    ],
)
def test_wrong_arguments_are_errors(changes: dict[str, object], message: str) -> None:
    truth, scores, participants = cohort(1, "a")
    arguments = {"participants": participants, "site": "Bern", "threshold": 0.3, **changes}
    with pytest.raises(ValueError, match=message):
        calibrate(truth, scores, **arguments)

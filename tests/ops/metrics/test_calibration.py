from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import brier_score_loss

from ops.measure.errors import NotEvaluableError
from ops.metrics.calibration import (
    brier_score,
    calibration_fit,
    decision_curve,
    expected_calibration_error,
    fit_isotonic,
    fit_platt,
    net_benefit,
)

RNG = np.random.default_rng(3)
SCORES = RNG.normal(0, 2, 20000)
TRUTH = RNG.uniform(size=len(SCORES)) < expit(0.7 * SCORES - 0.4)


def test_platt_finds_the_curve_that_made_the_outcomes() -> None:
    found = fit_platt(TRUTH, SCORES)
    assert found.slope == pytest.approx(0.7, abs=0.03)
    assert found.intercept == pytest.approx(-0.4, abs=0.05)


def test_platt_of_separated_classes_is_finite() -> None:
    found = fit_platt([0, 0, 1, 1], [1, 2, 3, 4])
    assert 0 < found([1])[0] < 0.5 < found([4])[0] < 1


def test_isotonic_never_falls_and_is_constant_beyond_its_ends() -> None:
    curve = fit_isotonic(TRUTH, SCORES)
    at = curve(np.linspace(-20, 20, 500))
    assert (np.diff(at) >= 0).all()
    assert at[0] == curve([-1e6])[0]
    assert curve([0.0])[0] == pytest.approx(expit(-0.4), abs=0.05)


def test_calibration_of_what_is_right_and_of_what_is_too_extreme() -> None:
    true = expit(0.7 * SCORES - 0.4)
    right = calibration_fit(TRUTH, true)
    assert (right.slope, right.intercept, right.in_the_large) == pytest.approx((1, 0, 0), abs=0.07)
    extreme = calibration_fit(TRUTH, expit(2 * (0.7 * SCORES - 0.4)))
    assert extreme.slope == pytest.approx(0.5, abs=0.03)
    assert calibration_fit(TRUTH, expit(0.7 * SCORES - 1.4)).in_the_large == pytest.approx(1, abs=0.07)


def test_slope_of_separated_classes_does_not_exist() -> None:
    found = calibration_fit([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9])
    assert math.isnan(found.slope)
    assert math.isfinite(found.in_the_large)


def test_brier_is_scikit_learns() -> None:
    p = expit(SCORES)
    assert brier_score(TRUTH, p) == pytest.approx(brier_score_loss(TRUTH, p))
    assert math.isnan(brier_score([], []))


def test_bins_have_their_upper_edge() -> None:
    """0.5 belongs to the lower of two bins: gaps of 0.5 and 0.4."""
    assert expected_calibration_error([1, 1], [0.5, 0.6], bins=2) == pytest.approx((0.5 + 0.4) / 2)
    assert expected_calibration_error([1, 0], [0.4, 0.4], bins=1) == pytest.approx(0.1)
    assert expected_calibration_error([0, 1], [0.0, 1.0]) == 0
    assert math.isnan(expected_calibration_error([], []))


def test_net_benefit_by_hand() -> None:
    truth, p = [1, 1, 0, 0, 0], [0.9, 0.2, 0.3, 0.25, 0.1]
    assert net_benefit(truth, p, 0.25) == pytest.approx(1 / 5 - 2 / 5 * (1 / 3))
    assert net_benefit(truth, p, 0.95) == 0
    curve = decision_curve(truth, p, [0.25, 0.5])
    assert curve.model[0] == pytest.approx(net_benefit(truth, p, 0.25))
    assert curve.treat_all.tolist() == pytest.approx([2 / 5 - 3 / 5 / 3, 2 / 5 - 3 / 5])


@pytest.mark.parametrize("threshold", [0, 1, -0.1, math.nan])
def test_a_threshold_is_a_risk(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        net_benefit([0, 1], [0.1, 0.2], threshold)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: fit_platt([1, 1], [1, 2]), "one_class"),
        (lambda: fit_isotonic([0, 1], [1, 1]), "constant_scores"),
        (lambda: brier_score([0, 1], [0.1, 1.2]), "not_a_probability"),
        (lambda: calibration_fit([0, 1], [0.0, 0.4]), "probability_at_limit"),
        (lambda: calibration_fit([1, 1], [0.2, 0.4]), "one_class"),
        (lambda: brier_score([0, 1], [0.1, math.nan]), "not_finite"),
        (lambda: expected_calibration_error([0, 3], [0.1, 0.2]), "not_binary"),
    ],
)
def test_bad_input_has_a_reason(call, reason: str) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        call()
    assert caught.value.reason == reason

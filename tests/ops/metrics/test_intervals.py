from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ops.measure.errors import NotEvaluableError
from ops.metrics.intervals import bootstrap, wilson

RNG = np.random.default_rng(1)
VALUES = RNG.normal(3, 1, 60)


def mean_of(values: np.ndarray):
    return lambda rows: float(values[rows].mean())


def test_wilson_of_nine_in_ten() -> None:
    found = wilson(9, 10)
    assert (found.lower, found.upper) == pytest.approx((0.596, 0.982), abs=5e-4)


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (3, 7), (40, 200)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_scipys(k: int, n: int, confidence: float) -> None:
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    found = wilson(k, n, confidence)
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_without_cases_is_undefined() -> None:
    assert math.isnan(wilson(0, 0).lower)
    for k, n in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="successes"):
            wilson(k, n)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_interval_of_a_mean_is_about_two_standard_errors(method: str) -> None:
    found = bootstrap(mean_of(VALUES), np.arange(60), seed=4, method=method)
    error = VALUES.std(ddof=1) / math.sqrt(60)
    assert found.lower == pytest.approx(VALUES.mean() - 1.96 * error, abs=0.08)
    assert found.upper == pytest.approx(VALUES.mean() + 1.96 * error, abs=0.08)
    assert found.estimate == VALUES.mean()
    assert (found.method, found.seed, found.replicates, found.n_degenerate) == (method, 4, 2000, 0)


def test_bca_leans_with_a_skewed_statistic_as_scipys_does() -> None:
    skewed = RNG.exponential(1, 40)
    found = bootstrap(lambda rows: float(skewed[rows].var()), np.arange(40), seed=0, method="bca", replicates=4000)
    theirs = stats.bootstrap((skewed,), np.var, n_resamples=4000, method="BCa", rng=0).confidence_interval
    assert (found.lower, found.upper) == pytest.approx((theirs.low, theirs.high), rel=0.08)


def test_participants_are_drawn_whole() -> None:
    """Ten equal rows of each participant carry no more information than one."""
    repeated = np.repeat(VALUES, 10)
    one, many = (
        bootstrap(mean_of(values), clusters, seed=2)
        for values, clusters in ((VALUES, np.arange(60)), (repeated, np.repeat(np.arange(60), 10)))
    )
    naive = bootstrap(mean_of(repeated), np.arange(600), seed=2)
    assert many.upper - many.lower == pytest.approx(one.upper - one.lower, rel=0.1)
    assert naive.upper - naive.lower < 0.5 * (many.upper - many.lower)
    assert (many.n_clusters, many.n_rows) == (60, 600)


def test_degenerate_replicates_are_left_out_and_counted() -> None:
    truth = np.array([1, 0, 0, 0, 0, 0])

    def share_or_nan(rows: np.ndarray) -> float:
        return float(truth[rows].mean()) if truth[rows].any() else math.nan

    found = bootstrap(share_or_nan, np.arange(6), seed=0)
    assert found.n_degenerate == pytest.approx(2000 * (5 / 6) ** 6, rel=0.1)
    assert found.lower >= 1 / 6


def test_strata_keep_their_sizes() -> None:
    strata = np.repeat([0, 1], [10, 50])
    seen = set()
    bootstrap(lambda rows: seen.add(int((strata[rows] == 0).sum())) or 0.0, np.arange(60), seed=0, strata=strata)
    assert seen == {10}
    with pytest.raises(ValueError, match="two strata"):
        bootstrap(mean_of(VALUES), np.zeros(60), seed=0, strata=strata)


def test_same_seed_same_interval() -> None:
    first, second, other = (bootstrap(mean_of(VALUES), np.arange(60), seed=seed) for seed in (5, 5, 6))
    assert first == second
    assert first != other


def test_undefined_statistic_has_no_interval() -> None:
    found = bootstrap(lambda rows: math.nan, np.arange(5), seed=0)
    assert math.isnan(found.lower)
    assert found.n_degenerate == 2000


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"replicates": 1999}, "replicates"), ({"method": "normal"}, "method"), ({"confidence": 1.0}, "confidence")],
)
def test_wrong_arguments(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap(mean_of(VALUES), np.arange(60), seed=0, **changes)


def test_no_case() -> None:
    with pytest.raises(NotEvaluableError) as caught:
        bootstrap(mean_of(VALUES), [], seed=0)
    assert caught.value.reason == "no_cases"

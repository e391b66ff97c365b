"""Agreement statistics against published and hand-worked values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ops.agreement import RunningLimits, icc_agreement, limits_of_agreement


def test_icc_of_two_judges_by_hand() -> None:
    # Rows 9 2 / 6 1 / 8 4 / 7 1 / 10 5 / 6 2 are judges 1 and 2 of Shrout & Fleiss 1979, Table 2.
    first, second = [9, 6, 8, 7, 10, 6], [2, 1, 4, 1, 5, 2]
    pairs = np.column_stack([first, second]).astype(float)
    grand = pairs.mean()
    total = ((pairs - grand) ** 2).sum()
    rows = 2 * ((pairs.mean(axis=1) - grand) ** 2).sum()
    columns = 6 * ((pairs.mean(axis=0) - grand) ** 2).sum()
    msr, msc, mse = rows / 5, columns / 1, (total - rows - columns) / 5
    assert icc_agreement(first, second) == pytest.approx((msr - mse) / (msr + mse + 2 * (msc - mse) / 6))


def test_icc_punishes_bias_that_correlation_does_not_see() -> None:
    first = np.arange(20.0)
    assert icc_agreement(first, first) == pytest.approx(1.0)
    shifted = icc_agreement(first, first + 10)
    # MSR = 70, MSE = 0, MSC = 1000: 70 / (70 + 2 * 1000 / 20)
    assert shifted == pytest.approx(70 / 170)


def test_icc_is_undefined_without_variation_or_cases() -> None:
    assert math.isnan(icc_agreement([3.0], [3.0]))
    assert math.isnan(icc_agreement([3.0, 3.0], [3.0, 3.0]))
    with pytest.raises(ValueError, match="finite"):
        icc_agreement([1.0, float("nan")], [1.0, 2.0])


@pytest.mark.parametrize("n", [2, 3, 500])
@pytest.mark.parametrize("offset", [0.0, 1e9], ids=["small", "huge"])
def test_limits_of_pairs_one_at_a_time_are_those_of_all_at_once(n: int, offset: float) -> None:
    rng = np.random.default_rng(n)
    first, second = rng.normal(offset, 5, n), rng.normal(2, 3, n)
    running = RunningLimits()
    for a, b in zip(first, second, strict=True):
        running.add(float(a), float(b))
    expected, found = limits_of_agreement(first, second), running.limits()
    assert running.n == n
    assert vars(found) == pytest.approx(vars(expected), rel=1e-6)


def test_limits_of_no_pair_and_of_one_are_not_numbers() -> None:
    running = RunningLimits()
    assert all(math.isnan(value) for value in vars(running.limits()).values())
    running.add(2.0, 5.0)
    assert running.limits().bias == 3.0
    assert math.isnan(running.limits().upper)


def test_limits_of_agreement() -> None:
    limits = limits_of_agreement([0, 0, 0], [1, 2, 3])
    assert limits.bias == 2.0
    assert limits.standard_deviation == 1.0
    assert (limits.lower, limits.upper) == pytest.approx((0.04, 3.96))
    assert math.isnan(limits_of_agreement([1], [2]).upper)
    assert math.isnan(limits_of_agreement([], []).bias)

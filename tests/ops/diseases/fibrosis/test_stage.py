from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.diseases.fibrosis.stage import ENDPOINTS, endpoint_probabilities, metavir_of_ishak, monotone_endpoints
from ops.measure.errors import NotEvaluableError, OutOfModelRangeError

probability = st.floats(0, 1)


def test_tail_sums() -> None:
    found = endpoint_probabilities([0.1, 0.2, 0.3, 0.25, 0.15])
    assert found == pytest.approx({">=F2": 0.7, ">=F3": 0.4, "F4": 0.15})


@given(st.lists(st.floats(1e-6, 1), min_size=5, max_size=5))
def test_tail_sums_are_monotone(weights: list[float]) -> None:
    found = list(endpoint_probabilities([w / sum(weights) for w in weights]).values())
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    "stages",
    [[0.5, 0.5], [0.2] * 6, [0.3] * 5, [0.5, 0.5, 0.1, -0.1, 0.0], [math.nan, 0.25, 0.25, 0.25, 0.25], []],
)
def test_what_is_no_distribution(stages: list[float]) -> None:
    with pytest.raises(NotEvaluableError) as error:
        endpoint_probabilities(stages)
    assert error.value.reason == "not_a_distribution"


def heads(*values: float) -> dict[str, float]:
    return dict(zip(ENDPOINTS, values, strict=True))


def test_heads_in_order_stay_as_they_are() -> None:
    found = monotone_endpoints(heads(0.9, 0.9, 0.1))
    assert found.probability == heads(0.9, 0.9, 0.1)
    assert found.violations == ()


def test_violators_are_pooled_and_reported() -> None:
    found = monotone_endpoints(heads(0.5, 0.7, 0.1))
    assert found.probability == pytest.approx(heads(0.6, 0.6, 0.1))
    assert [(a, b) for a, b, _ in found.violations] == [(">=F2", ">=F3")]
    assert found.violations[0][2] == pytest.approx(0.2)
    # Two violations pool all three: their mean.
    assert monotone_endpoints(heads(0.1, 0.2, 0.6)).probability == pytest.approx(heads(0.3, 0.3, 0.3))


@given(probability, probability, probability)
def test_heads_become_monotone_and_keep_their_sum(a: float, b: float, c: float) -> None:
    found = monotone_endpoints(heads(a, b, c))
    values = list(found.probability.values())
    assert all(x >= y - 1e-12 for x, y in pairwise(values))
    assert sum(values) == pytest.approx(a + b + c)
    assert bool(found.violations) == (b > a or c > b)


@pytest.mark.parametrize("bad", [{}, {">=F2": 0.5}, heads(0.5, 1.1, 0.2), heads(0.5, math.nan, 0.2)])
def test_what_is_no_probability(bad: dict[str, float]) -> None:
    with pytest.raises(NotEvaluableError) as error:
        monotone_endpoints(bad)
    assert error.value.reason == "not_a_probability"


def test_ishak() -> None:
    assert [metavir_of_ishak(stage) for stage in range(7)] == ["F0", "F1", "F1", "F2", "F3", "F4", "F4"]
    for bad in (-1, 7, 2.5):
        with pytest.raises(OutOfModelRangeError):
            metavir_of_ishak(bad)  # type: ignore[arg-type]

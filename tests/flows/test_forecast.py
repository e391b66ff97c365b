"""Forecasts: what past results say, how sure it is, and that what is unknown is not zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from flows.forecast import Estimate, Forecast, cost, forecast, summarise
from flows.plan import Overview
from flows.programmes.programme import Programme
from storage.changes import StageTimes
from tasks.stage import Stage
from tests.flows.mean_programme import PROGRAMME

LOAD, MEASURE, PUBLISH = PROGRAMME.stages
ON_GPU = replace(PROGRAMME, stages=(LOAD, replace(MEASURE, needs="gpu"), PUBLISH))
VERSIONS = {"load": "1", "measure": "1", "publish": "1"}
RATES = {"gpu": 4.0, "cpu": 0.5}


def times(load: float, measure: float, publish: float = 0.0, version: str = "1") -> StageTimes:
    seconds = {"load": load, "measure": measure, "publish": publish}
    return StageTimes({**VERSIONS, "measure": version}, seconds)


def expected(programme: Programme, cases: int, *history: StageTimes) -> Forecast:
    found = forecast(programme, cases, history)
    assert found is not None
    return found


def test_hours_are_apart_by_what_the_stages_need() -> None:
    found = expected(ON_GPU, 1800, times(1.0, 3.0, 1.0), times(3.0, 5.0, 1.0))
    assert found.hours["gpu"].expected == pytest.approx(1800 * 4.0 / 3600)
    assert found.hours["cpu"].expected == pytest.approx(1800 * 3.0 / 3600)
    assert (found.cases, found.history, found.unmeasured) == (1800, 2, ())


def test_a_case_that_ended_early_took_no_time_in_later_stages() -> None:
    ended = StageTimes(VERSIONS, {"load": 2.0})
    found = expected(ON_GPU, 3600, times(2.0, 4.0), ended)
    assert found.hours["gpu"].expected == pytest.approx(2.0)


def test_without_past_results_nothing_is_said() -> None:
    assert forecast(PROGRAMME, 10, []) is None
    assert summarise(Overview("mean", 10), PROGRAMME, [], RATES)["forecast"] is None
    assert summarise(Overview("mean", 10), PROGRAMME, [], RATES)["cost"] is None


def test_one_past_result_gives_no_interval() -> None:
    assert expected(PROGRAMME, 3600, times(1.0, 1.0)).hours["cpu"] == Estimate(2.0, None, None)


def test_results_of_the_present_version_are_preferred_stage_by_stage() -> None:
    newer = replace(PROGRAMME, stages=(LOAD, replace(MEASURE, version="2"), PUBLISH))
    old = [times(1.0, 10.0), times(1.0, 10.0)]
    assert expected(newer, 3600, *old).hours["cpu"].expected == pytest.approx(11.0), "better than nothing"
    mixed = [*old, times(3.0, 20.0, version="2"), times(3.0, 20.0, version="2")]
    assert expected(newer, 3600, *mixed).hours["cpu"].expected == pytest.approx(2.0 + 20.0)


def test_a_stage_without_history_is_named_and_not_taken_for_nothing() -> None:
    longer = replace(PROGRAMME, stages=(*PROGRAMME.stages, Stage("draw", "1", MEASURE.function)))
    found = expected(longer, 3600, times(1.0, 1.0), times(1.0, 1.0))
    assert found.unmeasured == ("draw",)
    assert found.hours["cpu"].expected == pytest.approx(2.0)


@pytest.mark.parametrize(("past", "cases"), [(5, 1), (30, 200), (400, 50)])
def test_the_interval_holds_in_95_of_100_forecasts(past: int, cases: int) -> None:
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(400):
        history = [StageTimes({"load": "1"}, {"load": float(seconds)}) for seconds in rng.normal(30, 8, past)]
        hours = expected(replace(PROGRAMME, stages=(LOAD,)), cases, *history).hours["cpu"]
        truth = rng.normal(30, 8, cases).sum() / 3600
        assert hours.low is not None
        assert hours.high is not None
        inside += hours.low <= truth <= hours.high
    # 380 expected with a standard deviation of 4.4; a factor √N instead of √(N + N²/n) would hold in fewer than 300.
    assert 365 <= inside <= 393


def test_cost_is_hours_by_their_rates() -> None:
    found = expected(ON_GPU, 3600, times(1.0, 3.0), times(3.0, 5.0))
    price = cost(found, RATES)
    assert price is not None
    assert price.expected == pytest.approx(4.0 * 4.0 + 2.0 * 0.5)
    assert price.low is not None
    assert price.high is not None
    assert price.low < price.expected < price.high


@pytest.mark.parametrize("rates", [{"gpu": 4.0, "cpu": None}, {"gpu": None, "cpu": 0.5}])
def test_without_a_rate_that_is_needed_no_cost_is_stated(rates: Mapping[str, float | None]) -> None:
    found = expected(ON_GPU, 10, times(1.0, 3.0))
    assert cost(found, rates) is None  # type: ignore[arg-type]


def test_a_rate_of_what_is_not_used_is_not_needed() -> None:
    assert cost(expected(PROGRAMME, 3600, times(1.0, 1.0)), {"gpu": None, "cpu": 0.5}) == Estimate(1.0, None, None)


def test_the_lower_end_is_never_negative() -> None:
    hours = expected(PROGRAMME, 1, times(0.1, 0.0), times(50.0, 0.0)).hours["cpu"]
    assert hours.low == 0.0

"""What recomputing takes, from how long the stages of past results took."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from scipy.stats import t as student

from flows.plan import Overview
from flows.programmes.programme import Programme
from storage.changes import StageTimes
from tasks.stage import Placement, Stage

HISTORY = 2000
"""Latest results that a forecast goes by: enough for a mean within 5 % where times vary as much as they are long."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A quantity with its 95 % prediction interval; the interval is None where a single past result is all there is."""

    expected: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Forecast:
    """What computing some cases is expected to take.

    Attributes
    ----------
    cases
        How many are to be computed.
    history
        Past results it goes by.
    hours
        By what the stages need: hours of ``gpu``, and of ``cpu`` (of one core; a worker computes a case on each). A
        stage that needs a GPU counts there even where it ran without one.
    unmeasured
        Stages that no past result had; their hours come on top.
    """

    cases: int
    history: int
    hours: Mapping[Placement, Estimate]
    unmeasured: tuple[str, ...] = ()


def forecast(programme: Programme, cases: int, history: Sequence[StageTimes]) -> Forecast | None:
    """Expect of each stage what it took on past results, of its present version where there are any.

    Parameters
    ----------
    programme
        Its stages are forecast.
    cases
        How many are to be computed.
    history
        Latest results, as of `storage.changes.Changes.stage_times`. A stage that a result did not come to, because it
        had no answer before, took no time; the next cases are expected to be as mixed.

    Returns
    -------
    Forecast or None
        None when there are no past results.

    Notes
    -----
    With mean x̄ and standard deviation s of n past cases, N further ones take N·x̄ ± t·s·√(N + N²/n), t being Student's
    quantile for n − 1 degrees of freedom: the prediction interval of a sum (Hahn & Meeker 1991, Statistical Intervals),
    close for times that are not normal by the central limit theorem. Half-widths of stages are added, as if a case that
    is slow in one were slow in all, which is nearly so: a larger volume is.
    """
    if not history:
        return None
    seconds = {stage.name: _seconds(stage, history) for stage in programme.stages}
    hours = {}
    for placement in get_args(Placement):
        samples = [seconds[stage.name] for stage in programme.stages if stage.needs == placement]
        hours[placement] = _total([sample for sample in samples if sample], cases)
    unmeasured = tuple(name for name, sample in seconds.items() if not sample)
    return Forecast(cases, len(history), hours, unmeasured)


def _seconds(stage: Stage, history: Sequence[StageTimes]) -> list[float]:
    """Seconds of a stage on past cases: of this version, else of any; empty when there was no such stage."""
    had = [times for times in history if stage.name in times.versions]
    same = [times for times in had if times.versions[stage.name] == stage.version]
    return [times.seconds.get(stage.name, 0.0) for times in same or had]


def _total(samples: Sequence[Sequence[float]], cases: int) -> Estimate:
    """Hours that ``cases`` take in all stages of one placement, from the seconds of each."""
    expected = cases * sum(map(statistics.fmean, samples)) / 3600
    if any(len(sample) < 2 for sample in samples):
        return Estimate(expected, None, None)
    half = sum(_half_width(sample, cases) for sample in samples) / 3600
    return Estimate(expected, max(0.0, expected - half), expected + half)


def _half_width(sample: Sequence[float], cases: int) -> float:
    n = len(sample)
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, n - 1))
    return quantile * statistics.stdev(sample) * math.sqrt(cases + cases**2 / n)


def cost(expected: Forecast, rates: Mapping[Placement, float | None]) -> Estimate | None:
    """Cost of a forecast; None when a rate is not given of something that it takes.

    Parameters
    ----------
    expected
        The forecast.
    rates
        Cost of an hour, in one currency.
    """
    used = {placement: hours for placement, hours in expected.hours.items() if hours.expected > 0}
    priced = [(hours, rate) for placement, hours in used.items() if (rate := rates[placement]) is not None]
    if len(priced) < len(used):
        return None
    return Estimate(
        sum(hours.expected * rate for hours, rate in priced),
        _sum(hours.low and hours.low * rate for hours, rate in priced),
        _sum(hours.high and hours.high * rate for hours, rate in priced),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    numbers = list(values)
    return None if None in numbers else sum(number for number in numbers if number is not None)


def summarise(
    found: Overview, programme: Programme, history: Sequence[StageTimes], rates: Mapping[Placement, float | None]
) -> dict[str, Any]:
    """Return a plan with its forecast as `popscan plan --json` prints it.

    Returns
    -------
    dict
        ``forecast`` is None without past results; ``cost`` without the rates it takes.
    """
    expected = forecast(programme, found.cases, history)
    price = cost(expected, rates) if expected else None
    return {
        "programme": found.programme,
        "studies": sum(found.counts.values()),
        "counts": dict(found.counts),
        "to_compute": found.cases,
        "refused": found.refused,
        "stale_because": dict(found.reasons.most_common()),
        "forecast": asdict(expected) if expected else None,
        "cost": asdict(price) if price else None,
    }

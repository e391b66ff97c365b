"""Control charts of a stream of cases: has the level of a measurement, or the share of refusals, moved?

A chart is a small frozen state that takes one value after another; nothing of the stream is kept. The first `BASELINE`
values say what is usual, the later ones are compared with them:

`LevelChart`
    An EWMA (Roberts 1959 Technometrics 1:239 [R]) finds small lasting shifts, a two-sided tabular CUSUM (Page 1954
    Biometrika 41:100 [R]) larger ones.
`ShareChart`
    A Bernoulli CUSUM (Reynolds & Stoumbos 1999 J Qual Technol 31:87 [R]) of yes-or-no values, for a rising share.

A chart out of control pauses a lane without asking anybody, so the constants are chosen for false alarms that are rare
(one in more than 20,000 cases a chart, with the baseline's own error counted in) at the price of finding a shift by one
standard deviation in some thirty cases rather than ten. ``docs/control-charts.md`` has the table of run lengths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

# Values of the baseline: two weeks of a scanner with ten cases a day. With 200 the mean is known better (the error
# of 100 is 0.1 SD), but a lane would be unwatched for twice as long.
BASELINE = 100

# Weight of the newest value. Small weights average over skewness: with 0.05 even an exponential distribution has
# nearly the run lengths of a normal one (Borror, Montgomery & Runger 1999 J Qual Technol 31:309 [R]).
EWMA_WEIGHT = 0.05

# Limit of the EWMA in its standard deviations, and allowance and limit of the CUSUM in those of a value.
EWMA_LIMIT = 4.5
CUSUM_ALLOWANCE = 0.75
CUSUM_LIMIT = 10.0

# Standardised values are cut here, so that no single outlier is a shift (Winsorised CUSUM: Hawkins 1993
# J Qual Technol 25:248 [R]); of normal values it touches 0.3 %.
OUTLIER = 3.0

# Shares: the CUSUM of log-likelihood ratios is tuned to odds this many times those of the baseline.
ODDS_RATIO = 2.0
# Its in-control run length is at least e^limit, whatever the share (Lorden 1971 Ann Math Stat 42:1897 [R]): 3,000 were
# the true share at the limit that stands for it, and far longer as a rule.
SHARE_LIMIT = 8.0
# The one-sided 95 % limit of the baseline's share stands for it: 100 cases know a share to a few per cent only, and a
# baseline without any refusal has an upper limit of 2.6 %, so its first refusal is no alarm.
SHARE_CONFIDENCE = 1.645


@dataclass(frozen=True)
class LevelChart:
    """EWMA and CUSUM of a number, both of values standardised by the baseline.

    Attributes
    ----------
    count, mean, squares
        Of the baseline: number of values, their mean, and their sum of squared deviations (Welford 1962
        Technometrics 4:419 [R]), in the unit of the values.
    watched
        Values since the baseline was complete, or since `cleared`.
    ewma, high, low
        The EWMA, and the upper and lower CUSUM, in standard deviations of the baseline.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    watched: int = 0
    ewma: float = 0.0
    high: float = 0.0
    low: float = 0.0

    @property
    def has_baseline(self) -> bool:
        """Whether there are `BASELINE` values that vary; as long as all are equal there is no scale to judge by."""
        return self.count >= BASELINE and self.squares > 0

    @property
    def sd(self) -> float:
        """Standard deviation of the baseline (n − 1), 0 below two values."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0

    @property
    def ewma_sd(self) -> float:
        """Standard deviation of `ewma` after so many values, that of the baseline's mean included.

        √(w / (2 − w) · (1 − (1 − w)^2t) + 1 / m) of weight w, t values watched and m of the baseline (Lucas & Saccucci
        1990 Technometrics 32:1 [R]; the last term: Jones, Champ & Rigdon 2001 Technometrics 43:156 [R]).
        """
        settled = 1 - (1 - EWMA_WEIGHT) ** (2 * self.watched)
        return math.sqrt(EWMA_WEIGHT / (2 - EWMA_WEIGHT) * settled + 1 / self.count)

    def update(self, value: float) -> LevelChart:
        """Take one value.

        Raises
        ------
        ValueError
            It is not finite.
        """
        if not math.isfinite(value):
            raise ValueError(f"a chart takes finite values, got {value}: leave out what was not measured")
        if not self.has_baseline:
            return self._learned(value)
        z = min(max((value - self.mean) / self.sd, -OUTLIER), OUTLIER)
        return replace(
            self,
            watched=self.watched + 1,
            ewma=self.ewma + EWMA_WEIGHT * (z - self.ewma),
            high=max(0.0, self.high + z - CUSUM_ALLOWANCE),
            low=max(0.0, self.low - z - CUSUM_ALLOWANCE),
        )

    def _learned(self, value: float) -> LevelChart:
        count, deviation = self.count + 1, value - self.mean
        mean = self.mean + deviation / count
        return replace(self, count=count, mean=mean, squares=self.squares + deviation * (value - mean))

    def alarm(self, name: str) -> str:
        """Say for people what is out of control, ``""`` when nothing is.

        Parameters
        ----------
        name
            What is charted, e.g. ``noise_hu``.
        """
        if not self.watched:
            return ""
        cusum = self.high if self.high >= self.low else -self.low
        ewma = self.ewma / self.ewma_sd
        if abs(ewma) <= EWMA_LIMIT and abs(cusum) <= CUSUM_LIMIT:
            return ""
        by_ewma = abs(ewma) / EWMA_LIMIT >= abs(cusum) / CUSUM_LIMIT
        told = (
            f"EWMA {ewma:+.1f} of limit {EWMA_LIMIT:g}" if by_ewma else f"CUSUM {cusum:+.1f} of limit {CUSUM_LIMIT:g}"
        )
        level = self.mean + self.ewma * self.sd
        return (
            f"{name} {'rose' if (ewma if by_ewma else cusum) > 0 else 'fell'}: mean of late {level:.3g}, "
            f"baseline {self.mean:.3g} ± {self.sd:.2g} ({told}, {self.watched} cases)"
        )

    def cleared(self) -> LevelChart:
        """Begin to watch anew against the same baseline; one that is not complete goes on."""
        return replace(self, watched=0, ewma=0.0, high=0.0, low=0.0)


@dataclass(frozen=True)
class ShareChart:
    """Bernoulli CUSUM for a rising share of yes among yes-or-no values. That refusals get fewer is no reason to pause.

    Attributes
    ----------
    count, events
        Of the baseline: number of values, and how many were yes.
    watched
        Values since the baseline was complete, or since `cleared`.
    ewma
        Share of late: EWMA that begins at the baseline's share.
    cusum
        CUSUM of log-likelihood ratios of the higher share against the baseline's upper limit.
    """

    count: int = 0
    events: int = 0
    watched: int = 0
    ewma: float = 0.0
    cusum: float = 0.0

    @property
    def has_baseline(self) -> bool:
        """Whether there are `BASELINE` values."""
        return self.count >= BASELINE

    def update(self, value: float) -> ShareChart:
        """Take one value: 1 or True for yes, 0 or False for no.

        Raises
        ------
        ValueError
            It is neither.
        """
        if value not in (0, 1):
            raise ValueError(f"a chart of a share takes 0 or 1, got {value}")
        event = bool(value)
        if not self.has_baseline:
            count, events = self.count + 1, self.events + event
            return replace(self, count=count, events=events, ewma=events / count)
        evidence = log_likelihood_ratio(event, upper_limit(self.events, self.count), ODDS_RATIO)
        return replace(
            self,
            watched=self.watched + 1,
            ewma=self.ewma + EWMA_WEIGHT * (event - self.ewma),
            cusum=max(0.0, self.cusum + evidence),
        )

    def alarm(self, name: str) -> str:
        """Say for people that the share rose, ``""`` when it did not; ``name`` is what yes means, e.g. refused."""
        if self.cusum <= SHARE_LIMIT:
            return ""
        return (
            f"{name} rose: {self.ewma:.0%} of late, baseline {self.events} of {self.count} "
            f"(CUSUM {self.cusum:+.1f} of limit {SHARE_LIMIT:g}, {self.watched} cases)"
        )

    def cleared(self) -> ShareChart:
        """Begin to watch anew against the same baseline; one that is not complete goes on."""
        return replace(self, watched=0, ewma=self.events / self.count if self.count else 0.0, cusum=0.0)


Chart = LevelChart | ShareChart

_KINDS: dict[str, type[LevelChart] | type[ShareChart]] = {"level": LevelChart, "share": ShareChart}


def upper_limit(events: int, count: int) -> float:
    """Upper limit of a share, `SHARE_CONFIDENCE` standard errors up (Wilson 1927 J Am Stat Assoc 22:209 [R])."""
    z = SHARE_CONFIDENCE
    reach = z * math.sqrt(events * (count - events) / count + z * z / 4)
    return min(1.0, (events + z * z / 2 + reach) / (count + z * z))


def log_likelihood_ratio(event: bool, share: float, odds_ratio: float) -> float:
    """Evidence of one value for odds ``odds_ratio`` times those of ``share``: ln(p₁ / p₀), or ln((1 − p₁) / (1 − p₀)).

    Written with the ratio, p₁ = r p₀ / (1 − p₀ + r p₀), because that is finite for a share of 1, too.
    """
    return (math.log(odds_ratio) if event else 0.0) - math.log(1 - share + odds_ratio * share)


def chart_to_dict(chart: Chart) -> dict[str, Any]:
    """JSON-able state of a chart."""
    return {"kind": "level" if isinstance(chart, LevelChart) else "share", **asdict(chart)}


def chart_from_dict(state: Mapping[str, Any]) -> Chart:
    """Chart of a state made by `chart_to_dict`.

    Raises
    ------
    KeyError, TypeError
        It was not.
    """
    fields = dict(state)
    return _KINDS[fields.pop("kind")](**fields)

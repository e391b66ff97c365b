"""Confidence intervals: bootstrap over participants, Wilson's for proportions (SPEC §12.5).

An interval that does not exist has NaN for bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from ops.measure.errors import NotEvaluableError
from ops.volume import FloatArray

IntArray = npt.NDArray[np.int64]
BootstrapMethod = Literal["percentile", "bca"]
Statistic = Callable[[IntArray], float]

MIN_REPLICATES = 2000


@dataclass(frozen=True)
class Interval:
    """Lower and upper bound; NaN when there is none."""

    lower: float
    upper: float


UNDEFINED = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class BootstrapInterval(Interval):
    """Interval by resampling, and what has to be reported with it.

    Attributes
    ----------
    estimate
        The statistic of all rows; NaN when undefined.
    method, confidence, replicates, seed
        As asked for.
    n_degenerate
        Replicates in which the statistic was undefined (NaN); they are left out of the interval.
    n_clusters, n_rows
        Participants resampled, and rows (views, lesions …) that belong to them.
    """

    estimate: float
    method: BootstrapMethod
    confidence: float
    replicates: int
    seed: int
    n_degenerate: int
    n_clusters: int
    n_rows: int


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (1927, J Am Stat Assoc 22:209 [R]; 9 of 10 → .596–.982 [M]).

    NaN bounds for n = 0.

    Raises
    ------
    ValueError
        Not 0 ≤ successes ≤ n, or a confidence outside (0, 1).
    """
    _require_confidence(confidence)
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n = {n}, got {successes}")
    if n == 0:
        return UNDEFINED
    z = float(ndtri((1 + confidence) / 2))
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Exactly 0 and 1 at the ends, where rounding would leave a trace.
    lower = 0.0 if successes == 0 else (centre - half) / scale
    upper = 1.0 if successes == n else (centre + half) / scale
    return Interval(lower, upper)


def bootstrap(
    statistic: Statistic,
    clusters: npt.ArrayLike,
    *,
    seed: int,
    replicates: int = MIN_REPLICATES,
    method: BootstrapMethod = "percentile",
    confidence: float = 0.95,
    strata: npt.ArrayLike | None = None,
) -> BootstrapInterval:
    """Confidence interval of any statistic by drawing whole clusters (participants) with replacement.

    Efron 1979, Ann Stat 7:1 [R]; BCa: Efron 1987, J Am Stat Assoc 82:171 [R], its acceleration by leaving out one
    cluster at a time.

    Parameters
    ----------
    statistic
        Called with the numbers of the rows in a resample ``(k,)`` int64, repeated as often as drawn; returns NaN
        where it is undefined.
    clusters
        ``(n,)``, the participant of each row: rows of one participant are drawn together.
    seed
        Of the random numbers; the same one gives the same interval.
    replicates
        At least 2000.
    method
        ``percentile`` (default), or ``bca`` for skewed statistics.
    strata
        ``(n,)``, the stratum of each row, the same for all rows of a cluster: give it only when participants were
        sampled by strata; then as many are drawn from each as there are.

    Raises
    ------
    ValueError
        Fewer replicates, an unknown method, a confidence outside (0, 1), or a cluster in two strata.
    NotEvaluableError
        ``no_cases`` without a row.
    """
    _require_confidence(confidence)
    if replicates < MIN_REPLICATES:
        raise ValueError(f"replicates must be at least {MIN_REPLICATES}, got {replicates}")
    if method not in ("percentile", "bca"):
        raise ValueError(f"method must be 'percentile' or 'bca', got {method!r}")
    rows = _Rows(clusters, strata)
    estimate = statistic(np.arange(rows.n))
    values = np.array([statistic(sample) for sample in rows.resamples(replicates, np.random.default_rng(seed))])
    usable = values[~np.isnan(values)]
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca" and len(usable):
        jackknife = np.array([statistic(rows.without(cluster)) for cluster in range(rows.n_clusters)])
        tails = _bca_tails(tails, usable, estimate, jackknife[~np.isnan(jackknife)])
    defined = len(usable) and not math.isnan(estimate) and not np.isnan(tails).any()
    lower, upper = np.quantile(usable, tails) if defined else (math.nan, math.nan)
    return BootstrapInterval(
        lower=float(lower),
        upper=float(upper),
        estimate=float(estimate),
        method=method,
        confidence=confidence,
        replicates=replicates,
        seed=seed,
        n_degenerate=replicates - len(usable),
        n_clusters=rows.n_clusters,
        n_rows=rows.n,
    )


def _bca_tails(tails: FloatArray, usable: FloatArray, estimate: float, jackknife: FloatArray) -> FloatArray:
    """Quantiles of the replicates that bound the interval, corrected for bias and acceleration."""
    # Half of the ties count as below: discrete statistics repeat the estimate often.
    below = ((usable < estimate).sum() + 0.5 * (usable == estimate).sum()) / len(usable)
    bias = ndtri(below)
    away = jackknife.mean() - jackknife if len(jackknife) else np.zeros(0)
    spread = (away**2).sum()
    if not (np.isfinite(bias) and spread > 0):
        return np.full(2, np.nan)
    acceleration = (away**3).sum() / (6 * spread**1.5)
    z = bias + ndtri(tails)
    return np.asarray(ndtr(bias + z / (1 - acceleration * z)), dtype=np.float64)


class _Rows:
    """Rows sorted by cluster, so that a resample of clusters is gathered without a loop over them."""

    def __init__(self, clusters: npt.ArrayLike, strata: npt.ArrayLike | None) -> None:
        names = np.asarray(clusters)
        self.n = len(names)
        if self.n == 0:
            raise NotEvaluableError("no_cases", "there is no case to resample")
        _, cluster = np.unique(names, return_inverse=True)
        self._order = np.argsort(cluster, kind="stable")
        self._size = np.bincount(cluster)
        self._start = np.cumsum(self._size) - self._size
        self.n_clusters = len(self._size)
        self._strata = [np.arange(self.n_clusters)] if strata is None else self._members(np.asarray(strata), cluster)

    def _members(self, strata: npt.NDArray[np.generic], cluster: IntArray) -> list[IntArray]:
        pairs = np.unique(np.stack([cluster, np.unique(strata, return_inverse=True)[1]]), axis=1)
        if pairs.shape[1] > self.n_clusters:
            raise ValueError("a cluster has rows in two strata")
        return [pairs[0, pairs[1] == stratum] for stratum in np.unique(pairs[1])]

    def resamples(self, n: int, rng: np.random.Generator) -> Iterator[IntArray]:
        for _ in range(n):
            yield self._rows(np.concatenate([rng.choice(members, len(members)) for members in self._strata]))

    def without(self, cluster: int) -> IntArray:
        return self._rows(np.delete(np.arange(self.n_clusters), cluster))

    def _rows(self, clusters: IntArray) -> IntArray:
        size = self._size[clusters]
        shift = self._start[clusters] - (np.cumsum(size) - size)
        return np.asarray(self._order[np.repeat(shift, size) + np.arange(size.sum())])


def _require_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")

"""Agreement of two readings of the same cases: intraclass correlation, limits of agreement.

For classes see `ops.metrics.classification`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# 95 % of a normal distribution lie within 1.96 standard deviations.
LIMITS_FACTOR = 1.96


@dataclass(frozen=True)
class LimitsOfAgreement:
    """Bland and Altman's bias and 95 % limits (Lancet 1986;327:307 [R]); differences are second minus first."""

    bias: float
    standard_deviation: float
    lower: float
    upper: float


def _paired(first: npt.ArrayLike, second: npt.ArrayLike) -> npt.NDArray[np.float64]:
    pairs = np.column_stack([np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)])
    if not np.isfinite(pairs).all():
        raise ValueError("readings must be finite; leave out cases that one of the two did not evaluate")
    return pairs


def icc_agreement(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """ICC(A,1) = ICC(2,1): two-way random effects, absolute agreement, single reading.

    (MSR − MSE) / (MSR + (k − 1) MSE + k (MSC − MSE) / n) with k = 2 readings of n cases (Shrout & Fleiss 1979
    Psychol Bull 86:420; McGraw & Wong 1996 Psychol Methods 1:30 [R]).

    Parameters
    ----------
    first, second
        ``(n,)`` readings.

    Returns
    -------
    float
        NaN for fewer than two cases, or when nothing varies.
    """
    pairs = _paired(first, second)
    n, k = pairs.shape
    if n < 2:
        return float("nan")
    mean = pairs.mean()
    by_case, by_reading = pairs.mean(axis=1), pairs.mean(axis=0)
    rows = k * ((by_case - mean) ** 2).sum() / (n - 1)
    columns = n * ((by_reading - mean) ** 2).sum() / (k - 1)
    residual = pairs - by_case[:, None] - by_reading[None, :] + mean
    error = (residual**2).sum() / ((n - 1) * (k - 1))
    denominator = rows + (k - 1) * error + k * (columns - error) / n
    return float((rows - error) / denominator) if denominator > 0 else float("nan")


def limits_of_agreement(first: npt.ArrayLike, second: npt.ArrayLike) -> LimitsOfAgreement:
    """Bias, SD and 95 % limits of ``second - first``; SD and limits are NaN for fewer than two cases."""
    pairs = _paired(first, second)
    difference = pairs[:, 1] - pairs[:, 0]
    bias = float(difference.mean()) if len(difference) else float("nan")
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else float("nan")
    return LimitsOfAgreement(bias, spread, bias - LIMITS_FACTOR * spread, bias + LIMITS_FACTOR * spread)


class RunningLimits:
    """`limits_of_agreement` of pairs that come one at a time, in constant memory (Welford 1962 Technometrics 4:419)."""

    def __init__(self) -> None:
        self.n, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, first: float, second: float) -> None:
        """Take in one case that both readings evaluated."""
        self.n += 1
        from_old_mean = second - first - self._mean
        self._mean += from_old_mean / self.n
        self._squares += from_old_mean * (second - first - self._mean)

    def limits(self) -> LimitsOfAgreement:
        """Bias, SD and 95 % limits so far; what takes more cases than there are is NaN."""
        bias = self._mean if self.n else float("nan")
        spread = math.sqrt(self._squares / (self.n - 1)) if self.n > 1 else float("nan")
        return LimitsOfAgreement(bias, spread, bias - LIMITS_FACTOR * spread, bias + LIMITS_FACTOR * spread)

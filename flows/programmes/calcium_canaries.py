"""Canaries of the calcium programme: which participants are simulated, and what their scores must be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flows.programmes.programme import CanarySet
from ops.diseases.calcium.scores import category
from tasks.simulate import simulate_study

LOG_TOLERANCE = 0.5
"""Most that log(1 + score) may be off: a factor of 1.65. Of the 40 simulated participants of docs/calcium.md 37 are
within it (standard deviation 0.32, which is what its ICC of log(1 + score), 0.990, says too); the canaries are among
them with errors of at most 0.05. So scores halved or doubled (0.69) are noticed whatever their category."""


def true_score(truth: Mapping[str, Any]) -> float:
    """Total Agatston score of a simulated participant."""
    return float(truth["agatston"]["total"])


def judge(expected: float, found: float) -> str | None:
    """Say what is wrong with a score; None when it has the category of the true one and is near it.

    Zero is a category of its own, so zero must be found as zero, and nothing else may be.
    """
    if category(found) != category(expected):
        return f"category {category(found)} in place of {category(expected)}"
    error = math.log1p(found) - math.log1p(expected)
    if abs(error) > LOG_TOLERANCE:
        return f"log(1 + score) is off by {error:+.2f}, tolerated is {LOG_TOLERANCE:g}"
    return None


CANARIES = CanarySet(
    seed=2026,
    # Far from the edges of their categories; no calcium in JPEG 2000 at 3 mm, one artery uncompressed at 2.5 mm, all
    # four arteries in JPEG-LS at 3 mm. Chosen because they come out right: they measure change, not accuracy.
    participants={"zero": 28, "mid": 1, "high": 11},
    simulate=simulate_study,
    measurement="agatston_total",
    truth=true_score,
    judge=judge,
)

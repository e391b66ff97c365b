"""Fibrosis stages from a model's output: endpoints by tail sums, binary heads made monotone (SPEC §4).

Stages are METAVIR F0–F4: none, portal, few septa, many septa, cirrhosis. Endpoints: ≥F2 significant, ≥F3 advanced,
F4 cirrhosis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.optimize import isotonic_regression

from ops.measure.errors import NotEvaluableError, OutOfModelRangeError

STAGES = ("F0", "F1", "F2", "F3", "F4")
ENDPOINTS = (">=F2", ">=F3", "F4")
# Probabilities in float32 sum to 1 within this.
SUM_TOLERANCE = 1e-4

# Conventional, not exact: Ishak's scale has other definitions [R].
_METAVIR_OF_ISHAK = ("F0", "F1", "F1", "F2", "F3", "F4", "F4")


@dataclass(frozen=True)
class MonotoneEndpoints:
    """Endpoint probabilities that fall with the stage, and what had to be changed for it.

    Attributes
    ----------
    probability
        Endpoint → probability; a later endpoint is never more probable than an earlier one.
    violations
        Neighbouring endpoints of the heads that rose, as ``(earlier, later, rise)``.
    """

    probability: dict[str, float]
    violations: tuple[tuple[str, str, float], ...]


def endpoint_probabilities(stages: Sequence[float]) -> dict[str, float]:
    """P(≥F2), P(≥F3) and P(F4) as tail sums of P(F0) … P(F4); monotone by construction (SPEC §4).

    Raises
    ------
    NotEvaluableError
        ``not_a_distribution``: not five probabilities, or their sum is not 1. They are not rescaled: a model that does
        not sum to 1 is broken.
    """
    if len(stages) != len(STAGES) or not all(_is_probability(p) for p in stages):
        detail = f"five probabilities P(F0) … P(F4) are needed, got {list(stages)}"
        raise NotEvaluableError("not_a_distribution", detail)
    if abs(math.fsum(stages) - 1) > SUM_TOLERANCE:
        raise NotEvaluableError("not_a_distribution", f"P(F0) … P(F4) sum to {math.fsum(stages):.6g}, not to 1")
    return {endpoint: min(1.0, math.fsum(stages[first:])) for first, endpoint in enumerate(ENDPOINTS, start=2)}


def monotone_endpoints(heads: Mapping[str, float]) -> MonotoneEndpoints:
    """Make the probabilities of three binary heads monotone by isotonic regression across the endpoints (SPEC §4).

    Least squares with equal weights (pool adjacent violators): heads that are in order stay exactly as they are.

    Parameters
    ----------
    heads
        Probability of each of `ENDPOINTS`.

    Raises
    ------
    NotEvaluableError
        ``not_a_probability``: an endpoint is absent or unknown, or a value is not within 0–1.
    """
    if set(heads) != set(ENDPOINTS) or not all(_is_probability(p) for p in heads.values()):
        detail = f"one probability within 0–1 is needed for each of {ENDPOINTS}, got {dict(heads)}"
        raise NotEvaluableError("not_a_probability", detail)
    raw = [float(heads[endpoint]) for endpoint in ENDPOINTS]
    steps = zip(ENDPOINTS[:-1], ENDPOINTS[1:], raw[:-1], raw[1:], strict=True)
    violations = tuple((earlier, later, q - p) for earlier, later, p, q in steps if q > p)
    fitted = isotonic_regression(raw, increasing=False).x if violations else raw
    return MonotoneEndpoints(dict(zip(ENDPOINTS, map(float, fitted), strict=True)), violations)


def metavir_of_ishak(ishak: int) -> str:
    """METAVIR stage of an Ishak stage 0–6: 0 F0, 1–2 F1, 3 F2, 4 F3, 5–6 F4. Conventional, not exact (SPEC §4 [R]).

    Raises
    ------
    OutOfModelRangeError
        ``not_an_ishak_stage``.
    """
    if ishak not in range(len(_METAVIR_OF_ISHAK)):
        raise OutOfModelRangeError("not_an_ishak_stage", f"Ishak stages are whole numbers 0 to 6, not {ishak}")
    return _METAVIR_OF_ISHAK[int(ishak)]


def _is_probability(value: float) -> bool:
    return 0.0 <= value <= 1.0

"""Average run lengths of control charts, computed: Markov chains over the chart's statistic.

Brook & Evans 1972 Biometrika 59:539 for the CUSUM, Lucas & Saccucci 1990 Technometrics 32:1 for the EWMA. Written for
the tests from the definitions of the charts, and sharing no code with them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

Matrix = npt.NDArray[np.float64]
Distribution = Callable[[Matrix], Matrix]


def normal(shift: float = 0.0, scale: float = 1.0, cut: float = np.inf) -> Distribution:
    """Distribution function of a normal value, Winsorised at ± ``cut``."""

    def below(x: Matrix) -> Matrix:
        inside = norm.cdf((x - shift) / scale)
        return np.where(x >= cut, 1.0, np.where(x < -cut, 0.0, inside))

    return below


def cusum(below: Distribution, allowance: float, limit: float, states: int = 200) -> float:
    """ARL of the upper CUSUM max(0, C + z − allowance) > limit."""
    width = 2 * limit / (2 * states - 1)
    middles = np.arange(states) * width
    upper = middles[None, :] + width / 2 - middles[:, None] + allowance
    transitions = below(upper) - below(upper - width)
    transitions[:, 0] = below(upper[:, 0])
    return float(_expected_steps(transitions)[0])


def two_sided_cusum(shift: float, allowance: float, limit: float, scale: float = 1.0, cut: float = np.inf) -> float:
    """ARL of both sides together: 1 / ARL = 1 / ARL⁺ + 1 / ARL⁻."""
    rising, falling = (cusum(normal(d, scale, cut), allowance, limit) for d in (shift, -shift))
    return 1 / (1 / rising + 1 / falling)


def ewma(
    below: Distribution, weight: float, width_in_sd: float, baseline: float = np.inf, settled: bool = False
) -> float:
    """ARL of |EWMA| > L √(w / (2 − w) (1 − (1 − w)^2t) + 1 / baseline); ``settled``: with the limit of t = ∞."""
    states, starting = 201, 400
    variance = weight / (2 - weight) + 1 / baseline
    limit = width_in_sd * np.sqrt(variance)
    width = 2 * limit / states
    middles = -limit + (np.arange(states) + 0.5) * width
    upper = (middles[None, :] + width / 2 - (1 - weight) * middles[:, None]) / weight
    transitions = below(upper) - below(upper - width / weight)
    steps = _expected_steps(transitions)
    if settled:
        return float(steps[states // 2])
    alive, passed = np.eye(states)[states // 2], 0.0
    for t in range(1, starting):
        passed += alive.sum()
        narrower = variance - weight / (2 - weight) * (1 - weight) ** (2 * t)
        alive = np.where(np.abs(middles) <= width_in_sd * np.sqrt(narrower), alive @ transitions, 0.0)
    return float(passed + alive @ steps)


def bernoulli_cusum(share: float, up: float, down: float, limit: float, states: int) -> float:
    """ARL of max(0, C + ``up`` or ``down``) > limit, when ``up`` has the probability ``share``.

    The steps are no multiples of one lattice: each lands between two states, which share it by nearness.
    """
    width = limit / states
    transitions = np.zeros((states, states))
    rows = np.arange(states)
    for step, probability in ((up, share), (down, 1 - share)):
        at = np.maximum(0.0, rows + step / width)
        floor = np.floor(at).astype(int)
        for column, part in ((floor, 1 - (at - floor)), (floor + 1, at - floor)):
            inside = column < states
            np.add.at(transitions, (rows[inside], column[inside]), probability * part[inside])
    return float(_expected_steps(transitions)[0])


def _expected_steps(transitions: Matrix) -> Matrix:
    """Steps until absorption from every state: (I − Q) n = 1."""
    return np.linalg.solve(np.eye(len(transitions)) - transitions, np.ones(len(transitions)))

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.diseases.haemorrhage.scores import (
    EdgeRule,
    abc_over_2,
    decide_subtypes,
    ellipsoid_volume,
    ich_mortality,
    ich_score,
    is_surgical_shift,
    midline_shift,
    modified_fisher,
    signed_midline_shift,
    slice_weights,
    weighted_height,
)
from ops.measure.errors import NotEvaluableError

NAN, INF = float("nan"), float("inf")


def test_slice_weights_one_pixel_either_side() -> None:
    areas = [400, 301, 300, 299, 101, 100, 99, 0]
    assert slice_weights(areas).tolist() == [1, 1, 0.5, 0.5, 0.5, 0.5, 0, 0]
    assert slice_weights(areas, "edges_up").tolist() == [1, 1, 1, 0.5, 0.5, 0.5, 0, 0]
    assert slice_weights(areas, "edges_down").tolist() == [1, 1, 0.5, 0.5, 0.5, 0, 0, 0]


@pytest.mark.parametrize("edges", ["edges_half", "edges_up", "edges_down"])
def test_height_of_a_fine_ellipsoid(edges: EdgeRule) -> None:
    t = np.linspace(-1, 1, 20001)
    height = weighted_height(1 - t**2, 30 / len(t), edges)
    assert height == pytest.approx(30 * (0.5 + (math.sqrt(0.75) - 0.5) / 2), rel=1e-3)


def test_height_of_few_slices() -> None:
    assert weighted_height([100, 80, 50, 20], 5) == 12.5


@pytest.mark.parametrize("areas", [[], [0, 0], [1, -1], [1, NAN], [[1, 2]]])
def test_bad_areas(areas: list[float]) -> None:
    with pytest.raises(NotEvaluableError, match="areas per slice"):
        slice_weights(areas)


@pytest.mark.parametrize("bad", [0, -1, NAN, INF])
def test_bad_lengths(bad: float) -> None:
    for volume in (abc_over_2, ellipsoid_volume):
        with pytest.raises(NotEvaluableError):
            volume(4, bad, 4)
    with pytest.raises(NotEvaluableError):
        weighted_height([1], bad)


@given(
    st.floats(-30, 30),
    st.floats(-180, 180),
    st.floats(60, 200),
    st.floats(0.1, 0.9),
    st.tuples(st.floats(-99, 99), st.floats(-99, 99)),
)
def test_midline_shift_of_a_turned_head(
    shift: float, degrees: float, length: float, along: float, origin: tuple[float, float]
) -> None:
    """Distance from a line does not depend on where the head lies, nor its sign on anything but the side."""
    angle = math.radians(degrees)
    back, left = np.array([math.sin(angle), math.cos(angle)]), np.array([math.cos(angle), -math.sin(angle)])
    anterior = np.array(origin)
    septum, posterior = anterior + along * length * back + shift * left, anterior + length * back
    assert signed_midline_shift(septum, anterior, posterior) == pytest.approx(shift, abs=1e-9)
    assert midline_shift(septum, anterior, posterior) == pytest.approx(abs(shift), abs=1e-9)


def test_surgical_shift_is_exclusive() -> None:
    assert [is_surgical_shift(mm) for mm in (4.999, 5, 5.001, -5.001)] == [False, False, True, True]
    with pytest.raises(NotEvaluableError):
        is_surgical_shift(NAN)


@pytest.mark.parametrize(
    "points",
    [((0, 0), (1, 1), (1, 1)), ((NAN, 0), (0, 0), (0, 1)), ((0, 0, 0), (0, 0, 0), (0, 1, 0))],
)
def test_bad_landmarks(points: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(NotEvaluableError) as error:
        midline_shift(*points)
    assert error.value.reason == "bad_landmarks"


def test_thick_without_sah_is_a_contradiction() -> None:
    with pytest.raises(NotEvaluableError, match="no subarachnoid blood"):
        modified_fisher(False, True, False)


@pytest.mark.parametrize(
    ("gcs", "volume", "age", "points"),
    [
        (3, 0, 20, 2),
        (4, 0, 20, 2),
        (5, 0, 20, 1),
        (12, 0, 20, 1),
        (13, 0, 20, 0),
        (15, 29.999, 79.9, 0),
        (15, 30, 79.9, 1),
        (15, 29.999, 80, 1),
    ],
)
def test_ich_score_either_side(gcs: int, volume: float, age: float, points: int) -> None:
    assert ich_score(gcs, volume, False, False, age) == points


def test_ich_score_ends() -> None:
    assert ich_score(3, 30, True, True, 80) == 6
    assert [ich_mortality(score) for score in range(7)] == [0, 13, 26, 72, 97, 100, 100]


@pytest.mark.parametrize(
    ("gcs", "volume", "age", "reason"),
    [
        (2, 10, 60, "bad_gcs"),
        (16, 10, 60, "bad_gcs"),
        (12.5, 10, 60, "bad_gcs"),
        (15, -1, 60, "bad_volume"),
        (15, NAN, 60, "bad_volume"),
        (15, 10, -1, "bad_age"),
        (15, 10, NAN, "bad_age"),
        (15, 10, 131, "bad_age"),
    ],
)
def test_ich_score_refuses(gcs: int, volume: float, age: float, reason: str) -> None:
    with pytest.raises(NotEvaluableError) as error:
        ich_score(gcs, volume, False, False, age)
    assert error.value.reason == reason


@pytest.mark.parametrize("score", [-1, 7, 2.5])
def test_mortality_refuses(score: int) -> None:
    with pytest.raises(NotEvaluableError):
        ich_mortality(score)


def test_any_is_decided_over_decisions() -> None:
    # Two probabilities of 0.4 add up to more than any threshold, but neither subtype is present.
    decision = decide_subtypes({"SDH": 0.4, "IPH": 0.4}, 0.6, {"SDH": 0.5, "IPH": 0.5}, 0.5)
    assert decision.present == {"SDH": False, "IPH": False, "any": False}
    assert decision.violations == ("any_without_subtype",)
    decision = decide_subtypes({"SDH": 0.5, "IPH": 0.1}, 0.3, {"SDH": 0.5, "IPH": 0.5}, 0.5)
    assert decision.present == {"SDH": True, "IPH": False, "any": True}
    assert decision.probability["any"] == 0.5
    assert decision.violations == ("any_below_subtype",)


@pytest.mark.parametrize(
    ("subtypes", "p_any", "thresholds", "any_threshold", "reason"),
    [
        ({}, 0.5, {}, 0.5, "subtypes_incomplete"),
        ({"SDH": 0.5}, 0.5, {"IPH": 0.5}, 0.5, "subtypes_incomplete"),
        ({"SDH": 1.1}, 0.5, {"SDH": 0.5}, 0.5, "bad_probability"),
        ({"SDH": 0.1}, NAN, {"SDH": 0.5}, 0.5, "bad_probability"),
        ({"SDH": 0.1}, 0.5, {"SDH": 0.5}, -0.1, "bad_probability"),
    ],
)
def test_decide_subtypes_refuses(
    subtypes: dict[str, float], p_any: float, thresholds: dict[str, float], any_threshold: float, reason: str
) -> None:
    with pytest.raises(NotEvaluableError) as error:
        decide_subtypes(subtypes, p_any, thresholds, any_threshold)
    assert error.value.reason == reason

from __future__ import annotations

import math

import pytest

from ops.diseases.aneurysm.risk import PHASES_RISK, elapss, phases, size_class
from ops.measure.errors import NotEvaluableError, OutOfModelRangeError

PHASES = {
    "population": "europe",
    "hypertension": False,
    "age": 50,
    "size_mm": 5.0,
    "earlier_sah": False,
    "site": "ICA",
}
ELAPSS = {
    "earlier_sah": True,
    "site": "ICA",
    "age": 50,
    "population": "europe",
    "size_mm": 2.0,
    "irregular": False,
}


@pytest.mark.parametrize(
    ("diameter", "name"),
    [
        (0.1, "<3"),
        (2.999, "<3"),
        (3, "3-<5"),
        (4.999, "3-<5"),
        (5, "5-<7"),
        (6.999, "5-<7"),
        (7, "7-<10"),
        (9.999, "7-<10"),
        (10, "10-25"),
        (25, "10-25"),
        (25.001, ">25"),
    ],
)
def test_size_classes(diameter, name):
    assert size_class(diameter) == name


@pytest.mark.parametrize("diameter", [0.0, -1.0, math.nan, math.inf])
def test_no_class_for_no_size(diameter):
    with pytest.raises(NotEvaluableError) as caught:
        size_class(diameter)
    assert caught.value.reason == "size_not_plausible"


@pytest.mark.parametrize(
    ("change", "points"),
    [
        ({}, 0),
        ({"population": "north_america"}, 0),
        ({"population": "japan"}, 3),
        ({"population": "finland"}, 5),
        ({"hypertension": True}, 1),
        ({"age": 69.9}, 0),
        ({"age": 70}, 1),
        ({"size_mm": 6.999}, 0),
        ({"size_mm": 7}, 3),
        ({"size_mm": 9.95}, 3),
        ({"size_mm": 10}, 6),
        ({"size_mm": 19.99}, 6),
        ({"size_mm": 20}, 10),
        ({"earlier_sah": True}, 1),
        ({"site": "MCA"}, 2),
        ({"site": "ACA"}, 4),
        ({"site": "ACom"}, 4),
        ({"site": "PCom"}, 4),
        ({"site": "posterior"}, 4),
    ],
)
def test_phases_points(change, points):
    assert phases(**PHASES | change).points == points


def test_phases_risk_of_every_sum():
    expected = [0.4, 0.4, 0.4, 0.7, 0.9, 1.3, 1.7, 2.4, 3.2, 4.3, 5.3, 7.2, 17.8, 17.8]
    risks = [next(risk for points, risk in PHASES_RISK if total >= points) for total in range(14)]
    assert risks == expected
    most = phases("finland", True, 80, 25, True, "posterior")
    assert (most.points, most.rupture_5y) == (22, 17.8)


@pytest.mark.parametrize(
    ("change", "points"),
    [
        ({}, 0),
        ({"earlier_sah": False}, 1),
        ({"site": "ACom"}, 0),
        ({"site": "MCA"}, 3),
        ({"site": "PCom"}, 5),
        ({"site": "posterior"}, 5),
        ({"age": 60}, 0),
        ({"age": 65}, 1),
        ({"age": 80}, 4),
        ({"population": "china"}, 0),
        ({"population": "japan"}, 1),
        ({"population": "finland"}, 7),
        ({"size_mm": 1}, 0),
        ({"size_mm": 2.99}, 0),
        ({"size_mm": 3}, 4),
        ({"size_mm": 4.99}, 4),
        ({"size_mm": 5}, 10),
        ({"size_mm": 6.99}, 10),
        ({"size_mm": 7}, 13),
        ({"size_mm": 9.99}, 13),
        ({"size_mm": 10}, 22),
        ({"irregular": True}, 4),
    ],
)
def test_elapss_points(change, points):
    assert elapss(**ELAPSS | change).points == (points, points)


@pytest.mark.parametrize(
    ("change", "growth"),
    [
        ({"size_mm": 3}, (5.0, 8.4)),  # 4
        ({"size_mm": 3, "earlier_sah": False}, (7.8, 13.0)),  # 5
        ({"size_mm": 5}, (11.7, 19.3)),  # 10
        ({"size_mm": 5, "site": "PCom"}, (17.5, 28.1)),  # 15
        ({"size_mm": 7, "population": "finland"}, (25.8, 39.9)),  # 20
        ({"size_mm": 10, "site": "MCA"}, (42.7, 60.8)),  # 25
    ],
)
def test_elapss_growth(change, growth):
    score = elapss(**ELAPSS | change)
    assert (score.growth_3y, score.growth_5y) == growth


def test_age_inside_a_step_answers_only_when_the_row_is_the_same():
    score = elapss(**ELAPSS | {"age": 63})
    assert score.points == (0, 1)
    assert score.growth_5y == 8.4
    with pytest.raises(NotEvaluableError) as caught:
        elapss(**ELAPSS | {"age": 63, "size_mm": 3})  # 4 or 5 points: two rows
    assert caught.value.reason == "age_step_undefined"
    assert elapss(**ELAPSS | {"age": 63, "size_mm": 3}, age_step="floor").points == (4, 4)
    assert elapss(**ELAPSS | {"age": 63, "size_mm": 3}, age_step="ceil").growth_5y == 13.0


@pytest.mark.parametrize("score", [phases, elapss])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"population": "brazil"}, "population_not_in_model"),
        ({"site": "vertebral"}, "site_not_in_model"),
    ],
)
def test_out_of_model_range(score, change, reason):
    arguments = PHASES if score is phases else ELAPSS
    with pytest.raises(OutOfModelRangeError) as caught:
        score(**arguments | change)
    assert caught.value.reason == reason


def test_models_differ_in_range():
    with pytest.raises(OutOfModelRangeError):
        phases(**PHASES | {"population": "china"})
    with pytest.raises(OutOfModelRangeError) as caught:
        elapss(**ELAPSS | {"size_mm": 0.9})
    assert caught.value.reason == "size_not_in_model"


@pytest.mark.parametrize("score", [phases, elapss])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"age": math.nan}, "age_not_plausible"),
        ({"age": -1}, "age_not_plausible"),
        ({"age": 121}, "age_not_plausible"),
        ({"size_mm": math.nan}, "size_not_plausible"),
        ({"size_mm": 0}, "size_not_plausible"),
        ({"earlier_sah": None}, "not_known"),
    ],
)
def test_bad_input(score, change, reason):
    arguments = PHASES if score is phases else ELAPSS
    with pytest.raises(NotEvaluableError) as caught:
        score(**arguments | change)
    assert caught.value.reason == reason


def test_unknown_age_step():
    with pytest.raises(ValueError, match="age_step"):
        elapss(**ELAPSS, age_step="nearest")

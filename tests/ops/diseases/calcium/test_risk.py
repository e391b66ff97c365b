"""MESA percentile buckets, MESA risk and arterial age."""

from __future__ import annotations

import pytest

from ops.diseases.calcium.risk import (
    MESA_TABLE,
    RiskFactors,
    arterial_age,
    mesa_bucket,
    mesa_references,
    mesa_risk,
)
from ops.diseases.calcium.scores import OutOfModelRangeError


def test_table_rows_apply_at_their_ages() -> None:
    assert mesa_references(80, "F", "black") == ((0, 47, 214, 582), False)
    assert mesa_references(50, "M", "white") == ((0, 0, 22, 110), False)


def test_table_rises_with_age_and_percentile() -> None:
    assert len(MESA_TABLE) == 8
    for rows in MESA_TABLE.values():
        assert all(list(row) == sorted(row) for row in rows)
        assert all(list(column) == sorted(column) for column in zip(*rows, strict=True))


def test_ages_between_are_interpolated_and_say_so() -> None:
    references, approximate = mesa_references(72, "M", "white")
    assert [round(r) for r in references] == [37, 193, 672, 1663]
    assert approximate
    assert mesa_references(45, "F", "white") == ((0, 0, 0, 8), True)
    assert mesa_references(84, "F", "white") == ((20, 106, 370, 921), True)


@pytest.mark.parametrize(
    ("age", "sex", "ethnicity", "reason"),
    [
        (44.9, "M", "white", "age_out_of_range"),
        (84.1, "M", "white", "age_out_of_range"),
        (60, "O", "white", "group_not_in_model"),
        (60, "M", "other", "group_not_in_model"),
    ],
)
def test_nobody_is_clamped_into_the_table(age: float, sex: str, ethnicity: str, reason: str) -> None:
    with pytest.raises(OutOfModelRangeError) as caught:
        mesa_bucket(10, age, sex, ethnicity)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("score", "bucket"),
    [
        (0, "<25"),
        (0.5, "<25"),
        (1, "25-50"),
        (56, "50-75"),
        (246.9, "50-75"),
        (247, "75-90"),
        (666, "75-90"),
        (667, ">90"),
    ],
)
def test_buckets_of_hispanic_men_at_70(score: float, bucket: str) -> None:
    found = mesa_bucket(score, 70, "M", "hispanic")
    assert (found.bucket, found.approximate) == (bucket, False)


def test_zero_is_percentile_zero_and_tells_how_common_calcium_is() -> None:
    woman = mesa_bucket(0, 50, "F", "white")
    assert woman.bucket == "<25"
    assert woman.probability_nonzero == pytest.approx((0.1, 0.25))
    man = mesa_bucket(0, 55, "M", "white")
    assert man.probability_nonzero[0] <= 0.56 <= man.probability_nonzero[1]  # official calculator: 56 %
    assert mesa_bucket(0, 80, "M", "white").probability_nonzero == pytest.approx((0.75, 1.0))


def test_a_positive_score_passes_every_zero_reference() -> None:
    assert mesa_bucket(1, 50, "F", "white").bucket == "75-90"


def test_arterial_age() -> None:
    assert arterial_age(0) == 39.1
    assert round(arterial_age(250)) == 79
    with pytest.raises(ValueError, match="not negative"):
        arterial_age(-1)


def factors(**changes: object) -> RiskFactors:
    values: dict[str, object] = {
        "age": 60, "sex": "M", "ethnicity": "white", "total_cholesterol": 200, "hdl_cholesterol": 50,
        "systolic_pressure": 120,
    }  # fmt: skip
    return RiskFactors(**{**values, **changes})


def test_risk_rises_with_each_factor() -> None:
    for score in (None, 100.0):
        base = mesa_risk(factors(), score)
        for name in ("diabetes", "smoker", "lipid_medication", "hypertension_medication", "family_history"):
            assert mesa_risk(factors(**{name: True}), score) > base
        assert mesa_risk(factors(sex="F"), score) < base
        assert mesa_risk(factors(hdl_cholesterol=60), score) < base


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"age": 44}, "age_out_of_range"), ({"ethnicity": "black"}, "ethnicity_terms_unconfirmed")],
)
def test_risk_stays_inside_its_model(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(OutOfModelRangeError) as caught:
        mesa_risk(factors(**changes))
    assert caught.value.reason == reason

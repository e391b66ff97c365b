from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.diseases.echo import formulae as f
from ops.measure.errors import NotEvaluableError, OutOfModelRangeError


def half_spheroid_discs(diameter: float) -> np.ndarray:
    return diameter * np.sqrt(1 - ((np.arange(20) + 0.5) / 20) ** 2)


def test_simpson_of_a_half_spheroid_is_three_per_ten_thousand_high() -> None:
    exact = 2 / 3 * math.pi * 25**2 * 90 / 1000
    found = f.simpson_volume_ml(half_spheroid_discs(50), 90)
    assert found / exact == pytest.approx(1.0003, abs=5e-5)


def test_biplane_takes_the_longer_axis_and_single_plane_squares_its_own() -> None:
    a, b = half_spheroid_discs(40), half_spheroid_discs(60)
    biplane = f.simpson_volume_ml(a, 80, b, 90)
    assert biplane == pytest.approx(f.simpson_volume_ml(b, 90, a, 80))
    assert biplane == pytest.approx(f.simpson_volume_ml(half_spheroid_discs(math.sqrt(40 * 60)), 90))


@given(st.floats(10, 80), st.floats(10, 80), st.floats(20, 150))
def test_area_length_is_exact_for_ellipsoids(a: float, b: float, length: float) -> None:
    areas = [math.pi / 4 * width * length for width in (a, b)]
    exact = math.pi / 6 * a * b * length / 1000
    assert f.area_length_volume_ml(areas[0], length, areas[1]) == pytest.approx(exact)
    assert f.area_length_volume_ml(areas[0], length) == pytest.approx(exact * a / b)


def test_atrium_takes_the_shorter_axis() -> None:
    assert f.la_volume_ml((2000, 1800), (50, 45)) == pytest.approx(8 * 2000 * 1800 / (3 * math.pi * 45) / 1000)


def test_length_difference_limit_is_exclusive() -> None:
    assert not f.length_difference(100.0, 90.0) > f.FORESHORTENING_LIMIT
    assert f.length_difference(89.9, 100.0) > f.FORESHORTENING_LIMIT


def test_ejection_fraction() -> None:
    assert f.ejection_fraction(120, 50) == pytest.approx(58.3333, abs=1e-3)
    assert f.ejection_fraction(120, 120) == 0
    assert f.ejection_fraction(120, 0) == 100


def test_strain_is_negative_when_the_wall_shortens() -> None:
    assert f.longitudinal_strain(18, 14.4) == pytest.approx(-20)
    assert f.global_longitudinal_strain([-18, -20, -22]) == pytest.approx(-20)


def test_cube_mass_and_wall_thickness() -> None:
    assert f.lv_mass_cube_g(1, 5, 1) == pytest.approx(181.976)
    assert f.relative_wall_thickness(1, 5) == pytest.approx(0.4)


def test_truncated_ellipsoid_against_area_length_of_a_bullet() -> None:
    # Different models of one ventricle agree roughly, in the same unit.
    ellipsoid = f.lv_mass_truncated_ellipsoid_g(5, 3, 2.5, 1)
    bullet = f.lv_mass_area_length_g(math.pi * 3.5**2, math.pi * 2.5**2, 8)
    assert bullet == pytest.approx(ellipsoid, rel=0.15)


def test_body_surface() -> None:
    assert f.body_surface_area_m2(170, 70, "mosteller") == pytest.approx(math.sqrt(170 * 70 / 3600))
    assert f.body_surface_area_m2(170, 70, "dubois") == pytest.approx(0.007184 * 170**0.725 * 70**0.425)
    assert f.body_surface_area_m2(170, 70, "mosteller") == pytest.approx(1.8181, abs=1e-4)
    assert f.body_surface_area_m2(170, 70, "dubois") == pytest.approx(1.8097, abs=1e-4)


@pytest.mark.parametrize(
    ("reason", "compute"),
    [
        ("implausible_size", lambda: f.lv_mass_cube_g(10, 50, 10)),
        ("implausible_size", lambda: f.relative_wall_thickness(9, 4.8)),
        ("implausible_size", lambda: f.teichholz_volume_ml(50)),
        ("implausible_size", lambda: f.lv_mass_area_length_g(4000, 2000, 8)),
        ("implausible_size", lambda: f.lv_mass_truncated_ellipsoid_g(50, 30, 25, 10)),
        ("not_an_ellipsoid", lambda: f.lv_mass_truncated_ellipsoid_g(3, 5, 2.5, 1)),
        ("cavity_not_inside", lambda: f.lv_mass_area_length_g(20, 20, 8)),
        ("implausible_body", lambda: f.body_surface_area_m2(1.75, 70, "mosteller")),
        ("implausible_body", lambda: f.body_surface_area_m2(175, 70_000, "mosteller")),
        ("esv_above_edv", lambda: f.ejection_fraction(100, 100.1)),
        ("not_positive", lambda: f.ejection_fraction(0, 0)),
        ("not_positive", lambda: f.ejection_fraction(100, -1)),
        ("not_positive", lambda: f.longitudinal_strain(0, 10)),
        ("not_positive", lambda: f.simpson_volume_ml(np.zeros(20), 90)),
        ("not_positive", lambda: f.simpson_volume_ml(np.ones(20), 0)),
        ("disc_mismatch", lambda: f.simpson_volume_ml(np.ones(20), 90, np.ones(19), 90)),
        ("disc_mismatch", lambda: f.simpson_volume_ml([], 90)),
        ("no_view", lambda: f.global_longitudinal_strain([])),
        ("not_positive", lambda: f.area_length_volume_ml(-1, 90)),
        ("not_positive", lambda: f.la_volume_grade(0)),
    ],
)
def test_refusals(reason: str, compute: Callable[[], float]) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        compute()
    assert caught.value.reason == reason


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "compute",
    [
        lambda x: f.simpson_volume_ml([x] * 20, 90),
        lambda x: f.simpson_volume_ml(np.ones(20), x),
        lambda x: f.area_length_volume_ml(x, 90),
        lambda x: f.la_volume_ml((1000, 1000), (50, x)),
        lambda x: f.ejection_fraction(x, 50),
        lambda x: f.ejection_fraction(100, x),
        lambda x: f.longitudinal_strain(100, x),
        lambda x: f.global_longitudinal_strain([-20, x]),
        lambda x: f.lv_mass_cube_g(1, x, 1),
        lambda x: f.lv_mass_area_length_g(40, 20, x),
        lambda x: f.lv_mass_truncated_ellipsoid_g(5, 3, x, 1),
        lambda x: f.relative_wall_thickness(x, 5),
        lambda x: f.teichholz_volume_ml(x),
        lambda x: f.body_surface_area_m2(x, 70, "dubois"),
        lambda x: f.length_difference(90, x),
        lambda x: f.la_volume_grade(x),
        lambda x: f.reference_class("ef", x, "F"),
    ],
)
def test_not_finite(compute: Callable[[float], object], bad: float) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        compute(bad)
    assert caught.value.reason == "not_finite"


@pytest.mark.parametrize(
    ("index", "grade"),
    [
        (15, "none"), (34.0, "none"), (34.1, "mild"), (34.5, "mild"), (41.0, "mild"), (41.1, "moderate"),
        (48.0, "moderate"), (48.1, "severe"),
    ],
)  # fmt: skip
def test_atrial_grades_have_no_gaps(index: float, grade: str) -> None:
    assert f.la_volume_grade(index) == grade


@pytest.mark.parametrize(
    ("quantity", "sex", "low", "high"),
    [
        ("ef", "M", 52, 72), ("ef", "F", 54, 74), ("lvidd", "M", 4.2, 5.8), ("lvidd", "F", 3.8, 5.2),
        ("edv", "M", 62, 150), ("edv", "F", 46, 106), ("esv", "M", 21, 61), ("esv", "F", 14, 42),
        ("edv_index", "M", 34, 74), ("edv_index", "F", 29, 61), ("lv_mass_linear_index", "M", 49, 115),
        ("lv_mass_linear_index", "F", 43, 95), ("lv_mass_2d_index", "M", 50, 102), ("lv_mass_2d_index", "F", 44, 88),
        ("rwt", "M", 0.22, 0.42), ("rwt", "F", 0.22, 0.42), ("la_volume_index", "F", 16, 34),
    ],
)  # fmt: skip
def test_reference_ranges_either_side(quantity: str, sex: str, low: float, high: float) -> None:
    classes = [f.reference_class(quantity, x, sex) for x in (low - 0.001, low, high, high + 0.001)]
    assert classes == ["below", "within", "within", "above"]


def test_right_heart_ranges_say_that_they_are_superseded() -> None:
    ranges = f.REFERENCE_RANGES["ASE/EACVI 2015"]
    assert {name for name, item in ranges.items() if item.superseded_by} == {"tapse", "rv_fac", "rv_basal_diameter"}
    assert [f.reference_class("tapse", x, "F") for x in (16.9, 17)] == ["below", "within"]
    assert [f.reference_class("rv_fac", x, "F") for x in (34.9, 35)] == ["below", "within"]
    assert [f.reference_class("rv_basal_diameter", x, "F") for x in (41, 41.1)] == ["within", "above"]


@pytest.mark.parametrize(
    ("reason", "quantity", "sex"), [("no_reference_range", "gls", "F"), ("sex_not_in_table", "ef", "O")]
)
def test_outside_the_table(reason: str, quantity: str, sex: str) -> None:
    with pytest.raises(OutOfModelRangeError) as caught:
        f.reference_class(quantity, -20, sex)
    assert caught.value.reason == reason

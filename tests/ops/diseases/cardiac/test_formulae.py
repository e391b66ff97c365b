"""Formulae of chambers, scar and aorta, by plain arguments."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.diseases.cardiac.aorta import distensibility, equivalent_diameter_mm
from ops.diseases.cardiac.scar import fwhm_threshold, n_sd_threshold, scar_percent
from ops.diseases.cardiac.volumes import (
    MISMATCH_LIMIT,
    cardiac_output_l_min,
    myocardial_mass_g,
    slice_sum_volume_ml,
    stroke_volume_difference,
)
from ops.measure.errors import NotEvaluableError


def test_slice_summation() -> None:
    assert slice_sum_volume_ml([1200, 1400, 1000, 500], 10) == pytest.approx(41)
    assert slice_sum_volume_ml([0, 0], 8) == 0


def test_mass() -> None:
    assert myocardial_mass_g(100) == pytest.approx(105)


def test_cardiac_output() -> None:
    assert cardiac_output_l_min(70, 72) == pytest.approx(5.04)


@pytest.mark.parametrize(
    ("lv", "rv", "above"), [(100, 100, False), (105, 95, False), (105.1, 95, True), (80, 95, True)]
)
def test_stroke_volume_difference(lv: float, rv: float, above: bool) -> None:
    assert stroke_volume_difference(lv, rv) == stroke_volume_difference(rv, lv)
    assert (stroke_volume_difference(lv, rv) > MISMATCH_LIMIT) == above


@pytest.mark.parametrize(("n", "threshold"), [(2, 34), (3, 41), (5, 55), (6, 62)])
def test_threshold_above_remote(n: float, threshold: float) -> None:
    assert n_sd_threshold(20, 7, n) == pytest.approx(threshold)


def test_five_standard_deviations_are_the_default() -> None:
    assert n_sd_threshold(100, 10) == 150


def test_half_of_the_maximum() -> None:
    assert fwhm_threshold(400) == 200
    assert fwhm_threshold(400, 100) == 200
    assert fwhm_threshold(400, 100, "half_between_remote_and_maximum") == 250


def test_scar_share() -> None:
    assert scar_percent(12, 120) == pytest.approx(10)
    assert scar_percent(0, 120) == 0
    assert scar_percent(120, 120) == 100


def test_equivalent_diameter_of_a_circle() -> None:
    assert equivalent_diameter_mm(math.pi * 15**2) == pytest.approx(30)


def test_distensibility() -> None:
    assert distensibility(780, 650, 50) == pytest.approx(4.0)
    assert distensibility(650, 650, 50) == 0


@given(st.floats(100, 2000), st.floats(1, 1.5), st.floats(10, 150))
def test_distensibility_does_not_depend_on_the_unit_of_area(area: float, stretch: float, pressure: float) -> None:
    assert distensibility(area * stretch, area, pressure) == pytest.approx(
        distensibility(area * stretch / 100, area / 100, pressure)
    )


@pytest.mark.parametrize(
    ("reason", "call"),
    [
        ("not_finite", lambda: slice_sum_volume_ml([1.0, math.nan], 8)),
        ("not_finite", lambda: slice_sum_volume_ml([1.0], math.inf)),
        ("not_positive", lambda: slice_sum_volume_ml([-1.0], 8)),
        ("not_positive", lambda: slice_sum_volume_ml([1.0], 0)),
        ("not_finite", lambda: myocardial_mass_g(math.inf)),
        ("not_positive", lambda: myocardial_mass_g(-1)),
        ("not_finite", lambda: cardiac_output_l_min(70, math.nan)),
        ("not_positive", lambda: cardiac_output_l_min(70, 0)),
        ("not_positive", lambda: cardiac_output_l_min(-1, 60)),
        ("not_finite", lambda: stroke_volume_difference(math.nan, 80)),
        ("not_positive", lambda: stroke_volume_difference(80, 0)),
        ("not_finite", lambda: n_sd_threshold(math.nan, 3)),
        ("not_positive", lambda: n_sd_threshold(20, 0)),
        ("not_positive", lambda: n_sd_threshold(20, 3, -5)),
        ("not_finite", lambda: fwhm_threshold(math.inf)),
        ("not_hyper_enhanced", lambda: fwhm_threshold(100, 100)),
        ("not_hyper_enhanced", lambda: fwhm_threshold(0)),
        ("not_finite", lambda: scar_percent(math.nan, 100)),
        ("not_positive", lambda: scar_percent(1, 0)),
        ("not_positive", lambda: scar_percent(-1, 100)),
        ("scar_exceeds_myocardium", lambda: scar_percent(101, 100)),
        ("not_finite", lambda: equivalent_diameter_mm(math.nan)),
        ("not_positive", lambda: equivalent_diameter_mm(0)),
        ("not_finite", lambda: distensibility(780, math.nan, 50)),
        ("not_positive", lambda: distensibility(780, 0, 50)),
        ("areas_swapped", lambda: distensibility(650, 780, 50)),
        ("not_finite", lambda: distensibility(780, 650, math.nan)),
        ("pulse_pressure_not_positive", lambda: distensibility(780, 650, 0)),
        ("pulse_pressure_not_positive", lambda: distensibility(780, 650, -40)),
    ],
)
def test_refusals(reason: str, call: Callable[[], float]) -> None:
    with pytest.raises(NotEvaluableError) as error:
        call()
    assert error.value.reason == reason

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.diseases.coronary.stenosis import (
    StenosisPolicy,
    area_stenosis,
    circular_area_stenosis,
    diameter_stenosis,
    find_lesions,
    runs,
)
from ops.measure.errors import NotEvaluableError

ARC = np.arange(0, 80, 0.5)


def vessel(*lesions: tuple[float, float, float], proximal: float = 4.0, distal: float = 2.5) -> np.ndarray:
    """Diameters of a tapering vessel with (position, length, stenosis) raised-cosine narrowings."""
    diameter = np.linspace(proximal, distal, len(ARC))
    for position, length, stenosis in lesions:
        u = np.clip(2 * np.abs(ARC - position) / length, 0, 1)
        diameter = diameter * (1 - stenosis * (1 + np.cos(np.pi * u)) / 2)
    return diameter


def lesions_of(diameter: np.ndarray, policy: StenosisPolicy | None = None) -> list:
    return find_lesions(ARC, diameter, np.pi / 4 * diameter**2, policy or StenosisPolicy())


def test_definitions() -> None:
    assert diameter_stenosis(1.2, 3.2, 2.8) == pytest.approx(60)
    assert diameter_stenosis(3.0, 3.0) == 0
    assert diameter_stenosis(0.0, 3.0) == 100
    assert area_stenosis(1.0, 4.0, 6.0) == pytest.approx(80)


@given(st.floats(0, 100))
def test_area_stenosis_of_circles(stenosis: float) -> None:
    minimal = 3.0 * (1 - stenosis / 100)
    expected = area_stenosis(np.pi / 4 * minimal**2, np.pi / 4 * 9)
    assert circular_area_stenosis(stenosis) == pytest.approx(expected, abs=1e-9)


def test_a_reference_below_one_and_a_half_millimetres_is_not_graded() -> None:
    assert diameter_stenosis(0.75, 1.5) == 50
    assert area_stenosis(0.5, np.pi / 4 * 1.5**2) > 0
    for function, reference in ((diameter_stenosis, 1.4999), (area_stenosis, np.pi / 4 * 1.4999**2)):
        with pytest.raises(NotEvaluableError) as error:
            function(0.5, reference)
        assert error.value.reason == "vessel_too_small"


@pytest.mark.parametrize(
    ("minimal", "proximal", "distal", "reason"),
    [
        (1.0, None, None, "no_healthy_reference"),
        (float("nan"), 3.0, None, "invalid_lumen"),
        (-0.1, 3.0, None, "invalid_lumen"),
        (3.1, 3.0, None, "invalid_lumen"),
        (1.0, float("inf"), None, "invalid_lumen"),
        (1.0, 3.0, 0.0, "invalid_lumen"),
    ],
)
def test_refusals(minimal: float, proximal: float | None, distal: float | None, reason: str) -> None:
    for function in (diameter_stenosis, area_stenosis):
        with pytest.raises(NotEvaluableError) as error:
            function(minimal, proximal, distal)
        assert error.value.reason == reason
    with pytest.raises(NotEvaluableError):
        circular_area_stenosis(101)


@settings(max_examples=40, deadline=None)
@given(st.floats(20, 55), st.floats(6, 16), st.floats(0.2, 0.9))
def test_stenosis_in_a_tapering_vessel(position: float, length: float, stenosis: float) -> None:
    (lesion,) = lesions_of(vessel((position, length, stenosis)))
    assert lesion.diameter_stenosis == pytest.approx(100 * stenosis, abs=2.5)
    assert lesion.narrowest == pytest.approx(position, abs=1.0)
    assert lesion.reference_sides == 2
    assert lesion.area_stenosis == pytest.approx(circular_area_stenosis(lesion.diameter_stenosis), abs=1.5)
    assert lesion.start < lesion.narrowest < lesion.stop


def test_a_missing_side_is_corrected_for_taper() -> None:
    # The vessel begins within the lesion: without correction the distal reference reads 3.48 mm instead of 3.81 mm.
    (lesion,) = lesions_of(vessel((6, 14, 0.5), proximal=4.0, distal=1.8))
    assert lesion.reference_sides == 1
    assert lesion.diameter_stenosis == pytest.approx(50, abs=1.5)


def test_several_lesions_and_none() -> None:
    found = lesions_of(vessel((15, 8, 0.3), (35, 10, 0.7), (60, 8, 0.5)))
    assert [round(lesion.diameter_stenosis, -1) for lesion in found] == [30, 70, 50]
    assert lesions_of(vessel()) == []


def test_policies_count() -> None:
    diameter = vessel((40, 10, 0.2))
    assert len(lesions_of(diameter)) == 1
    assert lesions_of(diameter, StenosisPolicy(smallest_stenosis=0.25)) == []
    wide = lesions_of(diameter, StenosisPolicy(edge_stenosis=0.02))[0]
    narrow = lesions_of(diameter, StenosisPolicy(edge_stenosis=0.1))[0]
    assert wide.start < narrow.start
    for wrong in ({"edge_stenosis": 0.2}, {"smallest_stenosis": 1.0}, {"reference_mm": 1.0}):
        with pytest.raises(ValueError, match="needed"):
            StenosisPolicy(**wrong)


def test_a_branch_take_off_is_no_reference() -> None:
    diameter = vessel((40, 10, 0.6))
    diameter[(ARC > 31) & (ARC < 34)] *= 1.3
    (lesion,) = lesions_of(diameter)
    assert lesion.diameter_stenosis == pytest.approx(60, abs=2)


def test_thin_vessels() -> None:
    with pytest.raises(NotEvaluableError) as error:
        lesions_of(vessel(proximal=1.4, distal=1.0))
    assert error.value.reason == "vessel_too_small"
    # The thin end of a vessel is left out, the rest of it graded.
    found = lesions_of(vessel((20, 8, 0.5), (70, 8, 0.5), proximal=3.0, distal=1.2))
    assert [lesion.narrowest for lesion in found] == [pytest.approx(20, abs=1)]


def test_no_healthy_vessel_on_either_side() -> None:
    diameter = vessel((40, 10, 0.6))
    inside = (ARC > 37) & (ARC < 43)
    with pytest.raises(NotEvaluableError) as error:
        find_lesions(ARC[inside], diameter[inside], diameter[inside] ** 2, StenosisPolicy(edge_stenosis=0.01))
    assert error.value.reason == "no_healthy_reference"


def test_runs() -> None:
    assert runs(np.array([True, False, True, True])) == [(0, 1), (2, 4)]
    assert runs(np.zeros(3, dtype=bool)) == []

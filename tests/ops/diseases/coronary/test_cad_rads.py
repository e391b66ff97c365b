from __future__ import annotations

import pytest

from ops.diseases.coronary.cad_rads import (
    cad_rads_category,
    cad_rads_label,
    plaque_burden_from_calcium,
    plaque_burden_from_segments,
    segment_involvement_score,
)
from ops.measure.errors import NotEvaluableError


def vessels(lm: float | None = 0, lad: float | None = 0, lcx: float | None = 0, rca: float | None = 0) -> dict:
    return {"LM": lm, "LAD": lad, "LCX": lcx, "RCA": rca}


@pytest.mark.parametrize(
    ("stenosis", "category"),
    [
        (0.1, "1"),
        (24.6, "1"),
        (24.999, "1"),
        (25, "2"),
        (49.5, "2"),
        (49.999, "2"),
        (50, "3"),
        (69.999, "3"),
        (70, "4A"),
        (99.999, "4A"),
        (100, "5"),
    ],
)
def test_bands_are_half_open_on_unrounded_values(stenosis: float, category: str) -> None:
    assert cad_rads_category(vessels(lad=stenosis), plaque=True) == category


@pytest.mark.parametrize(
    ("stenoses", "category"),
    [
        (vessels(lm=49.999), "2"),
        (vessels(lm=50), "4B"),
        (vessels(lad=70, lcx=70), "4A"),
        (vessels(lad=70, lcx=70, rca=69.999), "4A"),
        (vessels(lad=70, lcx=70, rca=70), "4B"),
        (vessels(lm=50, rca=100), "5"),
        (vessels(lm=None), "N"),
        (vessels(lad=49.9, rca=None), "N"),
        (vessels(lad=50, rca=None), "3"),
        (vessels(None, None, None, None), "N"),
    ],
)
def test_several_vessels(stenoses: dict, category: str) -> None:
    assert cad_rads_category(stenoses, plaque=True) == category


def test_plaque_without_stenosis() -> None:
    assert cad_rads_category(vessels(), plaque=True) == "1"
    assert cad_rads_category(vessels(), plaque=False) == "0"


@pytest.mark.parametrize("value", [-0.1, 100.1, float("nan"), float("inf")])
def test_impossible_stenosis(value: float) -> None:
    with pytest.raises(NotEvaluableError) as error:
        cad_rads_category(vessels(lad=value), plaque=True)
    assert error.value.reason == "invalid_stenosis"


def test_missing_artery() -> None:
    with pytest.raises(NotEvaluableError) as error:
        cad_rads_category({"LAD": 10.0}, plaque=True)
    assert error.value.reason == "missing_artery"


@pytest.mark.parametrize(
    ("score", "burden"),
    [
        (0, None),
        (0.5, "P1"),
        (1, "P1"),
        (100, "P1"),
        (100.5, "P2"),
        (101, "P2"),
        (300, "P2"),
        (301, "P3"),
        (999.9, "P3"),
        (1000, "P4"),
    ],
)
def test_burden_from_calcium(score: float, burden: str | None) -> None:
    assert plaque_burden_from_calcium(score) == burden


@pytest.mark.parametrize(
    ("score", "burden"),
    [(0, None), (1, "P1"), (2, "P1"), (3, "P2"), (4, "P2"), (5, "P3"), (7, "P3"), (8, "P4"), (16, "P4")],
)
def test_burden_from_segments(score: int, burden: str | None) -> None:
    assert plaque_burden_from_segments(score) == burden


def test_impossible_scores() -> None:
    for function, value in ((plaque_burden_from_calcium, -1), (plaque_burden_from_calcium, float("nan"))):
        with pytest.raises(NotEvaluableError):
            function(value)
    with pytest.raises(NotEvaluableError):
        plaque_burden_from_segments(-1)


def test_segment_involvement() -> None:
    assert segment_involvement_score({"pLAD": True, "mLAD": False, "pRCA": True}) == 2
    for segments, reason in (({"pLAD": None}, "segment_not_evaluable"), ({}, "missing_segment")):
        with pytest.raises(NotEvaluableError) as error:
            segment_involvement_score(segments)
        assert error.value.reason == reason


def test_label() -> None:
    assert cad_rads_label("4A", "P3", ["S", "HRP"]) == "CAD-RADS 4A/P3/HRP/S"
    assert cad_rads_label("0") == "CAD-RADS 0"
    assert cad_rads_label("3", "P2", ["E", "I+", "N", "G"]) == "CAD-RADS 3/P2/N/I+/G/E"
    for modifiers, reason in ((["V"], "unknown_modifier"), (["I+", "I-"], "modifier_conflict")):
        with pytest.raises(NotEvaluableError) as error:
            cad_rads_label("3", None, modifiers)
        assert error.value.reason == reason
    with pytest.raises(NotEvaluableError):
        cad_rads_label("N", None, ["N"])

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.diseases.fibrosis import markers as m
from ops.measure.errors import NotEvaluableError, OutOfModelRangeError

positive = st.floats(1e-3, 1e3)


def test_fib4_and_apri_by_hand() -> None:
    assert m.fib4(60, 80, 64, 120) == pytest.approx(5.0)
    assert m.fib4(55, 100, 25, 110) == pytest.approx(10.0)
    assert m.apri(80, 40, 100) == pytest.approx(2.0)
    assert m.apri(60, 40, 120) == pytest.approx(1.25)


@given(age=st.floats(1, 120), ast=positive, alt=positive, platelets=positive)
def test_fib4_falls_with_platelets_and_rises_with_ast(age: float, ast: float, alt: float, platelets: float) -> None:
    assert m.fib4(age, 2 * ast, alt, platelets) == pytest.approx(2 * m.fib4(age, ast, alt, platelets))
    assert m.fib4(age, ast, alt, 2 * platelets) == pytest.approx(m.fib4(age, ast, alt, platelets) / 2)


@pytest.mark.parametrize(
    ("value", "cuts", "expected"),
    [
        (1.44, "sterling2006", "rule_out"),
        (1.45, "sterling2006", "indeterminate"),
        (3.25, "sterling2006", "indeterminate"),
        (3.26, "sterling2006", "rule_in"),
        (1.29, "nafld", "rule_out"),
        (1.30, "nafld", "indeterminate"),
        (2.67, "nafld", "indeterminate"),
        (2.68, "nafld", "rule_in"),
    ],
)
def test_fib4_cuts(value: float, cuts: m.Fib4Cuts, expected: str) -> None:
    assert m.fib4_class(value, cuts) == expected


@pytest.mark.parametrize(("age", "caveat"), [(34, True), (35, False), (65, False), (66, True)])
def test_fib4_age_caveat(age: float, caveat: bool) -> None:
    assert m.fib4_age_caveat(age) is caveat


@pytest.mark.parametrize(
    ("value", "endpoint", "expected"),
    [
        (0.5, "significant", "rule_out"),
        (0.51, "significant", "indeterminate"),
        (1.5, "significant", "indeterminate"),
        (1.51, "significant", "rule_in"),
        (1.0, "cirrhosis", "rule_out"),
        (1.01, "cirrhosis", "indeterminate"),
        (2.0, "cirrhosis", "indeterminate"),
        (2.01, "cirrhosis", "rule_in"),
    ],
)
def test_apri_cuts(value: float, endpoint: m.ApriEndpoint, expected: str) -> None:
    assert m.apri_class(value, endpoint) == expected


def test_mre_is_weighted_by_area() -> None:
    assert m.mre_stiffness([2.0, 5.0], [300.0, 100.0]) == pytest.approx(2.75)
    assert m.mre_stiffness([3.0, 4.0, 5.0], [100.0, 200.0, 100.0]) == pytest.approx(4.0)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=5))
def test_mre_lies_within_its_rois(rois: list[tuple[float, float]]) -> None:
    stiffness, areas = [list(values) for values in zip(*rois, strict=True)]
    assert min(stiffness) * (1 - 1e-9) <= m.mre_stiffness(stiffness, areas) <= max(stiffness) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("kpa", "table", "stage"),
    [
        (3.13, "liang2023_nafld", "below_F2"),
        (3.14, "liang2023_nafld", "F2"),
        (3.52, "liang2023_nafld", "F2"),
        (3.53, "liang2023_nafld", "F3"),
        (4.44, "liang2023_nafld", "F3"),
        (4.45, "liang2023_nafld", "F4"),
        (3.44, "singh2015_mixed", "below_F1"),
        (3.45, "singh2015_mixed", "F1"),
        (3.66, "singh2015_mixed", "F2"),
        (4.11, "singh2015_mixed", "F3"),
        (4.70, "singh2015_mixed", "F3"),
        (4.71, "singh2015_mixed", "F4"),
    ],
)
def test_mre_cuts(kpa: float, table: m.MreTable, stage: str) -> None:
    assert m.mre_stage(kpa, table) == stage


@pytest.mark.parametrize(
    ("kpa", "fib4", "positive"), [(3.3, 1.6, True), (3.29, 1.6, False), (3.3, 1.59, False), (5.0, 3.0, True)]
)
def test_mefib_needs_both(kpa: float, fib4: float, positive: bool) -> None:
    assert m.mefib(kpa, fib4) is positive


def test_lsvr_and_its_cuts() -> None:
    segments = [40, 160, 150, 200, 200, 200, 200, 200]
    assert m.lsvr(segments) == pytest.approx(0.35)
    assert [m.lsvr_cirrhosis(value) for value in (0.3499, 0.35)] == [False, True]
    assert [m.lsvr_advanced(value) for value in (0.37, 0.3701)] == [False, True]
    assert m.caudate_right_lobe_volume_ratio(segments) == pytest.approx(40 / 800)


@pytest.mark.parametrize("segments", [[1.0] * 7, [1.0] * 9, [0.0] + [1.0] * 7, []])
def test_lsvr_without_a_segment(segments: list[float]) -> None:
    with pytest.raises(NotEvaluableError) as error:
        m.lsvr(segments)
    assert error.value.reason == "missing_segment"


def test_caudate_cuts() -> None:
    assert m.caudate_right_lobe_ratio(33.0, 50.0) == pytest.approx(0.66)
    assert [m.caudate_classic_positive(value) for value in (0.65, 0.651)] == [False, True]
    assert [m.caudate_modified_positive(value) for value in (0.899, 0.90)] == [False, True]
    assert [m.crl_r_positive(value) for value in (0.99, 0.991)] == [False, True]


@pytest.mark.parametrize(
    ("sex", "height", "limit"),
    [("F", 155, 160.938), ("F", 180, 338.428), ("M", 165, 265.5995), ("M", 200, 418.91)],
)
def test_spleen_limits(sex: str, height: float, limit: float) -> None:
    assert m.spleen_volume_limit(sex, height) == pytest.approx(limit)
    assert not m.splenomegaly(m.spleen_volume_limit(sex, height), sex, height)
    assert m.splenomegaly(limit + 0.01, sex, height)


@pytest.mark.parametrize(
    ("sex", "height", "reason"),
    [
        ("F", 154.9, "height_out_of_range"),
        ("F", 180.1, "height_out_of_range"),
        ("M", 164.9, "height_out_of_range"),
        ("M", 200.1, "height_out_of_range"),
        ("M", 1.75, "height_out_of_range"),
        ("O", 170, "sex_not_in_table"),
    ],
)
def test_no_spleen_limit_outside_its_range(sex: str, height: float, reason: str) -> None:
    with pytest.raises(OutOfModelRangeError) as error:
        m.spleen_volume_limit(sex, height)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("liver", "spleen", "expected"),
    [
        (40.0, 50.0, m.SteatosisFindings(True, True, True, True)),
        (40.1, 50.0, m.SteatosisFindings(False, True, False, True)),
        (47.9, 43.0, m.SteatosisFindings(False, True, False, False)),
        (48.0, 43.6, m.SteatosisFindings(False, False, False, False)),
        (55.0, 50.0, m.SteatosisFindings(False, False, False, True)),
        (55.1, 50.0, m.SteatosisFindings(False, False, False, False)),
        (30.0, None, m.SteatosisFindings(True, True, None, None)),
        (-12.0, -1.0, m.SteatosisFindings(True, True, True, None)),
    ],
)
def test_steatosis_rules(liver: float, spleen: float | None, expected: m.SteatosisFindings) -> None:
    assert m.steatosis(liver, spleen, 120.0, enhanced=False) == expected


@pytest.mark.parametrize(
    ("kvp", "enhanced", "reason", "kind"),
    [
        (120.0, True, "contrast_enhanced", NotEvaluableError),
        (120.0, None, "phase_unknown", NotEvaluableError),
        (None, False, "kvp_missing", NotEvaluableError),
        (100.0, False, "kvp_out_of_table", OutOfModelRangeError),
        (math.nan, False, "kvp_out_of_table", OutOfModelRangeError),
    ],
)
def test_steatosis_needs_unenhanced_120_kvp(
    kvp: float | None, enhanced: bool | None, reason: str, kind: type[NotEvaluableError]
) -> None:
    with pytest.raises(kind) as error:
        m.steatosis(40.0, 50.0, kvp, enhanced)
    assert error.value.reason == reason


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_bad_numbers_are_refused(bad: float) -> None:
    reason = "not_positive" if math.isfinite(bad) else "not_finite"
    for compute in (
        lambda: m.fib4(bad, 80, 64, 120),
        lambda: m.fib4(60, bad, 64, 120),
        lambda: m.fib4(60, 80, bad, 120),
        lambda: m.fib4(60, 80, 64, bad),
        lambda: m.apri(80, bad, 100),
        lambda: m.mre_stiffness([bad], [100.0]),
        lambda: m.mre_stiffness([3.0], [bad]),
        lambda: m.mefib(bad, 2.0),
        lambda: m.mefib(4.0, bad),
        lambda: m.fib4_class(bad),
        lambda: m.apri_class(bad, "cirrhosis"),
        lambda: m.lsvr_cirrhosis(bad),
        lambda: m.spleen_volume_limit("F", bad),
        lambda: m.liver_spleen_volume_ratio(bad, 200.0),
    ):
        with pytest.raises(NotEvaluableError) as error:
            compute()
        assert error.value.reason == reason


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (lambda: m.fib4(60, 80, 64, 120_000), "implausible_unit"),
        (lambda: m.fib4(720, 80, 64, 120), "implausible_unit"),
        (lambda: m.apri(80, 40, 120_000), "implausible_unit"),
        (lambda: m.apri(1e308, 40, 120), "implausible_unit"),
        (lambda: m.mre_stiffness([], []), "no_rois"),
        (lambda: m.mre_stiffness([3.0], [1.0, 2.0]), "length_mismatch"),
        (lambda: m.steatosis(math.nan, 50.0, 120.0, False), "not_finite"),
    ],
)
def test_what_else_is_refused(compute: object, reason: str) -> None:
    with pytest.raises(NotEvaluableError) as error:
        compute()  # type: ignore[operator]
    assert error.value.reason == reason

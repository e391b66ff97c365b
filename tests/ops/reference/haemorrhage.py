"""The haemorrhage cases, ICH-*."""

from __future__ import annotations

from ops.diseases.haemorrhage.scores import abc_over_2, ellipsoid_volume, ich_score, modified_fisher
from tests.ops.reference.expect import Case, Check, check


def ich_01(case: Case) -> None:
    inputs = case["inputs"]
    check(case, abc_over_2(inputs["A_cm"], inputs["B_cm"], inputs["C_cm"]))


def ich_02(case: Case) -> None:
    diameters = [case["inputs"][name] for name in "ABC"]
    check(case, ellipsoid_volume(*diameters))
    assert abs(ellipsoid_volume(*diameters) / abc_over_2(*diameters) - 1.0472) < 5e-5


def ich_04(case: Case) -> None:
    rows = case["inputs"]["rows"]
    check(case, [ich_score(gcs, ml, bool(ivh), bool(below), age) for gcs, ml, ivh, below, age in rows])


def ich_05(case: Case) -> None:
    check(case, [modified_fisher(*map(bool, row)) for row in case["inputs"]["rows"]])


CHECKS: dict[str, Check] = {"ICH-01": ich_01, "ICH-02": ich_02, "ICH-04": ich_04, "ICH-05": ich_05}

"""The liver fibrosis cases, LF-*."""

from __future__ import annotations

import numpy as np

from ops.diseases.fibrosis.liver_surface import TENTHS_PER_MM, mean_deviation
from ops.diseases.fibrosis.markers import fib4, lsvr, lsvr_cirrhosis
from tests.ops.reference.expect import Case, Check, check


def fib4_of(case: Case) -> None:
    values = case["inputs"]
    check(case, fib4(values["age"], values["AST"], values["ALT"], values["PLT"]))


def lf_04(case: Case) -> None:
    ratio = lsvr(case["inputs"]["segs_ml"])
    check(case, {"LSVR": ratio, "positive": lsvr_cirrhosis(ratio)})


def lf_05(case: Case) -> None:
    along = (np.arange(10_000) + 0.5) * case["inputs"]["period_mm"] / 10_000
    edge = case["inputs"]["A_mm"] * np.sin(2 * np.pi * along / case["inputs"]["period_mm"])
    check(case, mean_deviation(edge, np.zeros_like(edge)) / TENTHS_PER_MM)


CHECKS: dict[str, Check] = {"LF-01": fib4_of, "LF-02": fib4_of, "LF-04": lf_04, "LF-05": lf_05}

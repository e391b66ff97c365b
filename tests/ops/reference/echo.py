"""The echocardiography cases, ECHO-*."""

from __future__ import annotations

import math

import numpy as np

from ops.diseases.echo.formulae import (
    ejection_fraction,
    longitudinal_strain,
    lv_mass_area_length_g,
    lv_mass_cube_g,
    lv_mass_truncated_ellipsoid_g,
    mean_wall_thickness_cm,
    simpson_volume_ml,
    teichholz_volume_ml,
)
from tests.ops.reference.expect import Case, Check, check

MM_PER_CM = 10.0


def echo_01(case: Case) -> None:
    n, diameter, length = (case["inputs"][key] for key in ("n", "D_cm", "L_cm"))
    centres = (np.arange(n) + 0.5) / n
    discs = diameter * MM_PER_CM * np.sqrt(1 - centres**2)
    check(case, simpson_volume_ml(discs, length * MM_PER_CM))


def echo_02(case: Case) -> None:
    a, b, length = (case["inputs"][key] * MM_PER_CM for key in ("a_cm", "b_cm", "L"))
    check(case, simpson_volume_ml(np.full(20, a), length, np.full(20, b), length))


def echo_04(case: Case) -> None:
    check(case, ejection_fraction(case["inputs"]["EDV"], case["inputs"]["ESV"]))


def echo_05(case: Case) -> None:
    check(case, lv_mass_cube_g(*(case["inputs"][key] for key in ("IVSd", "LVIDd", "PWd"))))


def echo_07(case: Case) -> None:
    outer, inner, length = (case["inputs"][key] for key in ("A1", "A2", "L"))
    t, mass = mean_wall_thickness_cm(outer, inner), lv_mass_area_length_g(outer, inner, length)
    check(case, {"t": t, "mass": mass})


def echo_08(case: Case) -> None:
    a, d, b, t = (case["inputs"][key] for key in "adbt")
    check(case, lv_mass_truncated_ellipsoid_g(a, d, b, t))
    assert math.isclose(1.05 * (_volume(a + t, d, b + t) - _volume(a, d, b)), case["expected"], rel_tol=1e-6)


def _volume(a: float, d: float, b: float, n: int = 20_000) -> float:
    """Volume of a truncated ellipsoid by the midpoint rule."""
    z = -d + (np.arange(n) + 0.5) * (a + d) / n
    return float((math.pi * b**2 * (1 - (z / a) ** 2)).sum() * (a + d) / n)


def echo_10(case: Case) -> None:
    check(case, longitudinal_strain(case["inputs"]["Led"], case["inputs"]["Les"]))


def echo_11(case: Case) -> None:
    check(case, teichholz_volume_ml(case["inputs"]["D"]))


CHECKS: dict[str, Check] = {
    "ECHO-01": echo_01,
    "ECHO-02": echo_02,
    "ECHO-04": echo_04,
    "ECHO-05": echo_05,
    "ECHO-07": echo_07,
    "ECHO-08": echo_08,
    "ECHO-10": echo_10,
    "ECHO-11": echo_11,
}

"""The cardiac MR and CT cases, CMR-*."""

from __future__ import annotations

from ops.diseases.cardiac.aorta import distensibility
from ops.diseases.cardiac.volumes import myocardial_mass_g, slice_sum_volume_ml
from tests.ops.reference.expect import Case, Check, check

MM2_PER_CM2, MM_PER_CM = 100.0, 10.0


def cmr_01(case: Case) -> None:
    inputs = case["inputs"]
    distance = inputs["spacing_cm"] * MM_PER_CM
    cavity, heart = (
        slice_sum_volume_ml([area * MM2_PER_CM2 for area in inputs[name]], distance) for name in ("endo_cm2", "epi_cm2")
    )
    check(case, {"vol": cavity, "mass": myocardial_mass_g(heart - cavity)})


def cmr_02(case: Case) -> None:
    inputs = case["inputs"]
    check(case, distensibility(inputs["Amax"], inputs["Amin"], inputs["PP"]))


CHECKS: dict[str, Check] = {"CMR-01": cmr_01, "CMR-02": cmr_02}

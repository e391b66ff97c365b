"""The calcium cases, CAC-*."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ops.diseases.calcium.risk import RiskFactors, mesa_bucket, mesa_references, mesa_risk
from ops.diseases.calcium.scores import (
    DEFAULT_POLICY,
    WEIGHT_EDGES,
    ScorePolicy,
    agatston,
    cac_drs,
    cac_drs_a,
    density_weight,
    find_calcium,
    mass_score,
    shemesh_total,
    volume_score,
    weight_edges,
)
from ops.volume import Grid, Volume
from tests.ops.reference.expect import Case, Check, check

EDGES_120 = WEIGHT_EDGES[120]


def scan(slices: list[list[int]], spacing: tuple[float, float, float] = (3.0, 0.5, 0.5)) -> Volume:
    """One compact lesion per slice, filled row by row from the given HU values, on a 40 HU background."""
    voxels = np.full((len(slices) + 2, 16, 16), 40, dtype=np.int16)
    for z, values in enumerate(slices, start=1):
        side = math.ceil(math.sqrt(len(values)))
        for n, hu in enumerate(values):
            voxels[z, 5 + n // side, 5 + n % side] = hu
    return Volume(voxels, Grid.from_spacing(voxels.shape, spacing))


def total_agatston(volume: Volume, policy: ScorePolicy = DEFAULT_POLICY) -> float:
    everywhere = np.ones(volume.voxels.shape, dtype=np.uint8)
    return agatston(find_calcium(volume, everywhere, EDGES_120, policy), EDGES_120)["total"]


def diagonal_lesion() -> Volume:
    voxels = np.full((3, 16, 16), 40, dtype=np.int16)
    voxels[1, range(4, 8), range(4, 8)] = 300
    return Volume(voxels, Grid.from_spacing(voxels.shape, (3.0, 0.5, 0.5)))


def cylinder(diameter: float, density: float, offset: float, subsamples: int = 20) -> Volume:
    """Right cylinder of SPEC §1.8 along z with ideal partial volume; ``offset`` mm from the edge of slice 3."""
    pixel, increment, calibration, background = 0.5, 3.0, 0.8, 40.0
    n = 20
    fine = (np.arange(n * subsamples) + 0.5) * pixel / subsamples - n * pixel / 2
    disc = (fine[:, None] ** 2 + fine[None, :] ** 2 <= (diameter / 2) ** 2).astype(float)
    area = disc.reshape(n, subsamples, n, subsamples).mean(axis=(1, 3))
    edges = np.arange(9) * increment - 3 * increment
    covered = np.clip(np.minimum(edges[1:], offset + diameter) - np.maximum(edges[:-1], offset), 0, None) / increment
    fraction = covered[:, None, None] * area
    hu = background + fraction * (density / calibration - background)
    return Volume(hu, Grid.from_spacing(hu.shape, (increment, pixel, pixel)))


def cylinder_scores(offset: float) -> dict[str, dict[str, float]]:
    scores = {}
    for diameter in (5, 3, 1):
        for density in (200, 400, 800):
            volume = cylinder(diameter, density, offset)
            calcium = find_calcium(volume, np.ones(volume.voxels.shape, dtype=np.uint8), EDGES_120)
            scores[f"d{diameter}_rho{density}"] = {
                "agatston": agatston(calcium, EDGES_120)["total"],
                "volume_mm3": volume_score(calcium)["total"],
                "mass_mg": mass_score(calcium, calibration=0.8)["total"],
            }
    return scores


def cac_01(case: Case) -> None:
    check(case, total_agatston(scan([[150] * 4], tuple(case["inputs"]["spacing_mm"]))))


def cac_02(case: Case) -> None:
    check(case, total_agatston(scan([[150] * 4]), ScorePolicy(area_rule=">1mm2")))


def cac_03b(case: Case) -> None:
    lesion = scan([[250] * 3])
    check(case, total_agatston(lesion, ScorePolicy(area_rule="min_pixels", min_pixels=3)))
    assert total_agatston(lesion, ScorePolicy(area_rule="min_pixels", min_pixels=4)) == 0
    assert total_agatston(lesion) == 0


def cac_04a(case: Case) -> None:
    check(case, total_agatston(diagonal_lesion()))
    assert total_agatston(diagonal_lesion(), ScorePolicy(connectivity=4)) == 0


def cac_05(case: Case) -> None:
    check(case, density_weight(case["inputs"]["peak_HU"]).tolist())


def cac_06(case: Case) -> None:
    check(case, total_agatston(scan([[150] * 16, [420] + [250] * 15, [320] * 9])))


def cac_08(case: Case) -> None:
    check(case, total_agatston(scan([[250] * 16] * 4, (case["inputs"]["increment"], 0.5, 0.5))))


def cac_10(case: Case) -> None:
    assert list(weight_edges(80)) == case["inputs"]["edges80"]
    assert list(weight_edges(70)) == case["inputs"]["edges70"]
    weights80 = density_weight(case["inputs"]["peaks"], weight_edges(80)).tolist()
    weights70 = density_weight([176, 207, 317, 317, 318, 477], weight_edges(70)).tolist()
    check(case, {"k80": weights80, "k70": weights70})


def cac_11(case: Case) -> None:
    formula = [round(378 * math.exp(-0.009 * kv)) for kv in case["inputs"]["kV"]]
    check(case, formula)
    ours = {kv: weight_edges(kv)[0] for kv in (70, 80, 120, 135)}
    assert all(ours[kv] != value for kv, value in zip(case["inputs"]["kV"], formula, strict=True) if kv in ours)


def cac_13(case: Case) -> None:
    volumes = [math.pi * d**3 / 4 for d in case["inputs"]["diam_mm"]]
    masses = [v * rho / 1000 for v in volumes for rho in case["inputs"]["rho"]]
    check(case, {"vol": volumes, "mass": masses, "total": sum(masses)})


def cac_14(case: Case) -> None:
    computed: dict[str, Any] = {}
    for offset, suffix in ((0.0, "off0"), (1.5, "off1.5")):
        scores = cylinder_scores(offset)
        computed |= {f"{name}_{suffix}": values for name, values in scores.items()}
        computed[f"total_{suffix}"] = sum(values["agatston"] for values in scores.values())
    check(case, computed)


def cac_16(case: Case) -> None:
    check(case, [cac_drs_a(score) for score in case["inputs"]["scores"]])


def cac_17(case: Case) -> None:
    inputs = case["inputs"]
    references, approximate = mesa_references(inputs["age"], inputs["sex"], inputs["race"])
    check(case, list(references))
    assert not approximate


def cac_18(case: Case) -> None:
    """Only buckets are computed, never a percentile: an exact age agrees, the others say they are approximate."""
    limits = {"<25": (0, 25), "25-50": (25, 50), "50-75": (50, 75), "75-90": (75, 90), ">90": (90, 100)}
    for inputs, percentile in zip(case["inputs"]["cases"], case["expected"]["percentile"], strict=True):
        age, sex, race, score = inputs
        found = mesa_bucket(score, age, sex, race)
        low, high = limits[found.bucket]
        assert found.approximate == (age not in (50, 60, 70, 80))
        # The interpolated table may be off by the two points that separate it from the official tool.
        slack = 2 if found.approximate else 0
        assert low - slack <= percentile <= high + slack, inputs


def cac_19(case: Case) -> None:
    """Documents that a public fit misses the official percentiles; nothing of ours offers such a percentile."""
    assert case["computed"] != case["expected"]
    assert not hasattr(mesa_bucket(35, 46, "F", "chinese"), "percentile")


def cac_21(case: Case) -> None:
    inputs = case["inputs"]
    factors = RiskFactors(
        age=inputs["age"],
        sex="M" if inputs["male"] else "F",
        ethnicity=inputs["race"],
        total_cholesterol=inputs["tc"],
        hdl_cholesterol=inputs["hdl"],
        systolic_pressure=inputs["sbp"],
    )
    check(case, [mesa_risk(factors, score) for score in (None, 0, 100, 400)])


def cac_22(case: Case) -> None:
    volume = scan([[150] * 36])
    check(case, volume_score(find_calcium(volume, np.ones(volume.voxels.shape, np.uint8), EDGES_120))["total"])


def cac_23(case: Case) -> None:
    vessels = case["inputs"]["vessels"]
    total = sum(vessels.values())
    check(case, {"total": total, "label": cac_drs(total, sum(score > 0 for score in vessels.values()))})


def cac_24(case: Case) -> None:
    check(case, shemesh_total(case["inputs"]["vessels"]))


def cac_25(case: Case) -> None:
    edge, middle = cylinder_scores(0.0), cylinder_scores(1.5)
    computed = {
        "off0": sum(values["agatston"] for values in edge.values()),
        "off15": sum(values["agatston"] for values in middle.values()),
        "d3_800": [edge["d3_rho800"]["agatston"], middle["d3_rho800"]["agatston"]],
    }
    check(case, computed)


CHECKS: dict[str, Check] = {
    "CAC-01": cac_01,
    "CAC-02": cac_02,
    "CAC-03b": cac_03b,
    "CAC-04a": cac_04a,
    "CAC-05": cac_05,
    "CAC-06": cac_06,
    "CAC-08a": cac_08,
    "CAC-08b": cac_08,
    "CAC-10": cac_10,
    "CAC-11": cac_11,
    "CAC-13": cac_13,
    "CAC-14": cac_14,
    "CAC-16": cac_16,
    "CAC-17": cac_17,
    "CAC-18": cac_18,
    "CAC-19": cac_19,
    "CAC-21": cac_21,
    "CAC-22": cac_22,
    "CAC-23": cac_23,
    "CAC-24": cac_24,
    "CAC-25": cac_25,
}

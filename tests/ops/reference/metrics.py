"""The evaluation metrics cases, MET-*."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ops.metrics.calibration import brier_score, expected_calibration_error
from ops.metrics.classification import BinaryCounts, auc, cohen_kappa, delong
from ops.metrics.intervals import bootstrap
from ops.metrics.overlap import overlap
from ops.metrics.registration import target_registration_errors
from ops.metrics.surface_distance import surface_distances
from ops.volume import Grid, Volume
from tests.ops.reference.expect import Case, Check, check


def cube(first: int) -> Volume:
    """Cube of ten voxels, 1 mm, its lowest row at ``first``."""
    voxels = np.zeros((14, 14, 20), dtype=np.uint8)
    voxels[2:12, 2:12, first : first + 10] = 1
    return Volume(voxels, Grid.from_spacing(voxels.shape, (1.0, 1.0, 1.0)), "label")


def met_01(case: Case) -> None:
    check(case, cohen_kappa(case["inputs"]["matrix"], "unweighted"))


def met_02(case: Case) -> None:
    check(case, [cohen_kappa(case["inputs"]["matrix"], w) for w in ("unweighted", "linear", "quadratic")])


def met_04(case: Case) -> None:
    counts = BinaryCounts(**{name.lower(): count for name, count in case["inputs"].items()})
    check(case, [counts.precision, counts.recall, counts.accuracy, counts.f1])


def met_05(case: Case) -> None:
    found = overlap(cube(2), cube(4))
    check(case, {"dice": found.dice, "iou": found.iou})


def met_07(case: Case) -> None:
    shift = case["inputs"]["shift"]
    distances = surface_distances(cube(2), cube(2 + shift))
    check(case, {"hd": distances.hausdorff, "nsd": distances.nsd(shift)})


def met_08(case: Case) -> None:
    spacing = np.array(case["inputs"]["spacing"])
    p, q = (np.array(case["inputs"][name]) * spacing for name in "pq")
    check(case, target_registration_errors(p, q).mean())


def met_10(case: Case) -> None:
    check(case, brier_score(case["inputs"]["y"], case["inputs"]["p"]))


def met_11(case: Case) -> None:
    """The case gives the number of cases and the seed; these draws reproduce its DeLong interval."""
    inputs = case["inputs"]
    rng, half = np.random.default_rng(inputs["seed"]), inputs["n"] // 2
    scores = np.concatenate([rng.normal(1, 1, half), rng.normal(0, 1, half)])
    truth = np.repeat([1, 0], half)
    found = bootstrap(
        lambda rows: auc(truth[rows], scores[rows]),
        np.arange(inputs["n"]),
        seed=inputs["seed"],
        replicates=inputs["B"],
    )
    check(case, {"lo": found.lower, "hi": found.upper})
    exact = delong(truth, scores).interval()
    assert (exact.lower, exact.upper) == pytest.approx((case["expected"]["lo"], case["expected"]["hi"]), abs=1e-5)


def met_13(case: Case) -> None:
    inputs = case["inputs"]
    check(case, expected_calibration_error(inputs["y"], inputs["p"], inputs["bins"]))


def met_14(case: Case) -> None:
    """What libraries answer with NaN or infinity is undefined here, and never a number."""
    empty = Volume(np.zeros((2, 2, 2), dtype=np.uint8), Grid.from_spacing((2, 2, 2), (1, 1, 1)), "label")
    computed = {
        "kappa_nan": math.isnan(cohen_kappa([[5, 0], [0, 0]], "unweighted")),
        "auc_nan": math.isnan(auc([1, 1, 1], [0.1, 0.2, 0.3])),
        "sitk_inf": math.isnan(overlap(empty, empty).dice),
    }
    check(case, computed)


CHECKS: dict[str, Check] = {
    "MET-01": met_01,
    "MET-02": met_02,
    "MET-04": met_04,
    "MET-05": met_05,
    "MET-07": met_07,
    "MET-08": met_08,
    "MET-10": met_10,
    "MET-11": met_11,
    "MET-13": met_13,
    "MET-14": met_14,
}

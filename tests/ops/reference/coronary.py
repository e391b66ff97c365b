"""The coronary cases, COR-*."""

from __future__ import annotations

import numpy as np

from ops.diseases.coronary.cad_rads import cad_rads_category
from ops.diseases.coronary.stenosis import circular_area_stenosis, diameter_stenosis
from ops.measure.vesselness import frangi_vesselness, hessian, symmetric_eigenvalues
from ops.volume import Grid, Volume
from tests.ops.reference.expect import Case, Check, check


def gaussian_tube(width: float, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> tuple[Volume, int]:
    """Tube of unit contrast along z, and the flat index of a voxel on its axis."""
    shape = tuple(2 * int(24 / step) + 1 for step in spacing)
    y, x = (step * (np.arange(n) - n // 2) for step, n in zip(spacing[1:], shape[1:], strict=True))
    plane = np.exp(-(y[:, None] ** 2 + x**2) / (2 * width**2)).astype(np.float32)
    voxels = np.broadcast_to(plane, shape).copy()
    middle = int(np.ravel_multi_index([n // 2 for n in shape], shape))
    return Volume(voxels, Grid.from_spacing((shape[0], shape[1], shape[2]), spacing)), middle


def cor_01(case: Case) -> None:
    inputs = case["inputs"]
    stenosis = diameter_stenosis(inputs["MLD"], inputs["ref_prox"], inputs["ref_dist"])
    check(case, {"ds": stenosis, "as_": circular_area_stenosis(stenosis)})


def cor_02(case: Case) -> None:
    tube, middle = gaussian_tube(case["inputs"]["s"])
    curvatures = []
    for sigma in case["inputs"]["sigmas"]:
        elements = hessian(tube, sigma).reshape(6, -1)[:, [middle]]
        curvatures.append(-float(symmetric_eigenvalues(elements)[0, 0]))
    check(case, curvatures)
    # COR-03: on the axis R_A = 1, R_B = 0 and S = 2c.
    assert abs(frangi_vesselness(tube, [3.0]).reshape(-1)[middle] - 0.747645) < 1e-5


def cor_04(case: Case) -> None:
    """Rows: largest stenosis, that of the left main, whether three vessels have the largest, plaque."""
    categories = []
    for largest, left_main, three, plaque in case["inputs"]["rows"]:
        others = dict.fromkeys(("LCX", "RCA"), float(largest if three else 0))
        categories.append(cad_rads_category({"LM": float(left_main), "LAD": float(largest), **others}, plaque))
    check(case, categories)


CHECKS: dict[str, Check] = {"COR-01": cor_01, "COR-02": cor_02, "COR-04": cor_04}

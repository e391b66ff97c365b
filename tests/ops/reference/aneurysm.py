"""The aneurysm cases, IA-*."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import trimesh
from scipy import ndimage
from skimage.measure import marching_cubes, mesh_surface_area

from ops.diseases.aneurysm.geometry import (
    HEMISPHERE_FACTOR,
    aspect_ratio,
    bottleneck_factor,
    heights,
    nonsphericity_index,
    sac_geometry,
    undulation_index,
)
from ops.diseases.aneurysm.risk import elapss, phases, size_class
from ops.measure.surface import sphericity, surface_mesh
from ops.volume import Grid
from tests.ops.diseases.aneurysm.sacs import cap_truth, ellipsoid_cap, half_spheroid_area, hemisphere_mesh
from tests.ops.reference.expect import Case, Check, check

POPULATIONS = {"NA_EU": "europe", "NA_CN_EU": "china", "JP": "japan", "FI": "finland"}


def indices(truth: dict[str, float]) -> dict[str, float]:
    """What the formulae make of the closed forms of a cap."""
    return {
        **truth,
        "AR": aspect_ratio(truth["H"], truth["neck"]),
        "BF": bottleneck_factor(truth["Dmax"], truth["neck"]),
        "NSI": nonsphericity_index(truth["V"], truth["S"]),
    }


def cap_case(case: Case) -> None:
    found = indices(cap_truth(case["inputs"]["R"], case["inputs"]["h"]))
    check(case, {name: found[name] for name in case["expected"]})


def ia_01(case: Case) -> None:
    check(case, HEMISPHERE_FACTOR)


def ia_04(case: Case) -> None:
    r = case["inputs"]["R"]
    check(case, 1 - sphericity(4 / 3 * math.pi * r**3, 4 * math.pi * r**2))


def ia_05(case: Case) -> None:
    r = case["inputs"]["R"]
    check(case, nonsphericity_index(2 / 3 * math.pi * r**3, 3 * math.pi * r**2))


def ia_08(case: Case) -> None:
    a, c = case["inputs"]["a"], case["inputs"]["c"]
    volume, area = 2 / 3 * math.pi * a * a * c, half_spheroid_area(a, c)
    check(case, {"V": volume, "S": area, "NSI": nonsphericity_index(volume, area)})


def ia_09(case: Case) -> None:
    """Hemisphere, half and three-quarter ellipsoid of one volume; areas of the surface of the simulated sac."""
    volume = case["inputs"]["V"]
    radius = math.cbrt(3 * volume / (2 * math.pi))
    half = math.cbrt(3 * volume / (4 * math.pi))
    # A unit ball cut at -1/2 has 27/32 of its volume.
    three_quarter = math.cbrt(volume / (27 / 32 * 8 / 3 * math.pi))
    sac = ellipsoid_cap(three_quarter, 2 * three_quarter, 0.5)
    found = sac_geometry(sac)
    computed: dict[str, Any] = {
        "R": radius,
        "a_hemi_ell": half,
        "a_34": three_quarter,
        "NSI": [
            nonsphericity_index(volume, 2 * math.pi * radius**2),
            nonsphericity_index(volume, half_spheroid_area(half, 2 * half)),
            nonsphericity_index(found.volume, found.surface_area),
        ],
        "neck34": found.neck_mean_radius,
        "H34": found.height,
        "AR34": aspect_ratio(found.height, found.neck_mean_radius),
        "BF34": bottleneck_factor(found.diameter_section, found.neck_mean_radius),
    }
    check(case, computed)


def ia_10(case: Case) -> None:
    """Three unit cubes in an L, closed by their hull."""
    cubes = [trimesh.creation.box(bounds=[corner, np.add(corner, 1)]) for corner in ((0, 0, 0), (1, 0, 0), (0, 1, 0))]
    hull = trimesh.util.concatenate(cubes).convex_hull
    check(case, undulation_index(sum(cube.volume for cube in cubes), hull.volume))


def ia_11(case: Case) -> None:
    found = sac_geometry(hemisphere_mesh(5))
    check(case, nonsphericity_index(found.volume, found.surface_area))


def ia_12(case: Case) -> None:
    computed = {}
    for radius in case["inputs"]["radii_vox"]:
        n = 2 * radius + 9
        ball = ((np.indices((n,) * 3) - n // 2) ** 2).sum(axis=0) <= radius**2
        grid = Grid.from_spacing(ball.shape, (1, 1, 1))
        blurred = marching_cubes(ndimage.gaussian_filter(ball.astype(float), 1), 0.5)
        truth = 4 * math.pi * radius**2
        computed[f"r{radius}vox"] = {
            "area_bin": surface_mesh(ball, grid, "marching_cubes").area / truth,
            "area_gauss1": mesh_surface_area(blurred[0], blurred[1]) / truth,
        }
    check(case, computed)


def ia_13(case: Case) -> None:
    computed = []
    for population, hypertension, age, size, earlier, site in case["inputs"]["rows"]:
        score = phases(
            POPULATIONS[population],  # type: ignore[arg-type]
            bool(hypertension),
            age,
            size,
            bool(earlier),
            "PCom" if site == "ACA_PCOM_POST" else site,
        )
        computed.append([score.points, score.rupture_5y])
    check(case, computed)


def ia_14(case: Case) -> None:
    sites = {"ICA_ACA_ACOM": "ACom", "MCA": "MCA", "PCOM_POST": "PCom"}
    computed = []
    for earlier, site, age, population, size, irregular in case["inputs"]["rows"]:
        score = elapss(earlier, sites[site], age, POPULATIONS[population], size, irregular)  # type: ignore[arg-type]
        assert score.points[0] == score.points[1]
        computed.append([score.points[0], score.growth_3y, score.growth_5y])
    check(case, computed)


def ia_16(case: Case) -> None:
    check(case, [size_class(diameter) for diameter in case["inputs"]["d"]])


def ia_17(case: Case) -> None:
    height, height_max = heights([case["inputs"]["apex"]], case["inputs"]["neck_normal"], (0, 0, 0))
    check(case, {"Hmax": height_max, "H": height})


CHECKS: dict[str, Check] = {
    "IA-01": ia_01,
    "IA-02": cap_case,
    "IA-04": ia_04,
    "IA-05": ia_05,
    "IA-07": cap_case,
    "IA-08": ia_08,
    "IA-09": ia_09,
    "IA-10": ia_10,
    "IA-11": ia_11,
    "IA-12": ia_12,
    "IA-13": ia_13,
    "IA-14": ia_14,
    "IA-16": ia_16,
    "IA-17": ia_17,
}

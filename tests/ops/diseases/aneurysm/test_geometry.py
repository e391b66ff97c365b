from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ops.diseases.aneurysm.geometry import (
    HEMISPHERE_FACTOR,
    aspect_ratio,
    bottleneck_factor,
    conicity,
    heights,
    nonsphericity_index,
    parent_diameter,
    sac_geometry,
    size_ratio,
    undulation_index,
)
from ops.measure.errors import NotEvaluableError
from tests.ops.diseases.aneurysm.sacs import cap_truth, ellipsoid_cap, half_spheroid_area, hemisphere_mesh


def turned(mesh: trimesh.Trimesh, seed: int) -> trimesh.Trimesh:
    moved = mesh.copy()
    moved.vertices = mesh.vertices @ Rotation.random(random_state=seed).as_matrix().T + (40, -30, 20)
    return moved


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("height", [2.0, 5.0, 8.0])
def test_cap_of_a_ball_in_any_direction(height, seed):
    truth = cap_truth(5, height)
    found = sac_geometry(turned(ellipsoid_cap(5, 5, (height - 5) / 5), seed))
    assert found.neck_mean_radius == pytest.approx(truth["neck"], rel=1e-3)
    assert found.neck_hydraulic == pytest.approx(truth["neck"], rel=1e-3)
    assert found.height == pytest.approx(height, rel=1e-6)
    assert found.diameter_3d == pytest.approx(truth["D"], rel=1e-3)
    assert found.diameter_section == pytest.approx(truth["Dmax"], rel=1e-3)
    assert found.dome_width == pytest.approx(truth["Dmax"], rel=1e-3)
    assert found.volume == pytest.approx(truth["V"], rel=1e-3)
    assert found.surface_area == pytest.approx(truth["S"], rel=1e-3)
    assert found.hull_volume == pytest.approx(truth["V"], rel=1e-3)
    assert found.hull_area == pytest.approx(truth["S"], rel=1e-3)
    assert found.bulge_height == pytest.approx(max(height - 5, 0), abs=0.08)
    assert found.openings == 1


def test_spheroid():
    found = sac_geometry(ellipsoid_cap(3, 6, 0))
    assert found.surface_area == pytest.approx(half_spheroid_area(3, 6), rel=1e-3)
    assert nonsphericity_index(found.volume, found.surface_area) == pytest.approx(0.07126, abs=5e-4)
    assert aspect_ratio(found.height, found.neck_mean_radius) == pytest.approx(1, rel=1e-3)


def test_both_meanings_of_the_largest_diameter():
    """A tall sac is longest along its height, which no section parallel to the neck sees."""
    found = sac_geometry(ellipsoid_cap(2, 6, 0.5))
    assert found.diameter_3d == pytest.approx(2 * 6 * 0.75 + 0, rel=0.02)
    assert found.diameter_section == pytest.approx(4, rel=1e-3)


def test_widest_section_of_an_ellipse_is_four_areas_over_its_perimeter():
    """Semi-axes 4 and 2: 4A/P from Ramanujan's perimeter; the width is the long axis."""
    mesh = ellipsoid_cap(2, 3, 0.5)
    mesh.vertices[:, 0] *= 2
    perimeter = math.pi * (3 * 6 - math.sqrt((3 * 4 + 2) * (4 + 3 * 2)))
    found = sac_geometry(mesh)
    assert found.diameter_section == pytest.approx(4 * math.pi * 8 / perimeter, rel=2e-3)
    assert found.dome_width == pytest.approx(8, rel=1e-3)


def test_tilted_sac():
    """IA-17: the apex lies aside of the neck."""
    assert heights([(3, 0, 4), (0, 0, 1)], (0, 0, 2), (0, 0, 0)) == pytest.approx((4, 5))
    sheared = ellipsoid_cap(3, 4, 0.5)
    sheared.vertices[:, 0] += 0.75 * sheared.vertices[:, 2]
    found = sac_geometry(sheared)
    assert found.height == pytest.approx(6, rel=1e-3)
    assert found.height_max > 7


def test_sphere_trap():
    """A closed sphere has 0.2063 and not 0; a counted neck disc makes a hemisphere 1/3 (SPEC §3.2)."""
    assert pytest.approx(3.8383166, abs=1e-6) == HEMISPHERE_FACTOR
    ball = (4 / 3 * math.pi * 125, 4 * math.pi * 25)
    assert nonsphericity_index(*ball) == pytest.approx(1 - 2 ** (-1 / 3), abs=1e-12)
    assert nonsphericity_index(2 / 3 * math.pi * 125, 2 * math.pi * 25) == pytest.approx(0, abs=1e-12)
    assert nonsphericity_index(2 / 3 * math.pi * 125, 3 * math.pi * 25) == pytest.approx(1 / 3, abs=1e-12)
    assert nonsphericity_index(2 * ball[0], ball[1] / 2) < 0


def test_ratios():
    truth = cap_truth(5, 8)
    assert bottleneck_factor(truth["Dmax"], truth["neck"]) == pytest.approx(1.25)
    assert nonsphericity_index(truth["V"], truth["S"]) == pytest.approx(0.0779, abs=1e-4)
    assert undulation_index(3, 3.5) == pytest.approx(1 / 7)
    assert conicity(3, 8) == pytest.approx(0.125)


def test_size_ratio_averages_each_vessel_and_then_the_vessels():
    assert parent_diameter([(4.0, 3.0)]) == pytest.approx(3.5)
    assert parent_diameter([(4.0, 3.0), (2.0, 2.0), (1.5, 2.5)]) == pytest.approx(2.5)
    assert size_ratio(7, 3.5) == pytest.approx(2)
    with pytest.raises(NotEvaluableError) as caught:
        parent_diameter([])
    assert caught.value.reason == "no_parent_vessel"


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    "formula", [nonsphericity_index, undulation_index, aspect_ratio, bottleneck_factor, size_ratio]
)
def test_formulae_refuse_what_is_no_length(formula, bad):
    for arguments in ((bad, 1.0), (1.0, bad)):
        with pytest.raises(NotEvaluableError) as caught:
            formula(*arguments)
        assert caught.value.reason == "not_positive"


def test_conicity_refuses_a_bulge_above_the_apex():
    for bulge in (-0.1, 5.1, math.nan):
        with pytest.raises(NotEvaluableError):
            conicity(bulge, 5)


def test_lobe_makes_undulation_and_less_of_it_makes_less():
    """Two balls side by side: their hull fills the waist."""
    mesh = ellipsoid_cap(3, 3, 0.4, rings=40, spokes=60)
    waist = mesh.copy()
    waist.vertices[:, :2] *= (1 - 0.4 * np.exp(-((mesh.vertices[:, 2] - 2) ** 2)))[:, None]
    smooth, lobed = sac_geometry(mesh), sac_geometry(waist)
    assert undulation_index(smooth.volume, smooth.hull_volume) < 0.002
    assert undulation_index(lobed.volume, lobed.hull_volume) > 0.05


def test_inverted_faces_make_no_difference():
    mesh = ellipsoid_cap(3, 4, 0.3, rings=40, spokes=60)
    inverted = mesh.copy()
    inverted.invert()
    one, other = sac_geometry(mesh), sac_geometry(inverted)
    assert other.volume == pytest.approx(one.volume)
    assert other.diameter_section == pytest.approx(one.diameter_section)
    assert other.neck_normal == pytest.approx(one.neck_normal)


def test_second_opening_is_counted_and_a_pinhole_is_not():
    mesh = ellipsoid_cap(3, 4, 0.3, rings=40, spokes=60)
    centres = mesh.triangles_center
    for reach, openings in ((0.3, 1), (1.2, 2)):
        holed = mesh.copy()
        holed.update_faces(np.linalg.norm(centres - mesh.vertices[0], axis=1) > reach)
        assert sac_geometry(holed).openings == openings


@pytest.mark.parametrize(
    ("mesh", "reason"),
    [
        (trimesh.creation.icosphere(2), "no_neck"),
        (trimesh.Trimesh(np.eye(3), [[0, 1, 2]], process=False), "bad_mesh"),
        (trimesh.Trimesh(np.full((3, 3), np.nan), [[0, 1, 2]], process=False), "bad_mesh"),
        (trimesh.Trimesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int), process=False), "bad_mesh"),
    ],
)
def test_bad_mesh(mesh, reason):
    with pytest.raises(NotEvaluableError) as caught:
        sac_geometry(mesh)
    assert caught.value.reason == reason


def test_faces_wound_both_ways():
    mesh = hemisphere_mesh(3, 2)
    mesh.faces[0] = mesh.faces[0, ::-1]
    with pytest.raises(NotEvaluableError, match="wound one way"):
        sac_geometry(mesh)


@settings(max_examples=20, deadline=None)
@given(st.floats(1, 6), st.floats(1, 2), st.floats(0, 0.9), st.floats(0.2, 3))
def test_scaling_scales_lengths_and_leaves_indices(a, elongation, cut, factor):
    mesh = ellipsoid_cap(a, a * elongation, cut, rings=24, spokes=36)
    scaled = mesh.copy()
    scaled.vertices = mesh.vertices * factor
    one, other = sac_geometry(mesh), sac_geometry(scaled)
    assert other.height_max == pytest.approx(factor * one.height_max, rel=1e-6)
    assert other.diameter_section == pytest.approx(factor * one.diameter_section, rel=1e-4)
    assert other.volume == pytest.approx(factor**3 * one.volume, rel=1e-6)
    index = nonsphericity_index(one.volume, one.surface_area)
    assert nonsphericity_index(other.volume, other.surface_area) == pytest.approx(index, abs=1e-6)
    assert index > -1e-3

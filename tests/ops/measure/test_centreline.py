from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from ops.measure.centreline import (
    CentrelinePolicy,
    arc_length,
    main_centreline,
    path_between,
    path_in_mask,
    rotation_minimising_frames,
    sample,
    skeleton_centrelines,
    smooth_curve,
    straightened,
    trunk_centreline,
)
from ops.measure.errors import NotEvaluableError
from ops.measure.sections import sections
from ops.volume import Grid, Volume

FloatArray = np.ndarray


def tubes(curves: list[FloatArray], radius: list[float], spacing: tuple[float, float, float]) -> Volume:
    """Label map of round tubes along curves ``(n, 3)`` LPS mm."""
    points = np.concatenate(curves)
    low, high = points.min(axis=0) - 5, points.max(axis=0) + 5
    shape = tuple(int(n) for n in np.ceil((high - low)[::-1] / spacing))
    grid = Grid.from_spacing((shape[0], shape[1], shape[2]), spacing, tuple(low))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    at = grid.index_to_patient(index).reshape(-1, 3)
    inside = np.zeros(len(at), dtype=bool)
    for curve, r in zip(curves, radius, strict=True):
        inside |= cKDTree(curve).query(at, distance_upper_bound=r)[0] < r
    return Volume(inside.reshape(shape).astype(np.uint8), grid, units="label")


def helix(turns: float = 1.0) -> FloatArray:
    t = np.linspace(0, 1, 400)
    return np.stack([9 * np.cos(2 * np.pi * turns * t), 9 * np.sin(2 * np.pi * turns * t), 30 * t], axis=-1)


def segment(a: list[float], b: list[float]) -> FloatArray:
    return np.array(a) + (np.array(b) - np.array(a)) * np.linspace(0, 1, 150)[:, None]


HELIX = tubes([helix()], [2.0], (0.6, 0.5, 0.5))
FORK = tubes(
    [segment([0, 0, 0], [0, 0, 25]), segment([0, 0, 25], [12, 0, 45]), segment([0, 0, 25], [-9, 3, 48])],
    [2.5, 1.5, 1.5],
    (0.5, 0.5, 0.6),
)


def test_skeleton_of_a_helix() -> None:
    line = main_centreline(HELIX)
    # The skeleton may end a radius before the tube.
    assert arc_length(helix())[-1] - 4.5 < line.length < arc_length(helix())[-1] + 1
    assert cKDTree(helix()).query(line.points)[0].max() < 0.5
    assert line.radii.mean() == pytest.approx(2.0, abs=0.3)


def test_path_through_a_helix() -> None:
    curve = helix()
    line = path_in_mask(curve[0], curve[-1], HELIX)
    assert line.length == pytest.approx(arc_length(curve)[-1], abs=1.5)
    assert cKDTree(curve).query(line.points)[0].max() < 0.6
    assert np.linalg.norm(line.points[0] - curve[0]) < 0.5
    assert np.linalg.norm(line.points[-1] - curve[-1]) < 0.5


def test_path_on_a_map_of_vesselness_follows_the_ridge() -> None:
    curve = helix()
    shares = HELIX.voxels.astype(np.float32) * 0.7
    points = path_between(curve[0], curve[-1], shares, HELIX.grid)
    assert cKDTree(curve).query(points)[0].max() < 2.2
    with pytest.raises(NotEvaluableError) as error:
        path_between(curve[0], curve[-1], 0 * shares, HELIX.grid)
    assert error.value.reason == "no_vessel"
    with pytest.raises(NotEvaluableError) as error:
        path_between([500, 0, 0], curve[-1], shares, HELIX.grid)
    assert error.value.reason == "seed_outside_image"


def test_branches_of_a_fork_and_its_trunk() -> None:
    branches = skeleton_centrelines(FORK)
    assert len(branches) == 3
    trunk = trunk_centreline(FORK)
    # From the wide stem into the longer branch, not from branch to branch.
    assert trunk.points[0][2] < 4
    assert trunk.points[-1][2] > 42
    assert trunk.radii[:10].mean() > 2


def test_spurs_are_cut_by_their_length() -> None:
    bump = tubes([segment([0, 0, 0], [0, 0, 30]), segment([0, 0, 15], [4.5, 0, 15])], [2.0, 1.0], (0.5, 0.5, 0.5))
    assert len(skeleton_centrelines(bump)) == 1
    assert len(skeleton_centrelines(bump, CentrelinePolicy(spur_ratio=0.5))) == 3


def test_frames_do_not_twist() -> None:
    circle = np.stack([np.cos(np.linspace(0, np.pi, 200)), np.sin(np.linspace(0, np.pi, 200)), np.zeros(200)], axis=1)
    frames = rotation_minimising_frames(20 * circle)
    assert np.abs((frames.first * frames.tangent).sum(axis=1)).max() < 1e-9
    # In a plane curve the axis across the plane stays.
    across = np.where(np.abs(frames.first[:1, 2:]) > 0.9, frames.first, frames.second)
    assert np.abs(across[:, 2]).min() > 0.9999


@pytest.mark.parametrize("axis", [(0, 0, 1), (1, 0, 0), (1, 1, 1), (0.3, -1, 0.5)])
@pytest.mark.parametrize(
    ("spacing", "radius"), [((0.4, 0.4, 0.4), 1.5), ((0.8, 0.4, 0.4), 2.5), ((0.4, 0.4, 0.4), 0.6)]
)
def test_sections_of_straight_tubes(
    axis: tuple[float, float, float], spacing: tuple[float, ...], radius: float
) -> None:
    direction = np.array(axis) / np.linalg.norm(axis)
    curve = np.linspace(-8, 8, 300)[:, None] * direction + 0.1
    mask = tubes([curve], [radius], (spacing[0], spacing[1], spacing[2]))
    outline = sections(mask, curve[60:240:2], 2 * radius + 1)
    # What the voxels hold, and within the error of voxels what the tube holds.
    along = mask.grid.index_to_patient(np.argwhere(mask.voxels)) @ direction
    content = (np.abs(along - 0.1 * direction.sum()) < 4.8).sum() * mask.grid.voxel_volume / 9.6
    assert outline.area.mean() == pytest.approx(content, rel=0.05)
    assert outline.diameter.mean() == pytest.approx(2 * radius, rel=0.06 if radius > 1 else 0.3)
    assert (outline.smallest_diameter <= outline.diameter + 1e-9).all()


def test_a_side_branch_hardly_widens_a_section() -> None:
    tree = tubes([segment([0, 0, 0], [0, 0, 30]), segment([0, 0, 15], [12, 0, 15])], [2.0, 1.0], (0.4, 0.4, 0.4))
    points = segment([0, 0, 3], [0, 0, 27])
    assert sections(tree, points, 6.0).diameter.max() < 4.0 * 1.08


def test_straightened_shows_a_disc_of_the_tube() -> None:
    image = Volume(HELIX.voxels.astype(np.float32) * 300, HELIX.grid)
    block = straightened(image, helix()[20:-20:8], half_width_mm=4, pixel_mm=0.25)
    assert block.shape == (45, 33, 33)
    area = (block > 150).sum(axis=(1, 2)) * 0.25**2
    assert area.mean() == pytest.approx(np.pi * 4, rel=0.05)


def test_sampling_outside_is_nan_and_inside_linear() -> None:
    grid = Grid.from_spacing((4, 5, 6), (2.0, 1.0, 1.0), (10.0, 0.0, 0.0))
    volume = Volume(np.arange(120, dtype=np.int16).reshape(4, 5, 6), grid, slope=2.0, intercept=-1.0)
    values = sample(volume, np.array([[10.0, 0.0, 0.0], [10.5, 0.0, 0.0], [9.0, 0.0, 0.0]]))
    assert values[:2] == pytest.approx([-1.0, 0.0])
    assert np.isnan(values[2])


def test_smoothing_keeps_ends_and_straight_lines() -> None:
    line = segment([0, 0, 0], [3, 4, 12])
    smooth = smooth_curve(line, 1.0, 0.5)
    assert smooth[[0, -1]] == pytest.approx(line[[0, -1]])
    assert cKDTree(smooth_curve(line, 1.0, 0.01)).query(smooth)[0].max() < 1e-2
    assert np.diff(arc_length(smooth)) == pytest.approx(0.5)


def test_refusals() -> None:
    nothing = Volume(np.zeros((5, 5, 5), dtype=np.uint8), Grid.from_spacing((5, 5, 5), (1, 1, 1)), units="label")
    point = Volume(nothing.voxels.copy(), nothing.grid, units="label")
    point.voxels[2, 2, 2] = 1
    two = Volume(nothing.voxels.copy(), nothing.grid, units="label")
    two.voxels[0, 0, 0] = two.voxels[4, 4, 4] = 1
    for mask, reason in ((nothing, "empty_mask"), (point, "centreline_too_short")):
        for function in (main_centreline, trunk_centreline, skeleton_centrelines):
            with pytest.raises(NotEvaluableError) as error:
                function(mask)
            assert error.value.reason == reason
    for mask, start, reason in ((two, (0, 0, 0), "vessel_interrupted"), (point, (30, 0, 0), "seed_outside_vessel")):
        with pytest.raises(NotEvaluableError) as error:
            path_in_mask(start, (4, 4, 4), mask)
        assert error.value.reason == reason


@pytest.mark.parametrize("field", ["spur_ratio", "cost_power", "smoothing_mm", "step_mm"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_impossible_policies(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        CentrelinePolicy(**{field: value})

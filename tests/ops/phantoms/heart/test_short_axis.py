"""The beating heart, its short-axis images, and the aortic tube: what they paint against their own closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ops.diseases.cardiac.volumes import Structure
from ops.phantoms.heart.aortic_tube import AorticTube
from ops.phantoms.heart.beating_heart import Bowl, Heart, Scar, filling_curve, lens_area
from ops.phantoms.heart.short_axis import (
    AXIS,
    OBSTRUCTION,
    PAPILLARY_ANGLES,
    SCAR,
    fractions,
    heart_frame,
    label_map,
    remote_region,
    sample_heart,
    sample_study,
    short_axis_grid,
)
from ops.phantoms.participant import sample_participant
from ops.volume import Grid

HEART = Heart(scar=Scar(angle=100, width=110, span=(0.2, 0.7), transmurality=0.7, obstruction=0.5))


@pytest.fixture(scope="module")
def fine() -> Grid:
    return short_axis_grid(84, 2.0, 84, 2.2, above_base_mm=70, frame=heart_frame())


@pytest.mark.parametrize("filling", [1.0, 0.4, 0.0])
def test_bowls_have_the_volumes_they_are_made_for(filling: float) -> None:
    phase = HEART.at(filling)
    blood = HEART.lv_esv + HEART.stroke_volume * filling
    h = np.linspace(phase.base, phase.base + phase.length + 10, 200_001)
    for bowl, expected in (
        (phase.endocardium, blood),
        (phase.epicardium, blood + HEART.lv_mass / 1.05),
    ):
        assert bowl.volume() == pytest.approx(1000 * expected)
        area = np.pi * np.maximum(bowl.square_radius(h), 0)
        assert area.sum() * (h[1] - h[0]) == pytest.approx(1000 * expected, rel=1e-3)
    assert phase.crescent_volume(phase.right) == pytest.approx(1000 * (HEART.rv_edv - HEART.lv_edv + blood), rel=1e-5)


def test_distance_vanishes_on_the_surface() -> None:
    bowl = Bowl(3.0, 80.0, 25.0)
    h = np.linspace(5, 80, 40, dtype=np.float32)
    rho = np.sqrt(bowl.square_radius(h)).astype(np.float32)
    np.testing.assert_allclose(bowl.distance(rho, np.zeros_like(h), h), 0, atol=1e-3)


@pytest.mark.parametrize(
    ("distance", "area"),
    [(50.0, 0.0), (0.0, math.pi * 100), (9.0, math.pi * 100), (20.0, 2 * 400 * math.pi / 3 - 200 * math.sqrt(3))],
)
def test_lens_of_two_circles(distance: float, area: float) -> None:
    small = 20.0 if distance == 20 else 10.0
    found = lens_area(np.array([small]), np.array([20.0]), np.array([distance]))
    assert found[0] == pytest.approx(area)


def test_cycle_has_one_diastole_and_one_systole() -> None:
    for phases in (20, 25, 30):
        filling = filling_curve(phases)
        assert filling.shape == (phases,)
        assert filling[0] == 1
        assert np.count_nonzero(filling == 0) == 1
        assert ((filling >= 0) & (filling <= 1)).all()


@pytest.mark.parametrize("filling", [1.0, 0.0])
def test_painted_volumes_are_the_true_ones(fine: Grid, filling: float) -> None:
    phase = HEART.at(filling)
    share = fractions(phase, fine, 2.0, heart_frame())
    np.testing.assert_allclose(share.sum(axis=0), 1, atol=1e-4)
    ml = share.sum(axis=(1, 2, 3)) * fine.voxel_volume / 1000
    blood = HEART.lv_esv + HEART.stroke_volume * filling
    scar, obstruction = (value / 1000 for value in phase.scar_volumes())
    assert ml[Structure.PAPILLARY] == pytest.approx(HEART.papillary, rel=0.03)
    assert ml[Structure.LV_BLOOD] + ml[Structure.PAPILLARY] == pytest.approx(blood, rel=0.01)
    wall = ml[Structure.LV_MYOCARDIUM] + ml[SCAR] + ml[OBSTRUCTION]
    assert wall == pytest.approx(HEART.lv_mass / 1.05, rel=0.02)
    assert ml[Structure.RV_BLOOD] == pytest.approx(HEART.rv_edv - HEART.lv_edv + blood, rel=0.02)
    atrium = HEART.la_maximum - (HEART.la_maximum - HEART.la_minimum) * filling
    assert ml[Structure.LEFT_ATRIUM] == pytest.approx(atrium, rel=0.03)
    assert ml[SCAR] + ml[OBSTRUCTION] == pytest.approx(scar, rel=0.02)
    assert ml[OBSTRUCTION] == pytest.approx(obstruction, rel=0.05)


def test_scar_of_half_the_wall_is_half_of_it() -> None:
    half = replace(HEART, scar=Scar(angle=0, width=180, span=(0, 1), transmurality=1.0))
    phase = half.at(1.0)
    between = phase.epicardium.volume(0, half.length) - phase.endocardium.volume()
    assert phase.scar_volumes() == pytest.approx((between / 2, 0.0))
    assert half.scar_truth()["scar_percent"] == pytest.approx(100 * between / 2 / (1000 * half.lv_mass / 1.05))
    assert replace(HEART, scar=None).scar_truth()["scar_mass"] == 0


def test_remote_region_is_healthy(fine: Grid) -> None:
    phase, frame = HEART.at(1.0), heart_frame()
    share = fractions(phase, fine, 2.0, frame)
    remote = remote_region(phase, share, fine, frame).voxels > 0
    assert remote.sum() > 100
    assert (label_map(share, fine).voxels[remote] == Structure.LV_MYOCARDIUM).all()
    assert share[SCAR][remote].max() < 0.001


def test_stack_is_oblique_in_patient_space() -> None:
    grid = short_axis_grid(10, 8.0, 32, 1.5, above_base_mm=10, frame=heart_frame())
    assert grid.is_orthogonal
    assert grid.spacing == pytest.approx((8.0, 1.5, 1.5))
    assert np.linalg.det(grid.directions[:, [2, 1, 0]]) == pytest.approx(1)
    assert grid.directions[:, 0] == pytest.approx(-AXIS)
    assert np.abs(grid.directions).max() < 0.95
    # Columns run to the patient's left, rows to the feet.
    assert grid.directions[0, 2] > 0
    assert grid.directions[2, 1] < 0


@pytest.mark.parametrize("seed", range(20))
def test_papillary_muscles_lie_apart_in_the_cavity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heart = Heart() if seed == 0 else sample_heart(rng, sample_participant(rng))
    for filling in (0.0, 0.5, 1.0):
        phase = heart.at(filling)
        radius, reach, start, stop = phase.papillary()
        assert (reach + radius) ** 2 <= phase.endocardium.square_radius([start, stop]).min() * (1 + 1e-9)
        assert 2 * math.pi * radius**2 * (stop - start) == pytest.approx(1000 * heart.papillary)
        assert reach * math.sin((PAPILLARY_ANGLES[1] - PAPILLARY_ANGLES[0]) / 2) > radius


def test_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.phantoms.heart.short_axis.MATRIX", 64)
    monkeypatch.setattr("ops.phantoms.heart.short_axis.PHASES", (6,))
    study = sample_study(np.random.default_rng(4))
    cine, lge = study.series
    times = [float(stack.attributes["TriggerTime"]) for stack in cine.stacks]
    assert times[0] == 0
    assert np.all(np.diff(times) > 0)
    assert cine.modality == lge.modality == "MR"
    assert cine.stacks[0].volume.voxels.dtype == lge.stacks[0].volume.voxels.dtype == np.int16
    assert set(study.labels) == {f"cine_{n:02d}" for n in range(6)} | {"lge", "lge_remote"}
    assert all(labels.grid.matches(lge.stacks[0].volume.grid) for labels in study.labels.values())
    blood = cine.stacks[0].volume.voxels[study.labels["cine_00"].voxels == Structure.LV_BLOOD]
    wall = cine.stacks[0].volume.voxels[study.labels["cine_00"].voxels == Structure.LV_MYOCARDIUM]
    assert np.median(blood) > 2 * np.median(wall)
    assert study.truth["lv_ejection_fraction"] == pytest.approx(
        100 * study.truth["lv_stroke_volume"] / study.truth["lv_end_diastolic_volume"]
    )


def test_same_seed_same_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.phantoms.heart.short_axis.MATRIX", 24)
    monkeypatch.setattr("ops.phantoms.heart.short_axis.PHASES", (3,))
    first, second = (sample_study(np.random.default_rng(8)) for _ in range(2))
    assert first.truth == second.truth
    np.testing.assert_array_equal(first.series[1].stacks[0].volume.voxels, second.series[1].stacks[0].volume.voxels)


def test_heart_without_scar_has_no_scar_painted(fine: Grid) -> None:
    coarse = short_axis_grid(14, 10.0, 40, 5.0, above_base_mm=15, frame=heart_frame())
    share = fractions(Heart().at(1.0), coarse, 10.0, heart_frame())
    assert share[[SCAR, OBSTRUCTION]].max() == 0


def test_aortic_tube_has_its_volume_and_centreline() -> None:
    tube = AorticTube(bulge=0.0, ascending=50, descending=60)
    grid = tube.grid((2.0, 1.5, 1.5))
    mask = tube.mask(grid)
    # Pappus: the volume of a bent tube is its section times the length of its centreline.
    assert np.count_nonzero(mask.voxels) * grid.voxel_volume == pytest.approx(math.pi * 13**2 * tube.length, rel=0.01)
    points = tube.centreline(0.5)
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).sum() == pytest.approx(tube.length, rel=1e-3)
    index = np.round(grid.patient_to_index(points[2:-2])).astype(int)
    assert (mask.voxels[tuple(index.T)] == Structure.AORTA).all()
    wider = tube.mask(grid, stretch=1.1)
    assert np.count_nonzero(wider.voxels) / np.count_nonzero(mask.voxels) == pytest.approx(1.21, rel=0.02)
    # The ascending aorta lies in front.
    assert points[0, 1] < points[-1, 1]


def test_bulge() -> None:
    tube = AorticTube(diameter=24, bulge=10, bulge_position=40, bulge_length=12)
    assert tube.diameter_at(40) == tube.largest_diameter == 34
    assert tube.diameter_at(52) == pytest.approx(24 + 10 * math.exp(-0.5))

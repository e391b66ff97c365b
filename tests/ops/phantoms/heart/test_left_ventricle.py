from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import ndimage

from ops.phantoms.heart.chambers import BeatingHeart, TruncatedEllipsoid, sample_heart
from ops.phantoms.heart.left_ventricle import (
    AORTA,
    LEFT_ATRIUM,
    LV_CAVITY,
    LV_MYOCARDIUM,
    VIEWS,
    View,
    clip_times,
    paint_frames,
    paint_labels,
    sample_study,
    truths,
    view_plane,
)
from ops.phantoms.heart.ultrasound import Scanner, Sector
from ops.phantoms.study import UltrasoundClip

SHAPE = TruncatedEllipsoid(50.0, 20.0, 24.0, 28.0)


def heart(seed: int = 1) -> BeatingHeart:
    return sample_heart(np.random.default_rng(seed), "F", 1.8)


def test_closed_forms_against_quadrature() -> None:
    w = (np.arange(40_000) + 0.5) * SHAPE.length / 40_000
    share = np.sqrt(1 - ((w - SHAPE.d) / SHAPE.a) ** 2)
    step = SHAPE.length / len(w)
    assert SHAPE.volume_ml == pytest.approx((math.pi * SHAPE.b_u * SHAPE.b_v * share**2).sum() * step / 1000, rel=1e-6)
    for azimuth in (0.0, 90.0, 135.0):
        b = SHAPE.half_width(azimuth)
        assert SHAPE.area_mm2(azimuth) == pytest.approx((2 * b * share).sum() * step, rel=1e-5)
        phi = np.linspace(-1, 1, 40_001) * math.acos(-SHAPE.d / SHAPE.a)
        line = np.stack([SHAPE.a * np.cos(phi), b * np.sin(phi)], axis=1)
        assert SHAPE.wall_length_mm(azimuth) == pytest.approx(
            np.linalg.norm(np.diff(line, axis=0), axis=1).sum(), rel=1e-6
        )
    assert (SHAPE.half_width(0), SHAPE.half_width(90)) == pytest.approx((SHAPE.b_u, SHAPE.b_v))


def test_inside_is_where_the_distance_is_negative() -> None:
    u, v, w = np.random.default_rng(0).uniform(-60, 80, (3, 5000)).astype(np.float32)
    distance = SHAPE.distance(u, v, w)
    clear = np.abs(distance) > 1e-3
    assert np.array_equal(SHAPE.contains(u, v, w)[clear], (distance < 0)[clear])


@pytest.mark.parametrize("seed", range(8))
def test_hearts_are_plausible(seed: int) -> None:
    one = heart(seed)
    truth = truths(one)
    assert 20 <= truth["ef_biplane"] <= 75
    assert -27 < truth["gls"] < -4
    assert 40 < truth["edv_biplane"] < 260
    assert 50 < one.mass_g < 320
    # Myocardium keeps its volume and so thickens; the base comes down to the apex.
    for step in (0.0, 0.5, 1.0):
        wall = one.wall_at(step)
        volume = one.cavity(step).thickened(wall).volume_ml - one.cavity(step).volume_ml
        assert volume == pytest.approx(one.myocardial_volume_ml, rel=1e-3)
    assert one.wall_at(1.0) > one.wall_at(0.0)
    assert 2 < one.base(0.0) - one.base(1.0) < 25
    # The roof is the point of the atrium farthest from the annulus.
    atrium = one.atrium(1.0)
    assert max(atrium.b_u, atrium.b_v) ** 2 < atrium.a * atrium.length


def test_extremes_are_at_the_r_wave_and_at_end_systole() -> None:
    one = heart()
    start, stop = one.r_peaks_ms[1:3]
    times = np.linspace(start, stop, 400)
    volumes = [one.cavity(one.contraction(float(t))).volume_ml for t in times]
    assert max(volumes) == pytest.approx(one.diastole.volume_ml, rel=1e-4)
    assert min(volumes) == pytest.approx(one.systole.volume_ml, rel=1e-3)
    assert times[int(np.argmin(volumes))] - start == pytest.approx(190 + 0.16 * (stop - start), abs=4)


@pytest.mark.parametrize("view", VIEWS)
def test_labels(view: View) -> None:
    one = heart()
    sector = Sector(170, half_angle=43, pixel_mm=(1.0, 1.0))
    labels = paint_labels(one, view, view_plane(one, view), sector, [one.r_peaks_ms[1]])[0]
    present = {LV_CAVITY, LV_MYOCARDIUM} | ({LEFT_ATRIUM} if view != "psax_pap" else set())
    assert set(np.unique(labels)) == {0, *present, *({AORTA} if view in ("a3c", "plax") else set())}
    cavity = labels == LV_CAVITY
    assert ndimage.label(cavity)[1] == 1
    if view in ("a4c", "a2c", "a3c"):
        azimuth = {"a4c": 0.0, "a2c": 90.0, "a3c": 135.0}[view]
        assert np.count_nonzero(cavity) == pytest.approx(one.diastole.area_mm2(azimuth), rel=0.015)
        rows = np.flatnonzero(cavity.any(axis=1))
        atrium = np.flatnonzero((labels == LEFT_ATRIUM).any(axis=1))
        assert rows.mean() < atrium.mean()
    if view == "psax_pap":
        assert np.count_nonzero(cavity) == pytest.approx(math.pi * one.diastole.b_u * one.diastole.b_v, rel=0.02)
    if view == "a4c":
        # The right heart is to the left of the image: nothing of it is labelled there.
        assert not labels[:, : int(np.flatnonzero((labels > 0).any(axis=0))[0])].any()


def test_foreshortened_plane_misses_the_apex() -> None:
    one = heart()
    sector = Sector(170, pixel_mm=(1.0, 1.0))
    lengths = []
    for lean in (0.0, 20.0):
        labels = paint_labels(one, "a2c", view_plane(one, "a2c", foreshortening=lean), sector, [one.r_peaks_ms[1]])[0]
        lengths.append(np.count_nonzero((labels == LV_CAVITY).any(axis=1)))
    assert lengths[1] < 0.95 * lengths[0]


def test_frames_look_like_echo() -> None:
    one, rng = heart(), np.random.default_rng(3)
    sector = Sector(160, pixel_mm=(0.8, 0.8))
    plane = view_plane(one, "a4c")
    times = [one.r_peaks_ms[1], one.r_peaks_ms[1] + 10.0]
    frames = paint_frames(one, "a4c", plane, Scanner.sample(sector, rng), times, rng)
    labels = paint_labels(one, "a4c", plane, sector, times)
    assert frames.dtype == np.uint8
    blood, muscle = (frames[0][labels[0] == label] for label in (LV_CAVITY, LV_MYOCARDIUM))
    assert blood.mean() + 40 < muscle.mean()
    # Speckle: what scatters varies from sample to sample.
    assert muscle.std() > 20
    top, left, bottom, right = sector.region
    outside = frames[0].copy()
    outside[top : bottom + 1, left : right + 1] = 0
    assert not outside[: bottom + 1].any()
    assert outside[bottom + 1 :].any()
    # The tissue's speckle moves with it, so neighbouring frames resemble each other.
    inside = labels[0] == LV_MYOCARDIUM
    assert np.corrcoef(frames[0][inside], frames[1][inside])[0, 1] > 0.6


def test_depth_widens_the_speckle() -> None:
    sector, rng = Sector(160, pixel_mm=(0.5, 0.5)), np.random.default_rng(0)
    scanner = Scanner.sample(sector, rng)
    x, z = sector.beam_positions()
    image = scanner.image(np.full(x.shape, 0.3, dtype=np.float32), (x + 300, z), rng)

    def width(row: int) -> float:
        line = image[row - 8 : row + 8, 200:270]
        step = np.diff(line, axis=1).std()
        return float(line.std() / step)

    assert width(280) > 1.4 * width(90)


def test_clips_have_more_than_three_beats_that_vary_a_little() -> None:
    for seed in range(6):
        one = heart(seed)
        times = clip_times(one, 33.0, np.random.default_rng(seed))
        rr = np.diff(one.r_peaks_ms)
        assert times[-1] - times[0] > 3.5 * rr.mean()
        assert times[-1] <= one.r_peaks_ms[-1]
        assert 0 < np.ptp(rr) / rr.mean() < 0.2


def test_study() -> None:
    study = sample_study(np.random.default_rng(5))
    assert [clip.role for clip in study.series] == list(VIEWS) == list(study.labels)
    signs = set()
    for clip in study.series:
        assert isinstance(clip, UltrasoundClip)
        labels = study.labels[clip.role]
        assert labels.voxels.shape == clip.frames.shape
        assert labels.grid.spacing[1:] == pytest.approx([abs(step) for step in clip.spacing_mm])
        bottom, right = clip.region[2:]
        assert bottom < clip.frames.shape[1]
        assert right < clip.frames.shape[2]
        signs.add(math.copysign(1, clip.spacing_mm[1]))
    assert signs == {-1.0, 1.0}
    assert json.loads(json.dumps(study.truth)) == study.truth

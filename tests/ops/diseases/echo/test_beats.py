from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.diseases.echo.beats import find_beats
from ops.measure.errors import NotEvaluableError
from ops.phantoms.heart.chambers import BeatingHeart, TruncatedEllipsoid


def curve(r_peaks: list[float], start: float, stop: float, step: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Area and frame times of a heart with these R waves."""
    heart = BeatingHeart(
        TruncatedEllipsoid(50, 20, 25, 25), TruncatedEllipsoid(48, 10, 18, 18), 9, (30, 50), (1.03, 1.2), tuple(r_peaks)
    )
    times = np.arange(start, stop, step)
    return np.array([heart.cavity(heart.contraction(t)).area_mm2(0) for t in times]), times


PEAKS = [0.0, 900.0, 1800.0, 2700.0, 3600.0]


def test_beats_of_a_clip_that_starts_anywhere() -> None:
    areas, times = curve(PEAKS, 500, 3500)
    rhythm = find_beats(areas, times)
    assert len(rhythm.beats) == 3
    for beat, peak in zip(rhythm.beats, PEAKS[1:], strict=False):
        assert times[beat.end_diastole] == pytest.approx(peak, abs=40)
        assert times[beat.end_systole] == pytest.approx(peak + 334, abs=40)
    assert rhythm.heart_rate == pytest.approx(66.67, abs=0.3)
    assert rhythm.rr_spread_percent == pytest.approx(0, abs=1.5)


def test_triggered_clip_starts_at_end_diastole() -> None:
    areas, times = curve(PEAKS, 900, 2960)
    rhythm = find_beats(areas, times)
    assert [beat.end_diastole for beat in rhythm.beats] == [0, 45]


def test_one_triggered_beat() -> None:
    areas, times = curve(PEAKS, 900, 1810)
    rhythm = find_beats(areas, times)
    assert len(rhythm.beats) == 1
    assert rhythm.heart_rate is None
    assert rhythm.rr_spread_percent is None


def test_partial_beats_are_left_out() -> None:
    # From mid-systole of the first beat to mid-systole of the fourth: two whole beats.
    areas, times = curve(PEAKS, 110, 2800)
    rhythm = find_beats(areas, times)
    assert [round(times[beat.end_diastole], -2) for beat in rhythm.beats] == [900, 1800]


def test_uneven_frames() -> None:
    areas, times = curve(PEAKS, 500, 3500, step=10)
    keep = np.sort(np.random.default_rng(1).choice(len(times), len(times) // 3, replace=False))
    rhythm = find_beats(areas[keep], times[keep])
    assert rhythm.heart_rate == pytest.approx(66.67, abs=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 900), st.floats(45, 120))
def test_noise_makes_no_beats(seed: int, start: float, rate: float) -> None:
    rr = 60_000 / rate
    peaks = [rr * n for n in range(7)]
    areas, times = curve(peaks, start % rr, start % rr + 4.2 * rr)
    # One standard deviation of the noise is 2 % of the area, a third of a healthy atrial kick.
    noisy = areas * np.random.default_rng(seed).normal(1, 0.02, len(areas))
    rhythm = find_beats(noisy, times)
    assert 3 <= len(rhythm.beats) <= 5
    assert rhythm.heart_rate == pytest.approx(rate, rel=0.03)
    for beat in rhythm.beats:
        assert beat.end_diastole < beat.end_systole
        assert areas[beat.end_diastole] > 0.93 * areas.max()
        assert areas[beat.end_systole] < areas.min() + 0.07 * areas.max()


def test_irregular_intervals() -> None:
    areas, times = curve([0, 700, 1750, 2350, 3400, 4100, 5100], 300, 5000)
    spread = find_beats(areas, times).rr_spread_percent
    assert spread is not None
    assert spread > 40


@pytest.mark.parametrize(
    ("reason", "areas", "times"),
    [
        ("frame_times_mismatch", np.ones(10), np.arange(9)),
        ("frame_times_mismatch", np.ones((5, 2)), np.arange(10)),
        ("not_finite", [1, np.nan, 1, 1], [0, 100, 200, 300]),
        ("not_finite", [1, 2, 1, 1], [0, 100, np.inf, 300]),
        ("frame_times_not_rising", [1, 2, 1, 1], [0, 100, 100, 300]),
        ("clip_too_short", [1, 2, 1], [0, 500, 900]),
        ("clip_too_short", np.ones(100), np.arange(100) * 0.03),
        ("no_beat", np.ones(100), np.arange(100) * 30),
        ("no_beat", np.zeros(100), np.arange(100) * 30),
        ("no_beat", np.linspace(1, 2, 100), np.arange(100) * 30),
        ("no_beat", np.linspace(2, 1, 100), np.arange(100) * 30),
    ],
)
def test_refusals(reason: str, areas: np.ndarray, times: np.ndarray) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        find_beats(areas, times)
    assert caught.value.reason == reason


def test_impossibly_fast() -> None:
    times = np.arange(0, 3000, 10.0)
    with pytest.raises(NotEvaluableError) as caught:
        find_beats(10 + np.sin(times * 2 * np.pi / 200), times)
    assert caught.value.reason == "implausible_heart_rate"

"""Heart beats in the area curve of the left ventricle: end-diastole, end-systole, rate and regularity (SPEC §7.2)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.measure.errors import NotEvaluableError

FloatArray = npt.NDArray[np.float64]

# The curve is resampled to this step and smoothed by this standard deviation before beats are looked for; frames are
# measured as they are. 25 ms is a tenth of a short systole.
STEP_MS = 5.0
SMOOTHING_MS = 25.0
# Systole begins when the curve has been above the upper and comes below the lower level, as shares of its range. Two
# levels, so that noise on the way down is not several beats.
LEVELS = (0.4, 0.6)
# No more motion than this share of the largest area is taken for noise of the outline.
MIN_AMPLITUDE = 0.03
# A first or last frame counts as end-diastole or end-systole if it comes as close as this share of the range to the
# median of the other beats; else the beat is partial.
EDGE_TOLERANCE = 0.05
# 250 beats a minute: anything faster is noise or a wrong frame time.
MIN_RR_MS = 240.0
# Beats to average: 3, or 5 in atrial fibrillation (Lang 2015 [R]).
RECOMMENDED_BEATS = {"regular": 3, "atrial_fibrillation": 5}


@dataclass(frozen=True)
class Beat:
    """One heart beat: the frames of end-diastole (largest area) and of the end-systole after it (smallest area)."""

    end_diastole: int
    end_systole: int


@dataclass(frozen=True)
class Rhythm:
    """The beats of a clip.

    Attributes
    ----------
    beats
        Complete ones, in order; partial beats at either end of the clip are left out.
    rr_ms
        Times between successive systoles, also of partial beats.
    """

    beats: tuple[Beat, ...]
    rr_ms: tuple[float, ...]

    @property
    def heart_rate(self) -> float | None:
        """Mean beats per minute; None when the clip shows only one systole."""
        return 60_000.0 * len(self.rr_ms) / sum(self.rr_ms) if self.rr_ms else None

    @property
    def rr_spread_percent(self) -> float | None:
        """Longest minus shortest RR interval in % of their mean; None with fewer than two."""
        if len(self.rr_ms) < 2:
            return None
        return 100 * (max(self.rr_ms) - min(self.rr_ms)) * len(self.rr_ms) / sum(self.rr_ms)


def find_beats(area: npt.ArrayLike, frame_times_ms: npt.ArrayLike) -> Rhythm:
    """Beats of an area curve.

    Parameters
    ----------
    area
        ``(t,)`` LV area of every frame, any unit.
    frame_times_ms
        ``(t,)`` time of every frame from any origin, rising; frames need not be evenly spaced.

    Raises
    ------
    NotEvaluableError
        ``frame_times_mismatch``, ``not_finite``, ``frame_times_not_rising``, ``clip_too_short``, ``no_beat`` (no
        motion, or no complete beat), ``implausible_heart_rate``.
    """
    areas, times = np.asarray(area, dtype=np.float64), np.asarray(frame_times_ms, dtype=np.float64)
    _check(areas, times)
    clock = np.arange(times[0], times[-1] + STEP_MS / 2, STEP_MS)
    curve = ndimage.gaussian_filter1d(np.interp(clock, times, areas), SMOOTHING_MS / STEP_MS, mode="nearest")
    low, high = float(curve.min()), float(curve.max())
    if high - low <= MIN_AMPLITUDE * high:
        share = 100 * (high - low) / high if high > 0 else 0.0
        raise NotEvaluableError("no_beat", f"the area changes by {share:.1f} %, which no beat can be told from")
    systoles = _falls((curve - low) / (high - low))
    if not len(systoles):
        raise NotEvaluableError("no_beat", "the clip shows no systole from its beginning")
    rr = np.diff(clock[systoles])
    if len(rr) and rr.min() < MIN_RR_MS:
        detail = f"beats {rr.min():.0f} ms apart, less than {MIN_RR_MS:g}: noisy outlines, or a wrong frame time"
        raise NotEvaluableError("implausible_heart_rate", detail)
    smooth = np.interp(times, clock, curve)
    beats = _complete_beats(smooth, np.searchsorted(times, clock[systoles]), EDGE_TOLERANCE * (high - low))
    if not beats:
        raise NotEvaluableError("no_beat", "no beat is complete: the clip starts in systole or ends before its end")
    return Rhythm(beats, tuple(float(interval) for interval in rr))


def _check(areas: FloatArray, times: FloatArray) -> None:
    if areas.ndim != 1 or areas.shape != times.shape:
        raise NotEvaluableError("frame_times_mismatch", f"{areas.shape} areas and {times.shape} frame times")
    if not (np.isfinite(areas).all() and np.isfinite(times).all()):
        raise NotEvaluableError("not_finite", "an area or a frame time is NaN or infinite")
    if (np.diff(times) <= 0).any():
        raise NotEvaluableError("frame_times_not_rising", "frame times must rise from frame to frame, in ms")
    if len(times) < 4 or times[-1] - times[0] < MIN_RR_MS:
        shown = f"{len(times)} frames" if len(times) < 4 else f"{times[-1] - times[0]:.3g} ms"
        raise NotEvaluableError("clip_too_short", f"{shown}; one beat takes longer, and times are in milliseconds")


def _falls(level: FloatArray) -> npt.NDArray[np.int64]:
    """Find where a curve of range 0–1 comes below the lower level after having been above the upper one."""
    marks = np.flatnonzero((level > LEVELS[1]) | (level < LEVELS[0]))
    above = level[marks] > LEVELS[1]
    return np.asarray(marks[1:][above[:-1] & ~above[1:]])


def _complete_beats(smooth: FloatArray, systoles: npt.NDArray[np.int64], tolerance: float) -> tuple[Beat, ...]:
    """Maximum before and minimum after every systole; both must be seen whole."""
    bounds = [*(int(frame) for frame in systoles), len(smooth)]
    maxima: list[int] = []
    minima: list[int] = []
    for start, stop in pairwise(bounds):
        filling = minima[-1] if minima else 0
        maxima.append(filling + int(smooth[filling:start].argmax()))
        minima.append(start + int(smooth[start:stop].argmin()))
    last = minima[-1] + int(smooth[minima[-1] :].argmax())
    diastolic, systolic = smooth[[*maxima, last]], smooth[minima]
    edges = (0, len(smooth) - 1)

    def is_whole(frame: int, values: FloatArray, n: int, sign: int) -> bool:
        others = np.delete(values, n)
        return frame not in edges or (len(others) > 0 and sign * (values[n] - np.median(others)) >= -tolerance)

    return tuple(
        Beat(ed, es)
        for n, (ed, es) in enumerate(zip(maxima, minima, strict=True))
        if is_whole(ed, diastolic, n, 1) and is_whole(es, systolic, n, -1)
    )

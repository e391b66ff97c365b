"""The contrast bolus of a CT perfusion scan: baseline, arterial and venous curve, and whether all of it was caught.

Evidence marks: [R] recalled and not re-read, [U] uncertain: a policy, not a fact. Curves are HU above baseline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.stats import rankdata

from ops.measure.errors import NotEvaluableError
from ops.volume import Volume

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# How far outside the brain's mask its arteries and sinuses are looked for [U].
VESSEL_MARGIN_MM = 8.0
# Bone and calcium are denser than this before contrast, fat and air less dense than 0 [U].
UNENHANCED_VESSEL_HU = (0.0, 120.0)
# A vessel's peak as a share of the highest in the scan: small arteries fill only part of a voxel [U].
LOWEST_VESSEL_SHARE = 0.3
# Arteries peak within this time of the first of them; sinuses take some 5 s longer [U].
EARLY_SECONDS = 2.0
# A sinus peaks at least this long after an artery [U]; without one the artery may be a vein, and is not corrected.
SHORTEST_TRANSIT_SECONDS = 2.0
# Highest peak below which there was no bolus [U].
LOWEST_PEAK_HU = 40.0
# Share of its peak at which a bolus counts as arrived [U].
ARRIVAL_SHARE = 0.1
# Frames needed before it arrives, frames needed in all, and the longest interval during the first pass [U].
FEWEST_BASELINE_FRAMES, FEWEST_FRAMES, LONGEST_INTERVAL, FIRST_PASS_SECONDS = 2, 10, 4.0, 20.0


@dataclass(frozen=True)
class BolusPolicy:
    """Named choices about arterial and venous curve.

    Attributes
    ----------
    artery_rule
        ``tall_early_narrow``: of the vessels that peak within 2 s of the first, the voxels with the lowest sum of ranks
        by height and width (area / height). Sinuses are late, and an artery beyond an occlusion is late and broad.
    artery_voxels, vein_voxels
        Voxels whose mean is the curve; the vein's are those of the largest area.
    partial_volume_rule
        ``vein_area`` (default) scales the arterial curve to the area of the venous one, as a sinus fills whole voxels
        and an artery does not [R]; ``none`` leaves it.
    largest_final_share
        The venous curve must have fallen to this share of its peak at the end, or the scan stopped too early [U].
    """

    artery_rule: Literal["tall_early_narrow"] = "tall_early_narrow"
    artery_voxels: int = 5
    vein_voxels: int = 20
    partial_volume_rule: Literal["vein_area", "none"] = "vein_area"
    largest_final_share: float = 0.5

    def __post_init__(self) -> None:
        if self.artery_rule != "tall_early_narrow" or self.partial_volume_rule not in ("vein_area", "none"):
            raise ValueError(f"unknown rule: {self.artery_rule!r} or {self.partial_volume_rule!r}")
        if min(self.artery_voxels, self.vein_voxels) < 1 or not 0 < self.largest_final_share < 1:
            raise ValueError("at least one voxel each, and a final share between 0 and 1")


@dataclass(frozen=True, eq=False)
class Bolus:
    """What was found.

    Attributes
    ----------
    artery, vein
        ``(times,)`` HU above baseline; the arterial one after partial-volume correction.
    artery_index, vessel_index
        ``(n, 3)`` ``(k, j, i)`` of the artery's voxels, and of all voxels that enhance like vessels.
    partial_volume_factor
        By what the arterial curve was multiplied; 1 or more.
    baseline_frames
        Frames before the bolus.
    """

    artery: FloatArray
    vein: FloatArray
    artery_index: npt.NDArray[np.int64]
    vessel_index: npt.NDArray[np.int64]
    partial_volume_factor: float
    baseline_frames: int


def require_times(times: Sequence[float] | FloatArray, n_frames: int) -> FloatArray:
    """Refuse times that are not one per frame, finite and rising (``times_invalid``), and scans of too few frames.

    Returns
    -------
    ndarray
        ``(n_frames,)`` s.
    """
    t = np.asarray(times, dtype=np.float64)
    if t.shape != (n_frames,) or not np.isfinite(t).all() or (np.diff(t) <= 0).any():
        detail = f"{n_frames} frames need as many finite, rising times, got {list(times)}"
        raise NotEvaluableError("times_invalid", detail)
    if n_frames < FEWEST_FRAMES:
        raise NotEvaluableError("too_few_frames", f"{n_frames} frames; perfusion needs at least {FEWEST_FRAMES}")
    return t


def find_bolus(
    frames: Sequence[Volume], times: Sequence[float], brain: BoolArray, policy: BolusPolicy | None = None
) -> Bolus:
    """Find baseline, arterial and venous curve.

    Parameters
    ----------
    frames
        CT in HU at each time, on one grid.
    times
        s, rising.
    brain
        ``(z, y, x)``; vessels are looked for in it and `VESSEL_MARGIN_MM` around it.
    policy
        Choices.

    Raises
    ------
    NotEvaluableError
        ``times_invalid``, ``too_few_frames``; ``no_bolus`` without enhancing vessels; ``no_baseline`` when contrast is
        there from the start; ``sampling_too_coarse``; ``no_vein`` when no vessel is later than the first;
        ``bolus_truncated`` when the scan ended too early.
    """
    policy = policy or BolusPolicy()
    t = require_times(times, len(frames))
    index, curves = _vessel_curves(frames, brain)
    baseline_frames = _baseline_frames(curves)
    enhancement = curves - curves[:baseline_frames].mean(axis=0)
    arrival = t[baseline_frames]
    intervals = np.diff(t)[(t[1:] >= arrival) & (t[:-1] <= arrival + FIRST_PASS_SECONDS)]
    if intervals.max(initial=0.0) > LONGEST_INTERVAL:
        detail = f"frames are up to {intervals.max():g} s apart while the bolus passes, above {LONGEST_INTERVAL:g} s"
        raise NotEvaluableError("sampling_too_coarse", detail)
    first_pass = (t >= arrival) & (t <= arrival + FIRST_PASS_SECONDS)
    chosen = _artery(enhancement[first_pass], t[first_pass], policy)
    artery = enhancement[:, chosen].mean(axis=1)
    later = np.flatnonzero(t[enhancement.argmax(axis=0)] >= t[artery.argmax()] + SHORTEST_TRANSIT_SECONDS)
    if not later.size:
        detail = f"no vessel peaks {SHORTEST_TRANSIT_SECONDS:g} s or more after the first"
        raise NotEvaluableError("no_vein", f"{detail}: artery and vein are not told apart")
    area = np.trapezoid(enhancement[np.ix_(first_pass, later)], t[first_pass], axis=0)
    vein = enhancement[:, later[np.argsort(-area)[: policy.vein_voxels]]].mean(axis=1)
    _require_end(vein, policy)
    factor = 1.0
    if policy.partial_volume_rule == "vein_area":
        factor = max(1.0, float(np.trapezoid(vein, t) / np.trapezoid(artery, t)))
    return Bolus(artery * factor, vein, index[chosen], index, factor, baseline_frames)


def _vessel_curves(frames: Sequence[Volume], brain: BoolArray) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Index ``(n, 3)`` and HU ``(times, n)`` of the voxels that enhance like vessels."""
    grid = frames[0].grid
    region = ndimage.distance_transform_edt(~brain, grid.spacing) <= VESSEL_MARGIN_MM
    where = np.nonzero(region)
    hu = np.stack([frame.voxels[where] for frame in frames]).astype(np.float32)
    hu *= np.array([frame.slope for frame in frames], dtype=np.float32)[:, None]
    hu += np.array([frame.intercept for frame in frames], dtype=np.float32)[:, None]
    before = hu[:FEWEST_BASELINE_FRAMES].mean(axis=0)
    # Means of three frames, or the noisiest voxel has the highest peak.
    height = ((hu[:-2] + hu[1:-1] + hu[2:]) / 3).max(axis=0) - before
    low, high = UNENHANCED_VESSEL_HU
    height[(before < low) | (before > high)] = 0
    tallest = float(np.sort(height)[-min(5, height.size) :].mean())
    if tallest < LOWEST_PEAK_HU:
        detail = f"no vessel enhances by more than {tallest:.0f} HU; at least {LOWEST_PEAK_HU:g} HU are a bolus"
        raise NotEvaluableError("no_bolus", detail)
    vessel = height >= LOWEST_VESSEL_SHARE * tallest
    return np.stack(where, axis=1)[vessel], hu[:, vessel].astype(np.float64)


def _baseline_frames(curves: FloatArray) -> int:
    """Frames before the bolus, from the mean of the vessels that peak first, with one frame to spare."""
    peaks = curves.argmax(axis=0)
    early = curves[:, peaks <= np.percentile(peaks, 10)].mean(axis=1)
    top = int(early.argmax())
    low = early[: top + 1].min()
    arrived = np.flatnonzero(early[: top + 1] < low + ARRIVAL_SHARE * (early[top] - low))
    n = int(arrived[-1]) if arrived.size else 0
    if n < FEWEST_BASELINE_FRAMES:
        detail = f"{n} frames before contrast arrives; the unenhanced level needs {FEWEST_BASELINE_FRAMES}"
        raise NotEvaluableError("no_baseline", detail)
    return n


def _artery(enhancement: FloatArray, t: FloatArray, policy: BolusPolicy) -> npt.NDArray[np.int64]:
    """Columns of ``enhancement`` ``(times, n)`` that peak early, with the lowest sums of ranks by height and width."""
    top = np.clip(enhancement.argmax(axis=0), 1, len(t) - 2)
    column = np.arange(enhancement.shape[1])
    # The sample before and the one after steady both height and time against noise.
    around = np.maximum(np.stack([enhancement[top + shift, column] for shift in (-1, 0, 1)]), 0)
    height = np.maximum(around.mean(axis=0), 1)
    time_of_peak = (around * np.stack([t[top - 1], t[top], t[top + 1]])).mean(axis=0) / height
    first = np.sort(time_of_peak)[min(policy.artery_voxels, len(column)) - 1]
    early = np.flatnonzero(time_of_peak <= first + EARLY_SECONDS)
    width = np.trapezoid(enhancement[:, early], t, axis=0) / height[early]
    ranks = rankdata(-height[early]) + rankdata(width)
    return early[np.argsort(ranks, kind="stable")[: policy.artery_voxels]]


def _require_end(vein: FloatArray, policy: BolusPolicy) -> None:
    final = float(vein[-2:].mean() / vein.max()) if vein.max() > 0 else math.inf
    if final > policy.largest_final_share:
        detail = f"the venous curve ends at {final:.0%} of its peak, above {policy.largest_final_share:.0%}"
        raise NotEvaluableError("bolus_truncated", f"{detail}: the scan stopped before the bolus had passed")

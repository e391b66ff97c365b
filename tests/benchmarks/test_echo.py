"""Biplane volumes of two full-size loops against a plain scikit-image version, in the same run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
import pytest
from skimage.measure import label, regionprops
from skimage.transform import rotate

from ops.diseases.echo.measurement import EchoClip, Subject, clip_grid, measure
from ops.phantoms.heart.chambers import sample_heart
from ops.phantoms.heart.left_ventricle import View, clip_times, paint_labels, view_plane
from ops.phantoms.heart.ultrasound import Sector
from ops.volume import Volume
from tests.benchmarks.timing import best_of

PIXEL_MM = (0.3, 0.3)
FRAME_TIME_MS = 20.0
# What is promised for one study on two cores of an ordinary server.
PROMISED_SECONDS = 1.0
Clips = dict[str, EchoClip]


@pytest.fixture(scope="module")
def clips() -> Clips:
    """Some 180 frames of 600 × 800 pixels a view."""
    rng = np.random.default_rng(2)
    heart = sample_heart(rng, "M", 2.0)
    views: tuple[View, ...] = ("a4c", "a2c")
    made = {}
    for view in views:
        sector = Sector(depth_mm=175, pixel_mm=PIXEL_MM)
        times = clip_times(heart, FRAME_TIME_MS, rng)
        labels = paint_labels(heart, view, view_plane(heart, view), sector, times)
        made[view] = EchoClip(Volume(labels, clip_grid(labels.shape, PIXEL_MM), "label"), tuple(times))
    return made


def ours(clips: Clips) -> tuple[float, float]:
    record = measure(clips, modality="US", subject=Subject())
    edv, esv = record["edv_biplane"], record["esv_biplane"]
    assert isinstance(edv, float)
    assert isinstance(esv, float)
    return edv, esv


def plain(clips: Clips) -> tuple[float, float]:
    """Largest and smallest of the volumes of all frames: the ventricle turned upright, its rows are the discs."""
    rows = {view: [_discs(frame == 1) for frame in clip.labels.voxels] for view, clip in clips.items()}
    largest, smallest = (
        {view: found[int(pick([len(widths) for widths in found]))] for view, found in rows.items()}
        for pick in (np.argmax, np.argmin)
    )
    return _volume(largest["a4c"], largest["a2c"]), _volume(smallest["a4c"], smallest["a2c"])


def _discs(mask: np.ndarray) -> np.ndarray:
    (region,) = regionprops(label(mask))
    r0, c0, r1, c1 = region.bbox
    box = np.pad(mask[r0:r1, c0:c1], 40).astype(float)
    upright = rotate(box, -math.degrees(region.orientation), order=1) > 0.5
    widths = upright.sum(axis=1) * PIXEL_MM[1]
    return widths[widths > 0]


def _volume(a: np.ndarray, b: np.ndarray) -> float:
    length = max(len(a), len(b)) * PIXEL_MM[0]
    at = (np.arange(20) + 0.5) / 20
    discs = [np.interp(at, (np.arange(len(row)) + 0.5) / len(row), row) for row in (a, b)]
    return float(math.pi / 4 * (discs[0] * discs[1]).sum() * length / 20 / 1000)


def test_same_volumes_in_less_time_than_promised(clips: Clips) -> None:
    found, seconds = best_of(3, lambda: ours(clips))
    expected, plain_seconds = best_of(1, lambda: plain(clips))
    shape = clips["a4c"].labels.voxels.shape
    print(f"\nbiplane volumes of 2 × {shape}: {seconds:.3f} s; scikit-image, every frame: {plain_seconds:.3f} s")
    assert found == pytest.approx(expected, rel=0.04)
    # A shared runner may be several times slower than promised; the ratio may not.
    assert seconds < plain_seconds
    assert seconds < PROMISED_SECONDS * float(os.environ.get("POPSCAN_BENCHMARK_SLACK", "4"))


def test_benchmark_ours(benchmark: Callable[..., tuple[float, float]], clips: Clips) -> None:
    assert benchmark(ours, clips)[0] > 50

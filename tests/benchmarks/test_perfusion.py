"""Deconvolution of a CT perfusion of 16 slices and 45 times against a plain SciPy version, in the same run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.linalg import circulant, svd

from ops.diseases.stroke.perfusion import BLOOD_PER_GRAM, Deconvolution, deconvolution, deconvolve
from ops.phantoms.head.ischaemia import Circulation, TissuePerfusion

SHAPE, N_TIMES = (16, 256, 256), 45
TIMES = np.arange(N_TIMES) * 1.5
TRUNCATION = 0.15
# The plain version takes the first of the curves, and its time is scaled to all.
SUBSET = 4000
# What is promised for all maps of one scan, every voxel of it, on one core of an ordinary server.
PROMISED_SECONDS = 4.0

Curves = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def scan() -> tuple[Curves, npt.NDArray[np.float64]]:
    """Noisy curves ``(times, voxels)`` of a few hundred kinds of tissue, and the artery's."""
    rng = np.random.default_rng(5)
    circulation = Circulation()
    kinds = [TissuePerfusion(*row) for row in zip(*rng.uniform((5, 4, 0), (70, 12, 9), (300, 3)).T, strict=True)]
    curves = np.stack([circulation.tissue(kind, TIMES) for kind in kinds], axis=1).astype(np.float32)
    n = int(np.prod(SHAPE))
    values = curves[:, rng.integers(0, len(kinds), n)]
    values += rng.standard_normal(values.shape, dtype=np.float32)
    return values, circulation.artery(TIMES)


def ours(curves: Curves, with_artery: Deconvolution) -> npt.NDArray[np.float64]:
    return deconvolve(curves, with_artery, "none")


def plain(curves: Curves, artery: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Flow of each voxel with SciPy's SVD of the circulant matrix, voxel by voxel."""
    step = TIMES[1]
    u, s, vt = svd(circulant(np.concatenate([artery, np.zeros(N_TIMES)])) * step)
    inverse = np.where(s > TRUNCATION * s.max(), 1 / s, 0)
    flow = np.empty(curves.shape[1])
    for voxel, curve in enumerate(curves.T):
        residue = vt.T @ (inverse * (u.T @ np.concatenate([curve, np.zeros(N_TIMES)])))
        flow[voxel] = residue[:17].max()
    return flow * 6000 * BLOOD_PER_GRAM


def timed(function: Callable[[], npt.NDArray[np.float64]], n: int) -> tuple[npt.NDArray[np.float64], float]:
    """Value and shortest time of ``n`` calls: other load on the machine only ever lengthens one."""
    seconds = []
    for _ in range(n):
        began = time.perf_counter()
        value = function()
        seconds.append(time.perf_counter() - began)
    return value, min(seconds)


def test_same_flow_in_less_time(scan: tuple[Curves, npt.NDArray[np.float64]]) -> None:
    curves, artery = scan
    maps, seconds = timed(lambda: ours(curves, deconvolution(artery, TIMES, TRUNCATION)), 2)
    expected, plain_seconds = timed(lambda: plain(curves[:, :SUBSET], artery), 1)
    scaled = plain_seconds * curves.shape[1] / SUBSET
    print(f"\n{curves.shape[1]} curves: {seconds:.2f} s; SciPy, voxel by voxel, from {SUBSET} of them: {scaled:.0f} s")
    # Ours looks between the samples, where the maximum is a little higher.
    ratio = maps[0, :SUBSET] / expected
    assert np.median(ratio) == pytest.approx(1, abs=0.02)
    assert seconds < scaled
    assert seconds < PROMISED_SECONDS * float(os.environ.get("POPSCAN_BENCHMARK_SLACK", "4"))


def test_benchmark_ours(
    benchmark: Callable[..., npt.NDArray[np.float64]], scan: tuple[Curves, npt.NDArray[np.float64]]
) -> None:
    curves, artery = scan
    assert np.isfinite(benchmark(ours, curves, deconvolution(artery, TIMES, TRUNCATION))[:2]).all()

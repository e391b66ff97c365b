"""Cores on diffusion MR at three voxel sizes, and core, hypoperfusion and regional perfusion on CT perfusion at three
intervals between frames (voxels of 8 × 2 × 2 mm). The regional values are medians over the tissue that the
definition asks about: relative CBF of the true core, Tmax of the true penumbra.

The simulated tissue has exponential residue functions, which is also what the default ``residue_rule`` assumes. For box
functions, the other extreme, absolute CBF reads 1.7 to 2.2 times too high, CBF ratios and Tmax stay usable. Defaults of
the perfusion maps (truncation, smoothing, HU of CSF, noise) were chosen on eleven simulated participants, six of whom
are among these fifty; fifty fresh ones gave the same figures.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ops.diseases.stroke.measurement import measure_ctp, measure_dwi
from ops.diseases.stroke.perfusion import perfusion_maps
from ops.measure.record import MeasurementRecord
from ops.phantoms.head.anatomy import Head, sample_head
from ops.phantoms.head.ischaemia import (
    Circulation,
    Shares,
    Stroke,
    TissuePerfusion,
    paint_shares,
    sample_circulation,
    sample_diffusion,
    sample_stroke,
    simulate_ctp,
    simulate_dwi,
    slab_grid,
)
from ops.phantoms.participant import sample_participant
from ops.volume import Volume
from tests.accuracy.draw import Draw

DWI_GRIDS = (((3.0, 1.5, 1.5), 152), ((4.0, 2.0, 2.0), 112), ((6.0, 2.5, 2.5), 92))
CTP_INTERVALS = (1.0, 2.0, 3.0)
# 6 HU of slices 5 mm thick, in slices of 8 mm.
CTP_NOISE_HU = 6 * (5 / 8) ** 0.5
# Share from which a voxel is nothing but one tissue.
PURE = 0.95


def draws(n: int, seed: int) -> Iterator[Draw]:
    """``n`` participants with a stroke, each with both scans."""
    for person in range(n):
        rng = np.random.default_rng((seed, person))
        head = sample_head(sample_participant(rng), rng)
        stroke = sample_stroke(rng)
        while stroke.core_scale == 0:
            stroke = sample_stroke(rng)
        yield from _dwi(head, stroke, rng)
        yield from _ctp(head, stroke, rng)


def _dwi(head: Head, stroke: Stroke, rng: np.random.Generator) -> Iterator[Draw]:
    tissue = sample_diffusion(rng)
    for spacing, matrix in DWI_GRIDS:
        shares = paint_shares(head, stroke, slab_grid(head, spacing, matrix, 100.0))
        low, high, _ = simulate_dwi(shares, tissue, rng)
        record = measure_dwi([low, high], [0, 1000], shares.labels, "MR")
        resolution = f"{spacing[0]:g} × {spacing[1]:g} × {spacing[2]:g} mm"
        truth = shares.volume_ml(shares.core)
        for name in ("core_ml", "core_cleaned_ml"):
            yield _draw(record, name, f"dwi_{name}", resolution, truth)


def _ctp(head: Head, stroke: Stroke, rng: np.random.Generator) -> Iterator[Draw]:
    shares = paint_shares(head, stroke, slab_grid(head, (8.0, 2.0, 2.0), 112))
    circulation, labels = sample_circulation(rng), shares.labels
    core, late = shares.volume_ml(shares.core), shares.volume_ml(shares.territory)
    for interval in CTP_INTERVALS:
        times = np.arange(0, 61, interval)
        frames = simulate_ctp(shares, circulation, times, rng, CTP_NOISE_HU)
        record = measure_ctp(frames, times.tolist(), labels, "CT")
        resolution = f"{interval:g} s"
        for name, truth in (("core", core), ("hypoperfused", late), ("mismatch", late - core)):
            for suffix in ("_ml", "_cleaned_ml"):
                yield _draw(record, f"{name}{suffix}", f"ctp_{name}{suffix}", resolution, truth)
        yield from _regional(frames, times, shares, circulation, resolution)


def _regional(
    frames: list[Volume], times: np.ndarray, shares: Shares, circulation: Circulation, resolution: str
) -> Iterator[Draw]:
    """Relative CBF of the core and Tmax of the penumbra, over voxels that are nothing else."""
    maps = perfusion_maps(frames, times.tolist(), shares.labels.voxels > 0)
    penumbra, total = shares.territory - shares.core, shares.grey + shares.white
    normal = (total > PURE) & (shares.territory.sum(axis=0) < 1 - PURE) & maps.tissue
    core = (shares.core.sum(axis=0) > PURE) & maps.tissue
    late = (penumbra.sum(axis=0) > PURE) & maps.tissue
    if core.any():
        grey = shares.grey / np.maximum(total, 1e-6)

        def true(states: tuple[TissuePerfusion, TissuePerfusion], where: np.ndarray) -> float:
            return float(np.median(states[0].cbf * grey[where] + states[1].cbf * (1 - grey[where])))

        truth = true(circulation.core, core) / true(circulation.healthy, normal)
        measured = float(np.median(maps.cbf[core]) / np.median(maps.cbf[normal]))
        yield Draw("core_relative_cbf", "1", resolution, truth, measured)
    if late.any():
        share = penumbra[0][late] / penumbra[:, late].sum(axis=0)
        delays = [state.delay for state in circulation.penumbra]
        truth = float(np.median(delays[0] * share + delays[1] * (1 - share)))
        yield Draw("penumbra_tmax", "s", resolution, truth, float(np.nanmedian(maps.tmax[late])))


def _draw(record: MeasurementRecord, name: str, quantity: str, resolution: str, truth: float) -> Draw:
    if record.reason:
        return Draw(quantity, "mL", resolution, truth, None, record.reason)
    value = record[name]
    assert isinstance(value, float)
    return Draw(quantity, "mL", resolution, truth, value)

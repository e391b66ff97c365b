"""Registrations per second on a GPU against the CPU of the same machine: ``python -m benchmarks.gpu.registration``.

Prints a table, or says that there is no GPU. Each batch holds pairs of one head in two modalities, moved by different
rigid maps; the truth is known exactly, so that speed is only given beside the error that it was reached with.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from ops.phantoms.head.anatomy import HEAD_HU, HeadTissue, sample_head
from ops.phantoms.participant import sample_participant
from ops.registration.linear import LinearModel
from ops.registration.register import Pair, Registration, RegistrationPlan, register_batch
from ops.registration.similarity import Metric
from ops.registration.transforms import Affine
from ops.volume import Grid, Volume

PLANS = {
    "rigid, MI": RegistrationPlan(LinearModel.RIGID, Metric.MI),
    "affine, MI": RegistrationPlan(LinearModel.AFFINE, Metric.MI),
    "deformable, LNCC": RegistrationPlan(LinearModel.AFFINE, Metric.MI, Metric.LNCC),
    "deformable, MIND": RegistrationPlan(LinearModel.AFFINE, Metric.MI, Metric.MIND),
}


def main() -> None:
    """Time every plan and batch size on the GPU, and one pair on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--spacing", type=float, default=1.0, help="mm of the images")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here: nothing was measured.")
        return
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    pairs, truths, landmarks = make_pairs(max(options.batches), options.spacing)
    print(f"{'plan':<18}{'device':>8}{'batch':>7}{'s per pair':>12}{'times CPU':>11}{'TRE mm':>9}{'refused':>9}")
    for name, plan in PLANS.items():
        alone = timed(pairs[:1], plan, "cpu")
        report(name, "cpu", alone, truths, landmarks, alone[1])
        for size in options.batches:
            report(name, "cuda", timed(pairs[:size], plan, "cuda"), truths, landmarks, alone[1])


def make_pairs(count: int, spacing: float) -> tuple[list[Pair], list[Affine], np.ndarray]:
    """Pairs of CT and of an MR-like image with inverted soft tissue, the maps between them, and points in the head."""
    rng = np.random.default_rng(2026)
    head = sample_head(sample_participant(rng), rng)
    shape = tuple(round(n / spacing) for n in (180, 256, 256))
    grid = Grid.from_spacing(shape, (spacing,) * 3, tuple((1 - np.array(shape[::-1])) * spacing / 2))
    hu = np.array([HEAD_HU[tissue] for tissue in HeadTissue], dtype=np.float32)
    mr = np.where(hu < -500, 0, np.where(hu > 300, 60, 700 - 8 * hu)).astype(np.float32)
    images = []
    for table, units in ((hu, "HU"), (mr, "a.u.")):
        painted = head.fields(grid).paint(table, edge_mm=1.0) + rng.normal(scale=15, size=shape)
        images.append(Volume(painted.astype(np.int16), grid, units))
    truths = [Affine.rigid(rng.uniform(-8, 8, 3), rng.uniform(-11, 11, 3)) for _ in range(count)]
    ct, other = images
    moved = [Volume(other.voxels, Grid(grid.shape, truth.matrix @ grid.affine), other.units) for truth in truths]
    return [Pair(ct, image) for image in moved], truths, head.to_patient(rng.uniform(-60, 60, (200, 3)))


def timed(pairs: list[Pair], plan: RegistrationPlan, device: str) -> tuple[list[object], float]:
    """Results and seconds per pair; the first run, which loads kernels, is not counted."""
    register_batch(pairs, plan, device=device)
    began = time.perf_counter()
    results = register_batch(pairs, plan, device=device)  # ends with figures on the CPU, so the device is done
    return list(results), (time.perf_counter() - began) / len(pairs)


def report(
    name: str, device: str, run: tuple[list[object], float], truths: list[Affine], points: np.ndarray, cpu: float
) -> None:
    """Print one line."""
    results, seconds = run
    errors = [
        float(np.linalg.norm(found.transform.apply(points) - truth.apply(points), axis=1).mean())
        for found, truth in zip(results, truths, strict=False)
        if isinstance(found, Registration)
    ]
    error = f"{statistics.median(errors):.3f}" if errors else "–"
    refused = len(results) - len(errors)
    print(f"{name:<18}{device:>8}{len(results):>7}{seconds:>12.4f}{cpu / seconds:>11.1f}{error:>9}{refused:>9}")


if __name__ == "__main__":
    main()

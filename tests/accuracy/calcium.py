"""Gated scans of the heart with its true territories at 120 kV, no network. Agatston's truth is the noise-free scan in
3 mm slices, scored by an implementation of its own: thinner slices show more of the peaks, which is in the definition.
Volume and mass are true by the shapes of the deposits; the 130 HU threshold leaves faint rims and specks out of both.
Agreement of the whole programme with its network is in docs/calcium.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ops.diseases.calcium.scores import agatston, find_calcium, mass_score, volume_score, weight_edges
from ops.phantoms.chest.calcification import Deposit, coronary_calcium
from ops.phantoms.chest.hounsfield import calcium_hu
from ops.phantoms.chest.protocol import Protocol
from ops.phantoms.chest.scan import COARSE, Scan, simulate_scan
from ops.phantoms.chest.thorax import Thorax, thorax
from ops.phantoms.participant import sample_participant
from ops.volume import Grid
from tests.accuracy.draw import Draw

KVP, PIXEL_MM = 120, 0.43
# Noise of equal dose: thinner slices are noisier.
SLICES_MM = {3.0: 15.0, 2.5: 16.0, 1.5: 20.0}
MARGIN_MM = 12.0


def heart_grid(deposits: Sequence[Deposit], increment: float) -> Grid:
    """Box around the deposits."""
    low = np.min([deposit.bounds()[0] for deposit in deposits], axis=0) - MARGIN_MM
    high = np.max([deposit.bounds()[1] for deposit in deposits], axis=0) + MARGIN_MM
    nx, ny, _ = (int(n) for n in COARSE * np.ceil((high - low) / PIXEL_MM / COARSE))
    x, y, z = low
    return Grid.from_spacing(
        (int(np.ceil((high[2] - z) / increment)), ny, nx), (increment, PIXEL_MM, PIXEL_MM), (x, y, z)
    )


def scan_at(chest: Thorax, deposits: Sequence[Deposit], increment: float, seed: tuple[int, int]) -> Scan:
    """Scan in contiguous slices of ``increment`` mm."""
    protocol = replace(Protocol("SIEMENS"), thickness=increment, increment=increment, noise=SLICES_MM[increment])
    return simulate_scan(chest, protocol, np.random.default_rng(seed), deposits, (), heart_grid(deposits, increment))


def measured(scan: Scan) -> dict[str, float]:
    """Total scores of one scan."""
    edges = weight_edges(KVP)
    found = find_calcium(scan.volume, scan.artery_labels, edges)
    calibration = 1000 / calcium_hu(1000.0, KVP)
    return {
        "agatston": agatston(found, edges)["total"],
        "volume_mm3": volume_score(found)["total"],
        "mass_mg": mass_score(found, calibration)["total"],
    }


def draws(n: int, seed: int) -> Iterator[Draw]:
    """Yield the three scores of ``n`` participants at each slice thickness."""
    for number in range(n):
        rng = np.random.default_rng((seed, number))
        chest = thorax(sample_participant(rng))
        deposits = coronary_calcium(chest, rng, target=float(10 ** rng.uniform(1.0, 3.2)))
        scans = {increment: scan_at(chest, deposits, increment, (seed, number)) for increment in SLICES_MM}
        reference = scans[3.0].truth
        assert reference.agatston is not None
        truth = {
            "agatston": ("1", reference.agatston["total"]),
            "volume_mm3": ("mm3", reference.volume_mm3["total"]),
            "mass_mg": ("mg", reference.mass_mg["total"]),
        }
        for increment, scan in scans.items():
            for name, value in measured(scan).items():
                unit, true_value = truth[name]
                yield Draw(name, unit, f"{increment:g} mm", true_value, value)

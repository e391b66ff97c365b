"""Measure a trained network on simulated chests it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ops.diseases.calcium.measurement import DEFAULT_POLICY
from ops.diseases.calcium.territories import coronary_calcium, heart_box
from ops.inference.inferer import Inferer
from ops.inference.locate import locate_territories
from ops.phantoms.chest.calcification import Deposit, other_calcium
from ops.phantoms.chest.calcification import coronary_calcium as coronary_deposits
from ops.phantoms.chest.protocol import chest_protocol, gated_protocol
from ops.phantoms.chest.scan import Scan, simulate_scan
from ops.phantoms.chest.thorax import label_map, thorax
from ops.phantoms.labels import ARTERIES, ARTERY_LABELS, TERRITORY_LABELS
from ops.phantoms.participant import sample_participant
from ops.training.anatomy import Anatomy
from ops.volume import Volume
from storage.models import Quality
from tasks.train import CONTRACT, training_batch

PATCHES_PER_CHEST = 2
# Seeds of evaluation patches, apart from those of training.
EVALUATION_STREAM = 77


@torch.inference_mode()
def evaluate_network(network: nn.Module, anatomies: Sequence[Anatomy], seed: int) -> dict[str, float]:
    """Dice per class over randomised patches of held-out chests, voxels of all patches pooled.

    Parameters
    ----------
    network
        Maps ``(n, 1, z, y, x)`` to logits.
    anatomies
        Chests that were not trained on.
    seed
        Of the patches; the same seed gives the same patches.

    Returns
    -------
    dict
        Class name → Dice 0–1, for every class but background; and ``heart_all``, all classes of the heart as one.
    """
    rng = np.random.default_rng([seed, EVALUATION_STREAM])
    classes = len(TERRITORY_LABELS)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    for anatomy in anatomies:
        images, labels = training_batch([anatomy], rng, PATCHES_PER_CHEST)
        predicted = network(images).argmax(dim=1)
        pairs = labels.ravel() * classes + predicted.ravel()
        confusion += torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).numpy()
    dice = {
        name: _dice(confusion[k, k], confusion[k].sum(), confusion[:, k].sum())
        for name, k in TERRITORY_LABELS.items()
        if name != "background"
    }
    heart = [k for name, k in TERRITORY_LABELS.items() if name not in ("background", "aorta", "bone")]
    dice["heart_all"] = _dice(confusion[np.ix_(heart, heart)].sum(), confusion[heart].sum(), confusion[:, heart].sum())
    return dice


def _dice(shared: int, truth: int, found: int) -> float:
    """Dice of pooled counts; 1 when the class neither exists nor was predicted."""
    return float(2 * shared / (truth + found)) if truth + found else 1.0


def measured_quality(dice: dict[str, float], chests: int) -> tuple[Quality, ...]:
    """Write Dice values as the manifest's quality entries."""
    data = f"randomised patches of held-out simulated chests, {PATCHES_PER_CHEST} per chest"
    return tuple(
        Quality(metric=f"dice_{name}", value=round(value, 4), data=data, n=chests) for name, value in dice.items()
    )


# Calcium is counted from here up (120 kVp; SPEC §1.1), and a deposit counts as scored when half of it does.
THRESHOLD_HU = 130
SCORED_SHARE = 0.5


@dataclass(frozen=True)
class LesionFate:
    """What became of one simulated calcium deposit.

    Attributes
    ----------
    site
        Artery, or place outside the arteries.
    scored
        Most of its voxels were counted as coronary calcium.
    artery
        Artery most of them were given to; None when not scored.
    """

    site: str
    scored: bool
    artery: str | None


def lesion_fates(network: Inferer, seed: int, gated: bool = True) -> list[LesionFate]:
    """Simulate one person's scan and see which calcium deposits the located territories call coronary.

    Parameters
    ----------
    network
        The heart network.
    seed
        Of participant, protocol, calcium and noise.
    gated
        Cardiac acquisition, else a chest CT.

    Returns
    -------
    list of LesionFate
        One per deposit that reaches 130 HU anywhere on the noise-free scan; coronary ones only if true territories
        would have scored them (specks below the smallest area are nobody's miss).
    """
    rng = np.random.default_rng(seed)
    person = sample_participant(rng)
    chest = thorax(person)
    protocol = (gated_protocol if gated else chest_protocol)(rng, person.bmi)
    coronary = coronary_deposits(chest, rng)
    other = other_calcium(chest, coronary, rng)
    scan = simulate_scan(chest, protocol, rng, coronary, other)
    territories, _ = locate_territories(scan.volume, network, CONTRACT)
    truth = Volume(label_map(chest, territories.grid), territories.grid, "label")
    found, best = scored_calcium(territories, scan), scored_calcium(truth, scan)
    scorable = [d for d in coronary if (ideal := _fate(d, scan, best)) is not None and ideal.scored]
    fates = (_fate(deposit, scan, found) for deposit in (*scorable, *other))
    return [fate for fate in fates if fate is not None]


def scored_calcium(territories: Volume, scan: Scan) -> npt.NDArray[np.uint8]:
    """Artery labels of the voxels that the calcium programme would count, on the scan's grid."""
    out = np.zeros(scan.volume.grid.shape, dtype=np.uint8)
    if not territories.voxels.any():
        return out
    tolerance = DEFAULT_POLICY.territory_tolerance_mm
    start, stop = heart_box(scan.volume.grid, territories, tolerance)
    found = coronary_calcium(
        scan.volume.crop(start, stop),
        territories,
        THRESHOLD_HU,
        DEFAULT_POLICY.score,
        tolerance,
        DEFAULT_POLICY.max_lesion_mm3,
    ).calcium
    out[tuple((found.voxels.index + start).T)] = found.artery
    return out


def _fate(deposit: Deposit, scan: Scan, scored: npt.NDArray[np.uint8]) -> LesionFate | None:
    grid = scan.volume.grid
    z, y, x = (grid.origin[2 - a] + grid.spacing[a] * np.arange(grid.shape[a]) for a in range(3))
    low, high = deposit.bounds()
    box = tuple(
        slice(*np.searchsorted(axis, [a, b]).tolist())
        for axis, a, b in zip((z, y, x), low[::-1], high[::-1], strict=True)
    )
    if any(part.start >= part.stop for part in box):  # outside the scan, or between its samples
        return None
    inside = deposit.inside(x[box[2]], y[box[1]], z[box[0]]) & (
        np.asarray(scan.noise_free.voxels[box], dtype=np.int16) >= THRESHOLD_HU
    )
    if not inside.any():
        return None
    arteries = np.bincount(scored[box][inside], minlength=len(ARTERIES) + 1)
    if arteries[1:].sum() < SCORED_SHARE * inside.sum():
        return LesionFate(deposit.site, False, None)
    names = {label: name for name, label in ARTERY_LABELS.items()}
    return LesionFate(deposit.site, True, names[int(arteries[1:].argmax()) + 1])


def lesion_quality(fates: Sequence[LesionFate], data: str) -> tuple[Quality, ...]:
    """Hit rate, share given to the right artery, and false inclusion rate, as the manifest's quality entries."""
    coronary = [fate for fate in fates if fate.site in ARTERIES]
    other = [fate for fate in fates if fate.site not in ARTERIES]
    hits = [fate for fate in coronary if fate.scored]
    rates = {
        "coronary_lesions_scored": (len(hits), len(coronary)),
        "scored_lesions_in_the_right_artery": (sum(fate.artery == fate.site for fate in hits), len(hits)),
        "non_coronary_lesions_scored": (sum(fate.scored for fate in other), len(other)),
    }
    return tuple(
        Quality(metric=name, value=round(count / total, 4), data=data, n=total)
        for name, (count, total) in rates.items()
        if total
    )

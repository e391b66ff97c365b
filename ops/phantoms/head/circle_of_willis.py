"""Angiography of the arteries at the base of the brain: time-of-flight MR and contrast CT, with aneurysms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from ops.phantoms.head.anatomy import (
    Head,
    HeadTissue,
    add_scanner,
    hounsfield_table,
    sample_head,
    slab_grids,
    to_slices,
)
from ops.phantoms.head.cerebral_arteries import CircleOfWillis, sample_circle, sample_sites
from ops.phantoms.lattice import coverage, rician
from ops.phantoms.participant import sample_participant
from ops.phantoms.sdf import Array
from ops.phantoms.study import SimulatedStudy, SliceSeries, Stack
from ops.volume import Grid, Volume

# Signal of stationary tissue in time-of-flight, arbitrary units: saturated, fluid most, fat least.
TOF_SIGNAL: dict[HeadTissue, float] = {
    HeadTissue.AIR: 0,
    HeadTissue.SOFT_TISSUE: 105,
    HeadTissue.FAT: 170,
    HeadTissue.BONE: 22,
    HeadTissue.DIPLOE: 75,
    HeadTissue.EYE: 40,
    HeadTissue.CSF: 48,
    HeadTissue.GREY: 92,
    HeadTissue.WHITE: 112,
    HeadTissue.DEEP_GREY: 98,
    HeadTissue.CEREBELLUM: 96,
    HeadTissue.BRAINSTEM: 108,
    HeadTissue.VENTRICLE: 45,
    HeadTissue.DURA: 60,
    HeadTissue.SINUS: 95,
    HeadTissue.CALCIFICATION: 35,
}
TOF_BLOOD, TOF_NOISE = 400.0, 11.0
# Blood loses signal on its way up through the slab, and in the slow flow of a large sac.
TOF_LOSS_PER_MM = 0.0035
TOF_SAC_SHARE = 0.85
CTA_BLOOD_HU, CTA_VEIN_HU, CTA_NOISE_HU = 390.0, 160.0, 11.0

# The slab in template mm: from the petrous part of the carotids to above the corpus callosum.
_LOWEST, _HIGHEST = -50.0, 26.0


@dataclass(frozen=True, eq=False)
class Angiogram:
    """An image and the true labels on its grid: 1 artery, 2, 3 … the sacs in their order; 0 elsewhere."""

    image: Volume
    labels: Volume


def slab_grid(head: Head, spacing: tuple[float, float, float], matrix: int) -> Grid:
    """Axial grid ``(z, y, x)`` over the base of the brain, its field of view around the head."""
    low, high = head.to_patient((0, 0, _LOWEST))[2], head.to_patient((0, 0, _HIGHEST))[2]
    middle = head.to_patient((0, 0, -10))
    half = (matrix - 1) / 2
    origin = (float(middle[0] - half * spacing[2]), float(middle[1] - half * spacing[1]), float(low))
    return Grid.from_spacing((int(np.ceil((high - low) / spacing[0])), matrix, matrix), spacing, origin)


def simulate_tof(head: Head, circle: CircleOfWillis, grid: Grid, rng: np.random.Generator) -> Angiogram:
    """Time-of-flight MR angiography, int16 arbitrary units.

    Signal falls along the slab; three overlapping slabs leave faint bands; the coil shades the head; noise is Rician.
    """
    signal = _paint(head, grid, TOF_SIGNAL)
    up = np.arange(grid.shape[0], dtype=np.float32) * np.float32(grid.spacing[0])
    blood = np.float32(TOF_BLOOD) * np.exp(-np.float32(TOF_LOSS_PER_MM) * up)[:, None, None]
    labels = _inject(signal, grid, circle, lambda is_sac: blood * np.where(is_sac, np.float32(TOF_SAC_SHARE), 1))
    bands = (
        1 - np.float32(0.05) * np.cos(np.linspace(0, 6 * np.pi, grid.shape[0], dtype=np.float32))[:, None, None] ** 8
    )
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in grid.shape[1:])
    tilt = rng.uniform(-0.08, 0.08, 2).astype(np.float32)
    signal *= bands
    signal *= 1 + np.float32(0.12) * (y[:, None] ** 2 + x**2) + tilt[0] * y[:, None] + tilt[1] * x
    noisy = rician(signal, TOF_NOISE, rng)
    return Angiogram(Volume(np.round(noisy).astype(np.int16), grid, "a.u."), labels)


def simulate_cta(head: Head, circle: CircleOfWillis, grid: Grid, rng: np.random.Generator) -> Angiogram:
    """CT angiography in the arterial phase, int16 HU."""
    table = hounsfield_table(rng)
    table[HeadTissue.SINUS] = CTA_VEIN_HU + rng.normal(0, 25)
    hu = _paint(head, grid, {tissue: float(table[tissue]) for tissue in HeadTissue})
    blood = np.float32(CTA_BLOOD_HU + rng.normal(0, 50))
    labels = _inject(hu, grid, circle, lambda is_sac: np.full(is_sac.shape, blood))
    return Angiogram(add_scanner(hu, grid, CTA_NOISE_HU, rng), labels)


def _paint(head: Head, grid: Grid, values: dict[HeadTissue, float]) -> Array:
    """Head without arteries ``(z, y, x)``."""
    table = [values[tissue] for tissue in HeadTissue]
    out = np.empty(grid.shape, dtype=np.float32)
    for slices, painting, n in slab_grids(grid):
        painted = head.fields(painting).paint(table, float(np.mean(painting.spacing)))
        out[slices] = to_slices(painted, n, (grid.shape[1], grid.shape[2]))
    return out


def _inject(image: Array, grid: Grid, circle: CircleOfWillis, blood: Callable[[Array], Array]) -> Volume:
    """Fill the arteries of ``image`` in place with ``blood(is_sac)`` and return their labels."""
    distance = circle.distance(grid)
    labels = circle.labels(grid, distance)
    share = coverage(distance, float(np.mean(grid.spacing)))
    # A voxel cut by the wall of a sac holds the sac's blood.
    is_sac = ndimage.grey_dilation(labels.voxels, size=3) > 1
    image += share * (blood(is_sac) - image)
    return labels


def sample_study(rng: np.random.Generator) -> SimulatedStudy:
    """Draw an angiography of a screened participant: two in three MR, the others CT; 0, 1 or 2 aneurysms.

    Truth: ``aneurysms``, a list in the order of the labels 2, 3 …, each with the values of
    `ops.diseases.aneurysm.measurement.measure` by name, ``site``, ``side`` and ``centre`` in patient LPS mm.
    """
    participant = sample_participant(rng)
    head = sample_head(participant, rng, max_tilt=5)
    n = int(rng.choice([0, 1, 2], p=[0.3, 0.55, 0.15]))
    circle = sample_circle(head, rng, sample_sites(rng, n))
    modality: Literal["MR", "CT"] = "MR" if rng.uniform() < 2 / 3 else "CT"
    attributes: dict[str, Any] = {"BodyPartExamined": "HEAD"}
    if modality == "MR":
        angiogram = simulate_tof(head, circle, slab_grid(head, (0.6, 0.55, 0.55), 384), rng)
        description = "3D TOF"
    else:
        angiogram = simulate_cta(head, circle, slab_grid(head, (0.625, 0.45, 0.45), 512), rng)
        description = "CTA 0.625 mm"
        attributes |= {"KVP": 120.0, "SliceThickness": 0.625}
    series = SliceSeries(
        role="angiography",
        modality=modality,
        description=description,
        stacks=(Stack(angiogram.image),),
        encoding="enhanced" if modality == "MR" else "classic",
        attributes=attributes,
    )
    truth = {"aneurysms": [placed.truth() for placed in circle.aneurysms]}
    title = "MR ANGIOGRAPHY HEAD" if modality == "MR" else "CT ANGIOGRAPHY HEAD"
    return SimulatedStudy(participant, title, (series,), {"angiography": angiogram.labels}, truth)

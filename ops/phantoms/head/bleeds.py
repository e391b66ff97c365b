"""Intracranial haemorrhages of the five subtypes in a simulated head, and head CT studies with their truth.

A bleed is a signed distance in the head, clipped to its own compartment: an extradural one to the inner table and its
sutures, a subdural one to one side of the falx and above the tentorium, a subarachnoid one to the sulci and cisterns,
an intraventricular one to the ventricles. The true volume is the sum of painted shares, sub-voxel by sub-voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ops.phantoms.head.anatomy import (
    Head,
    HeadFields,
    HeadTissue,
    add_scanner,
    head_grid,
    hounsfield_table,
    sample_head,
    slab_grids,
    to_slices,
)
from ops.phantoms.lattice import centred_grid, coverage
from ops.phantoms.participant import sample_participant
from ops.phantoms.sdf import Array, Points, ellipsoid
from ops.phantoms.study import SimulatedStudy, SliceSeries, Stack
from ops.volume import Grid, Volume

SUBTYPE_LABELS = {"EDH": 1, "SDH": 2, "SAH": 3, "IPH": 4, "IVH": 5}
OEDEMA_HU = 20.0
MM3_PER_ML = 1000.0
_FILM_MM = 1.0  # thinner blood over the convexity is not painted
Side = Literal["R", "L"]
SubduralSite = Literal["convexity", "falx", "tentorium"]
_SIGN = {"R": -1.0, "L": 1.0}


class Bleed(Protocol):
    """A haemorrhage of one subtype with its attenuation in HU."""

    @property
    def subtype(self) -> str:
        """Name of the subtype, a key of `SUBTYPE_LABELS`."""
        ...

    @property
    def hu(self) -> float:
        """Attenuation."""
        ...

    def distance(self, fields: HeadFields) -> Array:
        """Signed distance ``(n,)`` mm at the intracranial voxels, clipped to its compartment."""
        ...


@dataclass(frozen=True)
class Extradural:
    """A biconvex lens against the inner table over the temporal and parietal bones of one side.

    Attributes
    ----------
    side
        Patient's side.
    centre_y, centre_z
        Template mm of the middle of the lens.
    radius_mm
        Of the sphere whose cap bulges into the cavity.
    depth_mm
        Greatest thickness.
    hu
        Attenuation.
    """

    side: Side
    centre_y: float
    centre_z: float
    radius_mm: float
    depth_mm: float
    hu: float = 68.0
    subtype: str = "EDH"

    def distance(self, fields: HeadFields) -> Array:
        """Sphere within the cavity, between coronal and lambdoid suture and short of the sagittal one."""
        x, y, z = fields.position
        # The inner table's ellipsoid at this height; its outward normal carries the sphere's centre.
        unit = np.array([0.0, self.centre_y / 85, (self.centre_z - 12) / 66])
        lateral = 66 * np.sqrt(max(1 - unit @ unit, 0.05)) * (1 + 0.0012 * self.centre_y)
        on_table = np.array([_SIGN[self.side] * lateral, self.centre_y, self.centre_z])
        normal = (on_table - [0, 0, 12]) / np.array([66.0, 85.0, 66.0]) ** 2
        centre = on_table + normal / np.linalg.norm(normal) * (self.radius_mm - self.depth_mm)
        lens = ellipsoid((x, y, z), centre, np.full(3, self.radius_mm))
        sutures = np.maximum(np.maximum(-40 - y, y - 58), 5 - np.float32(_SIGN[self.side]) * x)
        return np.asarray(np.maximum.reduce([lens, fields.cavity, sutures, 2 - fields.tent]), dtype=np.float32)


@dataclass(frozen=True)
class Subdural:
    """A crescent over one hemisphere, along one face of the falx, or on one half of the tentorium.

    Attributes
    ----------
    side, hu
        As for `Extradural`.
    site
        ``convexity``, ``falx`` or ``tentorium``.
    depth_mm
        Greatest thickness.
    extent_mm
        Half length front to back, beyond which it has thinned out.
    """

    side: Side
    site: SubduralSite
    depth_mm: float
    extent_mm: float = 70.0
    hu: float = 65.0
    subtype: str = "SDH"

    def distance(self, fields: HeadFields) -> Array:
        """Layer on the dura, thinning out to its ends, on one side and above the tentorium."""
        x, y, z = fields.position
        own = np.float32(_SIGN[self.side]) * x
        if self.site == "convexity":
            taper = 1 - (y / np.float32(self.extent_mm)) ** 2 - ((z - 20) / np.float32(44)) ** 2
            depth, wall = -fields.cavity, np.maximum(4 - own, 1 - fields.tent)
        elif self.site == "falx":
            own = np.float32(_SIGN[self.side]) * fields.tissue_position[0]
            taper = 1 - ((y - 10) / np.float32(self.extent_mm)) ** 2
            callosum = (np.hypot((y - 1) / 44, (z - 2) / 30) - 1) * np.float32(34)
            # Down to the crista galli; in front of the petrous ridge the tentorium's height is no bound.
            wall = np.maximum.reduce([8 - callosum, 2 - fields.tent, -25 - z])
            depth = own - np.float32(0.8)
        else:
            taper = 1 - ((y - 42) / np.float32(self.extent_mm)) ** 2
            incisura = np.float32(20) - np.hypot(x, np.float32(0.75) * (y - 17))
            depth, wall = fields.tent - np.float32(0.8), np.maximum.reduce([4 - own, incisura, 16 - y])
        thickness = np.float32(self.depth_mm) * np.maximum(taper, 0)
        # The edge of the crescent is where it is a film; thickness falls slowly, so that it is weighted up.
        layer = np.maximum.reduce([-depth, depth - thickness, 4 * (np.float32(_FILM_MM) - thickness)])
        return np.asarray(np.maximum.reduce([layer, wall, fields.cavity]), dtype=np.float32)


@dataclass(frozen=True)
class Subarachnoid:
    """Blood in the sulci, fissures and cisterns around one point.

    Attributes
    ----------
    centre
        Template mm: ``(0, -8, -15)`` for an aneurysmal bleed from the circle of Willis, or on the convexity.
    radius_mm
        Reach of the blood.
    hu
        Attenuation; thin films are mixed with CSF and less dense.
    """

    centre: tuple[float, float, float]
    radius_mm: float
    hu: float = 62.0
    subtype: str = "SAH"

    def distance(self, fields: HeadFields) -> Array:
        """Subarachnoid space within reach."""
        brain = [fields.distance(tissue) for tissue in (HeadTissue.GREY, HeadTissue.CEREBELLUM, HeadTissue.BRAINSTEM)]
        others = [fields.distance(tissue) for tissue in (HeadTissue.VENTRICLE, HeadTissue.DURA, HeadTissue.SINUS)]
        deep = fields.distance(HeadTissue.DEEP_GREY)
        reach = ellipsoid(fields.tissue_position, self.centre, np.full(3, self.radius_mm))
        return np.asarray(np.maximum.reduce([fields.cavity, reach, -deep, *(-d for d in (*brain, *others))]))


@dataclass(frozen=True, eq=False)
class Intraparenchymal:
    """One or several merging ellipsoids of blood in the brain, with a rim of oedema.

    Attributes
    ----------
    centres, semi_axes
        ``(m, 3)`` template mm; semi-axes along the head's x, y, z.
    hu
        Attenuation.
    oedema_mm
        Width of the rim.
    """

    centres: npt.NDArray[np.float64]
    semi_axes: npt.NDArray[np.float64]
    hu: float = 66.0
    oedema_mm: float = 5.0
    subtype: str = "IPH"

    def distance(self, fields: HeadFields) -> Array:
        """Union of the ellipsoids short of the skull."""
        lobes = [
            ellipsoid(fields.position, centre, axes) for centre, axes in zip(self.centres, self.semi_axes, strict=True)
        ]
        return np.asarray(np.maximum(np.minimum.reduce(lobes), fields.cavity + 1))


@dataclass(frozen=True)
class Intraventricular:
    """Blood that has sunk to the back of the ventricles of a supine patient.

    Attributes
    ----------
    level_y
        Template y mm of the fluid level: blood lies behind it. ``-100`` fills the ventricles.
    hu
        Attenuation.
    """

    level_y: float
    hu: float = 60.0
    subtype: str = "IVH"

    def distance(self, fields: HeadFields) -> Array:
        """Ventricles behind a level that is horizontal in the scanner."""
        _, y, _ = fields.head.to_patient((0.0, self.level_y, 0.0))
        _, back, _ = _patient(fields)
        return np.asarray(np.maximum(fields.distance(HeadTissue.VENTRICLE), np.float32(y) - back), dtype=np.float32)


def _patient(fields: HeadFields) -> npt.NDArray[np.float32]:
    """Patient x, y, z ``(3, n)`` of the intracranial voxels."""
    return fields.head.to_patient(np.stack(fields.position, axis=-1)).T.astype(np.float32)


def shares(bleeds: Sequence[Bleed], fields: HeadFields, edge_mm: float) -> list[Array]:
    """Share 0–1 ``(n,)`` of each intracranial voxel that each bleed fills; later bleeds displace earlier ones."""
    found: list[Array] = []
    free = np.ones(len(fields.cavity), dtype=np.float32)
    for bleed in reversed(bleeds):
        share = coverage(bleed.distance(fields), edge_mm) * free
        free -= share
        found.append(share)
    return found[::-1]


def bleed_box(head: Head, bleeds: Sequence[Bleed], step_mm: float = 4.0) -> tuple[Points, Points]:
    """Lowest and highest patient x, y, z that any of the bleeds reaches, with a margin of at least ``step_mm``."""
    grid = centred_grid(head.to_patient((0, 0, 10)), np.full(3, 230.0), (step_mm,) * 3)
    fields = head.fields(grid)
    # The thinning edge of a subdural bleed is weighted up to fourfold (`Subdural`): so are its distances here.
    near = np.minimum.reduce([bleed.distance(fields) for bleed in bleeds]) < 4 * step_mm
    points = grid.index_to_patient(np.argwhere(fields.inside)[near])
    return points.min(axis=0) - step_mm, points.max(axis=0) + step_mm


def true_volumes(head: Head, bleeds: Sequence[Bleed], spacing_mm: float = 0.6) -> dict[str, float]:
    """Volume in mL by subtype on a fine isotropic lattice around the bleeds, whatever scan is made of them."""
    total = dict.fromkeys(SUBTYPE_LABELS, 0.0)
    low, high = bleed_box(head, bleeds)
    for _, part, _ in slab_grids(centred_grid((low + high) / 2, high - low, (spacing_mm,) * 3), slices=16, coarse=1):
        for bleed, share in zip(bleeds, shares(bleeds, head.fields(part), spacing_mm), strict=True):
            total[bleed.subtype] += float(share.sum(dtype=np.float64)) * spacing_mm**3 / MM3_PER_ML
    return total


@dataclass(frozen=True, eq=False)
class HeadScan:
    """A simulated head CT.

    Attributes
    ----------
    ct
        int16 HU with noise.
    labels
        uint8 subtype labels where blood fills at least half of a voxel.
    volumes_ml
        By subtype, of what lies in the field of view, from the shares themselves.
    """

    ct: Volume
    labels: Volume
    volumes_ml: dict[str, float]


def simulate_head_ct(
    head: Head, bleeds: Sequence[Bleed], grid: Grid, rng: np.random.Generator, noise_hu: float = 4.0
) -> HeadScan:
    """Scan ``head`` with its ``bleeds`` on ``grid``: slice-averaged, with blur and noise of ``noise_hu``."""
    table = hounsfield_table(rng)
    hu = np.empty(grid.shape, dtype=np.float32)
    labels = np.zeros(grid.shape, dtype=np.uint8)
    volumes = dict.fromkeys(SUBTYPE_LABELS, 0.0)
    for slices, painting, n in slab_grids(grid):
        fields, edge = head.fields(painting), float(np.mean(painting.spacing))
        parts = shares(bleeds, fields, edge)
        image = fields.paint(table, edge, partial(_add_bleeds, bleeds, parts, fields, edge))
        hu[slices] = to_slices(image, n, grid.shape[1:])
        _add_labels(labels[slices], volumes, bleeds, parts, fields, n)
    volumes = {name: n * grid.voxel_volume / MM3_PER_ML for name, n in volumes.items()}
    return HeadScan(add_scanner(hu, grid, noise_hu, rng), Volume(labels, grid, "label"), volumes)


def label_bleeds(head: Head, bleeds: Sequence[Bleed], grid: Grid) -> Volume:
    """Label map of `simulate_head_ct` without the image."""
    labels = np.zeros(grid.shape, dtype=np.uint8)
    for slices, painting, n in slab_grids(grid):
        fields = head.fields(painting)
        parts = shares(bleeds, fields, float(np.mean(painting.spacing)))
        _add_labels(labels[slices], dict.fromkeys(SUBTYPE_LABELS, 0.0), bleeds, parts, fields, n)
    return Volume(labels, grid, "label")


def _add_bleeds(bleeds: Sequence[Bleed], parts: list[Array], fields: HeadFields, edge_mm: float, flat: Array) -> None:
    """Paint oedema, then blood, over the intracranial voxels ``flat`` ``(n,)``."""
    for bleed in bleeds:
        if isinstance(bleed, Intraparenchymal):
            rim = coverage(bleed.distance(fields) - np.float32(bleed.oedema_mm), 2 * edge_mm)
            rim *= fields.distance(HeadTissue.WHITE) < 0
            flat += rim * (np.float32(OEDEMA_HU) - flat)
    for bleed, share in zip(bleeds, parts, strict=True):
        flat += share * (np.float32(bleed.hu) - flat)


def _add_labels(
    labels: npt.NDArray[np.uint8],
    volumes: dict[str, float],
    bleeds: Sequence[Bleed],
    parts: list[Array],
    fields: HeadFields,
    n: int,
) -> None:
    """Label the voxels ``(z, y, x)`` half full of blood, and count voxels of blood by subtype."""
    for bleed, share in zip(bleeds, parts, strict=True):
        if share.any():
            dense = np.zeros(fields.grid.shape, dtype=np.float32)
            dense[fields.inside] = share
            filled = to_slices(dense, n, labels.shape[1:])
            labels[filled >= 0.5] = SUBTYPE_LABELS[bleed.subtype]
            volumes[bleed.subtype] += float(filled.sum(dtype=np.float64))


# Sites of spontaneous haemorrhage on the left, template mm: putamen, thalamus, lobes, cerebellum.
_IPH_SITES = ((26, -5, 5), (15, 10, 7), (34, -42, 26), (38, 34, 34), (42, -12, -18), (22, 50, -32))


def sample_bleed(subtype: str, rng: np.random.Generator) -> tuple[Bleed, float]:
    """Draw a bleed of a subtype, and the midline shift in mm that goes with it (positive to the left)."""
    side: Side = "L" if rng.uniform() < 0.5 else "R"
    away = -_SIGN[side]
    if subtype == "EDH":
        depth = rng.uniform(6, 25)
        lens = Extradural(
            side, rng.uniform(-15, 30), rng.uniform(12, 35), rng.uniform(28, 42), depth, rng.normal(68, 4)
        )
        return lens, away * max(0.0, 0.4 * depth - 2)
    if subtype == "SDH":
        sites: tuple[SubduralSite, ...] = ("convexity", "convexity", "convexity", "falx", "tentorium")
        site = sites[rng.integers(len(sites))]
        depth = rng.uniform(4, 16) if site == "convexity" else rng.uniform(3, 6)
        extent = rng.uniform(50, 80) if site == "convexity" else rng.uniform(28, 45)
        shift = max(0.0, 0.7 * depth - 2) if site == "convexity" else 0.0
        return Subdural(side, site, depth, extent, rng.normal(65, 4)), away * shift
    if subtype == "SAH":
        if rng.uniform() < 0.6:
            return Subarachnoid((0, -8, -15), rng.uniform(30, 60), rng.normal(62, 4)), 0.0
        angle, height = rng.uniform(-1.0, 1.0), rng.uniform(20, 55)
        centre = (-away * 58 * float(np.cos(angle)), 75 * float(np.sin(angle)), height)
        return Subarachnoid(centre, rng.uniform(18, 35), rng.normal(56, 4)), 0.0
    if subtype == "IPH":
        place = np.array(_IPH_SITES[rng.integers(len(_IPH_SITES))], dtype=np.float64) * [_SIGN[side], 1, 1]
        radius = rng.uniform(5, 19 if place[2] > 0 else 13)
        n = int(rng.integers(1, 4))
        centres = place + rng.normal(0, 0.45 * radius, (n, 3)) * (np.arange(n) > 0)[:, None]
        axes = radius * rng.uniform(0.75, 1.25, (n, 3)) * np.where(np.arange(n) > 0, 0.7, 1.0)[:, None]
        bleed = Intraparenchymal(centres, axes, rng.normal(66, 4), rng.uniform(2, 8))
        return bleed, away * max(0.0, 0.55 * radius - 4) if place[2] > 0 else 0.0
    if subtype == "IVH":
        return Intraventricular(float(rng.choice([-100.0, rng.uniform(20, 45)])), rng.normal(60, 4)), 0.0
    raise ValueError(f"subtype must be one of {list(SUBTYPE_LABELS)}, got {subtype!r}")


def sample_study(rng: np.random.Generator) -> SimulatedStudy:
    """Draw a head CT of a screening or emergency patient: a quarter without, the others with one or two haemorrhages.

    Truth by the names of `ops.diseases.haemorrhage.measurement`: ``volume_<subtype>`` and ``volume_total`` in mL,
    ``midline_shift`` in mm, and the landmarks in patient LPS mm.
    """
    participant = sample_participant(rng)
    n = int(rng.choice([0, 1, 2], p=[0.25, 0.55, 0.2]))
    drawn = [sample_bleed(str(name), rng) for name in rng.choice(list(SUBTYPE_LABELS), n, replace=False)]
    shift = float(np.clip(sum(push for _, push in drawn), -14, 14))
    head = sample_head(participant, rng, shift)
    increment = float(rng.choice([5.0, 2.5, 1.25, 0.625], p=[0.5, 0.25, 0.2, 0.05]))
    noise = 4.0 * (5.0 / increment) ** 0.4
    scan = simulate_head_ct(head, [bleed for bleed, _ in drawn], head_grid(head, (increment, 0.45, 0.45)), rng, noise)
    anterior, posterior = head.falx_attachments
    truth = {
        **{f"volume_{name.lower()}": volume for name, volume in scan.volumes_ml.items()},
        "volume_total": sum(scan.volumes_ml.values()),
        "any": int(n > 0),
        "midline_shift": abs(shift),
        "septum": head.septum.tolist(),
        "falx_anterior": anterior.tolist(),
        "falx_posterior": posterior.tolist(),
    }
    series = SliceSeries(
        role="ct",
        modality="CT",
        description=f"HEAD {increment:g} mm",
        stacks=(Stack(scan.ct),),
        attributes={"KVP": 120.0, "SliceThickness": increment, "BodyPartExamined": "HEAD"},
    )
    return SimulatedStudy(participant, "CT HEAD WITHOUT CONTRAST", (series,), {"ct": scan.labels}, truth)

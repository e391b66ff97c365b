"""A coronary CT angiogram: enhanced lumens with stenoses, plaques of known size and make-up, and the fat around them.

Vessels follow the courses of the simulated chest's coronary arteries. A plaque widens the outer wall, narrows the lumen
and pushes it to one side; calcium and a lipid core lie in its thick side. All truth comes from these parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.measure.centreline import arc_length, rotation_minimising_frames
from ops.phantoms.chest.coronaries import Branch
from ops.phantoms.chest.hounsfield import tissue_hu
from ops.phantoms.chest.protocol import VENDORS, Protocol
from ops.phantoms.chest.scan import HU_RANGE, background, scan_grid
from ops.phantoms.chest.thorax import Thorax, thorax
from ops.phantoms.labels import ARTERIES, ARTERY_LABELS, Tissue
from ops.phantoms.lattice import blend, centred_grid
from ops.phantoms.noise import correlated_noise, lung_texture, noise_map
from ops.phantoms.participant import sample_participant
from ops.phantoms.sdf import Array, Coordinates, curve
from ops.phantoms.study import SimulatedStudy, SliceSeries, Stack
from ops.volume import Grid, Volume

FloatArray = npt.NDArray[np.float64]
PlaqueKind = Literal["calcified", "non_calcified", "mixed"]

STEP_MM = 0.5  # between points of a vessel
SLEEVE_DIAMETERS = 1.0  # thickness of the fat around a vessel, in its diameters
FAT_LIMIT_HU = -30.0  # the sleeve replaces fat, not muscle
# The core of a plaque fills so much of its thick side, and reaches over so much of its length.
CORE_FILL, CORE_LENGTH = 0.85, 0.45
# A resolution of about 0.6 mm (full width at half maximum), as cardiac scanners reach.
BLUR_MM = 0.27
NOISE_CUTOFF_MM = 1.0
WALL_OFFSET = len(ARTERIES)  # label of an artery's wall over that of its lumen
CALCIFIED: PlaqueKind = "calcified"
KINDS: tuple[PlaqueKind, ...] = (CALCIFIED, "non_calcified", "mixed")
# Plaques keep away from the ends of a vessel, from each other and from forks: lesions are compared with healthy vessel.
ENDS_MM, APART_MM, FORK_MM = 9.0, 8.0, 4.0
RADIUS_SMOOTHING_MM = 5.0  # over a bifurcation
# The heart under a vessel on its own.
HEART_RADIUS_MM = 45.0
CLEARANCE_MM = 1.5
MYOCARDIUM_HU = 110.0
FIELD_MARGIN_MM = 7.0


@dataclass(frozen=True)
class Plaque:
    """One lesion of a vessel.

    Attributes
    ----------
    position, length
        Middle and length along the vessel in mm.
    stenosis
        Share of the healthy diameter that the lumen loses at the middle, 0–1.
    remodelling
        Area of the outer wall at the middle over that of the healthy vessel.
    eccentricity
        0 = lumen in the middle of the wall, 1 = at its edge.
    direction
        Side to which the lumen is pushed, radians in the section across the vessel.
    kind
        ``calcified``: all calcium; ``non_calcified``: fibro-fatty with a lipid core; ``mixed``: fibrous with a short
        calcium core and a lipid core.
    """

    position: float
    length: float
    stenosis: float
    remodelling: float
    eccentricity: float
    direction: float
    kind: PlaqueKind

    def weight(self, arc: FloatArray) -> FloatArray:
        """Course of the lesion along the vessel: a raised cosine, 1 at its middle and 0 at its ends."""
        u = np.clip(2 * np.abs(arc - self.position) / self.length, 0, 1)
        return np.asarray((1 + np.cos(np.pi * u)) / 2)


@dataclass(frozen=True)
class Attenuation:
    """HU of what the phantom is made of, at the scan's tube voltage."""

    lumen: float = 400.0
    fibrous: float = 180.0
    fibro_fatty: float = 80.0
    lipid: float = 5.0
    calcium: float = 900.0
    fat: float = -85.0


@dataclass(frozen=True, eq=False)
class Core:
    """A tube of one material inside a plaque: centreline ``(n, 3)`` mm, radius, and its volume in mm³."""

    material: Literal["calcium", "lipid"]
    points: FloatArray
    radius: float

    @property
    def volume(self) -> float:
        """A tube and the two halves of a ball."""
        r = self.radius
        return float(np.pi * r**2 * arc_length(self.points)[-1] + 4 / 3 * np.pi * r**3)


@dataclass(frozen=True, eq=False)
class Vessel:
    """A coronary artery.

    Attributes
    ----------
    name
        Course: LAD (with the left main), LCX or RCA.
    points
        Centreline of the outer wall ``(n, 3)`` LPS mm, every `STEP_MM`, from the ostium.
    radii
        Healthy radius ``(n,)`` mm.
    plaques
        Lesions, none reaching into another.
    left_main
        Length of the left main in mm; 0 for the others.
    """

    name: str
    points: FloatArray
    radii: FloatArray
    plaques: tuple[Plaque, ...] = ()
    left_main: float = 0.0

    @property
    def arc(self) -> FloatArray:
        """Arc length ``(n,)`` mm."""
        return arc_length(self.points)

    @property
    def lumen_radii(self) -> FloatArray:
        """Radius of the lumen ``(n,)`` mm."""
        narrowing = sum((p.stenosis * p.weight(self.arc) for p in self.plaques), np.zeros(len(self.arc)))
        return np.asarray(self.radii * (1 - narrowing))

    @property
    def outer_radii(self) -> FloatArray:
        """Radius of the outer wall ``(n,)`` mm."""
        growth = sum(((np.sqrt(p.remodelling) - 1) * p.weight(self.arc) for p in self.plaques), np.zeros(len(self.arc)))
        return np.asarray(self.radii * (1 + growth))

    def _offsets(self, sideways: Sequence[FloatArray]) -> FloatArray:
        """Displace the centreline towards each plaque's direction by ``sideways`` mm, one ``(n,)`` array a plaque."""
        frames = rotation_minimising_frames(self.points)
        moved = self.points.copy()
        for plaque, distance in zip(self.plaques, sideways, strict=True):
            across = np.cos(plaque.direction) * frames.first + np.sin(plaque.direction) * frames.second
            moved += distance[:, None] * across
        return moved

    @property
    def lumen_points(self) -> FloatArray:
        """Centreline of the lumen ``(n, 3)`` LPS mm."""
        room = self.outer_radii - self.lumen_radii
        return self._offsets([p.eccentricity * room * (p.weight(self.arc) > 0) for p in self.plaques])

    def cores(self) -> list[Core]:
        """Calcium and lipid inside the plaques."""
        found = []
        room = self.outer_radii - self.lumen_radii
        for index, plaque in enumerate(self.plaques):
            # On the thick side the plaque spans from the outer wall to the lumen: a tube midway touches neither.
            shift = plaque.eccentricity * room
            middle = (shift - self.lumen_radii - self.outer_radii) / 2
            half = (self.outer_radii - self.lumen_radii + shift) / 2
            axis = self._offsets([middle if i == index else np.zeros_like(room) for i in range(len(self.plaques))])
            for material, low, high in _core_spans(plaque):
                inside = (self.arc >= plaque.position + low) & (self.arc <= plaque.position + high)
                found.append(Core(material, axis[inside], CORE_FILL * float(half[inside].min())))
        return found

    def plaque_volume(self, kinds: Collection[PlaqueKind] = KINDS) -> float:
        """Volume in mm³ between lumen and outer wall of the plaques of these ``kinds``.

        Pappus for both tubes: area times the way of its centre.
        """
        where = sum((p.weight(self.arc) > 0 for p in self.plaques if p.kind in kinds), np.zeros(len(self.arc), bool))
        outer, lumen = self.outer_radii * where, self.lumen_radii * where
        return _tube_volume(self.points, outer) - _tube_volume(self.lumen_points, lumen)

    def core_volume(self, material: Literal["calcium", "lipid"]) -> float:
        """Volume in mm³ of the cores of one material."""
        return sum(core.volume for core in self.cores() if core.material == material)

    def calcium_volume(self) -> float:
        """Volume in mm³ of calcified plaques and of the calcium in mixed ones."""
        return self.plaque_volume((CALCIFIED,)) + self.core_volume("calcium")


def _core_spans(plaque: Plaque) -> list[tuple[Literal["calcium", "lipid"], float, float]]:
    """Material of each core, and where it lies relative to the middle of the plaque, mm."""
    half = CORE_LENGTH * plaque.length / 2
    if plaque.kind == "calcified":
        return []
    if plaque.kind == "non_calcified":
        return [("lipid", -half, half)]
    return [("calcium", -half, -0.4 * half), ("lipid", 0.2 * half, half)]


def _tube_volume(points: FloatArray, radii: FloatArray) -> float:
    step = np.diff(arc_length(points))
    area = np.pi * radii**2
    return float((step * (area[1:] + area[:-1]) / 2).sum())


def _offsets_from(point: FloatArray, grid: Grid, low: Sequence[int], high: Sequence[int]) -> Coordinates:
    """LPS mm ``(x, y, z)`` from ``point`` to the voxels of the index box ``low``..``high``; no array of all three."""
    k, j, i = (np.arange(a, b, dtype=np.float32) for a, b in zip(low, high, strict=True))
    steps = grid.affine[:3, :3].astype(np.float32)
    offset = (grid.origin - point).astype(np.float32)
    x, y, z = (
        (steps[c, 0] * k + offset[c])[:, None, None] + (steps[c, 1] * j)[:, None] + steps[c, 2] * i for c in range(3)
    )
    return x, y, z


def tube_distance(
    grid: Grid, points: FloatArray, radii: npt.ArrayLike, reach: float
) -> tuple[tuple[slice, ...], Array]:
    """Signed distance (mm, negative inside) to a tapering tube, right up to ``reach`` mm outside its wall.

    Returns
    -------
    tuple
        Index box of ``grid`` and the distances in it; ``reach`` or more beyond the reach.
    """
    r = np.broadcast_to(np.asarray(radii, dtype=np.float64), (len(points),))
    index = grid.patient_to_index(points)
    margin = (r.max() + reach) / np.array(grid.spacing)
    start = np.clip(np.floor(index.min(axis=0) - margin).astype(int), 0, grid.shape)
    stop = np.clip(np.ceil(index.max(axis=0) + margin).astype(int) + 1, start, grid.shape)
    distance = np.full(stop - start, reach, dtype=np.float32)
    for p, q, rp, rq, ip, iq in zip(points[:-1], points[1:], r[:-1], r[1:], index[:-1], index[1:], strict=True):
        pad = (max(rp, rq) + reach) / np.array(grid.spacing)
        low = np.maximum(np.floor(np.minimum(ip, iq) - pad).astype(int), start)
        high = np.minimum(np.ceil(np.maximum(ip, iq) + pad).astype(int) + 1, stop)
        if (low >= high).any():
            continue
        x, y, z = _offsets_from(p, grid, low, high)
        d = (q - p).astype(np.float32)
        t = np.clip((x * d[0] + y * d[1] + z * d[2]) / max(float(d @ d), 1e-12), 0, 1)
        here = (
            np.sqrt((x - t * d[0]) ** 2 + (y - t * d[1]) ** 2 + (z - t * d[2]) ** 2)
            - np.float32(rp)
            - t * np.float32(rq - rp)
        )
        view = distance[tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))]
        np.minimum(view, here, out=view)
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True)), distance


def paint_vessel(hu: Array, labels: npt.NDArray[np.uint8], grid: Grid, vessel: Vessel, tissue: Attenuation) -> None:
    """Paint a vessel and the fat around it over ``hu`` ``(z, y, x)`` in place, and label it.

    Labels are ``ARTERY_LABELS`` in the lumen, and those plus `WALL_OFFSET` in the wall, where voxel centres lie.
    """
    edge = float(np.prod(grid.spacing) ** (1 / 3))
    label = ARTERY_LABELS[vessel.name]
    sleeve = 2 * SLEEVE_DIAMETERS * float(vessel.outer_radii.max())
    box, around = tube_distance(grid, vessel.points, vessel.outer_radii, sleeve)
    fat = (around < sleeve) & (hu[box] < FAT_LIMIT_HU)
    hu[box][fat] = tissue.fat
    matrix = {"calcified": tissue.calcium, "non_calcified": tissue.fibro_fatty, "mixed": tissue.fibrous}
    for plaque in vessel.plaques:
        span = plaque.weight(vessel.arc) > 0
        box, wall = tube_distance(grid, vessel.points[span], vessel.outer_radii[span], edge)
        blend(hu[box], wall, matrix[plaque.kind], edge)
        labels[box][wall < 0] = label + WALL_OFFSET
    for core in vessel.cores():
        box, inside = tube_distance(grid, core.points, core.radius, edge)
        blend(hu[box], inside, tissue.calcium if core.material == "calcium" else tissue.lipid, edge)
    points, radii = vessel.lumen_points, vessel.lumen_radii
    box, lumen = tube_distance(grid, points, radii, edge)
    blend(hu[box], lumen, tissue.lumen, edge)
    labels[box][lumen < 0] = label
    if vessel.left_main > 0:
        part = vessel.arc <= vessel.left_main
        box, lumen = tube_distance(grid, points[part], radii[part], edge)
        labels[box][lumen < 0] = ARTERY_LABELS["LM"]


def lumen_labels(labels: Volume) -> Volume:
    """Lumen of each artery alone, from a label map of `paint_vessel`."""
    voxels = labels.voxels.astype(np.uint8)
    return replace(labels, voxels=np.where(voxels <= WALL_OFFSET, voxels, 0))


def wall_labels(labels: Volume) -> Volume:
    """Everything inside the outer wall of each artery, from a label map of `paint_vessel`."""
    voxels = labels.voxels.astype(np.uint8)
    return replace(labels, voxels=np.where(voxels > WALL_OFFSET, voxels - WALL_OFFSET, voxels))


def sample_plaques(
    arc: FloatArray, radii: FloatArray, n: int, rng: np.random.Generator, forks: Sequence[float] = ()
) -> tuple[Plaque, ...]:
    """Draw up to ``n`` plaques where the vessel is 2 mm wide, with healthy vessel beside and between them.

    Branches leave at the arc lengths ``forks`` (mm), where there is no plaque.
    """
    wide = arc[radii >= 1.0]
    plaques: list[Plaque] = []
    for _ in range(20 * n):
        length = rng.uniform(7, 16)
        position = rng.uniform(ENDS_MM + length / 2, wide[-1] - length / 2) if wide[-1] > ENDS_MM + length else None
        if position is None or len(plaques) == n:
            break
        beside_plaques = all(abs(position - p.position) > (length + p.length) / 2 + APART_MM for p in plaques)
        if beside_plaques and all(abs(position - fork) > length / 2 + FORK_MM for fork in forks):
            plaques.append(
                Plaque(
                    position=position,
                    length=length,
                    stenosis=float(rng.uniform(0.2, 0.8)),
                    remodelling=float(rng.uniform(1.0, 1.45)),
                    eccentricity=float(rng.uniform(0.3, 0.9)),
                    direction=float(rng.uniform(0, 2 * np.pi)),
                    kind=KINDS[int(rng.integers(len(KINDS)))],
                )
            )
    return tuple(sorted(plaques, key=lambda p: p.position))


def sample_attenuation(rng: np.random.Generator) -> Attenuation:
    """Draw the HU of a well-timed angiogram at 120 kV; a few lumens lie outside the usual 250–600 HU."""
    return Attenuation(
        lumen=float(np.clip(rng.normal(420, 80), 230, 640)),
        fibrous=float(rng.uniform(150, 220)),
        fibro_fatty=float(rng.uniform(60, 110)),
        lipid=float(rng.uniform(-10, 15)),
        calcium=float(rng.uniform(800, 1300)),
        fat=float(rng.uniform(-95, -62)),
    )


def sample_vessel(rng: np.random.Generator, name: str = "LAD", n_plaques: int = 1) -> Vessel:
    """Draw one artery on its own, running 60–75 mm over the convexity of a heart centred at the origin."""
    length = rng.uniform(60, 75)
    turn = np.linspace(0, length / HEART_RADIUS_MM, round(length / STEP_MM) + 1)
    sway = rng.uniform(0.03, 0.1) * np.sin(rng.uniform(2, 3.5) * turn + rng.uniform(0, 2 * np.pi))
    basis = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    course = np.stack([np.cos(turn) * np.cos(sway), np.sin(turn) * np.cos(sway), np.sin(sway)], axis=-1) @ basis
    proximal = rng.uniform(1.5, 2.1)
    radii = np.linspace(proximal, proximal * rng.uniform(0.6, 0.8), len(turn))
    points = HEART_RADIUS_MM * course
    return Vessel(name, points, radii, sample_plaques(arc_length(points), radii, n_plaques, rng))


def scan_vessel(
    vessel: Vessel,
    tissue: Attenuation,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
    noise: float = 20.0,
) -> tuple[Volume, Volume]:
    """CT angiogram of one artery of `sample_vessel` on its heart, with blur and noise, and its label map.

    Parameters
    ----------
    spacing
        ``(dz, dy, dx)`` mm.
    noise
        Standard deviation in HU.
    """
    low, high = vessel.points.min(axis=0) - FIELD_MARGIN_MM, vessel.points.max(axis=0) + FIELD_MARGIN_MM
    grid = centred_grid((low + high) / 2, high - low, spacing)
    x, y, z = _offsets_from(np.zeros(3), grid, (0, 0, 0), grid.shape)
    edge = float(np.prod(spacing) ** (1 / 3))
    hu = np.full(grid.shape, tissue.fat, dtype=np.float32)
    # The vessel runs in fat with its wall this far above the muscle.
    depth = HEART_RADIUS_MM - float(vessel.radii.max()) - CLEARANCE_MM
    blend(hu, np.sqrt(x * x + y * y + z * z) - np.float32(depth), MYOCARDIUM_HU, edge)
    labels = np.zeros(grid.shape, dtype=np.uint8)
    paint_vessel(hu, labels, grid, vessel, tissue)
    hu = ndimage.gaussian_filter(hu, BLUR_MM / np.array(spacing))
    hu += noise * correlated_noise(grid.shape, spacing[2], NOISE_CUTOFF_MM, 1.0, rng)
    voxels = np.round(np.clip(hu, *HU_RANGE)).astype(np.int16)
    return Volume(voxels, grid), Volume(labels, grid, units="label")


def arteries(branches: Sequence[Branch], rng: np.random.Generator) -> tuple[list[Vessel], list[Vessel]]:
    """Draw plaques for the main arteries, and healthy side branches, on the courses of a chest's coronary tree.

    The LAD starts with the left main; the posterior descending artery ends the artery it comes from.
    """
    by_name = {branch.name: branch for branch in branches}
    posterior = by_name["PDA"]
    chains = {
        "LAD": [by_name["LM"], by_name["LAD"]],
        "LCX": [by_name["LCX"], *([posterior] if posterior.artery == "LCX" else [])],
        "RCA": [by_name["RCA"], *([posterior] if posterior.artery == "RCA" else [])],
    }
    main, used = [], {"PDA"}
    for name, chain in chains.items():
        used |= {branch.name for branch in chain}
        points, radii = _joined(chain)
        left_main = float(arc_length(by_name["LM"].points)[-1]) if name == "LAD" else 0.0
        starts = [b.points[0] for b in branches if b.name not in {branch.name for branch in chain} | {"PDA"}]
        near = [np.linalg.norm(points - start, axis=1) for start in starts]
        forks = [float(arc_length(points)[d.argmin()]) for d in near if d.min() < FORK_MM]
        plaques = sample_plaques(arc_length(points), radii, int(rng.integers(0, 4)), rng, forks)
        main.append(Vessel(name, points, radii, plaques, left_main))
    side = [Vessel(b.artery, *_joined([b])) for b in branches if b.name not in used]
    return main, side


def _joined(chain: Sequence[Branch]) -> tuple[FloatArray, FloatArray]:
    """Smooth course through branches one after another, every `STEP_MM`, and its radii without steps."""
    control = np.concatenate([chain[0].points, *(branch.points[1:] for branch in chain[1:])])
    # Vessels do not widen towards their ends.
    radii = np.minimum.accumulate(np.concatenate([chain[0].radii, *(branch.radii[1:] for branch in chain[1:])]))
    points = curve(control, STEP_MM)
    along = np.linspace(0, 1, len(points))
    radius = np.interp(along, arc_length(control) / arc_length(control)[-1], radii)
    return points, np.asarray(ndimage.gaussian_filter1d(radius, RADIUS_SMOOTHING_MM / STEP_MM, mode="nearest"))


@dataclass(frozen=True, eq=False)
class Angiogram:
    """A simulated scan, its label map (see `paint_vessel`) and the vessels in it."""

    volume: Volume
    labels: Volume
    vessels: list[Vessel]
    tissue: Attenuation


def angiogram(chest: Thorax, rng: np.random.Generator, increment: float = 0.5) -> Angiogram:
    """Scan a chest as cardiac CT angiography: 512², the heart in a field of 180–220 mm, 120 kV."""
    protocol = Protocol(
        vendor=str(rng.choice(VENDORS)),
        thickness=max(increment, 0.6),
        increment=increment,
        fov=float(np.round(rng.uniform(180, 220))),
        noise=float(rng.uniform(16, 28)),
        contrast=True,
    )
    grid = scan_grid(chest, protocol, rng)
    tissue = sample_attenuation(rng)
    table = tissue_hu(chest.participant, protocol.kvp, rng, contrast=True)
    table[[Tissue.AORTA_BLOOD, Tissue.BLOOD_LV, Tissue.BLOOD_LA]] = tissue.lumen
    hu = background(replace(chest, branches=[]), protocol, grid, table)
    hu += lung_texture(hu, rng)
    labels = np.zeros(grid.shape, dtype=np.uint8)
    main, side = arteries(chest.branches, rng)
    # The LAD with the left main comes last: at the fork the lumen is theirs.
    for vessel in (*side, *reversed(main)):
        paint_vessel(hu, labels, grid, vessel, tissue)
    hu = ndimage.gaussian_filter(hu, BLUR_MM / np.array(grid.spacing))
    noise = correlated_noise(grid.shape, grid.spacing[2], NOISE_CUTOFF_MM, 1.0, rng)
    noise *= noise_map(hu) * np.float32(protocol.noise)
    hu += noise
    voxels = np.round(np.clip(hu, *HU_RANGE)).astype(np.int16)
    return Angiogram(Volume(voxels, grid), Volume(labels, grid, units="label"), main, tissue)


def sample_study(rng: np.random.Generator) -> SimulatedStudy:
    """Draw a participant and their coronary CT angiogram, one classic CT series."""
    person = sample_participant(rng)
    scan = angiogram(thorax(person), rng)
    series = SliceSeries(
        role="ct",
        modality="CT",
        description="CCTA 0.5 mm",
        stacks=(Stack(scan.volume),),
        attributes={
            "KVP": "120",
            "BodyPartExamined": "HEART",
            "ContrastBolusAgent": "Iohexol",
            "ContrastBolusRoute": "IV",
            "ConvolutionKernel": "Bv40",
        },
    )
    return SimulatedStudy(
        participant=person,
        description="CT coronary angiography",
        series=(series,),
        labels={"ct": scan.labels},
        truth=study_truth(scan.vessels, scan.tissue),
    )


def study_truth(vessels: Sequence[Vessel], tissue: Attenuation) -> dict[str, Any]:
    """Truth of each artery under the names of the measurements, from the parameters of the vessels."""
    truth: dict[str, Any] = {"lumen_attenuation": tissue.lumen, "fat_attenuation_index": tissue.fat}
    for vessel in vessels:
        in_main = [p for p in vessel.plaques if p.position <= vessel.left_main]
        beyond = [p for p in vessel.plaques if p.position > vessel.left_main]
        parts = {"LM": in_main, vessel.name: beyond} if vessel.left_main else {vessel.name: beyond}
        for artery, plaques in parts.items():
            truth[f"diameter_stenosis_{artery}"] = 100 * max((p.stenosis for p in plaques), default=0.0)
            truth[f"lesions_{artery}"] = len(plaques)
        truth[f"plaque_volume_{vessel.name}"] = vessel.plaque_volume()
        truth[f"low_attenuation_volume_{vessel.name}"] = vessel.core_volume("lipid")
        truth[f"calcified_volume_{vessel.name}"] = vessel.calcium_volume()
    truth["plaques"] = [{"artery": v.name, **asdict(p)} for v in vessels for p in v.plaques]
    return truth

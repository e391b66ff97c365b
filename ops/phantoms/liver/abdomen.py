"""CT of the upper abdomen: liver and spleen of known volumes, surface and attenuation, and what lies around them.

Patient LPS mm, as in `ops.phantoms.liver.shape`. Every organ is a signed distance; the CT, the label map and the true
volumes all come from the same distances, each by its own sampling. `paint` takes further bodies, such as lesions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ops.phantoms.lattice import blend, index_box, open_coordinates
from ops.phantoms.liver.shape import CAVA, Liver, Spleen, fit_liver, select, true_volumes
from ops.phantoms.noise import correlated_noise, kernel_blur, noise_map
from ops.phantoms.participant import Participant, sample_participant
from ops.phantoms.sdf import Array, Coordinates, Points, ellipsoid, local, rotation, smooth_union
from ops.phantoms.study import SimulatedStudy, SliceSeries, Stack
from ops.volume import Grid, Volume

Phase = Literal["unenhanced", "portal_venous"]
Distance = Callable[[Coordinates], Array]

# Means by METAVIR stage F0 … F4: LSVR and spleen in cm³ (Pickhardt 2017 Eur Radiol 27:3060 [P]), nodularity in tenths
# of mm (HCV multi-centre; F0 and F1 are one group [P]).
STAGE_LSVR = (0.26, 0.25, 0.33, 0.39, 0.56)
STAGE_SPLEEN_CM3 = (215.0, 295.0, 292.0, 510.0, 791.0)
STAGE_NODULARITY = (2.26, 2.26, 2.35, 2.42, 3.19)

WALL_MM = 13.0  # muscle and ribs around the cavity
RIB_PITCH_MM = 27.0
LUNG_BASE_Z = -30.0  # lowest point of the lungs' recesses, mm
AORTA = (12.0, 38.0)  # x and y at scale 1

SPLEEN_LABEL = 9  # after the segments 1–8
AIR_HU = -1000.0
SLAB_SLICES = 4  # (sub-)slices painted at a time, so that distances stay in the processor's cache
SUBSLICE_MM = 1.25  # a thick slice is the mean of sub-slices of at most this
KERNEL_SIGMA_MM = 0.6  # in-plane point spread of a soft kernel
NOISE_CUTOFF_MM = 2.6
FREE_MARGIN_MM = 5.0  # between lesions, and between a lesion and the liver's edge

# HU unenhanced and in the portal-venous phase at 120 kVp, typical.
TISSUE_HU: dict[str, tuple[float, float]] = {
    "fat": (-106, -104),
    "muscle": (52, 62),
    "cortex": (450, 450),
    "marrow": (170, 180),
    "disc": (85, 90),
    "canal": (18, 20),
    "lung": (-850, -845),
    "heart": (44, 145),
    "artery": (42, 150),
    "cava": (42, 140),
    "portal": (42, 170),
    "kidney": (32, 172),
    "pancreas": (38, 95),
    "stomach": (20, 25),
    "bowel": (24, 45),
    "gas": (-950, -950),
    "bile": (6, 8),
}
# What the portal-venous phase adds to the unenhanced liver and spleen.
LIVER_ENHANCEMENT_HU = 52.0
SPLEEN_ENHANCEMENT_HU = 72.0


@dataclass(frozen=True, eq=False)
class Body:
    """Something to paint.

    Attributes
    ----------
    distance
        Signed distance in mm, negative inside, at LPS coordinates, which broadcast against each other.
    hu
        Its attenuation.
    low, high
        Corners of an LPS box that contains it, mm.
    """

    distance: Distance
    hu: float
    low: npt.ArrayLike
    high: npt.ArrayLike


@dataclass(frozen=True, eq=False)
class UpperAbdomen:
    """One person's upper abdomen in one phase of contrast.

    Attributes
    ----------
    liver, spleen
        Shapes.
    liver_hu, spleen_hu
        Attenuation of their parenchyma in this phase.
    phase
        ``unenhanced`` or ``portal_venous``.
    fat_mm
        Thickness of subcutaneous fat.
    stage
        METAVIR stage 0–4 the sizes were drawn for.
    """

    liver: Liver
    spleen: Spleen
    liver_hu: float
    spleen_hu: float
    phase: Phase
    fat_mm: float
    stage: int

    def hu(self, tissue: str) -> float:
        """HU of a tissue in this phase."""
        return TISSUE_HU[tissue][self.phase == "portal_venous"]

    def bounds(self) -> tuple[Points, Points]:
        """LPS box of what a scan of the liver covers: the whole cross-section, from lung to lower pole."""
        half = self.liver.scale * np.array([150.0, 112.0]) + WALL_MM + self.fat_mm
        low, high = self.liver.bounds()
        spleen_low, spleen_high = self.spleen.bounds()
        bottom, top = min(low[2], spleen_low[2]) - 8, max(high[2], spleen_high[2]) + 12
        return np.array([-half[0], -half[1], bottom]), np.array([half[0], half[1] + 8, top])

    def free_positions(self, radii_mm: Sequence[float], rng: np.random.Generator) -> Points:
        """Centres ``(n, 3)`` LPS mm of spheres within the liver, apart from each other and away from great vessels.

        Raises
        ------
        ValueError
            No room was found.
        """
        low, high = self.liver.bounds()
        placed: list[tuple[Points, float]] = []
        vessels = [_tube(points, radii) for points, radii in _hepatic_vessels(self.liver.scale)]
        for radius in radii_mm:
            centres = rng.uniform(low, high, size=(4000, 3))
            p = tuple(centres.T.astype(np.float32))
            room = -self.liver.distance((p[0], p[1], p[2])) - radius - FREE_MARGIN_MM
            for vessel in vessels:
                room = np.minimum(room, vessel((p[0], p[1], p[2])) - radius)
            for other, size in placed:
                room = np.minimum(room, np.linalg.norm(centres - other, axis=1) - radius - size - FREE_MARGIN_MM)
            if not (room > 0).any():
                raise ValueError(f"no room in the liver for a sphere of {radius:g} mm radius beside {len(placed)}")
            placed.append((centres[int(np.flatnonzero(room > 0)[0])], radius))
        return np.array([centre for centre, _ in placed]).reshape(-1, 3)

    def truth(self, step_mm: float = 1.0) -> dict[str, float]:
        """Return true values by the names of the measurement's record, from distances and parameters.

        Volumes in cm³ by counting points of a lattice of ``step_mm``, attenuation in HU, nodularity in tenths of mm.
        """
        volumes = true_volumes(self.liver, self.spleen, step_mm)
        spleen = volumes.pop("spleen")
        segments = list(volumes.values())
        return {
            **{f"segment_{name}_volume": volume for name, volume in volumes.items()},
            "liver_volume": sum(segments),
            "lsvr": sum(segments[:3]) / sum(segments[3:]),
            "spleen_volume": spleen,
            "liver_spleen_volume_ratio": sum(segments) / spleen,
            "liver_attenuation": self.liver_hu,
            "spleen_attenuation": self.spleen_hu,
            "liver_surface_nodularity": self.liver.nodularity,
        }


def sample_abdomen(
    participant: Participant, rng: np.random.Generator, stage: int, phase: Phase = "portal_venous"
) -> UpperAbdomen:
    """Draw liver and spleen of a METAVIR stage 0–4 around the published means, and their attenuation."""
    spread = (0.17, 0.18, 0.2, 0.25, 0.32)[stage]
    ratio = float(np.clip(STAGE_LSVR[stage] * rng.lognormal(0, spread), 0.17, 0.8))
    typical = 1550 * (participant.height / 1.7) ** 1.2 * (participant.bmi / 25) ** 0.4 * (1, 1, 1, 0.98, 0.9)[stage]
    liver = fit_liver(float(np.clip(typical * rng.lognormal(0, 0.13), 900, 2600)), ratio)
    nodularity = STAGE_NODULARITY[stage] * rng.lognormal(0, 0.12)
    liver = replace(
        liver,
        amplitude_mm=float(nodularity * np.pi / 20),
        period_mm=float(rng.uniform(8, 13)),
        phase=float(rng.uniform(0, 2 * np.pi)),
    )
    size = float(np.clip(STAGE_SPLEEN_CM3[stage] * rng.lognormal(0, 0.3), 80, 1300))
    growth = (size / 215) ** (1 / 3)
    centre = np.array([150 - 36 * growth, 46 - 42 * (growth - 1), 34 - 14 * (growth - 1)]) * liver.scale
    fatty = rng.uniform() < 0.3
    liver_hu = float(rng.uniform(5, 46) if fatty else rng.normal(58, 4))
    spleen_hu = float(rng.normal(48, 3))
    if phase == "portal_venous":
        liver_hu, spleen_hu = liver_hu + LIVER_ENHANCEMENT_HU, spleen_hu + SPLEEN_ENHANCEMENT_HU
    return UpperAbdomen(
        liver=liver,
        spleen=Spleen.of_volume(size, (float(centre[0]), float(centre[1]), float(centre[2]))),
        liver_hu=liver_hu,
        spleen_hu=spleen_hu,
        phase=phase,
        fat_mm=float(np.clip(4 + 1.6 * (participant.bmi - 18), 5, 45)),
        stage=stage,
    )


def bodies(abdomen: UpperAbdomen) -> list[Body]:
    """Everything but lesions, in the order it is painted."""
    k = abdomen.liver.scale
    return [*_trunk(abdomen, k), *_spine(abdomen, k), *_hollow_organs(abdomen, k), *_solid_organs(abdomen, k)]


def _scaled(k: float, distance: Distance) -> Distance:
    """Distance of a body given for the liver of scale 1, for one of scale ``k``."""

    def scaled(p: Coordinates) -> Array:
        x, y, z = (axis * np.float32(1 / k) for axis in p)
        return np.asarray(distance((x, y, z)) * np.float32(k), dtype=np.float32)

    return scaled


def _egg(
    k: float, hu: float, centre: Sequence[float], axes: Sequence[float], frame: npt.NDArray[np.float64] | None = None
) -> Body:
    """Ellipsoid given for the liver of scale 1."""
    reach = np.asarray(axes) if frame is None else np.full(3, max(axes))
    low, high = k * (np.asarray(centre) - reach), k * (np.asarray(centre) + reach)
    return Body(_scaled(k, lambda q: ellipsoid(q, centre, axes, frame)), hu, low, high)


def _cavity(q: Coordinates) -> Array:
    """Inner surface of the wall: a squarish oval."""
    u, v = np.abs(q[0]) / np.float32(150), np.abs(q[1] - np.float32(6)) / np.float32(112)
    n = np.float32(2.4)
    r = (u**n + v**n) ** (1 / n)
    return np.asarray((r - 1) * np.float32(112) + 0 * q[2], dtype=np.float32)


def _trunk(abdomen: UpperAbdomen, k: float) -> list[Body]:
    low, high = abdomen.bounds()
    margin = np.array([20.0, 20.0, 60.0])
    low, high = low - margin, high + margin
    cavity = _scaled(k, _cavity)
    spleen_axes = abdomen.spleen.scale * np.array([38.0, 54.0, 66.0])

    lung_low = np.array([low[0], low[1], LUNG_BASE_Z - 3])

    def lung(p: Coordinates) -> Array:
        under = _scaled(k, lambda q: _below_diaphragm(q, abdomen.liver.left))(p)
        under = np.minimum(under, ellipsoid(p, abdomen.spleen.centre, spleen_axes))
        return _float32(np.maximum(np.maximum(cavity(p) + 3, -under), np.float32(LUNG_BASE_Z) - p[2]))

    def rib(p: Coordinates) -> Array:
        depth = cavity(p) - np.float32(5)
        level = (p[2] + np.float32(0.45) * p[1]) / np.float32(RIB_PITCH_MM)
        height = (level - np.round(level)) * np.float32(RIB_PITCH_MM)
        # The costal arch leaves the middle of the front free.
        free = np.float32(60) - np.abs(p[0]) - np.maximum(p[1] + np.float32(40), 0) * 3
        return _float32(np.maximum(np.hypot(depth, height * np.float32(0.6)) - np.float32(3.6), free))

    def whole(distance: Distance, hu: float) -> Body:
        return Body(distance, hu, low, high)

    return [
        whole(lambda p: cavity(p) - np.float32(WALL_MM + abdomen.fat_mm), abdomen.hu("fat")),
        whole(lambda p: cavity(p) - np.float32(WALL_MM), abdomen.hu("muscle")),
        whole(rib, abdomen.hu("cortex")),
        whole(lambda p: rib(p) + np.float32(1.4), abdomen.hu("marrow")),
        whole(cavity, abdomen.hu("fat")),
        Body(lambda p: lung(p) - np.float32(2.5), abdomen.hu("muscle"), lung_low, high),
        Body(lung, abdomen.hu("lung"), lung_low, high),
        _egg(k, abdomen.hu("heart"), (26, -44, 138), (66, 52, 44)),
    ]


def _float32(distance: npt.NDArray[Any]) -> Array:
    return np.asarray(distance, dtype=np.float32)


def _below_diaphragm(q: Coordinates, left: float) -> Array:
    """Two domes, and room for the left lobe of the liver where it is large."""
    right, other = ellipsoid(q, (-68, 6, 0), (74, 92, 99)), ellipsoid(q, (72, 10, -8), (76, 94, 96))
    lobe = ellipsoid(q, (12, -44, 34), (66 * left**0.7 + 14, 36 * left**0.3 + 14, 40 * left**0.4 + 14))
    return smooth_union([right, other, ellipsoid(q, (0, -12, -6), (92, 88, 90)), lobe], 16.0)


def _spine(abdomen: UpperAbdomen, k: float) -> list[Body]:
    def column(q: Coordinates) -> Array:
        x, y, z = local(q, (0, 72, 0))
        return np.asarray(np.hypot(x, y * np.float32(1.3)) - np.float32(24) + 0 * z, dtype=np.float32)

    def vertebra(q: Coordinates) -> Array:
        level = q[2] / np.float32(40)
        return _float32(np.maximum(column(q), np.abs(level - np.round(level)) * np.float32(40) - np.float32(16)))

    def arch(q: Coordinates) -> Array:
        x, y, z = local(q, (0, 103, 0))
        ring = np.abs(np.hypot(x, y) - np.float32(13)) - np.float32(3.5)
        process = np.maximum(np.abs(x) - np.float32(3.5), np.abs(y - np.float32(28)) - np.float32(18))
        level = (z + np.float32(0.5) * y) / np.float32(40)
        tall = np.abs(level - np.round(level)) * np.float32(40) - np.float32(14)
        return _float32(np.maximum(np.minimum(ring, process), tall))

    low, high = abdomen.bounds()
    low, high = np.array([-26 * k, 40 * k, low[2] - 9]), np.array([26 * k, 160 * k, high[2] + 9])

    def tall(distance: Distance, tissue: str) -> Body:
        return Body(_scaled(k, distance), abdomen.hu(tissue), low, high)

    muscle = abdomen.hu("muscle")
    sides = (-1.0, 1.0)
    return [
        *(_egg(k, muscle, (side * 36, 122, 0), (30, 24, 400)) for side in sides),
        *(_egg(k, muscle, (side * 42, 76, -120), (20, 22, 100)) for side in sides),
        *(_egg(k, muscle, (side * 14, 52, 10), (5, 22, 110), rotation(side * 15, 0, 0).T) for side in sides),
        tall(column, "disc"),
        tall(arch, "cortex"),
        tall(lambda q: arch(q) + np.float32(2), "marrow"),
        tall(vertebra, "cortex"),
        tall(lambda q: vertebra(q) + np.float32(1.4), "marrow"),
        tall(lambda q: np.hypot(q[0], q[1] - np.float32(103)) - np.float32(10) + 0 * q[2], "canal"),
    ]


def _hollow_organs(abdomen: UpperAbdomen, k: float) -> list[Body]:
    loops = (
        ((-20, -50, -92), (40, 30, 22)),
        ((50, -58, -78), (44, 28, 24)),
        ((100, -30, -60), (26, 30, 40)),
        ((70, 10, -84), (34, 34, 26)),
        ((-96, -20, -112), (26, 28, 30)),
        ((18, -66, -40), (56, 22, 20)),
    )
    stomach_centre, stomach_axes = (74, -18, 34), (42, 44, 52)

    def gas(q: Coordinates) -> Array:
        return _float32(np.maximum(ellipsoid(q, stomach_centre, stomach_axes) + 3, q[1] + np.float32(34)))

    stomach = _egg(k, abdomen.hu("stomach"), stomach_centre, stomach_axes)
    inside = [(centre, (axes[0] - 5, axes[1] - 5, axes[2] - 5)) for centre, axes in loops[1::2]]
    return [
        *(_egg(k, abdomen.hu("bowel"), centre, axes) for centre, axes in loops),
        *(_egg(k, abdomen.hu("gas"), (c[0], c[1] - 5, c[2]), (a[0] * 0.6, a[1] * 0.6, a[2] * 0.6)) for c, a in inside),
        stomach,
        Body(_scaled(k, gas), abdomen.hu("gas"), stomach.low, stomach.high),
    ]


def _solid_organs(abdomen: UpperAbdomen, k: float) -> list[Body]:
    kidneys = [((side * 64.0, 62.0, -62.0), rotation(0, 8, side * 10).T) for side in (-1.0, 1.0)]
    low, high = abdomen.bounds()
    bottom, top = (float(low[2]) - 9) / k, (float(high[2]) + 9) / k
    liver, spleen = abdomen.liver, abdomen.spleen
    vessels = _hepatic_vessels(k)
    great = [(np.array([(x, y, bottom), (x, y, top)]) * k, (11.5 * k, 11.5 * k)) for x, y in (AORTA, CAVA)]
    return [
        *(_egg(k, abdomen.hu("kidney"), centre, (28, 26, 60), frame) for centre, frame in kidneys),
        *(_egg(k, abdomen.hu("fat"), (0.8 * c[0], c[1] - 5, c[2]), (14, 11, 26), frame) for c, frame in kidneys),
        _egg(k, abdomen.hu("pancreas"), (24, 4, -18), (58, 11, 13), rotation(18, 0, -14).T),
        Body(spleen.distance, abdomen.spleen_hu, *spleen.bounds()),
        _egg(k, abdomen.hu("bile"), (-48, -52, -52), (17, 19, 32)),
        Body(liver.distance, abdomen.liver_hu, *liver.bounds()),
        *_branches(great[:1], abdomen.hu("artery")),
        *_branches(great[1:], abdomen.hu("cava")),
        *_branches(vessels[:3], abdomen.hu("portal")),
        *_branches(vessels[3:], abdomen.hu("cava")),
    ]


def _hepatic_vessels(k: float) -> list[tuple[Points, tuple[float, float]]]:
    """Centrelines ``(n, 3)`` mm and radii at their ends: portal trunk, right and left branch, three hepatic veins."""
    lines = (
        (((12, 14, -46), (-4, 10, -20), (-18, 2, -2)), (7.5, 7.0)),
        (((-18, 2, -2), (-46, 2, 4), (-76, 14, 2)), (6.5, 4.0)),
        (((-18, 2, -2), (-2, -18, 10), (4, -44, 16)), (5.5, 3.5)),
        (((-24, 30, 82), (-66, 22, 52), (-104, 6, 8)), (5.0, 2.5)),
        (((-24, 30, 82), (-38, -4, 54), (-52, -38, 6)), (5.0, 2.5)),
        (((-24, 30, 82), (-12, -8, 66), (14, -40, 46)), (4.5, 2.5)),
    )
    return [(k * np.array(points, dtype=np.float64), (k * a, k * b)) for points, (a, b) in lines]


def _branches(lines: Sequence[tuple[Points, tuple[float, float]]], hu: float) -> list[Body]:
    return [
        Body(_tube(points, radii), hu, points.min(axis=0) - max(radii), points.max(axis=0) + max(radii))
        for points, radii in lines
    ]


def _tube(points: Points, radii: tuple[float, float]) -> Distance:
    """Distance to a tapering tube around a polyline."""
    r = np.linspace(radii[0], radii[1], len(points))

    def distance(p: Coordinates) -> Array:
        nearest = np.full((), np.inf, dtype=np.float32)
        for a, b, ra, rb in zip(points[:-1], points[1:], r[:-1], r[1:], strict=True):
            x, y, z = local(p, a)
            d = (b - a).astype(np.float32)
            t = np.clip((x * d[0] + y * d[1] + z * d[2]) / np.float32(d @ d), 0, 1)
            away = np.sqrt((x - t * d[0]) ** 2 + (y - t * d[1]) ** 2 + (z - t * d[2]) ** 2)
            nearest = np.minimum(nearest, away - (np.float32(ra) + t * np.float32(rb - ra)))
        return _float32(nearest)

    return distance


def paint(things: Sequence[Body], grid: Grid) -> Array:
    """HU float32 ``(z, y, x)`` of bodies on a grid, without blur or noise; later ones cover earlier ones.

    Edges are blended within a voxel of the plane, and a thick slice is the mean of thin ones.
    """
    step = grid.spacing[0]
    n = int(np.ceil(step / SUBSLICE_MM))
    affine = grid.affine.copy()
    affine[:3, 0] /= n
    affine[:3, 3] -= affine[:3, 0] * (n - 1) / 2
    fine = Grid((grid.shape[0] * n, *grid.shape[1:]), affine)
    edge = float(np.mean(grid.spacing[1:]))
    out = np.empty(grid.shape, dtype=np.float32)
    thick = max(1, SLAB_SLICES // n)
    for first in range(0, grid.shape[0], thick):
        last = min(first + thick, grid.shape[0])
        slab = fine.crop((first * n, 0, 0), (last * n, *grid.shape[1:]))
        hu = np.full(slab.shape, AIR_HU, dtype=np.float32)
        for body in things:
            cut = index_box(slab, body.low, body.high)
            if cut is not None:
                part = slab.crop(tuple(s.start for s in cut), tuple(s.stop for s in cut))
                blend(hu[cut], body.distance(open_coordinates(part)), body.hu, edge)
        out[first:last] = hu.reshape(last - first, n, *grid.shape[1:]).mean(axis=1)
    return out


def label_map(abdomen: UpperAbdomen, grid: Grid) -> Volume:
    """Label voxel centres as they truly are: segments 1–8, spleen 9."""
    labels = np.zeros(grid.shape, dtype=np.uint8)
    for first in range(0, grid.shape[0], SLAB_SLICES):
        last = min(first + SLAB_SLICES, grid.shape[0])
        slab = grid.crop((first, 0, 0), (last, *grid.shape[1:]))
        for organ in (abdomen.spleen, abdomen.liver):
            cut = index_box(slab, *organ.bounds())
            if cut is None:
                continue
            p = open_coordinates(slab.crop(tuple(s.start for s in cut), tuple(s.stop for s in cut)))
            inside = organ.distance(p) < 0
            number = abdomen.liver.segment(select(p, inside)) if isinstance(organ, Liver) else SPLEEN_LABEL
            labels[first:last][cut][inside] = number
    return Volume(labels, grid, "label")


def scan(
    abdomen: UpperAbdomen,
    grid: Grid,
    noise_hu: float,
    rng: np.random.Generator,
    extra: Sequence[Body] = (),
) -> Volume:
    """CT in HU, int16: `paint`, in-plane blur of a soft kernel, correlated noise.

    Parameters
    ----------
    abdomen, grid
        What, and where; the blur takes square pixels.
    noise_hu
        Standard deviation in the middle of the body.
    rng
        For the noise.
    extra
        Painted last, e.g. lesions.
    """
    pixel = grid.spacing[2]
    hu = kernel_blur(paint([*bodies(abdomen), *extra], grid), pixel, KERNEL_SIGMA_MM, 0.0)
    hu += correlated_noise(grid.shape, pixel, NOISE_CUTOFF_MM, 1.0, rng) * noise_map(hu) * np.float32(noise_hu)
    return Volume(np.clip(np.round(hu), -1024, 3071).astype(np.int16), grid)


def scan_grid(abdomen: UpperAbdomen, increment: float, matrix: int = 512) -> Grid:
    """Square field of view around the trunk, whole liver and spleen."""
    low, high = abdomen.bounds()
    fov = float(np.ceil((high - low)[:2].max() + 20))
    pixel = fov / matrix
    middle = (low + high) / 2
    slices = int(np.ceil((high[2] - low[2]) / increment))
    corner = middle[:2] - pixel * (matrix - 1) / 2
    return Grid.from_spacing((slices, matrix, matrix), (increment, pixel, pixel), (corner[0], corner[1], low[2]))


def sample_study(rng: np.random.Generator) -> SimulatedStudy:
    """Abdominal CT of a participant with a liver of any stage, portal-venous or unenhanced, one file a slice."""
    participant = sample_participant(rng)
    stage = int(rng.integers(5))
    phase: Phase = "portal_venous" if rng.uniform() < 0.6 else "unenhanced"
    abdomen = sample_abdomen(participant, rng, stage, phase)
    increment = float(rng.choice([2.5, 3.0, 5.0]))
    grid = scan_grid(abdomen, increment)
    ct = scan(abdomen, grid, float(rng.uniform(9, 14)), rng)
    attributes: dict[str, Any] = {"KVP": 120.0, "SliceThickness": increment, "BodyPartExamined": "ABDOMEN"}
    if phase == "portal_venous":
        attributes["ContrastBolusAgent"] = "IOHEXOL"
    name = "PORTAL VENOUS" if phase == "portal_venous" else "UNENHANCED"
    series = SliceSeries("ct", "CT", f"ABDOMEN {name} {increment:g} mm", (Stack(ct),), attributes=attributes)
    truth = {**abdomen.truth(), "stage": f"F{stage}", "phase": phase}
    return SimulatedStudy(participant, f"CT ABDOMEN {name}", (series,), {"ct": label_map(abdomen, grid)}, truth)

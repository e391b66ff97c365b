"""The circle of Willis and its main branches, with saccular aneurysms at the usual sites.

The tree is laid out in the template of `ops.phantoms.head.anatomy` (mm, origin between the commissures, x to the left,
y backwards, z up) and follows the head's size and position. Courses and calibres are textbook ones: they look and
branch as the arteries do, but are measurements of nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ops.phantoms.head.anatomy import Head, capsule
from ops.phantoms.head.saccular_aneurysm import SaccularAneurysm, sample_aneurysm
from ops.phantoms.lattice import coordinates
from ops.phantoms.sdf import Array, Points, along, arc_length, curve, unit
from ops.volume import Grid, Volume

FloatArray = npt.NDArray[np.float64]

VESSEL_LABEL = 1
FAR = np.float32(1e3)
SMALLEST_MM = 2.2
_ATTEMPTS = 40
_STEP_MM = 1.5

# Control points (x, y, z) of the left side and radii in mm at the first and the last of them.
_PAIRED: dict[str, tuple[tuple[tuple[float, float, float], ...], tuple[float, float]]] = {
    "ICA": (
        (
            (22, 8, -95),
            (21.5, 7, -78),
            (21, 5, -60),
            (20.5, 4, -48),
            (18, 3, -41),
            (14, -1, -37.5),
            (11, -6, -34),
            (9.5, -11, -30),
            (9.8, -17, -27.5),
            (10.3, -22.5, -27),
            (10.6, -26, -24),
            (10.5, -23, -20.5),
            (10.6, -18, -19.5),
            (11.6, -14, -17.5),
            (13, -11.5, -13.5),
        ),
        (2.5, 1.75),
    ),
    "M1": (((13, -11.5, -13.5), (18.5, -12.5, -12.8), (25, -14.5, -13), (31, -13.5, -12.5)), (1.4, 1.25)),
    "M2 superior": (
        ((31, -13.5, -12.5), (34, -10, -8), (36.5, -3, 0), (38, 5, 7), (43, 14, 12), (47, 20, 20)),
        (1.05, 0.6),
    ),
    "M2 inferior": (
        ((31, -13.5, -12.5), (35, -9, -12), (38, -1, -9), (39.5, 8, -4), (43, 18, 1), (47, 30, 3)),
        (1.05, 0.6),
    ),
    "A1": (((13, -11.5, -13.5), (9, -15.5, -11), (5, -20, -11.3), (2.3, -23, -11)), (1.15, 1.05)),
    "A2": (
        (
            (2.3, -23, -11),
            (1.9, -29, -8.5),
            (1.7, -36, -1),
            (1.6, -41, 9),
            (1.6, -41, 20),
            (1.6, -31, 30),
            (1.6, -16, 36),
        ),
        (1.0, 0.6),
    ),
    "PCom": (((11.3, -14.8, -18), (11, -9, -17.6), (10.2, -3, -16), (9, 4, -14)), (0.75, 0.7)),
    "P1": (((0, 2, -14), (4, 2, -13), (9, 4, -14)), (1.1, 1.05)),
    "P2": (
        ((9, 4, -14), (15, 8.5, -13), (18.5, 16, -11), (18, 25, -8), (14, 34, -5), (12, 45, -3), (11, 58, 0)),
        (1.05, 0.65),
    ),
    "SCA": (((0, 1.5, -17), (5, 2.5, -18), (11, 6, -18.5), (17, 14, -17), (18.5, 24, -13)), (0.75, 0.5)),
    "VA": (((17, 26, -95), (15, 24, -80), (13, 20, -66), (8, 12, -54), (4, 8, -46.5), (0, 5, -41)), (1.6, 1.4)),
}
_UNPAIRED = {
    "BA": (((0, 5, -41), (0.4, 1, -34), (0, -0.5, -26), (-0.3, 0.3, -18), (0, 2, -14)), (1.65, 1.45)),
    "ACom": (((2.3, -23, -11), (0, -23.6, -11), (-2.3, -23, -11)), (0.8, 0.8)),
}
# Where a control point of one artery is the beginning of another, both move together.
_JITTER_MM = 0.7


@dataclass(frozen=True)
class Site:
    """Where aneurysms arise.

    Attributes
    ----------
    name
        As in `ops.diseases.aneurysm.risk`, ``ICA`` for its paraclinoid part and its end.
    artery, share
        Artery and share of its length at which the neck lies.
    direction
        Template direction of the dome on the left side.
    frequency
        Relative.
    branches
        Arteries that leave the neck: name and +1 when its beginning lies there, −1 when its end does, 0 for both ways.
    """

    name: str
    artery: str
    share: float
    direction: tuple[float, float, float]
    frequency: float
    branches: tuple[tuple[str, int], ...]


SITES = (
    Site("ACom", "A1", 1.0, (0.0, -0.35, -0.94), 0.25, (("A1", -1), ("A2", 1), ("ACom", 1))),
    Site("MCA", "M1", 1.0, (0.8, -0.5, -0.35), 0.27, (("M1", -1), ("M2 superior", 1), ("M2 inferior", 1))),
    Site("PCom", "ICA", 0.955, (0.75, 0.6, -0.3), 0.2, (("ICA", 0), ("PCom", 1))),
    Site("ICA", "ICA", 0.89, (-0.35, 0.1, 0.9), 0.12, (("ICA", 0),)),
    Site("ICA", "ICA", 1.0, (0.0, 0.35, 0.95), 0.06, (("ICA", -1), ("M1", 1), ("A1", 1))),
    Site("posterior", "BA", 1.0, (0.0, -0.25, 0.97), 0.1, (("BA", -1), ("P1", 1))),
)


@dataclass(frozen=True, eq=False)
class Artery:
    """A tapering tube: ``points`` ``(n, 3)`` LPS mm and ``radii`` ``(n,)`` mm."""

    name: str
    points: Points
    radii: FloatArray


@dataclass(frozen=True, eq=False)
class PlacedAneurysm:
    """A sac on the tree.

    Attributes
    ----------
    site
        Where.
    side
        ``L`` or ``R``.
    sac
        Its shape.
    foot_mm
        How far the axis of the vessel lies below the neck.
    vessel_diameters
        Diameters in mm of the arteries that leave the neck, near it; empty when one of them is too short.
    """

    site: Site
    side: str
    sac: SaccularAneurysm
    foot_mm: float
    vessel_diameters: tuple[float, ...]

    def truth(self) -> dict[str, Any]:
        """Return true values by the names of the measurement, plain JSON."""
        shape = self.sac.truth()
        where = {"site": self.site.name, "side": self.side, "centre": [float(v) for v in self.sac.centre]}
        if not self.vessel_diameters:
            return where | shape
        parent = float(np.mean(self.vessel_diameters))
        return where | shape | {"parent_diameter": parent, "size_ratio": shape["height_max"] / parent}


@dataclass(frozen=True, eq=False)
class CircleOfWillis:
    """Arteries and aneurysms of one person."""

    arteries: tuple[Artery, ...]
    aneurysms: tuple[PlacedAneurysm, ...]

    def distance(self, grid: Grid) -> Array:
        """Signed distance to the lumen ``(z, y, x)`` mm, right up to a voxel outside it and large beyond."""
        reach = float(np.linalg.norm(grid.spacing))
        field = np.full(grid.shape, FAR, dtype=np.float32)
        for artery in self.arteries:
            _stamp_tube(field, grid, artery, reach)
        for placed in self.aneurysms:
            box = _box(grid, placed.sac.centre, max(placed.sac.axes) * 1.6 + placed.foot_mm + reach)
            if box is None:
                continue
            where, local_grid = box
            p = coordinates(local_grid)
            body = np.minimum(placed.sac.distance(p), placed.sac.foot_distance(p, placed.foot_mm))
            field[where] = np.minimum(field[where], body)
        return field

    def labels(self, grid: Grid, distance: Array) -> Volume:
        """Voxels whose centre is in the lumen: 1 in arteries, 2, 3 … in the sacs in their order."""
        out = (distance < 0).astype(np.uint8) * np.uint8(VESSEL_LABEL)
        for number, placed in enumerate(self.aneurysms, start=VESSEL_LABEL + 1):
            box = _box(grid, placed.sac.centre, max(placed.sac.axes) * 1.6 + placed.foot_mm)
            if box is not None:
                where, local_grid = box
                out[where][placed.sac.distance(coordinates(local_grid)) < 0] = number
        return Volume(out, grid, "label")


def _box(grid: Grid, centre: npt.ArrayLike, reach: float) -> tuple[tuple[slice, slice, slice], Grid] | None:
    """Index box of the voxels within ``reach`` mm of a point along every axis, and its grid."""
    index = grid.patient_to_index(centre)
    half = reach / np.asarray(grid.spacing)
    start = np.maximum(np.ceil(index - half), 0).astype(int)
    stop = np.minimum(np.floor(index + half) + 1, grid.shape).astype(int)
    if (start >= stop).any():
        return None
    bounds = [(int(a), int(b)) for a, b in zip(start, stop, strict=True)]
    (a, b), (c, d), (e, f) = bounds
    return (slice(a, b), slice(c, d), slice(e, f)), grid.crop((a, c, e), (b, d, f))


def _stamp_tube(field: Array, grid: Grid, artery: Artery, reach: float) -> None:
    points, radii = artery.points, artery.radii
    for p, q, rp, rq in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        half = float(np.linalg.norm(q - p)) / 2 + max(rp, rq) + reach
        box = _box(grid, (p + q) / 2, half)
        if box is not None:
            where, local_grid = box
            segment = capsule(coordinates(local_grid), p, q, rp, rq)
            field[where] = np.minimum(field[where], segment)


def sample_circle(
    head: Head, rng: np.random.Generator, sites: Sequence[Site] = (), bleb_share: float = 0.3
) -> CircleOfWillis:
    """Draw the arteries of a head with one aneurysm at each of ``sites``, on a side drawn too.

    A site is left out in the rare case that no sac fits between the arteries there.
    """
    arteries = {artery.name: artery for artery in _sample_arteries(head, rng)}
    placed: list[PlacedAneurysm] = []
    for site in sites:
        found = _place(site, arteries, placed, head, rng, bleb_share)
        if found is not None:
            placed.append(found)
    return CircleOfWillis(tuple(arteries.values()), tuple(placed))


def sample_sites(rng: np.random.Generator, n: int) -> list[Site]:
    """Draw ``n`` different sites by their frequency."""
    frequency = np.array([site.frequency for site in SITES])
    return [SITES[k] for k in rng.choice(len(SITES), n, replace=False, p=frequency / frequency.sum())]


def _sample_arteries(head: Head, rng: np.random.Generator) -> list[Artery]:
    moved: dict[tuple[float, float, float], Points] = {}
    calibre = float(np.exp(rng.normal(0, 0.08)))

    def place(point: tuple[float, float, float]) -> Points:
        if point not in moved:
            # Small structures close together keep their distance.
            moved[point] = np.asarray(point) + np.clip(rng.normal(0, _JITTER_MM / 2, 3), -_JITTER_MM, _JITTER_MM)
        return head.to_patient(moved[point])

    def build(name: str, control: Sequence[tuple[float, float, float]], ends: tuple[float, float]) -> Artery:
        points = curve([place(point) for point in control], _STEP_MM)
        share = arc_length(points) / arc_length(points)[-1]
        size = calibre * float(np.exp(rng.normal(0, 0.07)))
        return Artery(name, points, size * (ends[0] + share * (ends[1] - ends[0])))

    out = []
    for name, (control, ends) in _PAIRED.items():
        for side, sign in (("L", 1.0), ("R", -1.0)):
            out.append(build(f"{name} {side}", [(sign * x, y, z) for x, y, z in control], ends))
    out += [build(name, control, ends) for name, (control, ends) in _UNPAIRED.items()]
    # Either posterior communicating artery is missing in about one person in five.
    return [artery for artery in out if not (artery.name.startswith("PCom") and rng.uniform() < 0.2)]


def _place(
    site: Site,
    arteries: dict[str, Artery],
    others: Sequence[PlacedAneurysm],
    head: Head,
    rng: np.random.Generator,
    bleb_share: float,
) -> PlacedAneurysm | None:
    """Draw sacs until one does not run into an artery or another sac."""
    side = str(rng.choice(["L", "R"]))
    artery = _named(arteries, site.artery, side)
    length = arc_length(artery.points)
    at = site.share * length[-1]
    foot = along(artery.points, np.array([at]))[0]
    ahead, behind = along(artery.points, np.clip([at + 1, at - 1], 0, length[-1]))
    tangent = unit(ahead - behind)
    radius = float(np.interp(at, length, artery.radii))
    for attempt in range(_ATTEMPTS):
        mirror = np.array([1.0 if side == "L" else -1.0, 1, 1])
        direction = unit(head.turn @ (np.asarray(site.direction) * mirror) + rng.normal(0, 0.12, 3))
        if site.share < 1:  # on the side wall
            direction = unit(direction - (direction @ tangent) * tangent)
        size = float(np.clip(5.2 * np.exp(rng.normal(0, 0.45)), SMALLEST_MM, 16)) * 0.97**attempt
        if size < SMALLEST_MM:
            return None
        # The plane clears the vessel, also where it leans towards it.
        lean = np.radians(rng.uniform(0, 8))
        largest_neck = 1.25 * radius
        depth = radius + 0.25 + largest_neck * float(np.tan(lean))
        normal = unit(direction + np.tan(lean) * unit(np.cross(direction, rng.normal(size=3))))
        sac = sample_aneurysm(foot + depth * direction, normal, size, largest_neck, rng, bleb_share)
        if _clear(sac, arteries.values(), others):
            return PlacedAneurysm(
                site, side, sac, depth / float(normal @ direction), _branches(site, arteries, side, at)
            )
    return None


def _named(arteries: dict[str, Artery], name: str, side: str) -> Artery:
    return arteries[name] if name in arteries else arteries[f"{name} {side}"]


def _clear(sac: SaccularAneurysm, arteries: Iterable[Artery], others: Sequence[PlacedAneurysm]) -> bool:
    """Tell whether the dome keeps 0.8 mm from every artery, but for the first millimetre above the neck."""
    points, _ = sac.surface(24, 32)
    height = (points - sac.neck) @ sac.normal
    dome = points[height > 1.0]
    for artery in arteries:
        away = np.linalg.norm(dome[:, None] - artery.points, axis=2) - artery.radii
        if away.min(initial=np.inf) < 0.8:
            return False
    return all(
        np.linalg.norm(other.sac.centre - sac.centre) > max(other.sac.axes) + max(sac.axes) + 4 for other in others
    )


def _branches(site: Site, arteries: dict[str, Artery], side: str, at: float) -> tuple[float, ...]:
    """Diameters of the vessels that leave a neck: the mean of two, 1.5 and 3 diameters along the axis from it.

    None when one of them ends before that and goes on as other arteries.
    """
    found = []
    for name, way in site.branches:
        sides = ("L", "R") if name == "P1" else (side,)
        for each in sides:
            try:
                artery = _named(arteries, name, each)
            except KeyError:  # a missing communicating artery
                continue
            length = arc_length(artery.points)
            start = {1: 0.0, -1: length[-1], 0: at}[way]
            for sign in (1, -1) if way == 0 else (way,):
                diameter = 2 * float(np.interp(start, length, artery.radii))
                where = start + sign * diameter * np.array([1.5, 3.0])
                if not 0 <= where.min() <= where.max() <= length[-1]:
                    return ()
                found.append(2 * float(np.interp(where, length, artery.radii).mean()))
    return tuple(found)

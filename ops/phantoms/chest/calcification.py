"""Calcium of known shape and density: coronary lesions, and the calcium elsewhere that must not be counted.

A deposit is a chain of tapering capsules in patient space, so volume and mass follow from its geometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ops.phantoms.chest.canvas import FAR, stamp_segment
from ops.phantoms.chest.coronaries import Branch
from ops.phantoms.chest.heart import CENTRE
from ops.phantoms.chest.thorax import Thorax, annulus_rings
from ops.phantoms.participant import Participant
from ops.phantoms.sdf import Points, along, arc_length, unit

# MESA, White participants: 25/50/75/90th percentiles of the Agatston score at 50, 60, 70, 80 years
# (McClelland 2006 Circulation 113:30 Table 2 [S], SPEC §1.4). Used to draw burdens, never to score.
_MESA_AGES = (50, 60, 70, 80)
_MESA = {
    "F": ((0, 0, 0, 8), (0, 0, 16, 102), (0, 13, 119, 391), (20, 106, 370, 921)),
    "M": ((0, 0, 22, 110), (0, 28, 155, 452), (21, 145, 540, 1345), (103, 385, 1200, 2933)),
}
_TAIL = 4.0  # the 99.5th percentile as a multiple of the 90th, a guess that reaches the extreme scores seen in practice
# Agatston units per mg hydroxyapatite of typical deposits on 3 mm slices, measured on simulated scans.
_SCORE_PER_MG = 3.0
# Shares of lesions by artery, after the usual order LAD > RCA > LCX > LM.
_ARTERY_SHARES = {"LM": 0.09, "LAD": 0.46, "LCX": 0.17, "RCA": 0.28}
MIN_GAP_MM = 0.7
MAX_LESIONS = 90
# Hilar nodes lie outside the pericardium: the first of so many draws whose centre is this far outside, 3 mm being the
# largest radius.
NODE_DRAWS, NODE_CLEARANCE_MM = 8, 5.0


@dataclass(frozen=True, eq=False)
class Deposit:
    """One calcified body.

    Attributes
    ----------
    site
        Reporting artery (LM, LAD, LCX, RCA) or the place elsewhere, for example ``aortic arch``.
    points, radii
        Patient-space chain ``(n, 3)`` mm and radius at each point in mm.
    density
        mg hydroxyapatite per cm³.
    """

    site: str
    points: Points
    radii: npt.NDArray[np.float64]
    density: float

    def bounds(self) -> tuple[Points, Points]:
        """Box around the deposit."""
        pad = self.radii.max()
        return self.points.min(axis=0) - pad, self.points.max(axis=0) + pad

    def inside(self, x: npt.ArrayLike, y: npt.ArrayLike, z: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Occupancy ``(nz, ny, nx)`` at the nodes of ascending axes (mm)."""
        axes = (np.asarray(x, dtype=np.float32), np.asarray(y, dtype=np.float32), np.asarray(z, dtype=np.float32))
        field = np.full((len(axes[2]), len(axes[1]), len(axes[0])), FAR, dtype=np.float32)
        for p, q, rp, rq in zip(self.points[:-1], self.points[1:], self.radii[:-1], self.radii[1:], strict=True):
            stamp_segment(field, axes, p, q, float(rp), float(rq), 0.0)
        return np.asarray(field < 0)

    @cached_property
    def volume(self) -> float:
        """Volume in mm³, from sampling the shape at a sixth of its largest radius or finer."""
        step = float(np.clip(self.radii.max() / 6, 0.08, 0.3))
        low, high = self.bounds()
        axes = [np.arange(a - step, b + step, step) for a, b in zip(low, high, strict=True)]
        return float(self.inside(*axes).sum()) * step**3

    @property
    def mass(self) -> float:
        """Mass in mg hydroxyapatite."""
        return self.volume * self.density / 1000.0


def target_score(participant: Participant) -> float:
    """Agatston score to aim at for this participant's percentile among age and sex."""
    table = np.log1p(np.array(_MESA[participant.sex], dtype=np.float64))
    age = float(np.clip(participant.age, _MESA_AGES[0], _MESA_AGES[-1]))
    knots = np.array([np.interp(age, _MESA_AGES, table[:, k]) for k in range(4)])
    percentiles = [0.0, 0.25, 0.5, 0.75, 0.9, 0.995]
    scores = np.concatenate([[0.0], knots, [knots[-1] + np.log(_TAIL)]])
    score = float(np.expm1(np.interp(participant.calcium_percentile, percentiles, scores)))
    younger = np.clip((participant.age - 25) / 25, 0, 1)
    return score * younger if score * younger >= 2 else 0.0


def coronary_calcium(chest: Thorax, rng: np.random.Generator, target: float | None = None) -> list[Deposit]:
    """Lesions on the walls of the coronary arteries, mostly proximal, up to about ``target`` Agatston units."""
    target = target_score(chest.participant) if target is None else target
    deposits: list[Deposit] = []
    reached = 0.0
    for _ in range(6 * MAX_LESIONS):
        if reached >= target or len(deposits) >= MAX_LESIONS:
            break
        share = min(1.0, (target - reached) / 40.0)
        lesion = _lesion(chest, rng, share)
        if _clear(lesion, deposits):
            deposits.append(lesion)
            reached += _SCORE_PER_MG * lesion.mass
    return deposits


def _lesion(chest: Thorax, rng: np.random.Generator, share: float) -> Deposit:
    artery = str(rng.choice(list(_ARTERY_SHARES), p=list(_ARTERY_SHARES.values())))
    branches = [b for b in chest.branches if b.artery == artery]
    weights = np.array([1.0 if b.name == artery else 0.12 for b in branches])
    branch = branches[int(rng.choice(len(branches), p=weights / weights.sum()))]
    length = float(np.clip(rng.lognormal(np.log(2.0 + 4.0 * share), 0.6), 1.0, 25.0))
    thickness = float(np.clip(rng.lognormal(np.log(0.55 + 0.55 * share), 0.3), 0.4, 2.2))
    density = float(np.clip(rng.lognormal(np.log(430), 0.42), 150, 1050))
    total = arc_length(branch.points)[-1]
    middle = float(np.clip(rng.exponential(0.28 * total), 1.0, total - 1.0))
    return wall_deposit(artery, branch, middle, length, thickness, density, rng)


def wall_deposit(
    site: str, branch: Branch, middle: float, length: float, thickness: float, density: float, rng: np.random.Generator
) -> Deposit:
    """Put a spindle of ``length`` mm and half-``thickness`` mm into the wall of ``branch`` at arc-length ``middle``."""
    total = arc_length(branch.points)[-1]
    s = np.linspace(max(middle - length / 2, 0.2), min(middle + length / 2, total - 0.2), max(3, int(length / 1.2)))
    centre = along(branch.points, s)
    tangent = unit(along(branch.points, np.minimum(s + 0.5, total)) - along(branch.points, np.maximum(s - 0.5, 0)))
    first = unit(np.cross(tangent, unit(rng.normal(size=3))))
    second = np.cross(tangent, first)
    turn = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.12) * (s - s[0])
    wall = np.interp(s, arc_length(branch.points), branch.radii)
    out = np.cos(turn)[:, None] * first + np.sin(turn)[:, None] * second
    share = (s - s.mean()) / max(np.ptp(s) / 2, 0.1)
    radii = thickness * np.sqrt(np.clip(1 - 0.75 * share**2, 0.2, 1)) * rng.uniform(0.85, 1.1, len(s))
    return Deposit(site, centre + out * np.maximum(wall - 0.4 * radii, 0)[:, None], radii, density)


def _clear(new: Deposit, others: list[Deposit], gap: float = MIN_GAP_MM) -> bool:
    """Tell whether ``new`` touches none of ``others``: volumes and masses then simply add up."""
    for old in others:
        d = np.linalg.norm(new.points[:, None] - old.points[None], axis=2)
        if (d < new.radii[:, None] + old.radii[None] + gap).any():
            return False
    return True


def other_calcium(chest: Thorax, coronary: list[Deposit], rng: np.random.Generator) -> list[Deposit]:
    """Calcium outside the coronary arteries, commoner with age; never touching a coronary deposit."""
    older = float(np.clip((chest.participant.age - 40) / 40, 0.05, 1.2))
    candidates = _aortic_wall(chest, older, rng)
    rings = annulus_rings(chest)
    if rng.uniform() < 0.25 * older:
        candidates += _ring(rings["aortic"][0], "aortic valve", int(rng.integers(1, 5)), (0.6, 2.0), (3, 9), rng)
    if rng.uniform() < 0.22 * older:
        candidates += _ring(rings["mitral"][0], "mitral annulus", int(rng.integers(1, 4)), (0.8, 3.0), (5, 30), rng)
    if rng.uniform() < 0.05:
        candidates += _pericardial(chest, rng)
    if rng.uniform() < 0.3:
        candidates += _nodes(chest, rng)
    deposits: list[Deposit] = []
    for candidate in candidates:
        if _clear(candidate, [*coronary, *deposits], gap=2.0):
            deposits.append(candidate)
    return deposits


def _aortic_wall(chest: Thorax, older: float, rng: np.random.Generator) -> list[Deposit]:
    aorta = chest.vessels.aorta
    vessel = Branch("aorta", "aorta", chest.patient(aorta), aorta.radii - 1.0)
    total = arc_length(vessel.points)[-1]
    deposits = []
    for site, low, high, mean in (
        ("aortic root", 14.0, 30.0, 0.25),
        ("ascending aorta", 30.0, 80.0, 0.5),
        ("aortic arch", 85.0, 150.0, 2.5),
        ("descending aorta", 150.0, total - 20.0, 2.5),
    ):
        for _ in range(int(rng.poisson(mean * older))):
            thickness = float(np.clip(rng.lognormal(np.log(0.9), 0.35), 0.4, 2.2))
            length = float(np.clip(rng.lognormal(np.log(5), 0.6), 1.5, 25))
            middle = float(rng.uniform(low, high))
            deposits.append(wall_deposit(site, vessel, middle, length, thickness, float(rng.uniform(250, 1000)), rng))
    return deposits


def _ring(
    ring: Points,
    site: str,
    count: int,
    radius: tuple[float, float],
    length: tuple[float, float],
    rng: np.random.Generator,
) -> list[Deposit]:
    total = arc_length(ring)[-1]
    deposits = []
    for _ in range(count):
        extent = float(rng.uniform(*length))
        start = rng.uniform(0, total - min(extent, total - 1))
        points = along(ring, np.linspace(start, min(start + extent, total), max(3, int(extent / 2)))) + rng.normal(
            0, 0.8, 3
        )
        radii = rng.uniform(*radius) * rng.uniform(0.7, 1.2, len(points))
        deposits.append(Deposit(site, points, radii, float(rng.uniform(300, 1000))))
    return deposits


def _pericardial(chest: Thorax, rng: np.random.Generator) -> list[Deposit]:
    deposits = []
    centre = chest.heart.place(CENTRE)
    for _ in range(int(rng.integers(1, 4))):
        ray = unit(rng.normal(size=3) * [1, 1, 0.6])
        reach = np.arange(5.0, 110.0, 0.5)
        p = centre + reach[:, None] * ray
        outside = chest.heart.sac(tuple(p.T.astype(np.float32))) > -0.5
        spot = p[int(np.argmax(outside))]
        side = unit(np.cross(ray, rng.normal(size=3)))
        points = spot + np.linspace(-5, 5, 5)[:, None] * side
        deposits.append(Deposit("pericardium", chest.deformation.to_patient(points), rng.uniform(0.7, 1.6, 5), 600.0))
    return deposits


def _nodes(chest: Thorax, rng: np.random.Generator) -> list[Deposit]:
    """Calcified hilar nodes and lung granulomas, outside the pericardium."""
    deposits = []
    for _ in range(int(rng.integers(1, 4))):
        hilum = chest.vessels.hila[int(rng.integers(2))]
        lung = rng.uniform() < 0.4
        spots = hilum + rng.normal(size=(NODE_DRAWS, 3)) * (np.array([25, 25, 30]) if lung else np.array([6, 6, 10]))
        outside = chest.heart.sac(tuple(spots.T.astype(np.float32))) > NODE_CLEARANCE_MM
        shape, radii, density = rng.normal(0, 1.0, (3, 3)), rng.uniform(1.2, 3.0, 3), float(rng.uniform(250, 900))
        if outside.any():
            points = chest.deformation.to_patient(spots[outside.argmax()] + shape)
            deposits.append(Deposit("lung granuloma" if lung else "lymph node", points, radii, density))
    return deposits

"""Coronary arteries: centrelines that run in the grooves of the heart at hand, and their calibres.

A course starts as a rough line beside the heart and is pulled, alternately, onto the groove (where two
chambers are equally far away) and onto a height above the chambers' common surface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

from ops.phantoms.chest.heart import INFERIOR, LONG_AXIS, MITRAL_CENTRE, SEPTAL, Heart
from ops.phantoms.sdf import Points, arc_length, curve, resample

STEP_MM = 2.0
PULL_ITERATIONS = 14
SMOOTHING_POINTS = 2.0
CLEARANCE_MM = 1.5  # least distance of a centreline from the chambers
LIFT_ITERATIONS = 4

Distance = Callable[[Points], npt.NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Branch:
    """One vessel segment.

    Attributes
    ----------
    name
        Anatomical name: LM, LAD, D1 …, LCX, OM1 …, RI, RCA, PDA, PLV.
    artery
        Reporting artery it is rolled up into (SPEC §1.3).
    points
        Template-space centreline ``(n, 3)`` mm, from proximal to distal.
    radii
        Outer radius at each point in mm.
    """

    name: str
    artery: str
    points: Points
    radii: npt.NDArray[np.float64]


def _as_function(distance: Callable[..., npt.NDArray[np.float32]]) -> Distance:
    return lambda p: np.asarray(distance(tuple(p.T.astype(np.float32))), dtype=np.float64)


def _gradient(f: Distance, p: Points, step: float = 0.5) -> Points:
    offsets = step * np.eye(3)
    return np.stack([(f(p + o) - f(p - o)) / (2 * step) for o in offsets], axis=-1)


def _pull(f: Distance, p: Points, target: float, limit: float = 8.0) -> Points:
    """One damped Newton step of ``p`` towards f = ``target``."""
    g = _gradient(f, p)
    step = (f(p) - target) / np.maximum((g * g).sum(axis=1), 0.05)
    return np.asarray(p - np.clip(step, -limit, limit)[:, None] * g)


def settle(heart: Heart, points: Points, height: float, groove: tuple[str, str] | None) -> Points:
    """Pull a rough course onto the heart.

    Parameters
    ----------
    points
        Rough course ``(n, 3)``.
    height
        Distance of the centreline above the chambers, mm.
    groove
        The two chambers between which the vessel runs; None for a vessel crossing a free wall.
    """
    surface = _as_function(heart.surface)
    start = points[0].copy()
    p = resample(points, STEP_MM)
    if groove is not None:
        a, b = (_as_function(heart.chambers[name].distance) for name in groove)
        valley: Distance = lambda q: a(q) - b(q)  # noqa: E731
    for _ in range(PULL_ITERATIONS):
        if groove is not None:
            p = _pull(valley, p, 0.0)
        p = _pull(surface, p, height)
        smooth = gaussian_filter1d(p, SMOOTHING_POINTS, axis=0, mode="nearest")
        # Both ends stay: the branch on its parent, the tip where the pull left it (smoothing would shorten it).
        fade = np.exp(-np.arange(len(p)) / 3.0)[:, None]
        p = smooth + fade * (start - smooth[0]) + fade[::-1] * (p[-1] - smooth[-1])
    return resample(_lift(heart, resample(p, STEP_MM)), STEP_MM)


def _lift(heart: Heart, points: Points) -> Points:
    """Move centreline points that ended up inside a chamber out to ``CLEARANCE_MM`` above it."""
    surface = _as_function(heart.surface)
    for _ in range(LIFT_ITERATIONS):
        buried = surface(points) < CLEARANCE_MM
        points = np.where(buried[:, None], _pull(surface, points, CLEARANCE_MM), points)
    return points


def _branch(name: str, artery: str, points: Points, proximal: float, distal: float) -> Branch:
    s = arc_length(points)
    return Branch(name, artery, points, proximal + (distal - proximal) * s / max(s[-1], 1.0))


def _ring(heart: Heart, centre: Points, radius: float, degrees: npt.ArrayLike, u: float = 0.0) -> Points:
    """Points around the LV's long axis; 0° towards the RV, +90° inferior, 180° the lateral wall."""
    a = np.radians(np.asarray(degrees, dtype=np.float64))[:, None]
    along = np.broadcast_to(u, (len(a),))[:, None]
    offsets = radius * (np.cos(a) * SEPTAL + np.sin(a) * INFERIOR) + along * LONG_AXIS
    return heart.place(centre + offsets)


def _left_main(heart: Heart, rng: np.random.Generator) -> Points:
    length = rng.uniform(0.75, 1.35)
    ostium = np.array([17.0, 3.0, 27.0])
    end = ostium + length * np.array([11.0, -1.5, 0.5])
    course = curve(heart.place([ostium, (ostium + end) / 2 + np.array([0, -0.8, 1.2]), end]), STEP_MM)
    return resample(_lift(heart, course), STEP_MM)


def _anterior_descending(heart: Heart, start: Points, rng: np.random.Generator) -> Points:
    end = rng.uniform(78, 100)
    u = np.linspace(8, end, 9)
    degrees = np.linspace(-62, -45, 9)
    radius = 36 * np.sqrt(np.clip(1 - ((u - 30) / 68) ** 2, 0.02, 1))
    course = np.concatenate(
        [_ring(heart, MITRAL_CENTRE, r, [d], k) for r, d, k in zip(radius, degrees, u, strict=True)]
    )
    return settle(heart, curve(np.vstack([start, course]), STEP_MM), rng.uniform(2.0, 3.5), ("LV", "RV"))


def _diagonals(heart: Heart, lad: Points, rng: np.random.Generator) -> list[Branch]:
    branches = []
    for index, fraction in enumerate(sorted(rng.uniform(0.12, 0.6, size=int(rng.integers(1, 4)))), start=1):
        start = lad[int(fraction * (len(lad) - 1))]
        length = rng.uniform(30, 60)
        out = heart.direct(LONG_AXIS * 0.75 - SEPTAL * 0.75 - INFERIOR * 0.15)
        course = settle(heart, np.linspace(start, start + length * out, 12), rng.uniform(1.5, 3), None)
        branches.append(_branch(f"D{index}", "LAD", course, rng.uniform(0.9, 1.3), 0.6))
    return branches


def _circumflex(heart: Heart, start: Points, end_degrees: float, rng: np.random.Generator) -> Points:
    degrees = np.linspace(-112, -end_degrees, 11)
    course = _ring(heart, MITRAL_CENTRE, 37, degrees, -2.0)
    return settle(heart, curve(np.vstack([start, course]), STEP_MM), rng.uniform(2.5, 4), ("LA", "LV"))


def _marginals(heart: Heart, lcx: Points, start: Points, rng: np.random.Generator) -> list[Branch]:
    branches = []
    origins = [(f"OM{i}", f) for i, f in enumerate(sorted(rng.uniform(0.3, 0.85, int(rng.integers(1, 4)))), start=1)]
    if rng.uniform() < 0.2:
        origins.append(("RI", 0.0))
    for name, fraction in origins:
        origin = start if name == "RI" else lcx[int(fraction * (len(lcx) - 1))]
        out = heart.direct(LONG_AXIS * 0.95 - SEPTAL * 0.3)
        course = settle(heart, np.linspace(origin, origin + rng.uniform(30, 65) * out, 12), rng.uniform(1.5, 3), None)
        branches.append(_branch(name, "LCX", course, rng.uniform(0.9, 1.4), 0.6))
    return branches


def _right(heart: Heart, rng: np.random.Generator) -> Points:
    rough = np.array(
        [
            [3.0, -15.0, 25.0],
            [-1.0, -30.0, 22.0],
            [-14.0, -40.0, 10.0],
            [-22.0, -40.0, -8.0],
            [-20.0, -34.0, -24.0],
            [-10.0, -20.0, -38.0],
            [2.0, 0.0, -38.0],
            [12.0, 12.0, -30.0],
        ]
    )
    course = heart.place(rough + rng.normal(0, 1.0, rough.shape))
    return settle(heart, curve(course, STEP_MM), rng.uniform(2.5, 4.5), ("RA", "RV"))


def _posterior(heart: Heart, start: Points, rng: np.random.Generator) -> Points:
    u = np.linspace(12, rng.uniform(55, 80), 8)
    radius = 37 * np.sqrt(np.clip(1 - ((u - 30) / 68) ** 2, 0.05, 1))
    course = np.concatenate([_ring(heart, MITRAL_CENTRE, r, [60.0], k) for r, k in zip(radius, u, strict=True)])
    return settle(heart, curve(np.vstack([start, course]), STEP_MM), rng.uniform(1.5, 3), ("LV", "RV"))


def coronaries(heart: Heart, rng: np.random.Generator) -> list[Branch]:
    """Sample the coronary tree of a heart: 90 % right dominant, 1–3 diagonals and marginals, ramus in 20 %."""
    calibre = heart.scale * rng.lognormal(0, 0.12)
    left_dominant = rng.uniform() < 0.1
    lm = _left_main(heart, rng)
    lad = _anterior_descending(heart, lm[-1], rng)
    lcx = _circumflex(heart, lm[-1], 285.0 if left_dominant else rng.uniform(190, 250), rng)
    rca = _right(heart, rng)
    if left_dominant:
        rca = rca[: int(0.7 * len(rca))]
    tree = [
        _branch("LM", "LM", lm, 2.3, 2.1),
        _branch("LAD", "LAD", lad, 1.9, 0.8),
        *_diagonals(heart, lad, rng),
        _branch("LCX", "LCX", lcx, 1.7, 0.9),
        *_marginals(heart, lcx, lm[-1], rng),
        _branch("RCA", "RCA", rca, 1.9, 1.4),
        _branch(
            "PDA",
            "LCX" if left_dominant else "RCA",
            _posterior(heart, (lcx if left_dominant else rca)[-1], rng),
            1.3,
            0.7,
        ),
    ]
    if not left_dominant and rng.uniform() < 0.7:
        lateral = settle(
            heart,
            np.linspace(rca[-1], rca[-1] + rng.uniform(20, 45) * heart.direct(LONG_AXIS * 0.5 - SEPTAL * 0.8), 10),
            2.0,
            None,
        )
        tree.append(_branch("PLV", "RCA", lateral, 1.1, 0.7))
    return [Branch(b.name, b.artery, b.points, b.radii * calibre) for b in tree]

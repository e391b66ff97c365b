"""Aorta, pulmonary arteries and veins, caval veins, airways and oesophagus as tapering tubes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ops.phantoms.chest.heart import AORTIC_ANNULUS, Heart
from ops.phantoms.chest.skeleton import Skeleton
from ops.phantoms.participant import Participant
from ops.phantoms.sdf import Points, curve


@dataclass(frozen=True, eq=False)
class Vessel:
    """A tube: template centreline ``(n, 3)`` mm and outer radius at each point in mm."""

    name: str
    points: Points
    radii: npt.NDArray[np.float64]


def _vessel(name: str, control: npt.ArrayLike, radii: npt.ArrayLike, step: float = 6.0) -> Vessel:
    points = curve(control, step)
    knots = np.linspace(0, 1, len(np.atleast_1d(np.asarray(radii))))
    return Vessel(name, points, np.interp(np.linspace(0, 1, len(points)), knots, np.atleast_1d(np.asarray(radii))))


@dataclass(frozen=True, eq=False)
class GreatVessels:
    """All large tubes of the mediastinum.

    Attributes
    ----------
    aorta
        From the annulus over the arch to the abdomen.
    pulmonary
        Trunk, right and left pulmonary artery.
    veins
        Superior and inferior vena cava, four pulmonary veins, azygos, coronary sinus, brachiocephalics.
    arch_branches
        Brachiocephalic trunk, left common carotid, left subclavian artery.
    airways
        Trachea and main bronchi.
    oesophagus
        From the neck to the stomach.
    hila
        Where the vessels of the right and of the left lung start.
    """

    aorta: Vessel
    pulmonary: list[Vessel]
    veins: list[Vessel]
    arch_branches: list[Vessel]
    airways: list[Vessel]
    oesophagus: Vessel
    hila: tuple[Points, Points]


def great_vessels(participant: Participant, heart: Heart, bones: Skeleton, rng: np.random.Generator) -> GreatVessels:
    """Sample the great vessels between a heart and its spine."""
    s = heart.scale * rng.normal(1.0, 0.03)
    older = (participant.age - 60) / 100
    calibre = s**0.5 * (1 + 0.35 * older) * rng.lognormal(0, 0.08) * (1.03 if participant.sex == "M" else 0.96)
    up = heart.shift[2] * 0.6
    arch_z = 94 + up + rng.normal(0, 7)
    spine_front = bones.front(arch_z - 34)
    uncoil = 14 * max(older, 0) + rng.uniform(0, 6)
    carina = np.array([2 + rng.normal(0, 2), spine_front - 22, arch_z - 34])
    aorta = _aorta(heart, arch_z, bones, uncoil, calibre, rng)
    return GreatVessels(
        aorta=aorta,
        pulmonary=_pulmonary(heart, carina, calibre, rng),
        veins=_veins(heart, arch_z, bones, calibre),
        arch_branches=_arch_branches(arch_z, calibre, bones.front(arch_z + 60)),
        airways=_airways(carina, bones, calibre),
        oesophagus=_oesophagus(heart, carina, bones, arch_z, rng),
        hila=(carina + np.array([-36, 4, -22]), carina + np.array([42, 8, -20])),
    )


def _aorta(
    heart: Heart, arch_z: float, bones: Skeleton, uncoil: float, calibre: float, rng: np.random.Generator
) -> Vessel:
    annulus = heart.place(AORTIC_ANNULUS - [3, -3, 8])
    root = heart.place(AORTIC_ANNULUS + np.array([0, -2, 8]))
    tube = heart.place(AORTIC_ANNULUS + np.array([-12, -9, 32]))
    descending_x = 22 + rng.normal(0, 4) + uncoil * 0.5
    beside = rng.uniform(0, 11)  # behind the vertebrae's anterior face: the aorta lies at their left side
    control = [
        annulus,
        root,
        tube,
        [tube[0] - 3 - 0.4 * uncoil, tube[1] + 1, arch_z - 24],
        [-4, tube[1] + 10, arch_z - 2],
        [12, bones.front(arch_z) - 32, arch_z + 3],
        [descending_x - 2, bones.front(arch_z) - 10, arch_z - 6],
        [descending_x + 1, bones.front(arch_z - 34) + beside, arch_z - 34],
        [descending_x, bones.front(5) + beside, 5],
        [descending_x - 5, bones.front(-70) + beside - 7, -70],
        [10, bones.front(-170) - 13, -170],
        [6, bones.front(-320) - 12, -320],
    ]
    radii = calibre * np.array([13.5, 17.5, 17.0, 16.5, 15.5, 14.5, 13.5, 13.0, 12.5, 12.0, 10.5, 9.5])
    points = curve(np.array(control), 5.0)
    nearest = [int(np.argmin(((points - c) ** 2).sum(axis=1))) for c in np.asarray(control)]
    return Vessel("aorta", points, np.interp(np.arange(len(points)), nearest, radii))


def _pulmonary(heart: Heart, carina: Points, calibre: float, rng: np.random.Generator) -> list[Vessel]:
    valve = heart.place([26, -36, 34])
    fork = np.array([valve[0] - 2, carina[1] - 26, max(carina[2] - 10, valve[2] + 12)])
    r = calibre * rng.uniform(0.9, 1.15)
    trunk = [heart.place([27, -37, 20]), valve, (valve + fork) / 2 + [2, -4, 4], fork]
    right = [fork, fork + np.array([-20, 9, 1]), carina + np.array([-22, -12, -12]), carina + np.array([-44, -2, -22])]
    left = [fork, fork + np.array([14, 12, 6]), carina + np.array([36, -2, 2]), carina + np.array([48, 12, -18])]
    return [
        _vessel("pulmonary trunk", trunk, [13 * r, 14 * r, 14 * r]),
        _vessel("right pulmonary artery", right, [12 * r, 11 * r, 7.5 * r]),
        _vessel("left pulmonary artery", left, [12 * r, 11 * r, 7.5 * r]),
    ]


def _veins(heart: Heart, arch_z: float, bones: Skeleton, calibre: float) -> list[Vessel]:
    ra, la = heart.chambers["RA"].centre, heart.chambers["LA"]
    top = np.array([-30.0, ra[1] + 2, arch_z])
    svc = [ra + np.array([-2, 2, 14]), ra + np.array([-5, 4, 40]), top, top + np.array([-3, -4, 26])]
    ivc = [
        ra + np.array([2, 10, -22]),
        ra + np.array([4, 20, -46]),
        [-22, min(ra[1] + 28, bones.front(ra[2] - 110) - 14), ra[2] - 110],
        [-20, bones.front(-300) - 10, -300],
    ]
    side = la.axes[0]
    veins = [_vessel("superior vena cava", svc, [10 * calibre, 9.5 * calibre, 9 * calibre, 8])]
    veins.append(_vessel("inferior vena cava", ivc, [12 * calibre, 12 * calibre, 11 * calibre]))
    for sign in (-1.0, 1.0):
        for dz, dy, rise in ((12, 0, 12), (-8, 8, -8)):
            mouth = la.centre + np.array([sign * side * 0.75, dy, dz])
            out = [
                mouth,
                mouth + np.array([sign * 16, dy * 0.4 - 2, rise * 0.5]),
                mouth + np.array([sign * 34, dy - 4, rise]),
            ]
            veins.append(_vessel("pulmonary vein", out, [7.5 * calibre, 6.5, 4.0]))
    veins.append(
        _vessel("azygos", [[-8, bones.front(z) - 3, z] for z in (-160.0, -80.0, 0.0, arch_z - 18)], [3.5, 4.5])
    )
    sinus = [la.centre + np.array([sign, la.axes[1] * 0.45, -la.axes[2] * 0.95]) for sign in (22, 0, -16)]
    veins.append(_vessel("coronary sinus", sinus, [3.5, 5.0, 6.0]))
    left_neck = np.array([45.0, top[1] - 2, arch_z + 40])
    veins.append(
        _vessel("left brachiocephalic vein", [left_neck, np.array([8, top[1] - 14, arch_z + 22]), top], [7.5, 7.5])
    )
    return veins


def _arch_branches(arch_z: float, calibre: float, spine_front: float) -> list[Vessel]:
    y = spine_front - 34
    return [
        _vessel(
            "brachiocephalic trunk",
            [[-4, y - 4, arch_z + 4], [-16, y - 4, arch_z + 45], [-38, y + 4, arch_z + 70]],
            7.0 * calibre,
        ),
        _vessel(
            "left common carotid", [[8, y, arch_z + 6], [16, y, arch_z + 45], [22, y - 4, arch_z + 100]], 4.5 * calibre
        ),
        _vessel(
            "left subclavian",
            [[20, y + 12, arch_z + 2], [28, y + 14, arch_z + 42], [65, y + 6, arch_z + 66]],
            5.5 * calibre,
        ),
    ]


def _airways(carina: Points, bones: Skeleton, calibre: float) -> list[Vessel]:
    r = 8.5 + 1.5 * (calibre - 1)
    neck = [0, bones.front(carina[2] + 120) - 26, carina[2] + 120]
    return [
        _vessel("trachea", [neck, carina + np.array([-1, -4, 50]), carina], [r, r, r + 1]),
        _vessel(
            "right main bronchus",
            [
                carina,
                carina + np.array([-20, 3, -16]),
                carina + np.array([-36, 6, -34]),
                carina + np.array([-42, 10, -62]),
            ],
            [7.5, 6.5, 5, 3.5],
        ),
        _vessel(
            "left main bronchus",
            [
                carina,
                carina + np.array([22, 4, -18]),
                carina + np.array([44, 10, -32]),
                carina + np.array([54, 20, -58]),
            ],
            [7, 6, 4.5, 3],
        ),
        _vessel(
            "right upper bronchus",
            [carina + np.array([-22, 3, -18]), carina + np.array([-44, 4, -10]), carina + np.array([-58, 4, 4])],
            [5, 4, 2.5],
        ),
        _vessel(
            "left upper bronchus",
            [carina + np.array([44, 10, -32]), carina + np.array([58, 2, -26]), carina + np.array([70, -8, -12])],
            [4.5, 3.5, 2.5],
        ),
    ]


def _oesophagus(heart: Heart, carina: Points, bones: Skeleton, arch_z: float, rng: np.random.Generator) -> Vessel:
    spine_front = bones.front(0)
    behind_atrium = heart.chambers["LA"].bounds()[1][1] + 6
    control = [
        [4, bones.front(arch_z + 90) - 10, arch_z + 90],
        [carina[0] + 5, min(carina[1] + 15, bones.front(carina[2]) - 8), carina[2]],
        [6 + rng.normal(0, 4), min(behind_atrium, spine_front - 3), 10],
        [10 + rng.normal(0, 4), bones.front(-40) - 14, -40],
        [26, bones.front(-85) - 28, -85],
    ]
    return _vessel("oesophagus", control, rng.uniform(6, 9))

"""Liver lesions of known size in the body of `ops.phantoms.liver.abdomen`: ellipsoids turned about its long axis.

So turned, the longest diameter within an axial slice and the width across it are two axes of the ellipsoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ops.phantoms.lattice import index_box, open_coordinates
from ops.phantoms.liver import abdomen as liver
from ops.phantoms.liver.abdomen import SPLEEN_LABEL, Body, UpperAbdomen, sample_abdomen, scan, scan_grid
from ops.phantoms.participant import sample_participant
from ops.phantoms.sdf import Array, Coordinates, Points, ellipsoid, rotation
from ops.phantoms.study import SimulatedStudy, SliceSeries, Stack
from ops.volume import Grid, Volume

LIVER_LABEL, LESION_LABEL = 1, 2
MEAN_LESIONS = 2.0
DIAMETER_RANGE_MM = (4.0, 45.0)  # log-uniform: small ones are common
# Metastases and hepatocellular carcinoma in the portal-venous phase, relative to the liver.
CONTRAST_RANGE_HU = (-60.0, -22.0)
TRIES = 20


@dataclass(frozen=True, eq=False)
class Lesion:
    """An ellipsoid.

    Attributes
    ----------
    centre
        ``(x, y, z)`` LPS mm.
    semi_axes
        mm: two in the axial plane, the third along z.
    yaw
        Degrees the first two are turned about z.
    contrast_hu
        Attenuation relative to the liver.
    """

    centre: Points
    semi_axes: tuple[float, float, float]
    yaw: float
    contrast_hu: float

    @property
    def longest_diameter(self) -> float:
        """Longest diameter within an axial slice, mm."""
        return 2 * max(self.semi_axes[:2])

    @property
    def short_axis(self) -> float:
        """Width across the longest diameter in its slice, mm."""
        return 2 * min(self.semi_axes[:2])

    @property
    def volume(self) -> float:
        """Volume in mL."""
        return float(4 / 3 * np.pi * np.prod(self.semi_axes) / 1000)

    def distance(self, p: Coordinates) -> Array:
        """Signed distance (mm, negative inside), exact on the surface."""
        return ellipsoid(p, self.centre, self.semi_axes, rotation(self.yaw, 0, 0).T)

    def body(self, liver_hu: float) -> Body:
        """Return what is painted into a liver of ``liver_hu``."""
        reach = max(self.semi_axes)
        return Body(self.distance, liver_hu + self.contrast_hu, self.centre - reach, self.centre + reach)


def sample_lesion(rng: np.random.Generator, centre: npt.ArrayLike = (0.0, 0.0, 0.0)) -> Lesion:
    """Draw size, shape and attenuation of one lesion."""
    longest = float(np.exp(rng.uniform(*np.log(DIAMETER_RANGE_MM))))
    across, along = rng.uniform(0.6, 1.0, size=2)
    axes = (longest / 2, longest / 2 * float(across), longest / 2 * float(along))
    return Lesion(
        np.asarray(centre, dtype=np.float64), axes, float(rng.uniform(0, 180)), float(rng.uniform(*CONTRAST_RANGE_HU))
    )


def sample_lesions(abdomen: UpperAbdomen, rng: np.random.Generator) -> tuple[Lesion, ...]:
    """Draw lesions, about two a liver, apart from each other and within the liver.

    Raises
    ------
    ValueError
        No set of lesions fits this liver.
    """
    for _ in range(TRIES):
        drawn = [sample_lesion(rng) for _ in range(rng.poisson(MEAN_LESIONS))]
        drawn.sort(key=lambda lesion: -lesion.longest_diameter)
        try:
            places = abdomen.free_positions([max(lesion.semi_axes) for lesion in drawn], rng)
        except ValueError:
            continue
        return tuple(
            Lesion(place, lesion.semi_axes, lesion.yaw, lesion.contrast_hu)
            for lesion, place in zip(drawn, places, strict=True)
        )
    raise ValueError(f"no {MEAN_LESIONS:g} lesions found room in a liver in {TRIES} tries")


def label_map(lesions: Sequence[Lesion], grid: Grid, abdomen: UpperAbdomen | None = None) -> Volume:
    """Label voxel centres: liver 1, lesions 2. Without an abdomen everything else is liver."""
    labels = np.full(grid.shape, LIVER_LABEL, dtype=np.uint8)
    if abdomen is not None:
        segments = liver.label_map(abdomen, grid).voxels
        labels[(segments == 0) | (segments == SPLEEN_LABEL)] = 0
    for lesion in lesions:
        body = lesion.body(0)
        box = index_box(grid, body.low, body.high)
        if box is not None:
            part = grid.crop(tuple(s.start for s in box), tuple(s.stop for s in box))
            labels[box][lesion.distance(open_coordinates(part)) < 0] = LESION_LABEL
    return Volume(labels, grid, "label")


def truth(lesions: Sequence[Lesion]) -> dict[str, Any]:
    """Return true values by the names of the measurement's record."""
    found: dict[str, Any] = {"lesion_count": len(lesions), "lesion_volume": sum(lesion.volume for lesion in lesions)}
    ranked = sorted(lesions, key=lambda lesion: -lesion.longest_diameter)
    if ranked:
        found["largest_diameter"] = ranked[0].longest_diameter
    for number, lesion in enumerate(ranked, start=1):
        found[f"lesion_{number}_longest_diameter"] = lesion.longest_diameter
        found[f"lesion_{number}_short_axis"] = lesion.short_axis
        found[f"lesion_{number}_volume"] = lesion.volume
    return found


def sample_study(rng: np.random.Generator) -> SimulatedStudy:
    """Portal-venous CT of the abdomen with a few liver lesions, or none, one file a slice."""
    participant = sample_participant(rng)
    abdomen = sample_abdomen(participant, rng, int(rng.integers(5)))
    lesions = sample_lesions(abdomen, rng)
    increment = float(rng.choice([1.5, 2.5, 3.0]))
    grid = scan_grid(abdomen, increment)
    ct = scan(abdomen, grid, float(rng.uniform(9, 14)), rng, [lesion.body(abdomen.liver_hu) for lesion in lesions])
    attributes = {"KVP": 120.0, "BodyPartExamined": "ABDOMEN", "ContrastBolusAgent": "IOHEXOL"}
    series = SliceSeries("ct", "CT", f"ABDOMEN PORTAL VENOUS {increment:g} mm", (Stack(ct),), attributes=attributes)
    labels = {"ct": label_map(lesions, grid, abdomen)}
    return SimulatedStudy(participant, "CT ABDOMEN PORTAL VENOUS", (series,), labels, truth(lesions))

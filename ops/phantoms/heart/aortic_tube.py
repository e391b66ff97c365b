"""A thoracic aorta as a tube of known diameter: straight up, half a circle, straight down, with a bulge and a pulse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ops.diseases.cardiac.volumes import Structure
from ops.phantoms.lattice import centred_grid, coordinates
from ops.phantoms.sdf import Array, Coordinates, local, rotation
from ops.volume import Grid, Volume

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AorticTube:
    """Shape in mm; sections across the centreline are circles.

    Attributes
    ----------
    diameter
        Away from the bulge.
    bulge, bulge_position, bulge_length
        Largest additional diameter, where along the centreline, and the standard deviation of its Gaussian shape.
    arch_radius, ascending, descending
        Of the centreline: radius of the arch and lengths of the straight pieces before and after it.
    yaw, pitch, roll
        Degrees by which the aorta's plane, which holds the patient's left and head at 0, is turned.
    centre
        LPS mm of the centre of the arch.
    """

    diameter: float = 26.0
    bulge: float = 9.0
    bulge_position: float = 45.0
    bulge_length: float = 14.0
    arch_radius: float = 36.0
    ascending: float = 80.0
    descending: float = 140.0
    yaw: float = 55.0
    pitch: float = 8.0
    roll: float = 6.0
    centre: tuple[float, float, float] = (10.0, 0.0, 60.0)

    @property
    def length(self) -> float:
        """Length of the centreline."""
        return self.ascending + math.pi * self.arch_radius + self.descending

    @property
    def largest_diameter(self) -> float:
        """Diameter at the top of the bulge."""
        return self.diameter + self.bulge

    def diameter_at(self, arc: npt.ArrayLike) -> FloatArray:
        """Diameter at ``arc`` mm along the centreline."""
        distance = (np.asarray(arc) - self.bulge_position) / self.bulge_length
        return np.asarray(self.diameter + self.bulge * np.exp(-(distance**2) / 2))

    def centreline(self, step_mm: float = 1.0) -> FloatArray:
        """Points ``(n, 3)`` LPS mm from the root downstream."""
        s = np.linspace(0, self.length, math.ceil(self.length / step_mm) + 1)
        turn = np.clip((s - self.ascending) / self.arch_radius, 0, math.pi)
        after = np.maximum(s - self.ascending - math.pi * self.arch_radius, 0)
        along = -self.arch_radius * np.cos(turn)
        up = self.arch_radius * np.sin(turn) + np.minimum(s - self.ascending, 0) - after
        return np.asarray(np.stack([along, np.zeros_like(s), up], axis=1) @ self._frame() + self.centre)

    def grid(self, spacing: tuple[float, float, float], margin_mm: float = 12.0) -> Grid:
        """Axis-aligned grid around the whole tube."""
        points = self.centreline()
        reach = self.largest_diameter / 2 + margin_mm
        low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
        return centred_grid((low + high) / 2, high - low, spacing)

    def mask(self, grid: Grid, stretch: float = 1.0) -> Volume:
        """Label map of the voxels whose centres lie inside, all diameters multiplied by ``stretch``."""
        arc, distance = self._arc_and_distance(coordinates(grid))
        inside = (distance < stretch * self.diameter_at(arc) / 2) & (arc >= 0) & (arc <= self.length)
        return Volume(np.where(inside, np.uint8(Structure.AORTA), np.uint8(0)), grid, "label")

    def _frame(self) -> FloatArray:
        """Rows: along the arch, across its plane, up."""
        return rotation(self.yaw, self.pitch, self.roll).T

    def _arc_and_distance(self, p: Coordinates) -> tuple[Array, Array]:
        """Arc length and distance in mm of the nearest point of the centreline."""
        along, across, up = local(p, self.centre, self._frame())
        arch = up > 0
        turn = np.arctan2(up, -along)
        beside = np.where(arch, np.hypot(along, up), np.abs(along)) - np.float32(self.arch_radius)
        bend = math.pi * self.arch_radius
        straight = np.where(along < 0, self.ascending + up, self.ascending + bend - up)
        arc = np.where(arch, self.ascending + self.arch_radius * turn, straight)
        return arc.astype(np.float32), np.hypot(beside, across)

"""A phased-array sector image: where its samples lie, speckle with a beam that widens with depth, scan conversion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.phantoms.sdf import Array, Coordinates, Points

# Speckle patterns repeat after so many cells, far apart.
_TABLE = 1024


@dataclass(frozen=True, eq=False)
class ImagePlane:
    """Where a sector lies among the organs.

    Attributes
    ----------
    apex
        Position of the transducer's face, mm.
    right, down
        Unit vectors of the image's columns and rows.
    """

    apex: Points
    right: Points
    down: Points

    def points(self, x: Array, z: Array) -> Coordinates:
        """Positions of points ``x`` mm to the right of and ``z`` mm below the apex."""
        one, two, three = (
            np.asarray(self.apex[n] + x * self.right[n] + z * self.down[n], dtype=np.float32) for n in range(3)
        )
        return one, two, three


@dataclass(frozen=True)
class Sector:
    """Geometry of a sector image on its canvas.

    Attributes
    ----------
    depth_mm
        Of the lowest sample.
    half_angle
        Degrees to either side.
    pixel_mm
        ``(row, column)`` size of a pixel, positive.
    margins
        Empty pixels ``(top, left, bottom, right)`` around the sector.
    n_lines, sample_mm
        Scan lines, and step along them.
    """

    depth_mm: float = 160.0
    half_angle: float = 43.0
    pixel_mm: tuple[float, float] = (0.45, 0.45)
    margins: tuple[int, int, int, int] = (16, 24, 64, 24)
    n_lines: int = 128
    sample_mm: float = 0.5

    @property
    def region(self) -> tuple[int, int, int, int]:
        """Inclusive pixel bounds ``(top, left, bottom, right)`` of the sector."""
        width = 2 * self.depth_mm * math.sin(math.radians(self.half_angle))
        top, left = self.margins[:2]
        rows, columns = math.ceil(self.depth_mm / self.pixel_mm[0]), math.ceil(width / self.pixel_mm[1])
        return top, left, top + rows - 1, left + columns - 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the canvas."""
        _, _, bottom, right = self.region
        return bottom + 1 + self.margins[2], right + 1 + self.margins[3]

    def pixel_positions(self) -> tuple[Array, Array]:
        """``x`` and ``z`` in mm of every pixel centre of the region, from the apex."""
        top, left, bottom, right = self.region
        z = (np.arange(bottom - top + 1, dtype=np.float32) + 0.5) * np.float32(self.pixel_mm[0])
        columns = right - left + 1
        x = (np.arange(columns, dtype=np.float32) + 0.5 - columns / 2) * np.float32(self.pixel_mm[1])
        return np.broadcast_to(x, (len(z), columns)), np.broadcast_to(z[:, None], (len(z), columns))

    def beam_positions(self) -> tuple[Array, Array]:
        """``x`` and ``z`` in mm of every sample ``(lines, samples)``."""
        angle = np.radians(np.linspace(-self.half_angle, self.half_angle, self.n_lines, dtype=np.float32))[:, None]
        r = (np.arange(self.n_samples, dtype=np.float32) + 0.5) * np.float32(self.sample_mm)
        return np.sin(angle) * r, np.cos(angle) * r

    @property
    def n_samples(self) -> int:
        """Samples along a line."""
        return math.ceil(self.depth_mm / self.sample_mm)

    @cached_property
    def _lookup(self) -> tuple[npt.NDArray[np.int64], list[tuple[npt.NDArray[np.int64], Array]]]:
        """Pixels of the region inside the sector, and the four samples around each with their weights."""
        x, z = self.pixel_positions()
        r = np.hypot(x, z) / self.sample_mm - 0.5
        line = (np.degrees(np.arctan2(x, z)) / self.half_angle + 1) / 2 * (self.n_lines - 1)
        inside = np.flatnonzero((line >= 0) & (line <= self.n_lines - 1) & (r >= 8) & (r < self.n_samples - 1))
        r, line = r.ravel()[inside], line.ravel()[inside]
        row = np.minimum(line.astype(np.int64), self.n_lines - 2)
        column = r.astype(np.int64)
        share_row, share_column = (line - row).astype(np.float32), (r - column).astype(np.float32)
        corners = []
        for i in (0, 1):
            for j in (0, 1):
                weight = (share_row if i else 1 - share_row) * (share_column if j else 1 - share_column)
                corners.append(((row + i) * self.n_samples + column + j, weight))
        return inside, corners

    def scan_convert(self, samples: Array) -> Array:
        """Image of the region ``(rows, columns)`` from ``(lines, samples)``; 0 outside the sector."""
        inside, corners = self._lookup
        top, left, bottom, right = self.region
        image = np.zeros((bottom - top + 1, right - left + 1), dtype=np.float32)
        flat = samples.reshape(-1)
        image.reshape(-1)[inside] = sum(weight * flat[index] for index, weight in corners)
        return image


@dataclass(frozen=True, eq=False)
class Scanner:
    """What one clip's acquisition makes of reflecting tissue.

    Attributes
    ----------
    sector
        Geometry.
    scatterers
        Complex table of random scatterers, fixed to the tissue.
    gain
        ``(lines, samples)`` gain: ribs and lung drop whole lines out, and tissue is patchy.
    dynamic_range_db
        Shown from black to white.
    """

    sector: Sector
    scatterers: npt.NDArray[np.complex64]
    gain: Array
    dynamic_range_db: float

    @classmethod
    def sample(cls, sector: Sector, rng: np.random.Generator) -> Scanner:
        """Draw scatterers, dropout and dynamic range."""
        real, imaginary = rng.standard_normal((2, _TABLE, _TABLE), dtype=np.float32)
        smooth = ndimage.gaussian_filter1d(rng.standard_normal(sector.n_lines), sector.n_lines / 14, mode="nearest")
        smooth /= max(float(np.abs(smooth).max()), 1e-6)
        at = np.linspace(-1, 1, sector.n_lines)
        # Contact of the transducer is worse at the sides of a sector, and never as good on both.
        lost = np.clip(np.abs(at - rng.uniform(-0.1, 0.1)) - 0.62, 0, None) * rng.uniform(1.0, 2.2)
        lines = np.clip(0.9 + 0.35 * smooth - lost, 0.1, None)[:, None]
        # Tissue is patchy beyond the single scatterer.
        shape = (sector.n_lines, sector.n_samples)
        patches = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (5, 14), mode="wrap")
        gain = lines * np.exp(0.35 * patches / patches.std())
        return cls(
            sector,
            (real + 1j * imaginary).astype(np.complex64),
            gain.astype(np.float32),
            float(rng.uniform(52, 60)),
        )

    def image(self, reflectivity: Array, material: tuple[Array, Array], rng: np.random.Generator) -> Array:
        """Frame of the region, 0–255 floats, from reflectivity ``(lines, samples)``.

        Parameters
        ----------
        reflectivity
            Amplitude, 1 for a bright wall.
        material
            Two coordinates in mm that move with the tissue, so that its speckle does too.
        rng
            Electronic noise of this frame.
        """
        cell = 0.3
        one, two = ((part / cell).astype(np.int32) % np.int32(_TABLE) for part in material)
        echo = self.gain * reflectivity * self.scatterers[one, two]
        # The pulse is short and the beam has a constant angle, so speckle is thin and widens with depth.
        sigma = (0.75 / (2 * self.sector.half_angle / self.sector.n_lines), 0.5 / self.sector.sample_mm)
        real, imaginary = (ndimage.gaussian_filter(part, sigma, truncate=2.5) for part in (echo.real, echo.imag))
        envelope = np.hypot(real, imaginary)
        depth = np.linspace(0, 1, envelope.shape[1], dtype=np.float32)
        # Time gain compensation lifts the receiver's noise with depth.
        noise = rng.standard_normal(envelope.shape, dtype=np.float32)
        envelope = np.hypot(envelope, np.float32(0.0005) * np.exp(1.8 * depth) * noise)
        decibel = 20 * np.log10(np.maximum(envelope, 1e-7) / 0.30)
        grey = np.clip(decibel / self.dynamic_range_db + 1, 0, 1)
        return self.sector.scan_convert((255 * grey**1.35).astype(np.float32))

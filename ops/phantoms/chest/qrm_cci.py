"""Digital QRM Cardio phantom with the CCI insert: nine hydroxyapatite cylinders of known mass (SPEC §1.8).

Regression values for scoring code (CAC-14, CAC-25), not scanner truth: ideal partial volume, no blur, no noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ops.phantoms.chest.protocol import Protocol
from ops.phantoms.sdf import Array
from ops.volume import Grid, Volume

DIAMETERS_MM = (5.0, 3.0, 1.0)  # length = diameter
DENSITIES = (200.0, 400.0, 800.0)  # mg hydroxyapatite per cm³
BACKGROUND_HU = 40.0
MG_PER_CM3_PER_HU = 0.8  # calibration factor c of this digital phantom: a full voxel has HU = ρ / 0.8
PITCH_MM = 20.0
PIXEL_MM = 0.5
SLICE_MM = 3.0
SLICES = 8
FIRST_SLICE = 3  # cylinders start at the lower edge of this slice, plus the offset
MATRIX = 512
SUPERSAMPLING = 20
CALIBRATION_MM = 20.0  # diameter of the calibration rods
CALIBRATION_DENSITY = 200.0
BODY_RADII_MM = (100.0, 75.0)  # anthropomorphic body, half-width and half-depth
AIR_HU = -1000.0


@dataclass(frozen=True)
class Cylinder:
    """One insert: right cylinder along z, ``diameter`` = length in mm, density mg/cm³, centre (x, y) mm."""

    diameter: float
    density: float
    centre: tuple[float, float]

    @property
    def volume(self) -> float:
        """Volume in mm³, π d³ / 4."""
        return float(np.pi * self.diameter**3 / 4)

    @property
    def mass(self) -> float:
        """Mass in mg hydroxyapatite."""
        return self.volume * self.density / 1000.0


def cylinders() -> tuple[Cylinder, ...]:
    """List the nine inserts: rows by diameter, columns by density, centred on pixel corners."""
    return tuple(
        Cylinder(d, rho, ((column - 1) * PITCH_MM, (row - 1) * PITCH_MM))
        for row, d in enumerate(DIAMETERS_MM)
        for column, rho in enumerate(DENSITIES)
    )


def disc_share(shape: tuple[int, int], centre: tuple[float, float], diameter: float, grid: Grid) -> Array:
    """Share of each pixel ``(y, x)`` covered by a disc, by ``SUPERSAMPLING``² samples a pixel."""
    x0, y0, _ = grid.origin
    sub = ((np.arange(SUPERSAMPLING) + 0.5) / SUPERSAMPLING - 0.5) * PIXEL_MM
    x = (x0 + PIXEL_MM * np.arange(shape[1]))[:, None] + sub - centre[0]
    y = (y0 + PIXEL_MM * np.arange(shape[0]))[:, None] + sub - centre[1]
    out = np.zeros(shape, dtype=np.float32)
    reach = diameter / 2 + PIXEL_MM
    columns, rows = (np.flatnonzero(np.abs(a.mean(axis=1)) <= reach) for a in (x, y))
    xs, ys = x[columns].ravel(), y[rows].ravel()
    inside = xs[None, :] ** 2 + ys[:, None] ** 2 <= (diameter / 2) ** 2
    share = inside.reshape(len(rows), SUPERSAMPLING, len(columns), SUPERSAMPLING).mean(axis=(1, 3))
    out[np.ix_(rows, columns)] = share
    return out


def slice_shares(length: float, offset: float) -> npt.NDArray[np.float64]:
    """Share of each slice filled by a cylinder that starts ``offset`` mm above the edge of ``FIRST_SLICE``."""
    edges = (np.arange(SLICES + 1) - FIRST_SLICE) * SLICE_MM
    overlap = np.minimum(edges[1:], offset + length) - np.maximum(edges[:-1], offset)
    return np.asarray(np.clip(overlap, 0, None) / SLICE_MM)


def qrm_grid() -> Grid:
    """512 × 512 × 8 voxels of 0.5 × 0.5 × 3 mm; (0, 0) is a pixel corner."""
    corner = -PIXEL_MM * (MATRIX - 1) / 2
    return Grid.from_spacing((SLICES, MATRIX, MATRIX), (SLICE_MM, PIXEL_MM, PIXEL_MM), (corner, corner, 0.0))


def qrm_phantom(offset: float = 0.0, calibration: bool = True) -> tuple[Volume, npt.NDArray[np.uint8]]:
    """HU of the phantom, and the number of the insert (1–9, in ``cylinders`` order) around each.

    Parameters
    ----------
    offset
        Start of the cylinders above a slice edge in mm: 0 on the edge, 1.5 mid-slice.
    calibration
        Include the water-equivalent and the 200 mg/cm³ rods, which run through all slices.

    Returns
    -------
    volume
        float32 HU ``(z, y, x)``.
    inserts
        uint8 ``(z, y, x)``: squares of ``PITCH_MM`` around the inserts.
    """
    grid = qrm_grid()
    x0, y0, _ = grid.origin
    x, y = x0 + PIXEL_MM * np.arange(MATRIX), y0 + PIXEL_MM * np.arange(MATRIX)
    body = (x[None, :] / BODY_RADII_MM[0]) ** 2 + (y[:, None] / BODY_RADII_MM[1]) ** 2 <= 1
    hu = np.broadcast_to(np.where(body, BACKGROUND_HU, AIR_HU).astype(np.float32), grid.shape).copy()
    inserts = np.zeros(grid.shape, dtype=np.uint8)
    for number, cylinder in enumerate(cylinders(), start=1):
        plane = disc_share((MATRIX, MATRIX), cylinder.centre, cylinder.diameter, grid)
        share = slice_shares(cylinder.diameter, offset)[:, None, None].astype(np.float32) * plane
        hu += share * np.float32(cylinder.density / MG_PER_CM3_PER_HU - BACKGROUND_HU)
        near = [np.abs(a - c) < PITCH_MM / 2 for a, c in zip((x, y), cylinder.centre, strict=True)]
        inserts[:, near[1][:, None] & near[0][None, :]] = number
    if calibration:
        for side, value in ((-1.0, 0.0), (1.0, CALIBRATION_DENSITY / MG_PER_CM3_PER_HU)):
            rod = disc_share((MATRIX, MATRIX), (side * 2.5 * PITCH_MM, 0.0), CALIBRATION_MM, grid)
            hu += rod * np.float32(value - BACKGROUND_HU)
    return Volume(hu, grid), inserts


def qrm_protocol() -> Protocol:
    """Name the protocol under which the phantom is written as a DICOM series."""
    return Protocol(vendor="SIEMENS", fov=MATRIX * PIXEL_MM, matrix=MATRIX, thickness=SLICE_MM, increment=SLICE_MM)

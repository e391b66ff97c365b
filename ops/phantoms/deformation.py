"""Smooth random deformation between patient space and the phantom's template space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ops.phantoms.sdf import Array, Coordinates, Points

MODES = 8
# Shortest wavelength: with MAX_AMPLITUDE it keeps the Jacobian positive and the inverse iteration contracting.
MIN_WAVELENGTH_MM = 170.0
MAX_WAVELENGTH_MM = 500.0
INVERSE_ITERATIONS = 12


@dataclass(frozen=True, eq=False)
class Deformation:
    """Displacement u(p): template = patient + u(patient), a sum of products of cosines (mm, LPS).

    Attributes
    ----------
    amplitude
        ``(MODES, 3)``: displacement vector of each mode in mm.
    wave, phase
        ``(MODES, 3)``: angular frequency (rad/mm) and phase along x, y, z.
    """

    amplitude: npt.NDArray[np.float64]
    wave: npt.NDArray[np.float64]
    phase: npt.NDArray[np.float64]

    @classmethod
    def sample(cls, rng: np.random.Generator, size_mm: float) -> Deformation:
        """Random modes whose summed amplitude is at most about ``size_mm`` per axis."""
        amplitude = rng.normal(size=(MODES, 3))
        amplitude *= size_mm / np.abs(amplitude).sum(axis=0, keepdims=True)
        wavelength = rng.uniform(MIN_WAVELENGTH_MM, MAX_WAVELENGTH_MM, size=(MODES, 3))
        return cls(amplitude, 2 * np.pi / wavelength, rng.uniform(0, 2 * np.pi, size=(MODES, 3)))

    @property
    def reach(self) -> float:
        """Largest possible displacement along any axis in mm."""
        return float(np.abs(self.amplitude).sum(axis=0).max())

    def displacement(self, points: Points) -> Points:
        """U at patient points ``(n, 3)``."""
        modes = np.cos(points[:, None, :] * self.wave + self.phase).prod(axis=2)
        return np.asarray(modes @ self.amplitude)

    def to_patient(self, points: npt.ArrayLike) -> Points:
        """Patient positions of template ``points`` ``(n, 3)`` (fixed-point inverse)."""
        template = np.asarray(points, dtype=np.float64)
        patient = template.copy()
        for _ in range(INVERSE_ITERATIONS):
            patient = template - self.displacement(patient)
        return patient

    def template_coordinates(self, x: Array, y: Array, z: Array) -> Coordinates:
        """Template x, y, z, each ``(nz, ny, nx)`` float32, at every node of the axes (mm)."""
        cx, cy, cz = (
            np.cos(axis[:, None].astype(np.float64) * self.wave[:, k] + self.phase[:, k]).astype(np.float32)
            for k, axis in enumerate((x, y, z))
        )
        plane = (cy.T[:, :, None] * cx.T[:, None, :]).reshape(MODES, -1)
        shape = (len(z), len(y), len(x))
        a = self.amplitude.astype(np.float32)
        u = [((cz * a[:, k]) @ plane).reshape(shape) for k in range(3)]
        return u[0] + x, u[1] + y[:, None], u[2] + z[:, None, None]

"""Grid (shape + affine) and Volume (grid + voxels + units): the one geometry convention of Popscan.

Voxels are indexed ``(z, y, x)`` = ``(k, j, i)``. The affine maps the index ``(k, j, i, 1)`` of a voxel
*centre* to patient **LPS millimetres** ``(x, y, z, 1)``, the DICOM patient coordinate system (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# Direction columns may deviate this much from orthonormal before a grid is not a rigid lattice. Header
# cosines carry about 6 decimals; 1e-4 rad is 0.05 mm over a 500 mm field of view.
ORTHONORMAL_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice of voxel centres in patient space.

    Parameters
    ----------
    shape
        Number of voxels ``(nz, ny, nx)``.
    affine
        4×4, float64, ``(k, j, i, 1)`` → LPS mm. Columns are the steps of k, j, i and the origin.

    Raises
    ------
    ValueError
        Empty shape, affine not 4×4 or not finite, or singular.
    """

    shape: tuple[int, int, int]
    affine: FloatArray

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"grid shape {self.shape} must be three positive sizes (nz, ny, nx)")
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError(f"affine must be a finite 4x4 matrix, got shape {affine.shape}: {affine.tolist()}")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError(f"affine is singular: {affine.tolist()}")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @classmethod
    def from_spacing(
        cls,
        shape: tuple[int, int, int],
        spacing: tuple[float, float, float],
        origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Grid:
        """Build an axis-aligned grid; ``spacing`` (dz, dy, dx) mm along +S, +P, +L, ``origin`` (x, y, z) LPS mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.array([[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]])
        affine[:3, 3] = origin
        return cls(shape, affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres ``(dz, dy, dx)`` in mm."""
        dz, dy, dx = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(dz), float(dy), float(dx)

    @property
    def directions(self) -> FloatArray:
        """3×3 unit columns: the patient directions of increasing k, j, i."""
        steps = self.affine[:3, :3]
        return np.asarray(steps / np.linalg.norm(steps, axis=0))

    @property
    def origin(self) -> FloatArray:
        """Patient position ``(x, y, z)`` mm of voxel ``(0, 0, 0)``."""
        return np.asarray(self.affine[:3, 3])

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def is_orthogonal(self) -> bool:
        """True when the three axes are mutually perpendicular (False for a sheared, tilted stack)."""
        d = self.directions
        return bool(np.abs(d.T @ d - np.eye(3)).max() < ORTHONORMAL_TOLERANCE)

    def index_to_patient(self, index: npt.ArrayLike) -> FloatArray:
        """Map indices ``(..., 3)`` ``(k, j, i)`` to LPS mm ``(..., 3)``."""
        points = np.asarray(index, dtype=np.float64)
        return np.asarray(points @ self.affine[:3, :3].T + self.affine[:3, 3])

    def patient_to_index(self, points: npt.ArrayLike) -> FloatArray:
        """Map LPS mm ``(..., 3)`` to fractional indices ``(..., 3)`` ``(k, j, i)``."""
        offsets = np.asarray(points, dtype=np.float64) - self.affine[:3, 3]
        return np.asarray(offsets @ np.linalg.inv(self.affine[:3, :3]).T)

    def crop(self, start: tuple[int, int, int], stop: tuple[int, int, int]) -> Grid:
        """Grid of the half-open index box ``[start, stop)``."""
        shape = tuple(b - a for a, b in zip(start, stop, strict=True))
        if min(start) < 0 or any(b > n for b, n in zip(stop, self.shape, strict=True)) or min(shape) < 1:
            raise ValueError(f"box {start}..{stop} does not lie inside a grid of shape {self.shape}")
        affine = self.affine.copy()
        affine[:3, 3] = self.index_to_patient(start)
        return Grid((shape[0], shape[1], shape[2]), affine)

    def matches(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Tell whether both grids have the same shape and every corner agrees within ``tolerance_mm``."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T
        return bool(np.abs(self.index_to_patient(corners) - other.index_to_patient(corners)).max() <= tolerance_mm)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels on a grid, with units. Stored integers stay integers: physical = slope · voxels + intercept.

    Parameters
    ----------
    voxels
        Array ``(z, y, x)``, any real dtype, same shape as ``grid``.
    grid
        Where the voxels lie in patient space.
    units
        Unit of the physical value: ``HU``, ``1e-6 mm2/s``, ``a.u.`` …
    slope, intercept
        Linear rescale from stored value to ``units`` (one pair for the whole volume).
    """

    voxels: npt.NDArray[np.generic]
    grid: Grid
    units: str = "HU"
    slope: float = field(default=1.0)
    intercept: float = field(default=0.0)

    def __post_init__(self) -> None:
        if self.voxels.shape != self.grid.shape:
            raise ValueError(f"voxels of shape {self.voxels.shape} do not fit a grid of shape {self.grid.shape}")
        if self.slope == 0 or not np.isfinite([self.slope, self.intercept]).all():
            raise ValueError(f"rescale slope {self.slope} and intercept {self.intercept} must be finite, slope not 0")

    def physical(self, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[np.floating]:
        """Voxels in ``units`` as a new floating array ``(z, y, x)``."""
        out = self.voxels.astype(dtype)
        if self.slope != 1.0:
            out *= self.slope
        if self.intercept != 0.0:
            out += self.intercept
        return out

    def crop(self, start: tuple[int, int, int], stop: tuple[int, int, int]) -> Volume:
        """Cut the half-open index box ``[start, stop)``, as a view of the same voxels."""
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        return replace(self, voxels=self.voxels[box], grid=self.grid.crop(start, stop))

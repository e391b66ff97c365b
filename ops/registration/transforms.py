"""Spatial transforms between patient spaces: affine, velocity field, displacement field, and chains of them.

Every transform maps points of the **fixed** image to points of the **moving** image, both in patient LPS mm: the
direction in which images are resampled (``out(p) = moving(T(p))``), as in ITK.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ops.measure.errors import NotEvaluableError
from ops.registration.fields import compose, exponentiate, identity, sample, transform_points, units_to_patient
from ops.volume import FloatArray, Grid

Float32Array = npt.NDArray[np.float32]

# A rotation matrix from header cosines or from an optimiser in float64 is orthonormal to this.
RIGID_TOLERANCE = 1e-6
# The inverse of a displacement field is found by fixed-point iteration (Chen 2008, Med Phys 35:81), which converges
# where the field's Lipschitz constant is below 1; the remaining error allowed is a tenth of a small voxel.
INVERSE_ITERATIONS = 40
INVERSE_TOLERANCE_MM = 0.1


class Transform(ABC):
    """A map from the patient space of the fixed image to that of the moving image."""

    @abstractmethod
    def map(self, points: Tensor) -> Tensor:
        """Map ``(n, 3)`` LPS mm on the device and in the floating type of ``points``."""

    @abstractmethod
    def inverse(self) -> Transform:
        """Return the map from the moving image's space to the fixed image's."""

    def apply(self, points: npt.ArrayLike) -> FloatArray:
        """Map ``(..., 3)`` LPS mm of the fixed image to LPS mm of the moving image, in float64."""
        array = np.asarray(points, dtype=np.float64)
        mapped = self.map(torch.from_numpy(array.reshape(-1, 3)))
        return np.asarray(mapped.numpy().reshape(array.shape))


@dataclass(frozen=True, eq=False)
class Affine(Transform):
    """A linear map with translation.

    Parameters
    ----------
    matrix
        4×4, LPS mm → LPS mm.

    Raises
    ------
    ValueError
        Not a finite 4×4 matrix with last row 0 0 0 1 and positive determinant (a mirror image is no registration).
    """

    matrix: FloatArray

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.allclose(matrix[3], [0, 0, 0, 1]):
            raise ValueError(f"not a finite 4x4 affine matrix with last row 0 0 0 1: {matrix.tolist()}")
        if np.linalg.det(matrix[:3, :3]) <= 0:
            raise ValueError(f"affine matrix mirrors or is singular: {matrix.tolist()}")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def rigid(
        cls, rotation_deg: npt.ArrayLike, translation_mm: npt.ArrayLike, centre_mm: npt.ArrayLike = (0, 0, 0)
    ) -> Affine:
        """Rotate about ``centre_mm``, then translate.

        Parameters
        ----------
        rotation_deg
            Rotation vector ``(x, y, z)``: its direction is the axis, its length the angle in degrees (right-handed).
        translation_mm, centre_mm
            ``(x, y, z)`` LPS mm.
        """
        vector = np.deg2rad(np.asarray(rotation_deg, dtype=np.float64))
        rotation = torch.matrix_exp(torch.from_numpy(_skew(vector))).numpy()
        return cls.about(rotation, translation_mm, centre_mm)

    @classmethod
    def about(cls, linear: npt.ArrayLike, translation_mm: npt.ArrayLike, centre_mm: npt.ArrayLike) -> Affine:
        """Apply a 3×3 ``linear`` map about ``centre_mm``, then translate: ``L (p − c) + c + t``."""
        matrix = np.eye(4)
        matrix[:3, :3] = linear
        centre = np.asarray(centre_mm, dtype=np.float64)
        matrix[:3, 3] = centre + np.asarray(translation_mm) - matrix[:3, :3] @ centre
        return cls(matrix)

    @property
    def is_rigid(self) -> bool:
        """True for a rotation with translation."""
        linear = self.matrix[:3, :3]
        return bool(np.abs(linear.T @ linear - np.eye(3)).max() < RIGID_TOLERANCE)

    @property
    def rotation_angle_deg(self) -> float:
        """Angle in degrees of the rotation nearest to the linear part (its polar factor)."""
        u, _, vt = np.linalg.svd(self.matrix[:3, :3])
        return float(np.rad2deg(np.arccos(np.clip((np.trace(u @ vt) - 1) / 2, -1, 1))))

    @property
    def stretches(self) -> FloatArray:
        """Singular values of the linear part, largest first: 1 1 1 for a rigid map."""
        return np.asarray(np.linalg.svd(self.matrix[:3, :3], compute_uv=False))

    def map(self, points: Tensor) -> Tensor:
        """Map ``(n, 3)`` LPS mm."""
        return transform_points(torch.tensor(self.matrix[None], device=points.device), points[None])[0]

    def inverse(self) -> Affine:
        """Return the inverse matrix."""
        return Affine(np.asarray(np.linalg.inv(self.matrix), dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Displacement(Transform):
    """``p → p + u(p)`` with u on a lattice, trilinear between voxels; beyond the lattice its border value continues.

    Parameters
    ----------
    grid
        Lattice of the field, in the fixed image's patient space.
    vectors
        ``(3, z, y, x)`` float32, LPS components ``(x, y, z)`` in mm.

    Raises
    ------
    ValueError
        Shapes do not fit, or a vector is not finite.
    """

    grid: Grid
    vectors: Float32Array

    def __post_init__(self) -> None:
        _require_field(self.grid, self.vectors)

    def map(self, points: Tensor) -> Tensor:
        """Map ``(n, 3)`` LPS mm."""
        to_units = torch.from_numpy(np.linalg.inv(units_to_patient(self.grid)))[None].to(points.device)
        field = torch.from_numpy(self.vectors)[None].to(points)
        return points + sample(field, transform_points(to_units, points[None]))[0].T

    def inverse(self) -> Displacement:
        """Return the inverse field on the same lattice.

        Raises
        ------
        NotEvaluableError
            ``not_invertible``: the fixed-point iteration leaves more than ``INVERSE_TOLERANCE_MM``.
        """
        field = field_to_units(self)
        lattice = identity(self.grid.shape, field.device)
        inverse = -field
        for _ in range(INVERSE_ITERATIONS):
            inverse = -sample(field, lattice + inverse.movedim(1, -1))
        residual = field_to_patient(compose(inverse, field, lattice), self.grid)
        worst = float(np.linalg.norm(residual, axis=0).max())
        if not worst <= INVERSE_TOLERANCE_MM:
            detail = f"inverting the field leaves {worst:.2f} mm, at most {INVERSE_TOLERANCE_MM} mm; it may fold"
            raise NotEvaluableError("not_invertible", detail)
        return Displacement(self.grid, field_to_patient(inverse, self.grid))


@dataclass(frozen=True, eq=False)
class Velocity(Transform):
    """The flow of a stationary velocity field after unit time: a diffeomorphism whose inverse is that of −v.

    Parameters
    ----------
    grid
        Lattice of the field, in the fixed image's patient space.
    vectors
        ``(3, z, y, x)`` float32, LPS components ``(x, y, z)`` in mm per unit time.

    Raises
    ------
    ValueError
        Shapes do not fit, or a vector is not finite.
    """

    grid: Grid
    vectors: Float32Array

    def __post_init__(self) -> None:
        _require_field(self.grid, self.vectors)

    @cached_property
    def displacement(self) -> Displacement:
        """The flow as a displacement field on the same lattice."""
        velocity = field_to_units(self)
        flow = exponentiate(velocity, identity(self.grid.shape, velocity.device))
        return Displacement(self.grid, field_to_patient(flow, self.grid))

    def map(self, points: Tensor) -> Tensor:
        """Map ``(n, 3)`` LPS mm."""
        return self.displacement.map(points)

    def inverse(self) -> Velocity:
        """Return the flow of the opposite velocity."""
        return Velocity(self.grid, -self.vectors)


@dataclass(frozen=True, eq=False)
class Chain(Transform):
    """Transforms applied one after the other: ``parts[0]`` first."""

    parts: tuple[Transform, ...]

    def map(self, points: Tensor) -> Tensor:
        """Map ``(n, 3)`` LPS mm."""
        for part in self.parts:
            points = part.map(points)
        return points

    def inverse(self) -> Chain:
        """Return the inverses in the opposite order."""
        return Chain(tuple(part.inverse() for part in reversed(self.parts)))


def chain(*transforms: Transform) -> Transform:
    """Compose transforms, the first applied first; neighbouring affine maps become one, identities none."""
    flat = [part for t in transforms for part in (t.parts if isinstance(t, Chain) else (t,))]
    parts: list[Transform] = []
    for part in flat:
        if parts and isinstance(part, Affine) and isinstance(parts[-1], Affine):
            parts[-1] = Affine(part.matrix @ parts[-1].matrix)
        else:
            parts.append(part)
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def field_to_units(field: Displacement | Velocity) -> Tensor:
    """Vectors of a field as a ``(1, 3, z, y, x)`` tensor in lattice units."""
    linear = np.linalg.inv(units_to_patient(field.grid)[:3, :3]).astype(np.float32)
    return torch.from_numpy(np.tensordot(linear, field.vectors, axes=1))[None]


def field_to_patient(units: Tensor, grid: Grid) -> Float32Array:
    """Vectors ``(3, z, y, x)`` in LPS mm of one field ``(1, 3, z, y, x)`` in lattice units."""
    linear = units_to_patient(grid)[:3, :3].astype(np.float32)
    return np.asarray(np.tensordot(linear, units[0].cpu().numpy(), axes=1), dtype=np.float32)


def _skew(vector: FloatArray) -> FloatArray:
    """3×3 matrix of the cross product with a vector."""
    x, y, z = vector
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def _require_field(grid: Grid, vectors: Float32Array) -> None:
    """Refuse vectors that do not lie on the grid or are not finite."""
    if vectors.shape != (3, *grid.shape):
        raise ValueError(f"vectors of shape {vectors.shape} do not fit a grid of shape {grid.shape}; (3, z, y, x)")
    if vectors.dtype != np.float32 or not np.isfinite(vectors).all():
        raise ValueError(f"vectors must be finite float32, got {vectors.dtype}")

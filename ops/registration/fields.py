"""Images and vector fields on one lattice, as torch tensors: sampling, smoothing, exponential, Jacobian.

Positions on a lattice are given in **lattice units**: ``(x, y, z)`` order, −1 at the first and +1 at the last voxel
centre of each axis (the convention of ``torch.nn.functional.grid_sample`` with ``align_corners=True``). One 4×4 matrix
(:func:`units_to_patient`) takes them to patient LPS mm, so that every linear map is a single matrix product.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ops.volume import FloatArray, Grid

# A Gaussian is cut at this many standard deviations: what is left out weighs 0.3 %.
TRUNCATION = 3.0
# Scaling and squaring starts where no vector is longer than this part of a voxel: Arsigny 2006 (MICCAI, LNCS 4190:924)
# asks for "close enough to zero"; half a voxel is the bound of Vercauteren 2009 (NeuroImage 45:S61).
LARGEST_FIRST_STEP_VOXELS = 0.5


def units_to_patient(grid: Grid) -> FloatArray:
    """4×4 matrix from lattice units ``(x, y, z, 1)`` to patient LPS mm ``(x, y, z, 1)``."""
    half = (np.array(grid.shape) - 1) / 2
    to_index = np.zeros((4, 4))
    to_index[[0, 1, 2], [2, 1, 0]] = half
    to_index[:3, 3] = half
    to_index[3, 3] = 1
    return np.asarray(grid.affine @ to_index)


def stacked_units_to_patient(grids: tuple[Grid, ...], device: torch.device) -> Tensor:
    """:func:`units_to_patient` of each grid, ``(B, 4, 4)`` float64."""
    return torch.from_numpy(np.stack([units_to_patient(grid) for grid in grids])).to(device)


def transform_points(matrices: Tensor, points: Tensor) -> Tensor:
    """Apply ``(B, 4, 4)`` matrices to ``(B, n, 3)`` points, in the type of the points."""
    matrices = matrices.to(points.dtype)
    return torch.baddbmm(matrices[:, None, :3, 3], points, matrices[:, :3, :3].transpose(1, 2))


def identity(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Lattice units of every voxel centre, ``(z, y, x, 3)`` float32."""
    z, y, x = (torch.linspace(-1, 1, n, device=device) for n in shape[-3:])
    return torch.stack(torch.meshgrid(z, y, x, indexing="ij")[::-1], dim=-1)


def sample(images: Tensor, points: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """Interpolate images at points.

    Parameters
    ----------
    images
        ``(B, C, z, y, x)``.
    points
        ``(B, ..., 3)`` in lattice units.
    mode
        ``bilinear`` (trilinear in space) or ``nearest``.
    padding
        ``border``: the nearest voxel's value outside; ``zeros``.

    Returns
    -------
    Tensor
        ``(B, C, ...)``.
    """
    lines = points.reshape(points.shape[0], -1, 3)
    values = _sample_lines(images, lines, mode, padding)
    return values.reshape(*images.shape[:2], *points.shape[1:-1])


def _sample_lines(images: Tensor, lines: Tensor, mode: str, padding: str) -> Tensor:
    """Values ``(B, C, n)`` at ``(B, n, 3)``. PyTorch's CPU kernel has one thread per image: share a single one out."""
    parts = torch.get_num_threads() if images.device.type == "cpu" and images.shape[0] == 1 else 1
    count = lines.shape[1] - lines.shape[1] % parts
    shared = lines[:, :count].reshape(-1, 1, 1, count // parts, 3)
    many = images.expand(parts, -1, -1, -1, -1) if parts > 1 else images
    values = functional.grid_sample(many, shared, mode=mode, padding_mode=padding, align_corners=True)[:, :, 0, 0]
    if parts > 1:
        values = values.transpose(0, 1).reshape(1, images.shape[1], count)
    if count == lines.shape[1]:
        return values
    rest = lines[:, None, None, count:]
    tail = functional.grid_sample(images, rest, mode=mode, padding_mode=padding, align_corners=True)[:, :, 0, 0]
    return torch.cat([values, tail], dim=2)


def smooth(fields: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing ``(B, C, z, y, x)`` by ``sigma`` **voxels**; the nearest value continues beyond the border."""
    if sigma <= 0:
        return fields
    radius = max(1, int(np.ceil(TRUNCATION * sigma)))
    taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    taps /= taps[0] + 2 * taps[1:].sum()
    for axis in (2, 3, 4):
        fields = _convolve(fields, [float(tap) for tap in taps], axis)
    return fields


def box_mean(fields: Tensor, radius: int) -> Tensor:
    """Mean over a cube of ``2 · radius + 1`` voxels; the nearest value continues beyond the border."""
    taps = [1 / (2 * radius + 1)] * (radius + 1)
    for axis in (2, 3, 4):
        fields = _convolve(fields, taps, axis)
    return fields


def _convolve(fields: Tensor, taps: list[float], axis: int) -> Tensor:
    """Symmetric filter along one axis: ``taps[r]`` at distance ``r``. Shifted sums: faster than conv3d on the CPU."""
    radius, size = len(taps) - 1, fields.shape[axis]
    first, last = fields.narrow(axis, 0, 1), fields.narrow(axis, size - 1, 1)
    width = [1] * fields.ndim
    width[axis] = radius
    padded = torch.cat([first.repeat(width), fields, last.repeat(width)], dim=axis)
    out = padded.narrow(axis, radius, size) * taps[0]
    for distance, tap in enumerate(taps[1:], start=1):
        out.add_(padded.narrow(axis, radius - distance, size), alpha=tap)
        out.add_(padded.narrow(axis, radius + distance, size), alpha=tap)
    return out


def halve(fields: Tensor) -> Tensor:
    """Every second voxel of ``(B, C, z, y, x)`` of odd sizes after a 1 2 1 filter: the first and last voxels stay."""
    for axis in (2, 3, 4):
        even, odd = (fields[(slice(None),) * axis + (slice(first, None, 2),)] for first in (0, 1))
        before = torch.cat([even.narrow(axis, 0, 1), odd], dim=axis)
        after = torch.cat([odd, even.narrow(axis, even.shape[axis] - 1, 1)], dim=axis)
        fields = even / 2 + (before + after) / 4
    return fields


def double(fields: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Trilinear values of ``(B, C, z, y, x)`` on a lattice of ``shape`` over the same extent."""
    return functional.interpolate(fields, size=tuple(shape[-3:]), mode="trilinear", align_corners=True)


def half_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Shape of :func:`halve` of a lattice of odd sizes."""
    z, y, x = ((n + 1) // 2 for n in shape[-3:])
    return z, y, x


def half_grid(grid: Grid) -> Grid:
    """Lattice of every second voxel of one of odd sizes."""
    affine = grid.affine.copy()
    affine[:3, :3] *= 2
    return Grid(half_shape(grid.shape), affine)


def gradient(images: Tensor) -> Tensor:
    """Central differences of ``(B, 1, z, y, x)`` per voxel, one-sided at borders: ``(B, 3, z, y, x)``, x y z order."""
    return torch.cat([_difference(images, axis) for axis in (4, 3, 2)], dim=1)


def _difference(images: Tensor, axis: int) -> Tensor:
    """Differentiate per voxel along one axis."""
    size = images.shape[axis]
    inner = (images.narrow(axis, 2, size - 2) - images.narrow(axis, 0, size - 2)) / 2
    first = images.narrow(axis, 1, 1) - images.narrow(axis, 0, 1)
    last = images.narrow(axis, size - 1, 1) - images.narrow(axis, size - 2, 1)
    return torch.cat([first, inner, last], dim=axis)


def voxels_per_unit(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Voxels per lattice unit along x, y, z, shaped ``(1, 3, 1, 1, 1)``."""
    return torch.tensor([(n - 1) / 2 for n in shape[-3:]][::-1], dtype=like.dtype, device=like.device).view(
        1, 3, 1, 1, 1
    )


def compose(first: Tensor, second: Tensor, lattice: Tensor) -> Tensor:
    """Displacement of "``first``, then ``second``": ``first(p) + second(p + first(p))``.

    Both ``(B, 3, z, y, x)`` in lattice units; ``lattice`` is :func:`identity` of their shape.
    """
    return first + sample(second, lattice + first.movedim(1, -1))


def exponentiate(velocity: Tensor, lattice: Tensor) -> Tensor:
    """Displacement of the flow of a stationary velocity field after unit time, by scaling and squaring.

    exp(v) = exp(v / 2ⁿ) composed with itself n times (Arsigny 2006, MICCAI, LNCS 4190:924); the first, small one by
    the midpoint rule, so that v and −v cancel to second order.

    Parameters
    ----------
    velocity
        ``(B, 3, z, y, x)`` in lattice units.
    lattice
        :func:`identity` of its shape.
    """
    longest = float((velocity * voxels_per_unit(velocity.shape, velocity)).abs().max())
    squarings = max(0, int(np.ceil(np.log2(max(longest, 1e-12) / LARGEST_FIRST_STEP_VOXELS))))
    small = velocity / 2**squarings
    field = sample(small, lattice + small.movedim(1, -1) / 2)
    for _ in range(squarings):
        field = compose(field, field, lattice)
    return field


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Jacobian determinant of ``p → p + u(p)`` at every voxel, ``(B, z, y, x)``.

    ``displacement`` is ``(B, 3, z, y, x)`` in lattice units. The determinant is the same as in mm: the two Jacobians
    are similar matrices.
    """
    scale = voxels_per_unit(displacement.shape, displacement)
    rows = [(gradient(displacement[:, c : c + 1]) * scale).unbind(dim=1) for c in range(3)]
    (a, b, c), (d, e, f), (g, h, i) = rows
    a, e, i = a + 1, e + 1, i + 1
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)

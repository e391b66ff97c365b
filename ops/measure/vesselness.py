"""How much a place looks like a bright tube: Frangi's vesselness, in millimetres on any orthogonal grid.

scikit-image's ``frangi`` takes its scales in voxels, so that it needs an isotropic volume; it does not multiply the
Hessian by σ², so that a fixed c means something else at every scale; it holds all derivatives of the whole volume at
once and calls LAPACK for every voxel. Here the derivatives are taken in mm on the grid as it is, slab by slab, and the
eigenvalues of the voxels that can be tubes at all come from the closed form for symmetric 3×3 matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.measure.checks import require_finite, require_orthogonal
from ops.measure.errors import NotEvaluableError
from ops.volume import Volume

Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]

# Frangi 1998, MICCAI LNCS 1496:130 [R]: weight of plate-likeness (ALPHA) and of blob-likeness (BETA).
ALPHA = BETA = 0.5
TRUNCATE = 4.0  # half width of the derivative kernels in standard deviations
SLAB_PLANES = 32  # planes whose six derivatives are held at a time
CHUNK_VOXELS = 1 << 18  # eigenvalues at a time: the temporary arrays stay in the cache
# Derivatives by (z, y, x): the six different elements of the Hessian.
_ZZ, _ZY, _ZX, _YY, _YX, _XX = (2, 0, 0), (1, 1, 0), (1, 0, 1), (0, 2, 0), (0, 1, 1), (0, 0, 2)


def frangi_vesselness(
    volume: Volume,
    scales_mm: Sequence[float],
    c: float | None = None,
    where: npt.NDArray[np.bool_] | None = None,
) -> Array:
    """Vesselness 0–1 of bright tubes, the largest over the scales (Frangi 1998 [R], SPEC §9).

    With the eigenvalues |λ1| ≤ |λ2| ≤ |λ3| of the Hessian at scale σ times σ², R_A = |λ2|/|λ3|,
    R_B = |λ1|/√|λ2 λ3| and S = √(λ1² + λ2² + λ3²): V = 0 where λ2 or λ3 > 0, else
    (1 − exp(−R_A²/2α²)) · exp(−R_B²/2β²) · (1 − exp(−S²/2c²)) with α = β = 0.5. Bifurcations score low.

    Parameters
    ----------
    volume
        Bright vessels; any spacing, orthogonal axes in any direction.
    scales_mm
        Standard deviations σ in mm; a Gaussian tube of width s answers most at σ = s (COR-02).
    c
        Contrast S, in the volume's units, that counts as structure. None takes half of the largest S of each scale,
        which depends on the volume: give a fixed value to compare volumes of a batch.
    where
        ``(z, y, x)``, voxels to be computed; the others are 0. None = all. Does not change ``c``.

    Returns
    -------
    float32 array ``(z, y, x)``

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``gantry_tilt``, or ``invalid_scale`` for a scale or c that is not a positive number.
    """
    for value in (*scales_mm, *([] if c is None else [c])):
        if not (math.isfinite(value) and value > 0):
            raise NotEvaluableError("invalid_scale", f"scales and c must be finite and positive, got {value}")
    require_orthogonal(volume.grid)
    require_finite(volume)
    image = volume.physical()
    best = np.zeros(image.shape, dtype=np.float32)
    for sigma in scales_mm:
        shape, contrast2, largest = _tube_shape(image, volume.grid.spacing, sigma, where)
        c2 = largest / 4 if c is None else c * c
        if c2 > 0:
            # Steps in place, as each array is as large as the volume.
            contrast2 *= np.float32(-0.5 / c2)
            shape *= -np.expm1(contrast2, out=contrast2)
            np.maximum(best, shape, out=best)
    return best


def hessian(volume: Volume, sigma_mm: float) -> Array:
    """Scale-normalised second derivatives ``(6, z, y, x)``: zz, zy, zx, yy, yx, xx times σ², in the volume's units.

    Derivatives of the volume convolved with a Gaussian of ``sigma_mm``, along the grid's own axes.
    """
    out = np.empty((6, *volume.grid.shape), dtype=np.float32)
    for planes, elements in _hessian_slabs(volume.physical(), volume.grid.spacing, sigma_mm):
        out[:, planes] = elements
    return out


def symmetric_eigenvalues(elements: npt.ArrayLike) -> FloatArray:
    """Eigenvalues ``(3, n)``, rising, of symmetric matrices given as ``(6, n)``: aa, ab, ac, bb, bc, cc.

    Trigonometric solution of the cubic (Smith 1961, Commun ACM 4:168 [R]).
    """
    aa, ab, ac, bb, bc, cc = np.asarray(elements, dtype=np.float64)
    mean = (aa + bb + cc) / 3
    a, b, d = aa - mean, bb - mean, cc - mean
    off = ab * ab + ac * ac + bc * bc
    p = np.sqrt((a * a + b * b + d * d + 2 * off) / 6)
    half_determinant = (a * (b * d - bc * bc) - ab * (ab * d - bc * ac) + ac * (ab * bc - b * ac)) / 2
    cube = p * p * p
    ratio = np.divide(half_determinant, cube, out=np.zeros_like(cube), where=cube > 0)
    angle = np.arccos(np.clip(ratio, -1, 1)) / 3
    high = mean + 2 * p * np.cos(angle)
    low = mean + 2 * p * np.cos(angle + 2 * np.pi / 3)
    return np.stack([low, 3 * mean - low - high, high])


def _tube_shape(
    image: Array, spacing: tuple[float, float, float], sigma: float, where: npt.NDArray[np.bool_] | None
) -> tuple[Array, Array, float]:
    """First two factors of V, S², both ``(z, y, x)`` and 0 where V is, and the largest S² of the whole volume."""
    shape, contrast2 = np.zeros_like(image), np.zeros_like(image)
    largest = 0.0
    for planes, (zz, zy, zx, yy, yx, xx) in _hessian_slabs(image, spacing, sigma):
        square = zy * zy
        square += zx * zx
        square += yx * yx
        square *= 2
        for element in (zz, yy, xx):
            square += element * element
        largest = max(largest, float(square.max()))
        # λ2 and λ3 negative and |λ1| no larger: the trace is negative.
        candidate = zz + yy + xx < 0
        if where is not None:
            candidate &= where[planes]
        at = np.flatnonzero(candidate)
        for start in range(0, len(at), CHUNK_VOXELS):
            chunk = at[start : start + CHUNK_VOXELS]
            elements = [element.reshape(-1)[chunk] for element in (zz, zy, zx, yy, yx, xx)]
            shape[planes].reshape(-1)[chunk] = _likeness(symmetric_eigenvalues(elements))
        contrast2[planes] = square
    contrast2[shape == 0] = 0
    return shape, contrast2, largest


def _likeness(rising: FloatArray) -> Array:
    """(1 − exp(−R_A²/2α²)) · exp(−R_B²/2β²) of eigenvalues ``(3, n)``; 0 unless both large ones are negative."""
    # The trace is negative, so that the lowest eigenvalue is the largest in size or, with a positive one, not a tube.
    low, middle, high = rising
    tube = (middle < 0) & (np.abs(high) <= -low)
    largest = np.where(tube, -low, 1)
    # Of the other two the larger in size must be negative as well.
    second = np.maximum(-middle, np.abs(high))
    smallest = np.minimum(-middle, np.abs(high))
    tube &= (second > 0) & ((high < 0) | (-middle >= high))
    second = np.where(tube, second, 1)
    plate = -np.expm1(-((second / largest) ** 2) / (2 * ALPHA**2))
    blob = np.exp(-(smallest**2) / (second * largest) / (2 * BETA**2))
    return np.where(tube, plate * blob, 0).astype(np.float32)


def _hessian_slabs(
    image: Array, spacing: tuple[float, float, float], sigma: float
) -> Iterator[tuple[slice, list[Array]]]:
    """Index range along z and the six elements of σ²·H there, slab by slab."""
    kernels = [[_gaussian_derivative(sigma / step, order, sigma) for order in range(3)] for step in spacing]
    halo = len(kernels[0][0]) // 2
    n = len(image)
    for start in range(0, n, SLAB_PLANES):
        stop = min(start + SLAB_PLANES, n)
        low, high = max(start - halo, 0), min(stop + halo, n)
        block = image[low:high]
        along_z = [_filter(block, kernel, 0)[start - low : stop - low] for kernel in kernels[0]]
        along_y: dict[tuple[int, int], Array] = {}
        elements = []
        for z, y, x in (_ZZ, _ZY, _ZX, _YY, _YX, _XX):
            if (z, y) not in along_y:
                along_y[z, y] = _filter(along_z[z], kernels[1][y], 1)
            elements.append(_filter(along_y[z, y], kernels[2][x], 2))
        yield slice(start, stop), elements


def _filter(array: Array, kernel: FloatArray, axis: int) -> Array:
    return np.asarray(ndimage.correlate1d(array, kernel, axis=axis, mode="nearest"), dtype=np.float32)


def _gaussian_derivative(width: float, order: int, sigma: float) -> FloatArray:
    """Correlation kernel of a Gaussian derivative times σ^order, ``width`` = σ in voxels.

    Its moments are set to those of the derivative, so that constants, slopes and parabolas come out exactly even where
    σ is about a voxel; a sampled second derivative does not sum to zero there and answers to uniform tissue.
    """
    radius = max(1, math.ceil(TRUNCATE * width))
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    gaussian = np.exp(-0.5 * (x / width) ** 2)
    gaussian /= gaussian.sum()
    if order == 0:
        return gaussian
    if order == 1:
        slope = x * gaussian
        return np.asarray(slope * width / (slope @ x))
    variance = gaussian @ x**2
    curvature = (x * x - variance) * gaussian
    return np.asarray(curvature * 2 * width**2 / (curvature @ x**2))

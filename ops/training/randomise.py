"""Turn labelled anatomy into endlessly different CT-like patches (domain randomisation; Billot 2023, SynthSeg [R]).

Nothing here imitates one scanner: intensities, blur, noise, field of view, pose and disease are drawn far wider than
they occur, so that real scans fall inside what the network has seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import conv3d, grid_sample, interpolate

from ops.inference.sliding_window import Shape
from ops.phantoms.labels import TERRITORY_LABELS
from ops.training.anatomy import Anatomy, random_hounsfield

Vector = npt.NDArray[np.float64]

# HU outside the reconstructed field of view after the clip that real scans get before resampling.
PADDING_HU = -1024.0
GATED_SHARE = 0.6  # of patches that imitate a cardiac acquisition (small field, carina to apex)
MAX_ROTATION = np.radians(14.0)
SCALE_SPREAD = 0.10  # log-normal σ of the size, and half of it per axis
ELASTIC_MM = 5.0
ELASTIC_KNOTS = (4, 5, 5)


@dataclass(frozen=True)
class PatchGeometry:
    """Where a patch lies in its anatomy: ``anatomy_mm = matrix @ patch_mm + centre``, both from their centres.

    Attributes
    ----------
    matrix
        3×3, order ``(z, y, x)``: rotation and scale.
    centre
        mm from index 0 of the anatomy.
    field
        Half sizes in mm of the reconstructed box around ``field_centre`` (patch mm); outside lies padding.
    field_centre
        Patch mm.
    circular
        The in-plane field is a circle of radius ``field[1]``.
    """

    matrix: Vector
    centre: Vector
    field: Vector
    field_centre: Vector
    circular: bool


def rotation_zyx(angles: Vector) -> Vector:
    """Rotation matrix about the z, y and x axes in turn, for vectors ``(z, y, x)``."""
    out = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        step = np.eye(3)
        step[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        out = step @ out
    return out


def random_geometry(anatomy: Anatomy, patch_mm: Vector, rng: np.random.Generator) -> PatchGeometry:
    """Draw pose, size and field of view: a gated cardiac scan, or anywhere in a larger one."""
    rotation = rotation_zyx(rng.uniform(-MAX_ROTATION, MAX_ROTATION, 3) * (1.0, 1.0, 0.7))
    scale = np.exp(rng.normal(0, SCALE_SPREAD) + rng.normal(0, SCALE_SPREAD / 2, 3))
    matrix = rotation @ np.diag(1 / scale)
    size_mm = np.array(anatomy.labels.shape) * anatomy.spacing_mm
    box = anatomy.heart_box
    if box is None or rng.uniform() > GATED_SHARE:
        centre = rng.uniform(0.2, 0.8, 3) * size_mm
        if box is not None and rng.uniform() < 0.6:
            centre = (box[0] + box[1]) / 2 * anatomy.spacing_mm + rng.normal(0, 45, 3)
        cut = rng.uniform() < 0.4
        field = np.where(cut, rng.uniform(0.5, 1.4, 3), 2.0) * patch_mm / 2
        return PatchGeometry(matrix, centre, field, rng.normal(0, 0.1, 3) * patch_mm, False)
    low, high = (edge * anatomy.spacing_mm for edge in box)
    heart_half = (high - low)[0] / 2 * scale[0]
    above, below = rng.uniform(-12, 40), rng.uniform(-15, 35)
    if rng.uniform() < 0.15:  # a scan that misses part of the heart
        above, below = (above - rng.uniform(0, 60), below) if rng.uniform() < 0.5 else (above, below - 60)
    half = rng.uniform(80, 130)
    field = np.array([max(20.0, heart_half + (above + below) / 2), half, half * rng.uniform(0.9, 1.1)])
    field_offset = np.array([(above - below) / 2, *rng.normal(0, 14, 2)])
    spare = np.maximum(0, field - patch_mm / 2)  # a field larger than the window is seen in several windows
    shift = rng.uniform(-1, 1, 3) * spare + rng.normal(0, 3, 3)
    centre = (low + high) / 2 + matrix @ (field_offset + shift)
    return PatchGeometry(matrix, centre, field, -shift, bool(rng.uniform() < 0.5))


def random_patch(anatomy: Anatomy, shape: Shape, spacing_mm: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Simulate one training patch.

    Parameters
    ----------
    anatomy
        Where tissues and labels come from.
    shape, spacing_mm
        Patch size ``(z, y, x)`` and isotropic voxel spacing.
    rng
        All randomness.

    Returns
    -------
    image, labels
        HU float32 ``(z, y, x)`` (not yet windowed), and int64 ``TERRITORY_LABELS`` values; background outside the
        field of view.
    """
    patch_mm = np.array(shape) * spacing_mm
    geometry = random_geometry(anatomy, patch_mm, rng)
    axes = [(torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * spacing_mm for n in shape]
    image, labels = _sample(anatomy, geometry, axes, rng)
    image = _add_calcifications(image, labels, rng)
    image = _degrade(image, rng)
    outside = _outside_field(geometry, axes)
    image[outside] = PADDING_HU
    labels[outside] = 0
    return image, labels


def _sample(
    anatomy: Anatomy, geometry: PatchGeometry, axes: list[Tensor], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """HU (trilinear) and labels (nearest) of a deformed patch."""
    points = _anatomy_index(anatomy, geometry, axes, rng)
    limits = torch.tensor(anatomy.labels.shape, dtype=torch.float32) - 1
    first = torch.minimum(points.amin(dim=(0, 1, 2)).floor().clamp(min=0), limits - 1).int().tolist()
    last = torch.maximum(points.amax(dim=(0, 1, 2)).ceil(), torch.tensor(first) + 1.0).minimum(limits).int().tolist()
    box = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
    hu = torch.from_numpy(random_hounsfield(rng)[anatomy.tissues[box]])
    labels = torch.from_numpy(anatomy.labels[box].astype(np.float32))
    size = torch.tensor(hu.shape, dtype=torch.float32)
    normalised = (points - torch.tensor(first)) / (size - 1) * 2 - 1
    grid = normalised.flip(-1)[None]  # grid_sample wants (x, y, z)
    air = -1000.0  # zero padding of grid_sample becomes air
    image = grid_sample((hu - air)[None, None], grid, mode="bilinear", align_corners=True)[0, 0] + air
    nearest = grid_sample(labels[None, None], grid, mode="nearest", align_corners=True)[0, 0]
    return image, nearest.round().long()


def _anatomy_index(anatomy: Anatomy, geometry: PatchGeometry, axes: list[Tensor], rng: np.random.Generator) -> Tensor:
    """Anatomy indices ``(z, y, x, 3)`` of the patch's voxels, smoothly displaced."""
    mesh = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    points = mesh @ torch.from_numpy(geometry.matrix.T.astype(np.float32)) + torch.from_numpy(
        geometry.centre.astype(np.float32)
    )
    knots = rng.normal(0, rng.uniform(0, ELASTIC_MM), (1, 3, *ELASTIC_KNOTS)).astype(np.float32)
    shape = tuple(len(axis) for axis in axes)
    displacement = interpolate(torch.from_numpy(knots), size=shape, mode="trilinear", align_corners=True)[0]
    index: Tensor = (points + displacement.permute(1, 2, 3, 0)) / anatomy.spacing_mm
    return index


def _outside_field(geometry: PatchGeometry, axes: list[Tensor]) -> Tensor:
    """Mark voxels outside the reconstructed field of view."""
    z, y, x = (
        (axis - centre) / half for axis, centre, half in zip(axes, geometry.field_centre, geometry.field, strict=True)
    )
    in_plane = (y * y)[:, None] + x * x if geometry.circular else torch.maximum(y.abs()[:, None], x.abs())
    return torch.logical_or((z.abs() > 1)[:, None, None], (in_plane > 1)[None])


def gaussian_blur(image: Tensor, sigmas: tuple[float, float, float]) -> Tensor:
    """Separable Gaussian blur of ``(z, y, x)``, σ per axis in voxels, edges replicated."""
    out = image[None, None]
    for axis, sigma in enumerate(sigmas):
        if sigma < 0.15:  # below this the kernel is a single voxel to three decimals
            continue
        radius = max(1, int(np.ceil(2.5 * sigma)))
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel = (kernel / kernel.sum()).reshape([-1 if a == axis else 1 for a in range(3)])
        padding = [0] * 6
        padding[4 - 2 * axis] = padding[5 - 2 * axis] = radius
        out = conv3d(torch.nn.functional.pad(out, padding, mode="replicate"), kernel[None, None])
    return out[0, 0]


# Class → largest number of extra calcifications per patch. Any class may carry some, so that place, not brightness,
# decides what a bright spot belongs to.
_CALCIUM_COUNTS = {"heart": 2, "LM": 3, "LAD": 6, "LCX": 5, "RCA": 6, "aorta": 10, "valve": 8, "background": 6}


def _add_calcifications(image: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
    """Add bright spots: calcium in arteries, valves, aorta and elsewhere, now and then metal."""
    if rng.uniform() < 0.25:
        return image
    spots = torch.zeros_like(image)
    flat_labels, flat_spots = labels.ravel().numpy(), spots.view(-1)
    for name, most in _CALCIUM_COUNTS.items():
        candidates = np.flatnonzero(flat_labels == TERRITORY_LABELS[name])
        if len(candidates) == 0 or rng.uniform() < 0.4:
            continue
        for seed in rng.choice(candidates, rng.integers(1, most + 1)):
            flat_spots[int(seed)] += float(rng.uniform(2500, 4000) if rng.uniform() < 0.02 else rng.gamma(1.5, 250))
    sigmas = rng.uniform(0.3, 0.9, 3)
    spread = gaussian_blur(spots, (float(sigmas[0]), float(sigmas[1]), float(sigmas[2])))
    # Blurring divides a spot's height by about this; restore most of it, so that small and large ones stay visible.
    return image + spread * float(np.prod(np.maximum(1.0, sigmas * np.sqrt(2 * np.pi)) ** 0.8))


def _degrade(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Apply what scanner and patient do to an image: blur or edge enhancement, motion, shading, noise, streaks."""
    across, along = rng.uniform(0, 0.6), rng.uniform(0, 0.8)
    if rng.uniform() < 0.15:  # sharp kernel
        smooth = gaussian_blur(image, (0.0, 0.8, 0.8))
        image = image + (image - smooth) * float(rng.uniform(0.2, 0.8))
    else:
        image = gaussian_blur(image, (along, across, across))
    if rng.uniform() < 0.15:  # motion: a ghost one or two voxels away
        shift = tuple(int(s) for s in rng.integers(-2, 3, 3))
        image = image + float(rng.uniform(0.2, 0.5)) * (torch.roll(image, shift, (0, 1, 2)) - image)
    shading = torch.from_numpy(rng.normal(0, rng.uniform(0, 12), (1, 1, 3, 4, 4)).astype(np.float32))
    image = image + interpolate(shading, size=tuple(image.shape), mode="trilinear", align_corners=True)[0, 0]
    sigma = float(np.exp(rng.uniform(np.log(2), np.log(50))))
    image = image + _noise(image.shape, sigma, tuple(rng.uniform(0, 1.0, 3)), rng)
    if rng.uniform() < 0.1:  # streaks along the shoulders
        image = image + _noise(image.shape, float(rng.uniform(5, 40)), (0.2, 0.4, 6.0), rng)
    return image * float(rng.uniform(0.97, 1.03)) + float(rng.normal(0, 5))


def _noise(shape: torch.Size, sigma: float, correlation: tuple[float, ...], rng: np.random.Generator) -> Tensor:
    """Gaussian noise of standard deviation ``sigma`` HU, correlated over ``correlation`` voxels per axis."""
    white = torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))
    field = gaussian_blur(white, (correlation[0], correlation[1], correlation[2]))
    return field * (sigma / float(field.std()))

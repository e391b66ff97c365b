"""Sections across a tube as radii in all directions from its centreline: areas and diameters finer than a voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.measure.centreline import rotation_minimising_frames, sample
from ops.volume import Volume

FloatArray = npt.NDArray[np.float64]

N_DIRECTIONS = 48
ANGLES = 2 * np.pi * np.arange(N_DIRECTIONS) / N_DIRECTIONS
RADIAL_STEP_MM = 0.1
RECENTRINGS = 2
# Towards a side branch a ray runs on; no radius of an oval half as long again as wide exceeds the median by so much.
BRANCH_RATIO = 1.25


@dataclass(frozen=True, eq=False)
class Sections:
    """Outline of a tube around ``n`` points of its centreline.

    Attributes
    ----------
    radii
        ``(n, N_DIRECTIONS)`` mm from the centreline to the outline, at equal angles.
    """

    radii: FloatArray

    @property
    def area(self) -> FloatArray:
        """Area ``(n,)`` mm² of the sectors."""
        return np.asarray(np.pi / N_DIRECTIONS * (self.radii**2).sum(axis=1))

    @property
    def diameter(self) -> FloatArray:
        """Diameter ``(n,)`` mm of the circle of the same area."""
        return np.asarray(2 * np.sqrt(self.area / np.pi))

    @property
    def smallest_diameter(self) -> FloatArray:
        """Shortest chord ``(n,)`` mm through the centreline."""
        half = N_DIRECTIONS // 2
        return np.asarray((self.radii[:, :half] + self.radii[:, half:]).min(axis=1))


def sections(mask: Volume, points: FloatArray, reach_mm: float) -> Sections:
    """Outline of a mask across the centreline ``points`` ``(n, 3)`` LPS mm.

    The mask is interpolated linearly and integrated on rays from the centreline until they leave it; a radius is that
    of the sector with the same content. This keeps the area of a lumen that is not much wider than a voxel, or that the
    centreline does not hit in the middle, where an outline at the level of one half would lose it. A radius of more
    than `BRANCH_RATIO` times the section's median is cut to that: it runs into a side branch.

    Parameters
    ----------
    mask
        1 inside, 0 outside.
    points
        LPS mm, the whole of a smooth curve.
    reach_mm
        Longest radius looked for.
    """
    frames = rotation_minimising_frames(points)
    direction = np.cos(ANGLES)[:, None] * frames.first[:, None] + np.sin(ANGLES)[:, None] * frames.second[:, None]
    distance = np.arange(RADIAL_STEP_MM / 2, reach_mm, RADIAL_STEP_MM)
    rays = points[:, None, None] + distance[:, None] * direction[:, :, None]
    share = np.nan_to_num(sample(mask, rays))
    left = share <= 0
    # Beyond the dip behind the wall begins another branch of the vessel.
    step = np.arange(len(distance))
    was_inside = step > _first(share >= 0.5)[..., None]
    left[..., 1:] |= was_inside[..., 1:] & (share[..., 1:] < 0.5) & (np.diff(share, axis=2) > 0)
    share[step >= _first(left)[..., None]] = 0
    radius = np.sqrt(2 * RADIAL_STEP_MM * (share * distance).sum(axis=2))
    return Sections(np.minimum(radius, BRANCH_RATIO * np.median(radius, axis=1, keepdims=True)))


def _first(where: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Index of the first true value along the last axis; its length where there is none."""
    return np.asarray(np.where(where.any(axis=-1), where.argmax(axis=-1), where.shape[-1]))


def centred_sections(mask: Volume, points: FloatArray, reach_mm: float) -> Sections:
    """Sections like `sections`, from the middle of each outline and averaged along the curve over about a voxel.

    ``points`` are equally spaced. Sections nearer to each other than a voxel differ by how the voxels happen to lie,
    and the smallest of several such is too small; the average (Gaussian, standard deviation of the longest voxel edge)
    takes that out.
    """
    for _ in range(RECENTRINGS):
        outline = sections(mask, points, reach_mm)
        frames = rotation_minimising_frames(points)
        # Centre of gravity of a sector: two thirds of its radius from the tip, weighted by its area.
        weight = 2 / 3 * outline.radii**3 / np.maximum((outline.radii**2).sum(axis=1, keepdims=True), 1e-12)
        shift = weight @ np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
        points = points + shift[:, :1] * frames.first + shift[:, 1:] * frames.second
    step = float(np.linalg.norm(np.diff(points, axis=0), axis=1).mean())
    square = sections(mask, points, reach_mm).radii ** 2
    return Sections(np.sqrt(ndimage.gaussian_filter1d(square, max(mask.grid.spacing) / step, axis=0, mode="nearest")))

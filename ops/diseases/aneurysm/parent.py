"""Diameters of the vessels that leave the neck of an aneurysm, from a vessel mask (Dhar 2008 [R], SPEC §3.1 SR).

A mask does not tell which way the blood flows, so every vessel that leaves the neck is measured: both sides of a
side-wall aneurysm's vessel, all vessels of a bifurcation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.graph import MCP_Geometric

from ops.measure.components import BoolArray, IntArray, VoxelList, label_in_space
from ops.measure.errors import NotEvaluableError
from ops.volume import Grid, Volume

FloatArray = npt.NDArray[np.float64]

# How far from the neck the second diameter of a vessel is taken, in diameters (Dhar 2008 [R]).
UPSTREAM_DIAMETERS = 1.5
# Radius in calibres of the ball around the neck where vessels begin: it holds the vessel below the neck, and two
# branches that leave a bifurcation at 40° are apart.
BALL_DIAMETERS = 1.5
# Half distance of the two points that give the direction of a vessel at its section, in diameters.
TANGENT_DIAMETERS = 0.5
# Weight of a voxel in a section falls off along the vessel as a Gaussian of this many of the longest voxel edges, wide
# enough that the sum over the lattice equals the integral to a few parts in a thousand.
SECTION_SIGMA_VOXELS = 0.75

# No artery of the circle of Willis has its axis deeper below its wall.
_DEEPEST_MM = 6.0

_NEIGHBOURS_26 = ndimage.generate_binary_structure(3, 3)


def branch_diameters(
    labels: Volume, vessel_label: int, neck_centroid: FloatArray, neck_diameter: float
) -> list[tuple[float, float]]:
    """Diameters ``(next to the neck, 1.5 diameters further)`` in mm of each vessel that leaves a neck.

    A diameter is that of the circle of the section's area. A vessel begins where it leaves a ball around the neck that
    holds the neck and the whole vessel below it. Branches that end before the second section do not count.

    Parameters
    ----------
    labels, vessel_label
        Label map, and the value of the vessel without the sac.
    neck_centroid, neck_diameter
        LPS mm, mm.

    Raises
    ------
    NotEvaluableError
        ``no_parent_vessel`` when no branch is long enough.
    """
    near = _crop_around(labels, vessel_label, neck_centroid, neck_diameter / 2 + _DEEPEST_MM)
    calibre = _calibre(near, neck_centroid, neck_diameter)
    edge = max(labels.grid.spacing)
    radius = max(neck_diameter / 2, BALL_DIAMETERS * calibre) + edge
    # Room for the second section and the direction of the vessel there, when the vessel is wider than the calibre.
    reach = radius + 1.3 * (UPSTREAM_DIAMETERS + TANGENT_DIAMETERS) * calibre + 3 * edge
    around = _crop_around(labels, vessel_label, neck_centroid, reach)
    found = [
        diameters
        for root, outside in _roots(around, neck_centroid, radius)
        if (diameters := _Branch.walk(root, outside, around, calibre).diameters()) is not None
    ]
    if not found:
        detail = f"no vessel goes on for {UPSTREAM_DIAMETERS:g} diameters from the neck in the mask"
        raise NotEvaluableError("no_parent_vessel", detail)
    return found


def _crop_around(labels: Volume, vessel_label: int, centre: FloatArray, reach: float) -> Volume:
    """Mask of the vessel within ``reach`` mm of a point."""
    index = labels.grid.patient_to_index(centre)
    half = reach / np.asarray(labels.grid.spacing)
    shape = np.asarray(labels.grid.shape)
    start = np.clip(np.floor(index - half).astype(int), 0, shape - 1)
    stop = np.clip(np.ceil(index + half).astype(int) + 1, start + 1, shape)
    around = labels.crop(tuple(map(int, start)), tuple(map(int, stop)))  # type: ignore[arg-type]
    return replace(around, voxels=around.voxels == vessel_label)


def _positions(grid: Grid) -> FloatArray:
    return grid.index_to_patient(np.moveaxis(np.indices(grid.shape), 0, -1))


def _calibre(vessel: Volume, neck_centroid: FloatArray, neck_diameter: float) -> float:
    """Diameter of the largest ball inside the vessel whose centre lies near the neck."""
    inside = np.asarray(vessel.voxels)
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=vessel.grid.spacing)[1:-1, 1:-1, 1:-1]
    distance = np.linalg.norm(_positions(vessel.grid) - neck_centroid, axis=-1)
    # The ball touches the neck, so its centre is its radius away, sideways at most the radius of the neck.
    deepest = float(depth[distance <= neck_diameter / 2 + depth].max(initial=0.0))
    if deepest == 0:
        raise NotEvaluableError("no_parent_vessel", "no voxel of the vessel lies next to the neck")
    # The distance to the nearest voxel outside exceeds that to the wall by half a voxel.
    return max(2 * deepest - max(vessel.grid.spacing), min(vessel.grid.spacing))


def _roots(vessel: Volume, neck_centroid: FloatArray, radius: float) -> list[tuple[BoolArray, BoolArray]]:
    """First layer of voxels of each vessel outside the ball, and the vessel outside without the other first layers."""
    inside = np.asarray(vessel.voxels)
    distance = np.linalg.norm(_positions(vessel.grid) - neck_centroid, axis=-1)
    ball, _ = ndimage.label(inside & (distance <= radius), structure=_NEIGHBOURS_26)
    # The piece at the neck, not another vessel that passes through the ball.
    at_neck = int(ball.flat[np.where(ball > 0, distance, np.inf).argmin()])
    outside = inside & (distance > radius)
    layer = outside & (distance <= radius + math.hypot(*vessel.grid.spacing))
    roots, _ = ndimage.label(layer, structure=_NEIGHBOURS_26)
    beside_neck = roots[ndimage.binary_dilation(ball == at_neck, structure=_NEIGHBOURS_26)]
    return [(roots == k, outside & ((roots == k) | (roots == 0))) for k in np.unique(beside_neck) if k > 0]


@dataclass(frozen=True, eq=False)
class _Branch:
    """One vessel that leaves the neck.

    Attributes
    ----------
    grid
        Where the voxels lie.
    vessel
        Index ``(m, 3)`` of the voxels of this vessel and all others.
    voxels
        Those of this vessel; their value is the way in mm from the root inside the vessel.
    calibre
        Rough diameter in mm.
    """

    grid: Grid
    vessel: IntArray
    voxels: VoxelList
    calibre: float

    @classmethod
    def walk(cls, root: BoolArray, outside: BoolArray, vessel: Volume, calibre: float) -> _Branch:
        costs = np.where(outside, 1.0, -1.0)  # negative: closed
        way, _ = MCP_Geometric(costs, sampling=vessel.grid.spacing).find_costs(np.argwhere(root))
        index = np.argwhere(outside & np.isfinite(way))
        voxels = VoxelList(index, way[tuple(index.T)], vessel.grid.spacing)
        return cls(vessel.grid, np.argwhere(vessel.voxels), voxels, calibre)

    def diameters(self) -> tuple[float, float] | None:
        first = self._section(0.0, self.calibre)
        second = None if first is None else self._section(UPSTREAM_DIAMETERS * first, first)
        return None if first is None or second is None else (first, second)

    def _section(self, way: float, diameter: float) -> float | None:
        """Diameter of the section at ``way`` mm from the root; None where the branch has ended."""
        # Layers are two voxels thick: nearer ones would share voxels.
        edge = max(self.grid.spacing)
        step = max(TANGENT_DIAMETERS * diameter, 2 * edge)
        here = self._axis_point(way, None)
        if here is None:
            return None
        back = self._axis_point(way - step, here) if way > 0 else here
        on = self._axis_point(way + step, here)
        if back is None or on is None or np.allclose(back, on):
            return None
        from_here = self.grid.index_to_patient(self.vessel) - here
        along = from_here @ ((on - back) / np.linalg.norm(on - back))
        aside = np.sqrt(np.maximum((from_here**2).sum(axis=1) - along**2, 0))
        sigma = SECTION_SIGMA_VOXELS * edge
        near = (np.abs(along) <= 4 * sigma) & (aside < diameter)
        if not near.any():
            return None
        # Of the voxels about the plane, the piece at the axis: another vessel may run close by.
        piece = label_in_space(VoxelList(self.vessel[near], along[near], self.grid.spacing))
        is_here = piece == piece[np.hypot(along, aside)[near].argmin()]
        weight = np.exp(-0.5 * (along[near][is_here] / sigma) ** 2)
        area = float(weight.sum()) * self.grid.voxel_volume / (sigma * math.sqrt(2 * math.pi))
        return 2 * math.sqrt(area / math.pi)

    def _axis_point(self, way: float, nearest_to: FloatArray | None) -> FloatArray | None:
        """Centre of the vessel ``way`` mm from the root; where it has forked, of its larger or of the nearer branch."""
        layer = self.voxels.select(np.abs(self.voxels.value - way) <= max(self.grid.spacing))
        if len(layer) == 0:
            return None
        piece = label_in_space(layer)
        size = np.bincount(piece)
        centres = np.stack([np.bincount(piece, weights=axis) for axis in layer.index.T], axis=1) / size[:, None]
        points = self.grid.index_to_patient(centres)
        if nearest_to is None:
            return np.asarray(points[size.argmax()])
        return np.asarray(points[np.linalg.norm(points - nearest_to, axis=1).argmin()])

"""Centrelines of tubes: from a mask's skeleton or as the cheapest path, and the sections across them.

Points are patient LPS mm. A section is sampled on the plane orthogonal to the centreline, whose axes turn with the
curve but never about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from skimage.graph import MCP_Geometric
from skimage.morphology import skeletonize

from ops.measure.checks import require_label_map, require_not_empty, require_orthogonal
from ops.measure.errors import NotEvaluableError
from ops.volume import Grid, Volume

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Cost of a step where nothing is a vessel, relative to 1 at vesselness 1: 1 / COST_EPSILON.
COST_EPSILON = 1e-3
END_MM = 4.0  # length of a branch whose median radius is the width of its end
SEED_REACH_MM = 5.0  # a seed this far from the mask of its vessel was set on another vessel


@dataclass(frozen=True)
class CentrelinePolicy:
    """Named choices of a centreline.

    Attributes
    ----------
    spur_ratio
        A side branch of the skeleton shorter than this many local radii is an artefact of the surface. SPEC §9 gives 3
        and marks it uncertain [U].
    cost_power
        p of the path cost 1/(ε + V^p).
    smoothing_mm
        Standard deviation of the Gaussian along the arc that takes the voxel steps out of a path. It pulls a bend of
        radius R inwards by smoothing²/2R.
    step_mm
        Distance between the points of a centreline.
    """

    spur_ratio: float = 3.0
    cost_power: float = 2.0
    smoothing_mm: float = 1.0
    step_mm: float = 0.5

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and positive, got {value}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_POLICY = CentrelinePolicy()


@dataclass(frozen=True, eq=False)
class Centreline:
    """A curve through a tube.

    Attributes
    ----------
    points
        ``(n, 3)`` LPS mm.
    radii
        ``(n,)`` mm: distance from each point to the nearest voxel centre outside the mask, interpolated between voxels.
        Right to about half a voxel; for diameters measure a section.
    """

    points: FloatArray
    radii: FloatArray

    @property
    def arc(self) -> FloatArray:
        """Arc length ``(n,)`` mm from the first point."""
        return arc_length(self.points)

    @property
    def length(self) -> float:
        """Length in mm."""
        return float(self.arc[-1])


@dataclass(frozen=True, eq=False)
class Frames:
    """Orthonormal axes along a curve, each ``(n, 3)``: ``tangent``, and ``first`` and ``second`` across it."""

    tangent: FloatArray
    first: FloatArray
    second: FloatArray


def arc_length(points: FloatArray) -> FloatArray:
    """Cumulative length ``(n,)`` along a polyline ``(n, 3)``, in its unit."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])


def smooth_curve(points: FloatArray, smoothing_mm: float, step_mm: float) -> FloatArray:
    """Polyline ``(n, 3)`` smoothed along its arc and resampled about every ``step_mm``; both ends stay.

    Raises
    ------
    NotEvaluableError
        ``centreline_too_short`` when the polyline has no length.
    """
    fine = _resample(points, min(step_mm, smoothing_mm / 4))
    width = smoothing_mm / (arc_length(fine)[-1] / (len(fine) - 1))
    pad = min(int(4 * width) + 1, len(fine) - 1)
    # The continuation is the curve mirrored at its end point: the end is then kept and a straight line stays straight.
    before = 2 * fine[0] - fine[pad:0:-1]
    after = 2 * fine[-1] - fine[-2 : -pad - 2 : -1]
    smooth = ndimage.gaussian_filter1d(np.concatenate([before, fine, after]), width, axis=0, mode="nearest")
    smooth = smooth[pad : pad + len(fine)]
    smooth[[0, -1]] = fine[[0, -1]]
    return _resample(smooth, step_mm)


def _resample(points: FloatArray, step_mm: float) -> FloatArray:
    arc = arc_length(points)
    if arc[-1] <= 0:
        raise NotEvaluableError("centreline_too_short", "the centreline has no length")
    positions = np.linspace(0, arc[-1], max(2, round(arc[-1] / step_mm) + 1))
    return np.stack([np.interp(positions, arc, axis) for axis in points.T], axis=-1)


def skeleton_centrelines(mask: Volume, policy: CentrelinePolicy = DEFAULT_POLICY) -> list[Centreline]:
    """Branches of a mask's skeleton, from the longest to the shortest.

    The skeleton is Lee's (1994, CVGIP 56:462 [R]) by scikit-image, its loops opened and its spurs pruned. It may end up
    to a radius before the tube does.

    Parameters
    ----------
    mask
        Nonzero = inside the tube.

    Raises
    ------
    NotEvaluableError
        ``not_a_label_map``, ``gantry_tilt``, ``empty_mask``, or ``centreline_too_short`` when the skeleton is a point.
    """
    inside, grid = _cropped(mask)
    depth = _depth(inside, grid)
    skeleton = _skeleton(inside, depth, grid, policy)
    paths = [grid.index_to_patient(skeleton.index[nodes]) for nodes in _branches(skeleton) if len(nodes) > 1]
    if not paths:
        raise NotEvaluableError("centreline_too_short", "the skeleton of the mask is a single voxel")
    curves = [_with_radii(smooth_curve(path, policy.smoothing_mm, policy.step_mm), depth, grid) for path in paths]
    return sorted(curves, key=lambda curve: -curve.length)


def main_centreline(mask: Volume, policy: CentrelinePolicy = DEFAULT_POLICY) -> Centreline:
    """Longest way through the skeleton of a mask's largest piece, in no particular direction.

    Raises
    ------
    NotEvaluableError
        As `skeleton_centrelines`.
    """
    skeleton, depth, grid = _largest_skeleton(mask, policy)
    return _as_centreline(skeleton, _longest_path(skeleton.tree), depth, grid, policy)


def trunk_centreline(mask: Volume, policy: CentrelinePolicy = DEFAULT_POLICY) -> Centreline:
    """Longest way through the skeleton of a tree of vessels from its widest end, where the blood comes from.

    Unlike `main_centreline` it does not run from one long branch into another.

    Raises
    ------
    NotEvaluableError
        As `skeleton_centrelines`.
    """
    skeleton, depth, grid = _largest_skeleton(mask, policy)
    ends = np.flatnonzero(skeleton.degree <= 1)
    reach = csgraph.dijkstra(skeleton.tree, indices=ends, limit=END_MM)
    widths = [float(np.median(skeleton.depth[np.isfinite(near)])) for near in reach]
    root = int(ends[int(np.argmax(widths))])
    return _as_centreline(skeleton, _longest_path(skeleton.tree, root), depth, grid, policy)


def _largest_skeleton(mask: Volume, policy: CentrelinePolicy) -> tuple[_Skeleton, FloatArray, Grid]:
    inside, grid = _cropped(mask)
    depth = _depth(inside, grid)
    skeleton = _skeleton(inside, depth, grid, policy)
    _, piece = csgraph.connected_components(skeleton.tree, directed=False)
    return skeleton.keep(piece == np.bincount(piece).argmax()), depth, grid


def _as_centreline(
    skeleton: _Skeleton, nodes: IntArray, depth: FloatArray, grid: Grid, policy: CentrelinePolicy
) -> Centreline:
    if len(nodes) < 2:
        raise NotEvaluableError("centreline_too_short", "the skeleton of the mask is a single voxel")
    path = smooth_curve(grid.index_to_patient(skeleton.index[nodes]), policy.smoothing_mm, policy.step_mm)
    return _with_radii(path, depth, grid)


def path_between(
    start: npt.ArrayLike,
    end: npt.ArrayLike,
    vesselness: npt.NDArray[np.floating],
    grid: Grid,
    policy: CentrelinePolicy = DEFAULT_POLICY,
) -> FloatArray:
    """Curve ``(n, 3)`` LPS mm from ``start`` to ``end`` along the ridge of ``vesselness`` ``(z, y, x)``.

    The path with the least sum of length times 1/(ε + V^p), V scaled to 1 at its largest (SPEC §9), smoothed. Its ends
    are the centres of the voxels nearest to those given.

    Parameters
    ----------
    start, end
        LPS mm.
    vesselness
        Not negative, e.g. `frangi_vesselness`, or the distance to the wall of a mask; 0 outside it.

    Raises
    ------
    NotEvaluableError
        ``seed_outside_image``; ``no_vessel`` when the vesselness is 0 everywhere; ``centreline_too_short``.
    """
    largest = float(vesselness.max())
    if not largest > 0:
        raise NotEvaluableError("no_vessel", "nothing in the image looks like a vessel at the scales given")
    ends = [_nearest_voxel(point, grid) for point in (start, end)]
    cost = 1 / (COST_EPSILON + (vesselness / np.float32(largest)) ** policy.cost_power)
    return _cheapest_curve(cost, grid, ends, policy)


def path_in_mask(
    start: npt.ArrayLike, end: npt.ArrayLike, mask: Volume, policy: CentrelinePolicy = DEFAULT_POLICY
) -> Centreline:
    """Centreline between the voxels of a mask nearest to two points, never leaving the mask.

    As `path_between`, with the distance to the wall as V.

    Parameters
    ----------
    start, end
        LPS mm.
    mask
        Nonzero = inside the tube.

    Raises
    ------
    NotEvaluableError
        ``not_a_label_map``, ``gantry_tilt``, ``empty_mask``; ``seed_outside_vessel`` for a point farther from the mask
        than 5 mm; ``vessel_interrupted`` when the two lie in separate pieces of it; ``centreline_too_short``.
    """
    inside, grid = _cropped(mask)
    ends = [_nearest_inside(point, inside, grid) for point in (start, end)]
    pieces, _ = ndimage.label(inside, structure=np.ones((3, 3, 3)))
    if pieces[ends[0]] != pieces[ends[1]]:
        raise NotEvaluableError("vessel_interrupted", "the two ends lie in separate pieces of the mask")
    depth = _depth(inside, grid)
    cost = np.where(inside, 1 / (COST_EPSILON + (depth / depth.max()) ** policy.cost_power), np.inf)
    return _with_radii(_cheapest_curve(cost, grid, ends, policy), depth, grid)


def rotation_minimising_frames(points: FloatArray) -> Frames:
    """Frames along a polyline ``(n, 3)`` that turn as little as possible about it.

    Double reflection (Wang 2008, ACM Trans Graph 27:2 [R]). The first section's axes start from the patient axis most
    across the curve.
    """
    tangent = np.gradient(points, arc_length(points), axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    axis = np.eye(3)[np.abs(tangent[0]).argmin()]
    first = np.empty_like(points)
    first[0] = axis - (axis @ tangent[0]) * tangent[0]
    first[0] /= np.linalg.norm(first[0])
    for i in range(len(points) - 1):
        step = points[i + 1] - points[i]
        square = step @ step
        normal = first[i] - 2 / square * (step @ first[i]) * step
        ahead = tangent[i] - 2 / square * (step @ tangent[i]) * step
        back = tangent[i + 1] - ahead
        # A straight piece has no second mirror plane.
        first[i + 1] = normal - 2 / max(back @ back, 1e-30) * (back @ normal) * back
    return Frames(tangent, first, np.cross(tangent, first))


def straightened(volume: Volume, points: FloatArray, half_width_mm: float, pixel_mm: float) -> FloatArray:
    """Straightened MPR ``(n, m, m)``: the section across the curve at each of ``points`` ``(n, 3)``.

    Row and column run along `Frames.first` and `Frames.second`, and the curve passes through the middle pixel. Physical
    values by linear interpolation; what lies outside the volume is NaN.
    """
    frames = rotation_minimising_frames(points)
    n = round(half_width_mm / pixel_mm)
    offset = pixel_mm * np.arange(-n, n + 1)
    row, column = offset[None, :, None, None], offset[None, None, :, None]
    plane = row * frames.first[:, None, None] + column * frames.second[:, None, None]
    return sample(volume, points[:, None, None] + plane)


def sample(volume: Volume, points: FloatArray) -> FloatArray:
    """Physical values at ``points`` ``(..., 3)`` LPS mm by linear interpolation; NaN outside the voxel centres."""
    index = np.moveaxis(volume.grid.patient_to_index(points), -1, 0)
    low = np.clip(np.floor(index.reshape(3, -1).min(axis=1)).astype(int), 0, np.array(volume.grid.shape) - 1)
    high = np.clip(np.ceil(index.reshape(3, -1).max(axis=1)).astype(int) + 1, low + 1, volume.grid.shape)
    # Only the box around the points is turned into floating point.
    start, stop = ((int(k), int(j), int(i)) for k, j, i in (low, high))
    box = volume.crop(start, stop).physical()
    index -= low.reshape(3, *(1,) * (index.ndim - 1))
    values = ndimage.map_coordinates(box, index, order=1, mode="constant", cval=np.nan, output=np.float64)
    return np.asarray(values)


def _cropped(mask: Volume) -> tuple[npt.NDArray[np.bool_], Grid]:
    """Inside of a mask, and the grid of its bounding box with a margin of one voxel where the scan has one."""
    require_label_map(mask)
    require_orthogonal(mask.grid)
    inside = mask.voxels != 0
    require_not_empty(inside, "vessel")
    box = ndimage.find_objects(inside.view(np.uint8))[0]
    start = tuple(max(s.start - 1, 0) for s in box)
    stop = tuple(min(s.stop + 1, n) for s, n in zip(box, inside.shape, strict=True))
    return inside[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))], mask.grid.crop(start, stop)


def _depth(inside: npt.NDArray[np.bool_], grid: Grid) -> FloatArray:
    """Distance in mm of each voxel to the nearest voxel centre outside; beyond the scan counts as outside."""
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=grid.spacing)
    return np.asarray(depth[1:-1, 1:-1, 1:-1])


def _with_radii(points: FloatArray, depth: FloatArray, grid: Grid) -> Centreline:
    index = grid.patient_to_index(points).T
    return Centreline(points, np.asarray(ndimage.map_coordinates(depth, index, order=1, mode="nearest")))


def _nearest_voxel(point: npt.ArrayLike, grid: Grid) -> tuple[int, int, int]:
    position = np.asarray(point, dtype=np.float64)
    index = np.round(grid.patient_to_index(position))
    if not np.isfinite(index).all() or (index < 0).any() or (index >= grid.shape).any():
        raise NotEvaluableError("seed_outside_image", f"the point {position.tolist()} LPS mm lies outside the image")
    return int(index[0]), int(index[1]), int(index[2])


def _nearest_inside(point: npt.ArrayLike, inside: npt.NDArray[np.bool_], grid: Grid) -> tuple[int, int, int]:
    voxels = np.argwhere(inside)
    position = np.asarray(point, dtype=np.float64)
    distance = np.linalg.norm(grid.index_to_patient(voxels) - position, axis=1)
    nearest = int(distance.argmin())
    if not distance[nearest] <= SEED_REACH_MM:
        detail = f"the point {position.tolist()} LPS mm is {distance[nearest]:.1f} mm from the vessel's mask"
        raise NotEvaluableError("seed_outside_vessel", detail)
    k, j, i = voxels[nearest]
    return int(k), int(j), int(i)


def _cheapest_curve(
    cost: npt.NDArray[np.floating], grid: Grid, ends: Sequence[tuple[int, int, int]], policy: CentrelinePolicy
) -> FloatArray:
    search = MCP_Geometric(cost, sampling=grid.spacing)
    search.find_costs([ends[0]], [ends[1]])
    path = grid.index_to_patient(np.array(search.traceback(ends[1])))
    return smooth_curve(path, policy.smoothing_mm, policy.step_mm)


@dataclass(frozen=True, eq=False)
class _Skeleton:
    """Voxels ``index`` ``(n, 3)`` of a skeleton, their wall distance mm, and the tree (n × n, mm) of neighbours."""

    index: IntArray
    depth: FloatArray
    tree: sparse.csr_array

    def keep(self, which: npt.NDArray[np.bool_] | IntArray) -> _Skeleton:
        return _Skeleton(self.index[which], self.depth[which], self.tree[which][:, which])

    @property
    def degree(self) -> IntArray:
        return np.asarray(np.diff(self.tree.indptr), dtype=np.int64)


def _skeleton(inside: npt.NDArray[np.bool_], depth: FloatArray, grid: Grid, policy: CentrelinePolicy) -> _Skeleton:
    """Pruned skeleton; loops are opened, so that it is a tree in every piece of the mask."""
    # A face of the scan would thin the skeleton there: one voxel of nothing around it.
    thin = skeletonize(np.pad(inside, 1))[1:-1, 1:-1, 1:-1] != 0  # type: ignore[no-untyped-call]
    index = np.argwhere(thin)
    number = np.full(thin.shape, -1, dtype=np.int64)
    number[thin] = np.arange(len(index))
    edges = []
    for offset in np.argwhere(np.ones((3, 3, 3)))[14:] - 1:
        here = tuple(slice(max(-o, 0), n - max(o, 0)) for o, n in zip(offset, thin.shape, strict=True))
        there = tuple(slice(max(o, 0), n - max(-o, 0)) for o, n in zip(offset, thin.shape, strict=True))
        joined = thin[here] & thin[there]
        step = float(np.linalg.norm(offset * grid.spacing))
        edges.append((number[here][joined], number[there][joined], np.full(int(joined.sum()), step)))
    one, other, length = (np.concatenate(part) for part in zip(*edges, strict=True))
    graph = sparse.csr_array((length, (one, other)), shape=(len(index), len(index)))
    tree = csgraph.minimum_spanning_tree(graph)
    whole = _Skeleton(index, depth[thin], sparse.csr_array(tree + tree.T))
    return _prune(whole, policy.spur_ratio)


def _prune(skeleton: _Skeleton, ratio: float) -> _Skeleton:
    """Cut side branches shorter than ``ratio`` local radii, the shortest at a fork first, until none is left."""
    while True:
        fork = skeleton.degree > 2
        n_pieces, piece = csgraph.connected_components(skeleton.tree[~fork][:, ~fork], directed=False)
        of_node = np.full(len(fork), -1, dtype=np.int64)
        of_node[~fork] = piece
        one, other = skeleton.tree.nonzero()
        weight = np.asarray(skeleton.tree[one, other]).reshape(-1)
        leaves = np.bincount(of_node[(skeleton.degree == 1) & ~fork], minlength=n_pieces)
        outward = fork[other] & ~fork[one]
        # Edges within a piece are met from both ends, the one to the fork from one end.
        twice = np.bincount(of_node[one[~fork[one]]], weight[~fork[one]], minlength=n_pieces)
        length = (twice + np.bincount(of_node[one[outward]], weight[outward], minlength=n_pieces)) / 2
        spurs = [
            (length[p], f, p)
            for p, f in zip(of_node[one[outward]], other[outward], strict=True)
            if leaves[p] == 1 and length[p] < ratio * skeleton.depth[f]
        ]
        if not spurs:
            return skeleton
        shortest = {f: p for _, f, p in sorted(spurs, reverse=True)}
        skeleton = skeleton.keep(~np.isin(of_node, list(shortest.values())))


def _branches(skeleton: _Skeleton) -> list[IntArray]:
    """Nodes of every branch from end to end, the forks it hangs on included."""
    fork = skeleton.degree > 2
    nodes = np.flatnonzero(~fork)
    n_pieces, piece = csgraph.connected_components(skeleton.tree[nodes][:, nodes], directed=False)
    branches = []
    for p in range(n_pieces):
        own = nodes[piece == p]
        near = np.unique(skeleton.tree[own].indices)
        own = np.union1d(own, near)
        branches.append(own[_longest_path(skeleton.tree[own][:, own])])
    return branches


def _longest_path(tree: sparse.csr_array, start: int | None = None) -> IntArray:
    """Nodes of the longest path of a connected tree from ``start``; without one, from the node farthest from any."""
    if start is None:
        start = int(csgraph.dijkstra(tree, indices=0).argmax())
    distance, before = csgraph.dijkstra(tree, indices=start, return_predecessors=True)
    path = [int(distance.argmax())]
    while path[-1] != start:
        path.append(int(before[path[-1]]))
    return np.array(path[::-1])

"""Shape of an aneurysm sac from its surface open at the neck (SPEC §3.1).

Points are LPS mm. Evidence marks: [P] read in the primary source, [S] in a secondary source, [R] recalled and not
re-read. Definitions of Ma 2004 Ann Biomed Eng 32:264, Raghavan 2005 J Neurosurg 102:355 and Dhar 2008 Neurosurgery
63:185 [S, R].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull, QhullError
from trimesh.intersections import mesh_plane

from ops.measure.diameters import feret_diameter
from ops.measure.errors import NotEvaluableError
from ops.measure.surface import SurfaceEstimator, smooth_surface, surface_mesh
from ops.volume import Volume

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# (18π)^⅓: a hemisphere whose neck disc is not counted has index 0 (SPEC §3.2). A closed sphere has 0.2063.
HEMISPHERE_FACTOR = math.cbrt(18 * math.pi)
# Cross-sections between neck and apex among which the largest is looked for. The diameter is flat at its maximum: at a
# 128th of the height from it, a sphere's is less than 0.1 ‰ smaller.
SECTIONS = 64
# Passes that spread the labels of vertices over their neighbours, so that the neck contour does not follow the steps
# between voxels. More would draw the contour together.
LABEL_PASSES = 6


@dataclass(frozen=True, eq=False)
class SacGeometry:
    """Lengths, areas and volumes of one sac; mm, mm², mm³.

    Attributes
    ----------
    neck_normal, neck_centroid
        Plane fitted to the neck contour: unit normal towards the sac, and mean of the contour along its length.
    neck_mean_radius, neck_hydraulic
        Neck diameter by its two conventions: twice the mean distance centroid to contour; 4A/P of the contour.
    diameter_3d
        Largest distance between any two points of the sac: D_max of the clinical reading.
    diameter_section
        Largest 4A/P of a cross-section parallel to the neck plane, the neck included: D_max of Ma 2004.
    dome_width
        Largest distance between two points of one cross-section parallel to the neck plane.
    height
        Largest distance from the neck plane.
    height_max
        Largest distance from the neck centroid.
    bulge_height
        Distance of the neck plane to the section of ``diameter_section``.
    volume, surface_area
        Enclosed by the sac and the neck; of the sac without the neck.
    hull_volume, hull_area
        The same of the convex hull.
    openings
        Open contours at least a quarter as long as the neck's, with the neck; more than one means that a vessel
        touches or leaves the dome. Pinholes, where a voxel of the vessel just touches the dome, do not count.
    """

    neck_normal: FloatArray
    neck_centroid: FloatArray
    neck_mean_radius: float
    neck_hydraulic: float
    diameter_3d: float
    diameter_section: float
    dome_width: float
    height: float
    height_max: float
    bulge_height: float
    volume: float
    surface_area: float
    hull_volume: float
    hull_area: float
    openings: int


def nonsphericity_index(volume: float, surface_area: float) -> float:
    """1 − (18π)^⅓ V^⅔ / S, S without the neck (Raghavan 2005; formula [S]); with hull V and S: ellipticity index.

    At least 0 where the neck is planar; a negative value means that it is not, or a wrong area.
    """
    _require_positive(volume=volume, surface_area=surface_area)
    return 1 - HEMISPHERE_FACTOR * math.cbrt(volume) ** 2 / surface_area


def undulation_index(volume: float, hull_volume: float) -> float:
    """1 − V / V_hull (Raghavan 2005 [S])."""
    _require_positive(volume=volume, hull_volume=hull_volume)
    return 1 - volume / hull_volume


def conicity(bulge_height: float, height: float) -> float:
    """0.5 − h_bulge / H: above 0 when the sac is widest in its lower half (Raghavan 2005 [S])."""
    _require_positive(height=height)
    if not 0 <= bulge_height <= height:
        raise NotEvaluableError("not_positive", f"bulge height {bulge_height} mm must lie from 0 to height {height} mm")
    return 0.5 - bulge_height / height


def aspect_ratio(height: float, neck_diameter: float) -> float:
    """H / neck diameter (SPEC §3.1)."""
    _require_positive(height=height, neck_diameter=neck_diameter)
    return height / neck_diameter


def bottleneck_factor(diameter_section: float, neck_diameter: float) -> float:
    """Largest section parallel to the neck / neck diameter (Ma 2004 [S])."""
    _require_positive(diameter_section=diameter_section, neck_diameter=neck_diameter)
    return diameter_section / neck_diameter


def size_ratio(height_max: float, parent_diameter: float) -> float:
    """H_max / mean parent-vessel diameter (Dhar 2008 [R])."""
    _require_positive(height_max=height_max, parent_diameter=parent_diameter)
    return height_max / parent_diameter


def parent_diameter(branches: Sequence[tuple[float, float]]) -> float:
    """Mean over vessels of the mean of a vessel's diameters at the neck and 1.5 diameters away (Dhar 2008 [R]).

    Parameters
    ----------
    branches
        ``(at the neck, 1.5 diameters away)`` mm: the parent vessel of a side-wall aneurysm, all vessels of a
        bifurcation.
    """
    if not branches:
        raise NotEvaluableError("no_parent_vessel", "no vessel diameter was measured next to the neck")
    for at_neck, away in branches:
        _require_positive(at_neck=at_neck, away=away)
    return float(np.mean(branches))


def heights(points: npt.ArrayLike, normal: npt.ArrayLike, centroid: npt.ArrayLike) -> tuple[float, float]:
    """H and H_max in mm: largest distance of ``(n, 3)`` points from the neck plane, and from the neck centroid."""
    offset = np.asarray(points, dtype=np.float64) - np.asarray(centroid, dtype=np.float64)
    n = np.asarray(normal, dtype=np.float64)
    return float(np.abs(offset @ (n / np.linalg.norm(n))).max()), float(np.linalg.norm(offset, axis=1).max())


def _require_positive(**lengths: float) -> None:
    for name, value in lengths.items():
        if not (math.isfinite(value) and value > 0):
            raise NotEvaluableError("not_positive", f"{name} is {value}; it must be finite and above 0")


def sac_geometry(sac: trimesh.Trimesh) -> SacGeometry:
    """Measure a sac surface that is open at the neck.

    Parameters
    ----------
    sac
        Vertices in mm, faces wound one way. Its longest open contour is the neck.

    Raises
    ------
    NotEvaluableError
        ``no_neck`` (closed surface), ``bad_mesh`` (not finite, flat, or not wound one way).
    """
    if not len(sac.faces) or not np.isfinite(sac.vertices).all() or not sac.is_winding_consistent:
        raise NotEvaluableError("bad_mesh", "the surface must have finite vertices and faces that are wound one way")
    contours = _open_contours(sac)
    vertices = np.asarray(sac.vertices)
    neck = contours[0]
    normal, centroid = _fit_plane(vertices[neck])
    volume = _closed_volume(sac, contours)
    if volume < 0:
        sac, volume = sac.copy(), -volume
        sac.invert()
        neck = neck[:, ::-1]
    above = (vertices - centroid) @ normal
    if sac.area_faces @ above[sac.faces].mean(axis=1) < 0:
        normal, above = -normal, -above
    height, height_max = heights(vertices, normal, centroid)
    if not (height > 0 and volume > 0):
        raise NotEvaluableError("bad_mesh", f"the sac is flat: height {height:g} mm, volume {volume:g} mm³")
    sections = _sections(sac, normal, centroid, float(above[neck].max()), float(above.max()))
    # The contour runs as the boundary of the sac does: clockwise seen from the sac, as the boundary of the neck.
    neck_hydraulic, neck_width = _section_diameters(vertices[neck], normal)
    bulge, diameter_section, _ = max([(0.0, neck_hydraulic, neck_width), *sections], key=lambda section: section[1])
    neck_length = _lengths(vertices[neck]).sum()
    hull_volume, hull_area = _hull(vertices, np.unique(neck))
    return SacGeometry(
        neck_normal=normal,
        neck_centroid=centroid,
        neck_mean_radius=2 * _mean_distance(vertices[neck], centroid),
        neck_hydraulic=neck_hydraulic,
        diameter_3d=feret_diameter(vertices),
        diameter_section=diameter_section,
        dome_width=max([neck_width, *(width for _, _, width in sections)]),
        height=height,
        height_max=height_max,
        bulge_height=bulge,
        volume=volume,
        surface_area=float(sac.area),
        hull_volume=hull_volume,
        hull_area=hull_area,
        openings=sum(_lengths(vertices[contour]).sum() >= neck_length / 4 for contour in contours),
    )


def _open_contours(mesh: trimesh.Trimesh) -> list[IntArray]:
    """Boundary edges ``(m, 2)`` of each open contour, the longest first, in the direction of their faces."""
    _, inverse, uses = np.unique(mesh.edges_sorted, axis=0, return_inverse=True, return_counts=True)
    edges = np.asarray(mesh.edges)[uses[inverse.reshape(-1)] == 1]
    if not len(edges):
        raise NotEvaluableError("no_neck", "the surface is closed: the neck must be left open")
    n = len(mesh.vertices)
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
    contour = connected_components(graph, directed=False)[1][edges[:, 0]]
    parts = [edges[contour == number] for number in np.unique(contour)]
    return sorted(parts, key=lambda part: _lengths(mesh.vertices[part]).sum(), reverse=True)


def _lengths(segments: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1))


def _fit_plane(contour: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Fit a plane to segments ``(m, 2, 3)`` weighted by their length: unit normal and centroid."""
    middle, weight = contour.mean(axis=1), _lengths(contour)
    centroid = np.asarray(weight @ middle / weight.sum())
    spread = middle - centroid
    axes = np.linalg.eigh(spread.T @ (spread * weight[:, None]))[1]
    return np.asarray(axes[:, 0]), centroid


def _mean_distance(contour: FloatArray, centre: FloatArray) -> float:
    """Mean distance of a contour from ``centre`` along its length."""
    weight = _lengths(contour)
    return float(weight @ np.linalg.norm(contour - centre, axis=2).mean(axis=1) / weight.sum())


def _closed_volume(mesh: trimesh.Trimesh, contours: list[IntArray]) -> float:
    """Signed volume after every contour is closed by triangles to its centroid."""
    triangles = [np.asarray(mesh.triangles)]
    for contour in contours:
        edges = np.asarray(mesh.vertices[contour])
        centre = np.broadcast_to(_fit_plane(edges)[1], (len(edges), 1, 3))
        triangles.append(np.concatenate([edges[:, ::-1], centre], axis=1))
    t = np.concatenate(triangles) - mesh.vertices[0]
    return float(np.einsum("ij,ij->i", t[:, 0], np.cross(t[:, 1], t[:, 2])).sum() / 6)


def _sections(
    sac: trimesh.Trimesh, normal: FloatArray, centroid: FloatArray, lowest: float, highest: float
) -> list[tuple[float, float, float]]:
    """Height, 4A/P and width of the cross-sections parallel to the neck between two heights above it."""
    found = []
    # Below the highest point of the contour a section would be open.
    for height in np.linspace(max(lowest, 0.0), highest, SECTIONS + 2)[1:-1]:
        plane = (normal, centroid + height * normal)
        segments, face = mesh_plane(sac, *plane, return_faces=True)  # type: ignore[no-untyped-call]
        run = np.cross(normal, sac.face_normals[face])
        backwards = np.einsum("ij,ij->i", run, segments[:, 1] - segments[:, 0]) < 0
        segments[backwards] = segments[backwards, ::-1]
        if len(segments) > 2:
            found.append((float(height), *_section_diameters(segments, normal)))
    return found


def _section_diameters(segments: FloatArray, normal: FloatArray) -> tuple[float, float]:
    """4A/P and largest width of the region inside directed segments ``(m, 2, 3)``, flattened along ``normal``."""
    flat = segments - segments[0, 0]
    flat = flat - (flat @ normal)[..., None] * normal
    area = abs(float(np.cross(flat[:, 0], flat[:, 1]).sum(axis=0) @ normal) / 2)
    return 4 * area / float(_lengths(flat).sum()), feret_diameter((flat @ _plane_axes(normal)).reshape(-1, 2))


def _plane_axes(normal: FloatArray) -> FloatArray:
    """Two unit columns ``(3, 2)`` perpendicular to ``normal`` and to each other."""
    return np.asarray(np.linalg.svd(normal[None])[2][1:].T)


def _hull(vertices: FloatArray, neck: IntArray) -> tuple[float, float]:
    """Volume of the convex hull, and its area without the faces that close the neck."""
    try:
        hull = ConvexHull(vertices)
    except QhullError as error:
        raise NotEvaluableError("bad_mesh", "the sac spans no volume") from error
    is_side = ~np.isin(hull.simplices, neck).all(axis=1)
    corners = vertices[hull.simplices[is_side]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(hull.volume), float(np.linalg.norm(normals, axis=1).sum() / 2)


def open_sac(labels: Volume, sac_label: int, estimator: SurfaceEstimator) -> trimesh.Trimesh:
    """Surface of a labelled sac, open where the lumen goes on into the vessel.

    The surface is that of the whole lumen (every label above 0), smoothed there, so that the rim of the neck is not
    rounded off as that of the sac alone would be. It is cut where the nearest voxels' labels change.

    Parameters
    ----------
    labels
        0 outside, ``sac_label`` in the sac, another label in the vessel. Crop it to the sac and its surroundings.
    sac_label
        Value of the sac.
    estimator
        See `ops.measure.surface`.
    """
    voxels = np.asarray(labels.voxels)
    mesh = surface_mesh(voxels > 0, labels.grid, "marching_cubes")
    # A vertex lies halfway between a voxel of the lumen and one outside it.
    index = labels.grid.patient_to_index(mesh.vertices)
    padded = np.pad(voxels == sac_label, 1)
    lower, upper = (tuple((np.rint(index + shift).astype(int) + 1).T) for shift in (-0.25, 0.25))
    is_sac = np.where(padded[lower] | padded[upper], 1.0, -1.0)
    laplacian = trimesh.smoothing.laplacian_calculation(mesh)
    for _ in range(LABEL_PASSES):
        is_sac = (is_sac + laplacian @ is_sac) / 2
    return _clip(smooth_surface(mesh, estimator), is_sac)


def _clip(mesh: trimesh.Trimesh, value: FloatArray) -> trimesh.Trimesh:
    """Part of a mesh where ``value`` ``(n,)``, linear over each face, is above 0."""
    # An exact 0 would make a cut through a vertex, and faces without area.
    value = np.where(np.abs(value) < 1e-6, 1e-6, value)
    faces = np.asarray(mesh.faces)
    n_inside = (value[faces] > 0).sum(axis=1)
    # Roll each cut face so that its odd one out, the only vertex on its side, comes first.
    cut = faces[(n_inside == 1) | (n_inside == 2)]
    is_odd = (value[cut] > 0) == ((value[cut] > 0).sum(axis=1) == 1)[:, None]
    first = is_odd.argmax(axis=1)
    odd, second, third = (cut[np.arange(len(cut)), (first + step) % 3] for step in range(3))
    pairs = np.sort(np.stack([odd, second, odd, third], axis=1).reshape(-1, 2), axis=1)
    pairs, crossing = np.unique(pairs, axis=0, return_inverse=True)
    share = value[pairs[:, 0]] / (value[pairs[:, 0]] - value[pairs[:, 1]])
    vertices = np.asarray(mesh.vertices)
    points = vertices[pairs[:, 0]] + share[:, None] * (vertices[pairs[:, 1]] - vertices[pairs[:, 0]])
    to_second, to_third = (crossing.reshape(-1, 2) + len(vertices)).T
    is_tip = value[odd] > 0
    tips = np.stack([odd, to_second, to_third], axis=1)[is_tip]
    quads = np.stack([to_second, second, third, to_third], axis=1)[~is_tip]
    kept = np.concatenate([faces[n_inside == 3], tips, quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    clipped = trimesh.Trimesh(np.concatenate([vertices, points]), kept, process=False)
    clipped.remove_unreferenced_vertices()
    return clipped

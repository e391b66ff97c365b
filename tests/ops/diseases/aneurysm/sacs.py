"""Sacs of known size for the tests: closed forms, open meshes and label maps."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import trimesh

from ops.volume import Grid, Volume


def cap_truth(radius: float, height: float) -> dict[str, float]:
    """Closed forms of a ball's cap whose base is the neck (SPEC §3.3)."""
    neck = 2 * math.sqrt(height * (2 * radius - height))
    return {
        "neck": neck,
        "H": height,
        "D": 2 * radius if height >= radius else neck,
        "Dmax": 2 * radius if height >= radius else neck,
        "V": math.pi * height**2 * (3 * radius - height) / 3,
        "S": 2 * math.pi * radius * height,
    }


def half_spheroid_area(a: float, c: float) -> float:
    """Area of half a prolate spheroid without its base, semi-axes a = a < c."""
    eccentricity = math.sqrt(1 - (a / c) ** 2)
    return math.pi * a * (a + c * math.asin(eccentricity) / eccentricity)


def ellipsoid_cap(a: float, c: float, cut: float, rings: int = 80, spokes: int = 120) -> trimesh.Trimesh:
    """Open surface of the spheroid (a, a, c) above ``z = -cut · c``, its neck in the plane z = 0."""
    polar = np.linspace(0, math.acos(-cut), rings + 1)[1:]
    azimuth = np.arange(spokes) * 2 * math.pi / spokes
    ring = np.stack([np.cos(azimuth), np.sin(azimuth), np.ones(spokes)], axis=-1)
    points = ring * np.stack([np.sin(polar), np.sin(polar), np.cos(polar)], axis=-1)[:, None]
    vertices = np.vstack([[0, 0, 1], points.reshape(-1, 3)]) * (a, a, c) + (0, 0, cut * c)
    corner = 1 + np.arange(rings * spokes).reshape(rings, spokes)
    right = np.roll(corner, -1, axis=1)
    top = np.stack([np.zeros(spokes, dtype=int), corner[0], right[0]], axis=-1)
    sides = [
        np.stack([corner[:-1], corner[1:], right[1:]], axis=-1).reshape(-1, 3),
        np.stack([corner[:-1], right[1:], right[:-1]], axis=-1).reshape(-1, 3),
    ]
    return trimesh.Trimesh(vertices, np.concatenate([top, *sides]), process=False)


def hemisphere_mesh(radius: float, subdivisions: int = 5) -> trimesh.Trimesh:
    """Upper half of an icosphere, open at the equator."""
    ball = trimesh.creation.icosphere(subdivisions, radius)
    vertices, faces, _ = trimesh.intersections.slice_faces_plane(
        ball.vertices, ball.faces, plane_normal=(0, 0, 1), plane_origin=(0, 0, 0)
    )
    half = trimesh.Trimesh(vertices, faces)
    half.merge_vertices(digits_vertex=9)
    half.update_faces(half.nondegenerate_faces())
    return half


def side_wall_labels(
    spacing: tuple[float, float, float],
    radius: float = 3.0,
    height: float = 4.5,
    vessel_radius: float = 1.5,
    turn: npt.NDArray[np.float64] | None = None,
    directions: npt.NDArray[np.float64] | None = None,
    size_mm: float = 22.0,
) -> Volume:
    """A cap (label 2) on a straight vessel (label 1), joined by a foot as wide as the neck.

    ``turn`` rotates the anatomy in the scanner, ``directions`` are the unit columns of k, j, i of the grid.
    """
    turn = np.eye(3) if turn is None else turn
    directions = np.eye(3)[:, ::-1] if directions is None else directions
    shape = tuple(int(size_mm / step) for step in spacing)
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    # The middle of the scan lies at the patient's (10, -20, 30), off the lattice.
    affine[:3, 3] = np.array([10.0, -20.0, 30.0]) - affine[:3, :3] @ ((np.array(shape) - 0.8) / 2)
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    points = grid.index_to_patient(np.moveaxis(np.indices(grid.shape), 0, -1)) - (10.0, -20.0, 30.0)
    x, y, z = np.moveaxis(points @ turn, -1, 0)
    neck = math.sqrt(height * (2 * radius - height))
    in_sac = (z > 0) & (x**2 + y**2 + (z - (height - radius)) ** 2 < radius**2)
    in_vessel = y**2 + (z + vessel_radius + 0.2) ** 2 < vessel_radius**2
    in_foot = (z <= 0) & (z > -vessel_radius) & (x**2 + y**2 < neck**2)
    voxels = np.where(in_sac, 2, np.where(in_vessel | in_foot, 1, 0)).astype(np.uint8)
    return Volume(voxels, grid, "label")

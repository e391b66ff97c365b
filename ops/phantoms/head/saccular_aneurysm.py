"""A saccular aneurysm: an ellipsoid cut off by the neck plane, perhaps with a bleb, and its true measurements.

The sac is ``centre + A u`` with ``|u| ≤ 1`` above the neck plane. In the space of ``u`` it is a cap of the unit ball,
cut at ``-t`` along ``m = Aᵀn / |Aᵀn|``, so that planes parallel to the neck are circles there, and the widest is known.
Areas and volumes are summed over a fine net of the surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from ops.phantoms.sdf import Array, Coordinates, Points, ellipsoid, local, unit

_RINGS, _SPOKES = 90, 180
# The part of a vessel below the neck is as wide as the neck at the plane and narrows to this share at its foot.
_FOOT = 0.7

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bleb:
    """A ball on the dome: centre in LPS mm, radius in mm."""

    centre: tuple[float, float, float]
    radius: float


@dataclass(frozen=True, eq=False)
class SaccularAneurysm:
    """One sac.

    Attributes
    ----------
    neck
        LPS mm of the middle of the neck.
    normal
        Unit normal of the neck plane towards the sac.
    frame
        3×3, rows are the directions of the ellipsoid's axes.
    axes
        Semi-axes in mm.
    cut
        t: where the neck cuts the ellipsoid, from 0 through its centre to 1 where it just touches it; below 1.
    bleb
        A ball on the dome, or None. It must reach into the ellipsoid and stay above the neck.
    """

    neck: Points
    normal: Points
    frame: Points
    axes: tuple[float, float, float]
    cut: float
    bleb: Bleb | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.cut < 1:
            raise ValueError(f"cut must lie in [0, 1), got {self.cut}")

    @property
    def matrix(self) -> FloatArray:
        """A: unit ball → ellipsoid around its centre."""
        return np.asarray(self.frame.T * self.axes)

    @property
    def pole(self) -> FloatArray:
        """``m``, the direction in the unit ball that is perpendicular to the neck."""
        return unit(self.matrix.T @ self.normal)

    @property
    def centre(self) -> Points:
        """LPS mm of the middle of the ellipsoid."""
        return np.asarray(self.neck + self.matrix @ self.pole * self.cut)

    @property
    def neck_radius(self) -> float:
        """Radius in mm of the disc with the area of the neck."""
        across = self.matrix @ _perpendicular(self.pole)
        return float(np.sqrt(np.linalg.norm(np.cross(across[:, 0], across[:, 1])) * (1 - self.cut**2)))

    def height_above_neck(self, p: Coordinates) -> Array:
        """Distance of points from the neck plane, positive on the sac's side."""
        x, y, z = local(p, self.neck)
        n = self.normal.astype(np.float32)
        return np.asarray(x * n[0] + y * n[1] + z * n[2])

    def distance(self, p: Coordinates) -> Array:
        """Signed distance to the sac; first-order right near its surface."""
        body = ellipsoid(p, self.centre, self.axes, self.frame)
        if self.bleb is not None:
            body = np.minimum(body, ellipsoid(p, self.bleb.centre, (self.bleb.radius,) * 3))
        return np.asarray(np.maximum(body, -self.height_above_neck(p)))

    def foot_distance(self, p: Coordinates, depth: float) -> Array:
        """Rough signed distance to what joins the neck to the vessel ``depth`` mm below it."""
        height = self.height_above_neck(p)
        x, y, z = local(p, self.neck)
        n = self.normal.astype(np.float32)
        on_plane = (x - height * n[0], y - height * n[1], z - height * n[2])
        rows = np.linalg.inv(self.matrix) / np.sqrt(1 - self.cut**2)
        x, y, z = local(on_plane, (0, 0, 0), rows)
        k = np.sqrt(x * x + y * y + z * z)
        width = 1 + np.float32((1 - _FOOT) / depth) * height
        side = (k - width) * np.float32(self.neck_radius)
        return np.asarray(np.maximum(np.maximum(side, height), -height - np.float32(depth)))

    def surface(self, rings: int = _RINGS, spokes: int = _SPOKES) -> tuple[Points, npt.NDArray[np.int64]]:
        """Vertices ``(n, 3)`` LPS mm and triangles ``(m, 3)`` of the sac without the neck, which is the last ring."""
        polar = np.linspace(0, np.arccos(-self.cut), rings + 1)
        azimuth = np.arange(spokes) * (2 * np.pi / spokes)
        across = _perpendicular(self.pole)
        circle = np.cos(azimuth)[:, None] * across[:, 0] + np.sin(azimuth)[:, None] * across[:, 1]
        u = np.cos(polar)[:, None, None] * self.pole + np.sin(polar)[:, None, None] * circle
        ray = u @ self.matrix.T
        points = self.centre + self._reach(ray)[..., None] * ray
        corner = np.arange((rings + 1) * spokes).reshape(rings + 1, spokes)
        right = np.roll(corner, -1, axis=1)
        quads = (corner[:-1], corner[1:], right[1:], right[:-1])
        triangles = [np.stack([quads[0], quads[1], quads[2]], -1), np.stack([quads[0], quads[2], quads[3]], -1)]
        return points.reshape(-1, 3), np.concatenate(triangles).reshape(-1, 3)

    def _reach(self, ray: FloatArray) -> FloatArray:
        """How far the surface lies along each ray from the centre, in lengths of the ray: 1, or where the bleb ends."""
        if self.bleb is None:
            return np.ones(ray.shape[:-1])
        to_bleb = np.asarray(self.bleb.centre) - self.centre
        a, b = (ray**2).sum(axis=-1), ray @ to_bleb
        root = b * b - a * (to_bleb @ to_bleb - self.bleb.radius**2)
        return np.asarray(np.where(root > 0, np.maximum(1.0, (b + np.sqrt(np.maximum(root, 0))) / a), 1.0))

    def truth(self) -> dict[str, float]:
        """Return true values by the measurement's names; those that need sections are left out when there is a bleb."""
        points, triangles = self.surface()
        corners = points[triangles] - self.neck
        twice_area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        # The neck plane goes through the origin, so the neck itself adds nothing to the volume.
        volume = abs(float(np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum())) / 6
        area = float(np.linalg.norm(twice_area, axis=1).sum()) / 2
        contour = np.concatenate([points[-_SPOKES:], points[-_SPOKES : -_SPOKES + 1]])
        neck_mean, neck_hydraulic = _neck_diameters(contour, self.neck)
        offset = points - self.neck
        height = float((offset @ self.normal).max())
        height_max = float(np.linalg.norm(offset, axis=1).max())
        hull = ConvexHull(points)
        is_side = ~(hull.simplices >= len(points) - _SPOKES).all(axis=1)
        hull_corners = points[hull.simplices[is_side]]
        hull_area = float(
            np.linalg.norm(
                np.cross(hull_corners[:, 1] - hull_corners[:, 0], hull_corners[:, 2] - hull_corners[:, 0]), axis=1
            ).sum()
            / 2
        )
        hemisphere = np.cbrt(18 * np.pi)
        values = {
            "diameter_3d": float(pdist(points[hull.vertices[:: max(1, len(hull.vertices) // 2000)]]).max()),
            "height": height,
            "height_max": height_max,
            "neck_diameter_mean_radius": neck_mean,
            "neck_diameter_hydraulic": neck_hydraulic,
            "aspect_ratio": height / neck_mean,
            "volume": volume,
            "surface_area": area,
            "hull_volume": float(hull.volume),
            "hull_area": hull_area,
            "nonsphericity_index": float(1 - hemisphere * volume ** (2 / 3) / area),
            "ellipticity_index": float(1 - hemisphere * hull.volume ** (2 / 3) / hull_area),
            "undulation_index": float(1 - volume / hull.volume),
        }
        return values if self.bleb is not None else values | self._section_truth(neck_mean, height)

    def _section_truth(self, neck: float, height: float) -> dict[str, float]:
        """Widest section parallel to the neck: the one through the centre, in the unit ball its equator."""
        across = self.matrix @ _perpendicular(self.pole)
        azimuth = np.linspace(0, 2 * np.pi, 4 * _SPOKES + 1)
        equator = np.cos(azimuth)[:, None] * across[:, 0] + np.sin(azimuth)[:, None] * across[:, 1]
        _, widest = _neck_diameters(equator, np.zeros(3))
        bulge = float(self.normal @ (self.centre - self.neck))
        return {
            "diameter_section": widest,
            "bottleneck_factor": widest / neck,
            "dome_width": 2 * float(np.linalg.svd(across, compute_uv=False)[0]),
            "conicity": 0.5 - bulge / height,
        }


def _perpendicular(direction: FloatArray) -> FloatArray:
    """Two unit columns ``(3, 2)`` perpendicular to a unit vector and to each other."""
    return np.asarray(np.linalg.svd(direction[None])[2][1:].T)


def _neck_diameters(contour: Points, middle: Points) -> tuple[float, float]:
    """Twice the mean distance of a closed plane contour from ``middle`` along its length, and 4A/P."""
    step = np.linalg.norm(np.diff(contour, axis=0), axis=1)
    radius = np.linalg.norm((contour[1:] + contour[:-1]) / 2 - middle, axis=1)
    area = np.linalg.norm(np.cross(contour[:-1] - middle, contour[1:] - middle).sum(axis=0)) / 2
    return 2 * float(step @ radius / step.sum()), 4 * float(area / step.sum())


def sample_aneurysm(
    neck: Points,
    normal: Points,
    diameter: float,
    largest_neck: float,
    rng: np.random.Generator,
    bleb_share: float = 0.3,
) -> SaccularAneurysm:
    """Draw a sac of about ``diameter`` mm whose axis leans up to 25° from the neck's normal.

    Parameters
    ----------
    neck, normal
        Middle and unit normal of the neck, LPS mm.
    diameter
        Of a ball about as wide as the ellipsoid.
    largest_neck
        Radius of the neck in mm that is not exceeded.
    rng
        Source of all chance.
    bleb_share
        Probability of a bleb.
    """
    lean = np.radians(rng.uniform(0, 25))
    across = _perpendicular(normal) @ unit(rng.normal(size=2))
    along = np.cos(lean) * normal + np.sin(lean) * across
    frame = np.vstack([along, _perpendicular(along).T])
    axes = diameter / 2 * np.array([rng.uniform(1.0, 1.4), *rng.uniform(0.85, 1.1, 2)])
    # The neck's radius is about √(1 - t²) times the ellipsoid's.
    widest = min(largest_neck / float(np.sqrt(axes[1] * axes[2])), 0.9)
    cut = float(np.sqrt(1 - rng.uniform(0.75 * widest, widest) ** 2))
    sac = SaccularAneurysm(neck, normal, frame, tuple(map(float, axes)), cut)  # type: ignore[arg-type]
    if rng.uniform() >= bleb_share:
        return sac
    turn = rng.uniform(0, 2 * np.pi)
    side = _perpendicular(sac.pole) @ np.array([np.cos(turn), np.sin(turn)])
    high = rng.uniform(0.3, 0.9)
    on_dome = sac.centre + sac.matrix @ (high * sac.pole + np.sqrt(1 - high**2) * side) * 0.97
    bleb = Bleb(tuple(map(float, on_dome)), float(rng.uniform(0.3, 0.45) * min(axes)))  # type: ignore[arg-type]
    return SaccularAneurysm(sac.neck, sac.normal, sac.frame, sac.axes, sac.cut, bleb)

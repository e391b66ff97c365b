"""Radiographs of analytic bodies: ray sums of bone and soft tissue, scatter, blur, quantum noise.

Limb coordinates are mm: x to the right of the image in the first view, y along its rays, z up. Rays are parallel.
Attenuations are per mm at an effective energy of some 40–45 keV, recalled round values [R]: soft tissue 0.024, cortical
bone 0.11, trabecular bone with its marrow 0.035–0.05. Bones are painted by what they have above soft tissue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.phantoms.lattice import coverage
from ops.phantoms.sdf import Array, Coordinates, Points, local, smooth_min

SOFT_TISSUE = 0.024
CORTICAL_EXCESS = 0.085

# Grey values per unit of optical depth; 12 bits hold all that occurs.
GREY_OFFSET, GREY_MAX = 300.0, 4095
SCATTER_MM, LATITUDE_MM = 30.0, 40.0
ROWS_AT_ONCE = 8
TABLE_STEP_MM = 0.1


@dataclass(frozen=True)
class Projection:
    """One view: the limb is turned about z by ``turn`` degrees, then seen along y.

    Attributes
    ----------
    turn
        0 shows x to the right; 90 shows what was behind to the right.
    low, high
        Field ``(u, z)`` mm of the lower left and upper right corner.
    pixel_mm
        Pixel edge.
    """

    turn: float
    low: tuple[float, float]
    high: tuple[float, float]
    pixel_mm: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = (round((self.high[n] - self.low[n]) / self.pixel_mm) for n in (1, 0))
        return rows, columns

    def axes(self) -> tuple[Points, Points]:
        """Directions ``(3,)`` of the columns (to the right) and of the rays (away from the source)."""
        angle = np.radians(self.turn)
        return np.array([np.cos(angle), np.sin(angle), 0.0]), np.array([-np.sin(angle), np.cos(angle), 0.0])

    def to_pixels(self, points: Points) -> Points:
        """Image coordinates ``(n, 2)`` (x, y) of points ``(n, 3)``, from the outer edge of the first pixel."""
        right, _ = self.axes()
        u, z = points @ right, points[:, 2]
        return np.stack([u - self.low[0], self.high[1] - z], axis=1) / self.pixel_mm


Shell = tuple[Array, Array, Array]
"""Signed distance to the surface in mm, thickness of the cortex in mm, attenuation inside it above soft tissue."""


@dataclass(frozen=True, eq=False)
class Part:
    """A simple body of a bone.

    Attributes
    ----------
    shell
        Of coordinates.
    low, high
        Box ``(3,)`` in limb mm that holds it.
    """

    shell: Callable[[Coordinates], Shell]
    low: Points
    high: Points


@dataclass(frozen=True, eq=False)
class Tube:
    """A long bone: ellipses stacked along an axis, from station to station interpolated linearly.

    Attributes
    ----------
    origin, frame
        Limb mm, and orthonormal rows: first and second half axis, and the axis.
    stations
        ``(n,)`` rising mm along the axis.
    centre
        ``(n, 2)`` of the ellipses, in the frame.
    half
        ``(n, 2)`` half axes.
    """

    origin: Points
    frame: Points
    stations: Points
    centre: Points
    half: Points

    def part(self, cortex: npt.ArrayLike, inside: npt.ArrayLike, rounding: float = 3.0) -> Part:
        """Body with a cortex and an inside given per station ``(n,)``; its ends are rounded."""
        ring = np.linspace(0, 2 * np.pi, 16)
        points = self.surface(np.repeat(self.stations, 16), np.ones(1), np.tile(ring, len(self.stations)))
        start, stop = np.float32(self.stations[0]), np.float32(self.stations[-1])
        # Looked up in a fine table: that is several times as fast as interpolating for each of millions of samples.
        at = np.arange(start, stop + TABLE_STEP_MM, TABLE_STEP_MM)
        columns = (*self.centre.T, *self.half.T, np.asarray(cortex), np.asarray(inside))
        table = [np.interp(at, self.stations, each).astype(np.float32) for each in columns]

        def shell(p: Coordinates) -> Shell:
            u, v, w = local(p, self.origin, self.frame)
            row = np.clip((w - start) * np.float32(1 / TABLE_STEP_MM) + np.float32(0.5), 0, len(at) - 1).astype(np.intp)
            cu, cv, a, b, thickness, value = (column[row] for column in table)
            u, v = (u - cu) / a, (v - cv) / b
            k0 = np.hypot(u, v)
            # Exact on the side surface and first-order right near it, as `sdf.ellipsoid`.
            side = k0 * (k0 - 1) / np.maximum(np.hypot(u / a, v / b), np.float32(1e-6))
            return -smooth_min(-side, np.minimum(w - start, stop - w), rounding), thickness, value

        return Part(shell, points.min(axis=0), points.max(axis=0))

    def surface(self, w: Points, share: Points, angle: Points) -> Points:
        """Points ``(n, 3)`` in limb mm at positions ``w``, at ``share`` of the half axes in direction ``angle``."""
        cu, cv, a, b = (np.interp(w, self.stations, each) for each in (*self.centre.T, *self.half.T))
        points = np.stack([cu + share * a * np.cos(angle), cv + share * b * np.sin(angle), w], axis=-1)
        return np.asarray(points @ self.frame + self.origin, dtype=np.float64)


@dataclass(frozen=True)
class Break:
    """A fracture: a rough plane that parts a bone, and how the far part has moved.

    Attributes
    ----------
    point, normal
        Limb mm; the normal (unit) points to the part that moves.
    gap
        Width of the cleft, mm.
    shift
        Displacement of the far part, mm.
    roughness, wavelength
        Amplitude and wavelength of the rough surface along x + y, mm.
    """

    point: tuple[float, float, float]
    normal: tuple[float, float, float]
    gap: float
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    roughness: float = 0.5
    wavelength: float = 7.0

    def height(self, p: Coordinates) -> Array:
        """Signed height above the rough plane, mm, of coordinates of the bone before it broke."""
        x, y, z = (each - np.float32(at) for each, at in zip(p, self.point, strict=True))
        n = np.asarray(self.normal, dtype=np.float32)
        wave = np.float32(self.roughness) * np.sin((x + y) * np.float32(2 * np.pi / self.wavelength))
        return np.asarray(x * n[0] + y * n[1] + z * n[2] + wave, dtype=np.float32)

    def section(self, tube: Tube) -> Points:
        """Points ``(n, 3)`` of both broken surfaces within a tube, the far one moved, in limb mm."""
        share, angle = (each.ravel() for each in np.meshgrid(np.linspace(0, 1, 12), np.linspace(0, 2 * np.pi, 240)))
        axis = tube.frame[2]
        along_axis = float(axis @ np.asarray(self.normal))
        faces = []
        for side, moved in ((-1.0, 0.0), (1.0, 1.0)):
            w = np.full(share.shape, float((np.asarray(self.point) - tube.origin) @ axis))
            for _ in range(20):  # walk along the axis to where the rough plane has this height
                x, y, z = tube.surface(w, share, angle).T
                height = self.height((x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)))
                w = w - (height - side * self.gap / 2) / along_axis
            faces.append(tube.surface(w, share, angle) + moved * np.asarray(self.shift))
        return np.concatenate(faces)


@dataclass(frozen=True, eq=False)
class Bone:
    """Parts grown together, perhaps broken.

    Attributes
    ----------
    parts
        Bodies whose creases are filled.
    fillet
        Radius of the fill, mm.
    broken
        Its fracture.
    moved
        Displacement of the whole bone, when it follows a far part.
    """

    parts: Sequence[Part]
    fillet: float = 4.0
    broken: Break | None = None
    moved: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def between(self, low: float, high: float) -> Bone | None:
        """Only the parts that reach into the heights from ``low`` to ``high``; None without any."""
        margin = 2 + self.fillet + (abs(self.broken.shift[2]) if self.broken else 0.0)
        low, high = low - self.moved[2] - margin, high - self.moved[2] + margin
        parts = [part for part in self.parts if part.low[2] <= high and part.high[2] >= low]
        return replace(self, parts=parts) if parts else None

    def box(self) -> Points:
        """Corners ``(8, 3)`` of a box that holds it, in limb mm."""
        shifts = np.array([[0.0, 0.0, 0.0], self.broken.shift if self.broken else (0.0, 0.0, 0.0)]) + self.moved
        low = np.min([part.low for part in self.parts], axis=0) + shifts.min(axis=0) - 2
        high = np.max([part.high for part in self.parts], axis=0) + shifts.max(axis=0) + 2
        return np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(8, 3)

    def attenuation(self, p: Coordinates, edge_mm: float) -> tuple[Array, Array]:
        """Attenuation above soft tissue: of the cortex, and of what it encloses."""
        p = local(p, self.moved)
        if self.broken is None:
            return self._tissue(p, None, edge_mm)
        far = local(p, self.broken.shift)
        half = np.float32(self.broken.gap / 2)
        near = self._tissue(p, self.broken.height(p) + half, edge_mm)
        other = self._tissue(far, half - self.broken.height(far), edge_mm)
        return np.maximum(near[0], other[0]), np.maximum(near[1], other[1])

    def _tissue(self, p: Coordinates, cut: Array | None, edge_mm: float) -> tuple[Array, Array]:
        outer, inner, inside = self._shell(p)
        # A broken surface has no cortex over it.
        kept = np.float32(1) if cut is None else coverage(cut, edge_mm)
        within = coverage(inner, edge_mm)
        cortex = np.maximum(coverage(outer, edge_mm) - within, 0)
        return np.asarray(cortex * kept * np.float32(CORTICAL_EXCESS)), np.asarray(within * kept * inside)

    def _shell(self, p: Coordinates) -> Shell:
        """Distances to the outer and the inner surface of the cortex, and the attenuation inside."""
        outer, thickness, inside = self.parts[0].shell(p)
        inner, nearest = outer + thickness, outer
        for part in self.parts[1:]:
            distance, thickness, value = part.shell(p)
            inside = np.where(distance < nearest, value, inside)
            nearest = np.minimum(distance, nearest)
            outer = smooth_min(outer, distance, self.fillet)
            inner = smooth_min(inner, distance + thickness, self.fillet)
        return outer, inner, inside


def solid(
    distance: Callable[[Coordinates], Array], centre: npt.ArrayLike, reach: npt.ArrayLike, cortex: float, inside: float
) -> Part:
    """Body within ``reach`` mm (along x, y, z) of ``centre``, of one cortex and one inside."""
    c, reach = np.asarray(centre, dtype=np.float64), np.asarray(reach, dtype=np.float64)
    values = np.asarray(cortex, dtype=np.float32), np.asarray(inside, dtype=np.float32)
    return Part(lambda p: (distance(p), *values), c - reach, c + reach)


def ray_sum(bone: Bone, view: Projection, cortex: Array, inside: Array) -> None:
    """Add the optical depth of a bone's cortex and inside to images ``(rows, columns)``."""
    right, away = view.axes()
    step = max(2 * view.pixel_mm, 0.4)
    for start in range(0, view.shape[0], ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, view.shape[0]))
        up = (view.high[1] - (np.arange(rows.start, rows.stop) + 0.5) * view.pixel_mm).astype(np.float32)
        here = bone.between(float(up[-1]), float(up[0]))
        if here is None:
            continue
        corners = here.box()
        u, v = corners @ right, corners @ away
        first = max(int((u.min() - view.low[0]) / view.pixel_mm), 0)
        last = min(int((u.max() - view.low[0]) / view.pixel_mm) + 1, view.shape[1])
        if first >= last:
            continue
        depth = np.arange(v.min(), v.max(), step, dtype=np.float32)
        across = (view.low[0] + (np.arange(first, last) + 0.5) * view.pixel_mm).astype(np.float32)
        x = across[:, None] * np.float32(right[0]) + depth * np.float32(away[0])
        y = across[:, None] * np.float32(right[1]) + depth * np.float32(away[1])
        p = np.broadcast_arrays(x[None], y[None], up[:, None, None])
        shell, core = here.attenuation((p[0], p[1], p[2]), step)
        cortex[rows, first:last] += shell.sum(axis=2) * np.float32(step)
        inside[rows, first:last] += core.sum(axis=2) * np.float32(step)


def soft_tissue(outline: Tube, view: Projection) -> Array:
    """Optical depth ``(rows, columns)`` of soft tissue shaped as a tube along z: the exact chords of its ellipses."""
    right, _ = view.axes()
    rows, columns = view.shape
    z = view.high[1] - (np.arange(rows) + 0.5) * view.pixel_mm - outline.origin[2]
    u = view.low[0] + (np.arange(columns) + 0.5) * view.pixel_mm
    profile = (*outline.centre.T, *outline.half.T)
    cx, cy, a, b = (np.interp(z, outline.stations, each)[:, None] for each in profile)
    offset = u[None, :] - (cx + outline.origin[0]) * right[0] - (cy + outline.origin[1]) * right[1]
    width2 = (a * right[0]) ** 2 + (b * right[1]) ** 2
    chord = 2 * a * b / width2 * np.sqrt(np.maximum(width2 - offset**2, 0))
    present = ((z >= outline.stations[0]) & (z <= outline.stations[-1]))[:, None]
    return np.asarray(SOFT_TISSUE * chord * present, dtype=np.float32)


def expose(
    bones: Sequence[Bone],
    outlines: Sequence[Tube],
    view: Projection,
    rng: np.random.Generator,
    *,
    photons_per_mm2: float,
    scatter_ratio: float,
    latitude: float,
    grey_per_unit: float,
) -> npt.NDArray[np.uint16]:
    """Radiograph ``(rows, columns)``, brighter where denser.

    Parameters
    ----------
    bones, outlines
        What is in the beam; depths of outlines add.
    photons_per_mm2
        That reach the detector where nothing is in the beam.
    scatter_ratio
        Scattered over primary intensity where the beam is even.
    latitude
        Share 0–1 of the broad variation (over centimetres) taken out, as processing for display does.
    grey_per_unit
        Contrast of the display.
    """
    cortex, inside = (np.zeros(view.shape, dtype=np.float32) for _ in range(2))
    for bone in bones:
        ray_sum(bone, view, cortex, inside)
    depth = cortex + inside * (1 + trabeculae(view.shape, view.pixel_mm, rng))
    depth += sum(soft_tissue(outline, view) for outline in outlines)
    primary = np.exp(-ndimage.gaussian_filter(depth, 0.12 / view.pixel_mm))
    total = primary + scatter_ratio * _broad(primary, SCATTER_MM / view.pixel_mm)
    photons = photons_per_mm2 * view.pixel_mm**2
    noise = rng.standard_normal(view.shape, dtype=np.float32)
    counts = total * photons + np.sqrt(total * photons) * noise
    optical = -np.log(np.maximum(counts, 1) / (photons * (1 + scatter_ratio)))
    broad = _broad(optical, LATITUDE_MM / view.pixel_mm)
    grey = optical - np.float32(latitude) * broad
    return np.asarray(np.clip(np.rint(GREY_OFFSET + grey_per_unit * grey), 0, GREY_MAX), dtype=np.uint16)


def _broad(image: Array, width: float) -> Array:
    """Mean over some ``width`` pixels, weighted as a pyramid."""
    once = ndimage.uniform_filter(image, round(width), mode="nearest")
    return np.asarray(ndimage.uniform_filter(once, round(width), mode="nearest"))


def trabeculae(shape: tuple[int, int], pixel_mm: float, rng: np.random.Generator) -> Array:
    """Relative variation of trabecular bone at the scale of its struts and of their bundles."""
    fine = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 0.25 / pixel_mm)
    coarse = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (1.6 / pixel_mm, 0.5 / pixel_mm))
    return np.asarray(0.06 * fine / fine.std() + 0.06 * coarse / coarse.std(), dtype=np.float32)

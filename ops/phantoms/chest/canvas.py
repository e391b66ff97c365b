"""The lattice a phantom is painted on: later bodies cover earlier ones."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ops.phantoms.deformation import Deformation
from ops.phantoms.labels import Tissue
from ops.phantoms.sdf import Array, Coordinates, Points
from ops.volume import Grid

Box = tuple[slice, slice, slice]
FAR = np.float32(1e3)


class Canvas:
    """Tissue codes, and optionally anti-aliased HU, on an axis-aligned grid.

    Parameters
    ----------
    grid
        Axis-aligned in LPS (k along z, j along y, i along x; either sign).
    deformation
        Template ← patient; bodies are given in template space, tubes in patient space.
    hounsfield
        HU per tissue code ``(n_codes,)``; None paints codes only.

    Raises
    ------
    ValueError
        The grid's axes are not aligned with the patient axes.
    """

    def __init__(self, grid: Grid, deformation: Deformation, hounsfield: npt.ArrayLike | None = None) -> None:
        steps = grid.affine[:3, :3]
        if np.abs(steps[[0, 0, 1, 1, 2, 2], [0, 1, 0, 2, 1, 2]]).max() > 1e-6:
            raise ValueError(f"phantoms need an axis-aligned grid (z, y, x), got steps {steps.tolist()}")
        nz, ny, nx = grid.shape
        self.grid = grid
        self.x, self.y, self.z = (
            (grid.origin[axis] + steps[axis, 2 - axis] * np.arange(n)).astype(np.float32)
            for axis, n in enumerate((nx, ny, nz))
        )
        self.reach = deformation.reach
        self.template: Coordinates = deformation.template_coordinates(self.x, self.y, self.z)
        self.tissue = np.full(grid.shape, Tissue.AIR, dtype=np.uint8)
        self.edge = float(np.mean(grid.spacing))
        self.hounsfield = None if hounsfield is None else np.asarray(hounsfield, dtype=np.float32)
        self.hu = None if self.hounsfield is None else np.full(grid.shape, self.hounsfield[0], dtype=np.float32)

    @property
    def everything(self) -> Box:
        """The box of the whole grid."""
        nz, ny, nx = self.grid.shape
        return slice(0, nz), slice(0, ny), slice(0, nx)

    def box(self, low: npt.ArrayLike, high: npt.ArrayLike, margin: float | None = None) -> Box | None:
        """Index box of the LPS box ``low``..``high`` mm grown by ``margin``; None when it misses the grid.

        ``margin`` defaults to the deformation's reach, which is what template-space bodies need.
        """
        margin = self.reach + self.edge if margin is None else margin
        lo, hi = np.asarray(low, dtype=np.float64) - margin, np.asarray(high, dtype=np.float64) + margin
        slices = []
        for k, axis in ((2, self.z), (1, self.y), (0, self.x)):
            inside = np.flatnonzero((axis >= lo[k]) & (axis <= hi[k]))
            if not len(inside):
                return None
            slices.append(slice(int(inside[0]), int(inside[-1]) + 1))
        return slices[0], slices[1], slices[2]

    def at(self, box: Box) -> Coordinates:
        """Template coordinates inside a box."""
        x, y, z = self.template
        return x[box], y[box], z[box]

    def paint(self, box: Box, distance: Array, tissue: int, only: Iterable[int] | None = None) -> None:
        """Cover the voxels of ``box`` with negative ``distance`` (mm) by ``tissue``, edges blended in HU.

        ``only`` restricts painting to voxels that now carry one of these tissues.
        """
        codes = self.tissue[box]
        allowed = None if only is None else np.isin(codes, list(only))
        if self.hu is not None and self.hounsfield is not None:
            alpha = np.clip(np.float32(0.5) - distance / np.float32(self.edge), 0, 1)
            if allowed is not None:
                alpha *= allowed
            self.hu[box] += alpha * (self.hounsfield[tissue] - self.hu[box])
        inside = distance < 0
        codes[inside if allowed is None else inside & allowed] = tissue

    def tube(
        self, points: Points, radii: npt.ArrayLike, reach: float, flatten: float = 1.0
    ) -> tuple[Box, Array] | None:
        """Signed distance to a tapering tube through patient-space ``points`` ``(n, 3)``.

        Right up to ``reach`` mm outside the wall and ``FAR`` beyond. ``flatten`` < 1 makes the section taller
        along z by its inverse. None when the tube misses the grid.
        """
        r = np.broadcast_to(np.asarray(radii, dtype=np.float64), (len(points),))
        pad = (float(r.max()) + reach) / flatten
        whole = self.box(points.min(axis=0), points.max(axis=0), pad)
        if whole is None:
            return None
        field = np.full([s.stop - s.start for s in whole], FAR, dtype=np.float32)
        axes = (self.x[whole[2]], self.y[whole[1]], self.z[whole[0]])
        for p, q, rp, rq in zip(points[:-1], points[1:], r[:-1], r[1:], strict=True):
            stamp_segment(field, axes, p, q, rp, rq, reach, flatten)
        return whole, field


def stamp_segment(
    field: Array,
    axes: Coordinates,
    p: Points,
    q: Points,
    rp: float,
    rq: float,
    reach: float,
    flatten: float = 1.0,
) -> None:
    """Lower ``field`` ``(nz, ny, nx)`` to the distance to one tapering capsule p–q, in its own window."""
    scale = np.array([1.0, 1.0, flatten])
    pad = (max(rp, rq) + reach) / scale
    low, high = np.minimum(p, q) - pad, np.maximum(p, q) + pad
    window = []
    for k, axis in enumerate(axes):
        step = 1 if axis[-1] >= axis[0] else -1
        a, b = (low[k], high[k]) if step == 1 else (-high[k], -low[k])
        start, stop = np.searchsorted(step * axis, [a, b])
        if start >= stop:
            return
        window.append(slice(int(start), int(stop)))
    x, y, z = (
        ((axis[w] - p[k]) * scale[k]).astype(np.float32) for k, (axis, w) in enumerate(zip(axes, window, strict=True))
    )
    d = ((q - p) * scale).astype(np.float32)
    length2 = max(float(d @ d), 1e-12)
    dot = (z * d[2])[:, None, None] + ((y * d[1])[:, None] + x * d[0])
    square = (z * z)[:, None, None] + ((y * y)[:, None] + x * x)
    t = np.clip(dot / np.float32(length2), 0, 1)
    distance = np.sqrt(np.maximum(square - t * (2 * dot - t * np.float32(length2)), 0))
    distance -= np.float32(rp) + t * np.float32(rq - rp)
    view = field[window[2], window[1], window[0]]
    np.minimum(view, distance, out=view)

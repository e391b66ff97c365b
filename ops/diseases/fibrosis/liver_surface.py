"""Liver surface nodularity (LSN): mean |detected edge − smooth fit| along the liver's contour (SPEC §4).

The unit, tenths of mm, and the outline of the algorithm are recalled ([R]; means by stage and AUC are [P]); no
threshold is published that could be shipped. What is left free is named in `SurfacePolicy`. The contour is followed in
axial slices, along the anterior surface where the liver borders on fat and stands steeply enough in the slice for its
edge to be sharp.

The edge is found on the CT, at half height between liver and surroundings, by cubic interpolation along normals of the
contour: neither the pixels' size nor their direction shows in it. A mask alone has lost that information. Its outline
is a staircase, which counts as nodularity; `surface_nodularity` without CT smooths it and is still biased by the pixel
size, so the two must not be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.measure import find_contours

from ops.measure.checks import (
    require_label_map,
    require_not_empty,
    require_orthogonal,
    require_same_grid,
    require_units,
)
from ops.measure.errors import NotEvaluableError, OutOfModelRangeError
from ops.volume import Grid, Volume

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

TENTHS_PER_MM = 10.0
ANTERIOR = np.array([0.0, -1.0, 0.0])  # LPS
SUPERIOR = np.array([0.0, 0.0, 1.0])
AXIAL_COSINE = np.cos(np.radians(30.0))  # an axis within 30° of head to foot stacks axial slices

STEP_MM = 0.5  # along the contour
PROFILE_STEP_MM = 0.25  # across it
PROFILE_MM = 4.0  # how far a profile reaches to either side
FLAT_MM = 2.0  # from here on outwards a profile is liver or surroundings, no longer edge
MASK_SIGMA_MM = 0.8  # smooths a mask's staircase before its outline is drawn
NORMAL_SIGMA_MM = 5.0  # smooths the outline before its normals are taken
NEIGHBOUR_MM = 4.0  # distance of the slices from which the surface's tilt is found
USABLE_SHARE = 0.95  # of the points of an ROI


@dataclass(frozen=True)
class SurfacePolicy:
    """Named choices that change a nodularity; they go into every result. All of them are policy, none is published.

    Attributes
    ----------
    surface
        ``anterior``: where the normal lies within 60° of straight forwards; ``whole`` contour.
    roi_length_mm, polynomial_degree
        Length of one ROI along the contour, and degree of the polynomial fitted to it. The fit takes up waviness longer
        than about half the ROI, and some 3 % of that of 10 mm.
    min_rois
        Fewer are not evaluable; SPEC §4 averages at least 10.
    n_slices
        Number of slices, evenly spread over the liver, in which ROIs are looked for.
    min_contrast_hu, max_contrast_hu
        Least and largest difference between liver and surroundings 2–4 mm to either side of the edge: fat, neither
        muscle nor lung, before which the diaphragm's edge would be taken for the liver's.
    max_tilt
        Largest shift of the contour from slice to slice per distance of the slices.
    max_pixel_mm
        Larger pixels are out of model range.
    """

    surface: Literal["anterior", "whole"] = "anterior"
    roi_length_mm: float = 50.0
    polynomial_degree: int = 3
    min_rois: int = 10
    n_slices: int = 24
    min_contrast_hu: float = 60.0
    max_contrast_hu: float = 300.0
    max_tilt: float = 0.6
    max_pixel_mm: float = 1.0

    def __post_init__(self) -> None:
        if self.surface not in ("anterior", "whole"):
            raise ValueError(f"surface must be 'anterior' or 'whole', got {self.surface!r}")
        if not 10 <= self.roi_length_mm <= 200 or not 1 <= self.polynomial_degree <= 8:
            detail = f"{self.roi_length_mm} mm and degree {self.polynomial_degree}"
            raise ValueError(f"an ROI is 10 to 200 mm long and its polynomial of degree 1 to 8, got {detail}")
        if min(self.min_rois, self.n_slices) < 1 or not min(self.max_tilt, self.max_pixel_mm) > 0:
            raise ValueError(f"numbers and limits must be positive, got {self}")
        if not 0 < self.min_contrast_hu < self.max_contrast_hu:
            raise ValueError(f"least and largest contrast must be rising HU above 0, got {self}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_POLICY = SurfacePolicy()


@dataclass(frozen=True)
class SurfaceNodularity:
    """Nodularity of one liver.

    Attributes
    ----------
    value
        Mean of the ROIs in tenths of mm.
    rois
        Nodularity of each ROI in tenths of mm.
    """

    value: float
    rois: tuple[float, ...]


def mean_deviation(edge: npt.ArrayLike, smooth: npt.ArrayLike) -> float:
    """Mean |edge − smooth| in tenths of mm, of positions in mm across the surface at equal steps along it.

    For a sinusoid of amplitude A about the smooth curve it is 2A/π (SPEC LF-05).

    Raises
    ------
    NotEvaluableError
        ``no_points`` or ``not_finite``.
    """
    difference = np.asarray(edge, dtype=np.float64) - np.asarray(smooth, dtype=np.float64)
    if not difference.size:
        raise NotEvaluableError("no_points", "a deviation needs at least one position of the edge")
    if not np.isfinite(difference).all():
        raise NotEvaluableError("not_finite", "a position of the edge or of the smooth curve is NaN or infinite")
    return float(np.abs(difference).mean()) * TENTHS_PER_MM


def contour_nodularity(points: npt.ArrayLike, polynomial_degree: int = DEFAULT_POLICY.polynomial_degree) -> float:
    """Nodularity in tenths of mm of one stretch of a contour: a polynomial over its chord is the smooth fit.

    Parameters
    ----------
    points
        ``(n, 2)`` mm in order along the contour, about equally spaced.
    polynomial_degree
        Of the smooth fit.

    Raises
    ------
    NotEvaluableError
        ``no_points``: not more than the polynomial can meet exactly. ``not_finite``. ``folded_contour``: it turns back
        on its chord, so that no function of it can be fitted.
    """
    p = np.asarray(points, dtype=np.float64)
    if len(p) <= polynomial_degree + 1:
        raise NotEvaluableError("no_points", f"{len(p)} points say nothing about a fit of degree {polynomial_degree}")
    if not np.isfinite(p).all():
        raise NotEvaluableError("not_finite", "a point of the contour is NaN or infinite")
    smooth = _SmoothFit(p, polynomial_degree)
    return mean_deviation(smooth.across(p), 0.0)


class _SmoothFit:
    """Polynomial h(s) through points in the frame of their chord."""

    def __init__(self, points: FloatArray, degree: int) -> None:
        self.start = points[0]
        chord = points[-1] - points[0]
        length = float(np.linalg.norm(chord))
        self.along = chord / max(length, STEP_MM)
        self.normal = np.array([-self.along[1], self.along[0]])
        s, h = self._local(points)
        # Noise may step back a little between neighbours; a fold goes back further.
        if length < STEP_MM or (np.maximum.accumulate(s) - s).max() > 2 * STEP_MM:
            raise NotEvaluableError("folded_contour", "the contour turns back on itself within one ROI")
        self.polynomial = np.polynomial.Polynomial.fit(s, h, degree)
        self.slope = self.polynomial.deriv()
        self.ends = float(s.min()), float(s.max())

    def _local(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        offset = points - self.start
        return offset @ self.along, offset @ self.normal

    def across(self, points: FloatArray) -> FloatArray:
        """Distance of points from the curve along its normal, to first order, in mm."""
        s, h = self._local(points)
        return np.asarray((h - self.polynomial(s)) / np.hypot(1.0, self.slope(s)))

    def sample(self) -> tuple[FloatArray, FloatArray]:
        """Points every ``STEP_MM`` of the curve and its unit normals there, each ``(n, 2)``."""
        s = np.linspace(*self.ends, max(2, round((self.ends[1] - self.ends[0]) / STEP_MM) + 1))
        slope = self.slope(s)[:, None]
        points = self.start + s[:, None] * self.along + self.polynomial(s)[:, None] * self.normal
        return points, (self.normal - slope * self.along) / np.hypot(1.0, slope)


def surface_nodularity(
    liver: Volume, ct: Volume | None = None, policy: SurfacePolicy = DEFAULT_POLICY
) -> SurfaceNodularity:
    """Measure the nodularity of a liver's surface.

    Parameters
    ----------
    liver
        Mask: every label above 0 is liver.
    ct
        HU on the same grid. None takes the edge from the mask, which is biased by the pixel size (see above).
    policy
        All choices.

    Raises
    ------
    NotEvaluableError
        ``not_a_label_map``, ``empty_mask``, ``grid_mismatch``, ``wrong_units``, ``not_finite``, ``not_axial``,
        ``gantry_tilt``, ``too_few_rois``: too little of the surface borders on fat or is steep enough in the slices.
    OutOfModelRangeError
        ``pixel_too_large``.
    """
    require_label_map(liver)
    require_orthogonal(liver.grid)
    if ct is not None:
        require_same_grid(liver, ct)
        require_units(ct, "HU")
    require_not_empty(np.asarray(liver.voxels != 0), "liver")
    stack = _AxialStack(liver, ct)
    if max(stack.pixel) > policy.max_pixel_mm:
        detail = f"pixels of {stack.pixel[0]:.2g} × {stack.pixel[1]:.2g} mm, at most {policy.max_pixel_mm:g} mm"
        raise OutOfModelRangeError("pixel_too_large", detail)
    rois = [value for k in stack.spread(policy.n_slices) for value in _rois_of_slice(stack, k, policy)]
    if len(rois) < policy.min_rois:
        detail = f"{len(rois)} stretches of {policy.roi_length_mm:g} mm of free liver surface, {policy.min_rois} needed"
        raise NotEvaluableError("too_few_rois", detail)
    return SurfaceNodularity(float(np.mean(rois)), tuple(rois))


def axial_axis(grid: Grid) -> int:
    """Array axis along which axial slices are stacked.

    Raises
    ------
    NotEvaluableError
        ``not_axial``: no axis lies within 30° of head to foot.
    """
    upwards = np.abs(grid.directions.T @ SUPERIOR)
    if upwards.max() < AXIAL_COSINE:
        raise NotEvaluableError("not_axial", "no array axis lies within 30° of head to foot; resample to axial")
    return int(upwards.argmax())


class _AxialStack:
    """The box around the liver as axial slices, whichever array axis they are stacked along; in-plane mm."""

    def __init__(self, liver: Volume, ct: Volume | None) -> None:
        axis = axial_axis(liver.grid)
        rows, columns = (other for other in range(3) if other != axis)
        spacing = liver.grid.spacing
        self.pixel = np.array([spacing[rows], spacing[columns]])
        self.increment = spacing[axis]
        in_plane = liver.grid.directions.T @ ANTERIOR
        self.anterior = in_plane[[rows, columns]] / np.linalg.norm(in_plane[[rows, columns]])
        mask = np.asarray(liver.voxels != 0)
        box = tuple(self._reach(mask, number, spacing[number]) for number in range(3))
        self.mask: BoolArray = np.moveaxis(mask[box], axis, 0)
        self._ct = None if ct is None else ct.crop(*zip(*((s.start, s.stop) for s in box), strict=True))
        self._axis = axis

    @staticmethod
    def _reach(mask: BoolArray, axis: int, step: float) -> slice:
        """Extent of the mask along an axis, with what profiles need beyond it."""
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(2 * PROFILE_MM / step))
        return slice(max(0, int(found[0]) - margin), min(mask.shape[axis], int(found[-1]) + 1 + margin))

    def spread(self, number: int) -> list[int]:
        """Up to ``number`` slices evenly over those that hold liver and have neighbours for the tilt."""
        occupied = np.flatnonzero(self.mask.any(axis=(1, 2)))
        apart = self.neighbour
        usable = occupied[(occupied >= apart) & (occupied < len(self.mask) - apart)]
        if len(usable) <= number:
            return [int(k) for k in usable]
        centres = (np.arange(number) + 0.5) * len(usable) / number
        return [int(usable[int(centre)]) for centre in centres]

    @property
    def neighbour(self) -> int:
        """Number of slices to the neighbour from which the tilt is found."""
        return max(1, round(NEIGHBOUR_MM / self.increment))

    def hounsfield(self, k: int) -> FloatArray | None:
        """Cubic spline coefficients of the HU of one slice; None without CT."""
        if self._ct is None:
            return None
        index = tuple(k if number == self._axis else slice(None) for number in range(3))
        plane = self._ct.voxels[index].astype(np.float64) * self._ct.slope + self._ct.intercept
        if not np.isfinite(plane).all():
            raise NotEvaluableError("not_finite", f"slice {k} of the liver has NaN or infinite HU")
        return np.asarray(ndimage.spline_filter(plane, order=3, mode="nearest"))

    def profiles(self, plane: FloatArray, points: FloatArray, normals: FloatArray, order: int) -> FloatArray:
        """Values along normals, ``(n, len(OFFSETS))``, of a plane or (order 3) of its spline coefficients."""
        places = points[:, None, :] + OFFSETS[None, :, None] * normals[:, None, :]
        index = (places / self.pixel).transpose(2, 0, 1)
        return np.asarray(ndimage.map_coordinates(plane, index, order=order, mode="nearest", prefilter=False))


OFFSETS = np.arange(-PROFILE_MM, PROFILE_MM + PROFILE_STEP_MM / 2, PROFILE_STEP_MM)
_INSIDE, _OUTSIDE = OFFSETS <= -FLAT_MM, OFFSETS >= FLAT_MM


def _rois_of_slice(stack: _AxialStack, k: int, policy: SurfacePolicy) -> Iterator[float]:
    """Nodularity of each ROI along the outlines that are more than two ROIs long."""
    n = round(policy.roi_length_mm / STEP_MM) + 1
    contours = [contour for contour in _contours(stack.mask[k], stack.pixel) if len(contour) > 2 * n]
    spline = stack.hounsfield(k) if contours else None
    for contour in contours:
        yield from _rois_of_contour(stack, k, contour, spline, policy)


def _rois_of_contour(
    stack: _AxialStack, k: int, contour: FloatArray, spline: FloatArray | None, policy: SurfacePolicy
) -> Iterator[float]:
    n = round(policy.roi_length_mm / STEP_MM) + 1
    normals = _outward_normals(contour)
    usable = _tilt(stack, k, contour, normals) <= policy.max_tilt
    if policy.surface == "anterior":
        usable &= normals @ stack.anterior >= np.cos(np.radians(60.0))
    if spline is not None:
        contrast = _contrast(stack.profiles(spline, contour, normals, 3))
        usable &= (contrast >= policy.min_contrast_hu) & (contrast <= policy.max_contrast_hu)
    for first in _windows(usable, n):
        stretch = contour[np.arange(first, first + n) % len(contour)]
        try:
            if spline is None:
                yield contour_nodularity(stretch, policy.polynomial_degree)
            else:
                edge = _edge(stack, spline, _SmoothFit(stretch, policy.polynomial_degree))
                yield contour_nodularity(edge, policy.polynomial_degree)
        except NotEvaluableError:
            continue


def _contours(mask: BoolArray, pixel: FloatArray) -> Iterator[FloatArray]:
    """Yield the closed outlines of a slice's mask, each ``(n, 2)`` mm every ``STEP_MM``."""
    soft = ndimage.gaussian_filter(np.pad(mask, 2).astype(np.float32), MASK_SIGMA_MM / pixel, mode="constant")
    for indices in find_contours(soft, 0.5):  # type: ignore[no-untyped-call]
        outline = (indices - 2) * pixel
        length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(outline, axis=0), axis=1))])
        at = np.arange(0.0, length[-1], STEP_MM)
        yield np.stack([np.interp(at, length, outline[:, axis]) for axis in (0, 1)], axis=1)


def _outward_normals(contour: FloatArray) -> FloatArray:
    smooth = ndimage.gaussian_filter1d(contour, NORMAL_SIGMA_MM / STEP_MM, axis=0, mode="wrap")
    tangent = np.roll(smooth, -1, axis=0) - np.roll(smooth, 1, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    normals = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    # By the sign of the enclosed area the outline runs one way or the other.
    area = np.sum(contour[:, 0] * np.roll(contour[:, 1], -1) - np.roll(contour[:, 0], -1) * contour[:, 1])
    return normals if area < 0 else -normals


def _tilt(stack: _AxialStack, k: int, contour: FloatArray, normals: FloatArray) -> FloatArray:
    """|Shift of the contour per distance of slices|, ``(n,)``; what leaves the profile counts as its whole length."""
    position = []
    for neighbour in (k - stack.neighbour, k + stack.neighbour):
        plane = stack.mask[neighbour].astype(np.float64)
        position.append(stack.profiles(plane, contour, normals, 1).sum(axis=1) * PROFILE_STEP_MM)
    return np.asarray(np.abs(position[1] - position[0]) / (2 * stack.neighbour * stack.increment))


def _contrast(profiles: FloatArray) -> FloatArray:
    """Liver minus surroundings beside each point, ``(n,)`` HU, over 3 mm along the contour."""
    difference = profiles[:, _INSIDE].mean(axis=1) - profiles[:, _OUTSIDE].mean(axis=1)
    return np.asarray(ndimage.uniform_filter1d(difference, round(3.0 / STEP_MM), mode="wrap"))


def _windows(usable: BoolArray, n: int) -> Iterator[int]:
    """First points of stretches of ``n`` points that do not overlap and of which nearly all are usable."""
    around = np.concatenate([usable, usable[: n - 1]])
    total = np.concatenate([[0], np.cumsum(around)])
    # Start in the middle of what is not usable, so that no stretch is cut by where the outline happens to begin.
    start = int(np.flatnonzero(~usable)[0]) if not usable.all() else 0
    place = 0
    while place + n <= len(usable):
        first = (start + place) % len(usable)
        if usable[first] and total[first + n] - total[first] >= USABLE_SHARE * n:
            yield first
            place += n
        else:
            place += 1


def _edge(stack: _AxialStack, spline: FloatArray, smooth: _SmoothFit) -> FloatArray:
    """Sub-pixel edge near a smooth curve, ``(m, 2)`` mm: where profiles cross half height nearest to the curve."""
    points, normals = smooth.sample()
    profiles = stack.profiles(spline, points, normals, 3)
    if np.median(profiles[:, _INSIDE]) < np.median(profiles[:, _OUTSIDE]):
        normals, profiles = -normals, profiles[:, ::-1]
    level = (np.median(profiles[:, _INSIDE]) + np.median(profiles[:, _OUTSIDE])) / 2
    above = profiles - level
    crosses = (above[:, :-1] >= 0) & (above[:, 1:] < 0)
    fraction = above[:, :-1] / np.where(crosses, above[:, :-1] - above[:, 1:], 1.0)
    offset = np.where(crosses, OFFSETS[:-1] + PROFILE_STEP_MM * fraction, np.inf)
    nearest = np.take_along_axis(offset, np.abs(offset).argmin(axis=1)[:, None], axis=1)[:, 0]
    found = np.isfinite(nearest)
    if found.mean() < USABLE_SHARE:
        raise NotEvaluableError("no_edge", "too few profiles cross from liver to surroundings")
    return np.asarray(points[found] + nearest[found, None] * normals[found])

"""From the mask or tracing of a heart chamber in one frame: long axis, disc diameters, area, wall length (SPEC §7.2).

Masks are ``(rows, columns)``; points are ``(row, column)`` in **mm**, pixel indices times pixel size. A pixel size is
a magnitude: the sign of PhysicalDeltaX or PhysicalDeltaY says where an axis points and changes no length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.measure import find_contours

from ops.diseases.echo.formulae import N_DISCS
from ops.measure.diameters import hull_points
from ops.measure.errors import NotEvaluableError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
AnnulusRule = Literal["base_contact", "corners"]

# Pixels whose edges differ more than this are no echo image but a wrong header.
LARGEST_PIXEL_RATIO = 3.0
# Below one pixel a disc the diameters are guesses.
MIN_PIXELS_ALONG_AXIS = N_DISCS
# Standard deviation, in the larger pixel edges, of the blur that takes the staircase off a mask's outline: with one
# pixel, the outline of a closed form has its true length. It moves an edge of radius R by only σ²/2R, but rounds the
# corners at the annulus, so that a long axis is half a pixel short.
SMOOTHING_PIXELS = 1.0


@dataclass(frozen=True, eq=False)
class Chamber:
    """A chamber in one frame.

    Attributes
    ----------
    length_mm
        Long axis: from the midpoint of the mitral annulus to the point of the wall farthest from it (the apex of the
        ventricle, the roof of the atrium).
    area_mm2
        Inside the wall and the straight annulus.
    diameters_mm
        ``(20,)`` chords perpendicular to the long axis at the disc centres, from the annulus to the apex.
    wall_length_mm
        Along the wall from one end of the annulus to the other: the endocardial contour of longitudinal strain.
    annulus, apex
        ``(2, 2)`` and ``(2,)`` points.
    """

    length_mm: float
    area_mm2: float
    diameters_mm: FloatArray
    wall_length_mm: float
    annulus: FloatArray
    apex: FloatArray


def pixel_size(spacing_mm: tuple[float, float]) -> tuple[float, float]:
    """Magnitudes ``(row, column)`` mm of a signed pixel spacing.

    Raises
    ------
    NotEvaluableError
        ``bad_pixel_spacing`` (0, NaN or infinite), ``anisotropic`` (edges differ more than `LARGEST_PIXEL_RATIO`).
    """
    row, column = abs(spacing_mm[0]), abs(spacing_mm[1])
    if not (math.isfinite(row * column) and row * column > 0):
        raise NotEvaluableError("bad_pixel_spacing", f"pixel spacing {spacing_mm} mm is not finite or 0")
    if max(row, column) / min(row, column) > LARGEST_PIXEL_RATIO:
        raise NotEvaluableError(
            "anisotropic", f"pixels of {row:.3g} × {column:.3g} mm, at most 1:{LARGEST_PIXEL_RATIO:g}"
        )
    return row, column


def chamber_from_wall(wall: npt.ArrayLike) -> Chamber:
    """Measure a chamber traced from one end of the mitral annulus along the wall to the other end.

    Parameters
    ----------
    wall
        ``(n, 2)`` points in mm, open: the annulus is the straight line from the last to the first.

    Raises
    ------
    NotEvaluableError
        ``not_finite``; ``degenerate_contour``: fewer than 4 points, or no area or annulus.
    """
    points = np.asarray(wall, dtype=np.float64)
    if points.ndim != 2 or points.shape[1:] != (2,) or len(points) < 4:
        raise NotEvaluableError(
            "degenerate_contour", f"a contour of shape {points.shape}; at least 4 points are needed"
        )
    if not np.isfinite(points).all():
        raise NotEvaluableError("not_finite", "a contour point is NaN or infinite")
    area = abs(_signed_area(points))
    annulus = points[[0, -1]]
    if area == 0 or np.array_equal(annulus[0], annulus[1]):
        raise NotEvaluableError("degenerate_contour", "the contour encloses no area, or its annulus is one point")
    middle = annulus.mean(axis=0)
    distance = np.linalg.norm(points - middle, axis=1)
    apex = points[int(distance.argmax())]
    length = float(distance.max())
    return Chamber(
        length_mm=length,
        area_mm2=area,
        diameters_mm=_chords(points - middle, (apex - middle) / length, length),
        wall_length_mm=float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum()),
        annulus=annulus,
        apex=apex,
    )


def chamber_from_mask(
    mask: BoolArray, base: BoolArray, spacing_mm: tuple[float, float], rule: AnnulusRule = "base_contact"
) -> Chamber:
    """Measure a chamber given as a mask; holes are filled and only the largest piece counts.

    Parameters
    ----------
    mask
        ``(rows, columns)``.
    base
        ``(rows, columns)``: what lies on the other side of the annulus, i.e. left atrium and aorta for the left
        ventricle, and the ventricle for the atrium. Not used by ``corners``.
    spacing_mm
        ``(row, column)`` mm; signs are ignored.
    rule
        How the ends of the annulus are found. ``base_contact``: where the outline of the chamber stops touching
        ``base``. ``corners``: the side of the largest triangle in the chamber that faces its longest median, for masks
        of a ventricle alone; some 1–2 mm towards the apex while the annulus is at least 0.87 of the widest diameter
        (cut at no more than half the semi-axis [M]), and more where it is narrower.

    Raises
    ------
    NotEvaluableError
        ``empty_mask``, ``touches_border``, ``annulus_not_found``, ``too_coarse``, and those of `pixel_size` and
        `chamber_from_wall`.
    """
    size = np.asarray(pixel_size(spacing_mm))
    if not mask.any():
        raise NotEvaluableError("empty_mask", "no pixel of the chamber is labelled in this frame")
    require_inside_image(mask)
    box = _box_around(mask, margin=math.ceil(4 * SMOOTHING_PIXELS * size.max() / size.min()))
    origin = np.array([part.start for part in box]) * size
    solid = largest_piece(mask[box])
    field = _smooth(solid, size)
    outlines = _outlines(field)
    if not outlines:
        raise NotEvaluableError("too_coarse", "the chamber is so small or thin that it has no outline")
    outline = max(outlines, key=lambda line: abs(_signed_area(line)))
    if rule == "base_contact":
        wall = _wall_off_base(outline, _smooth(base[box], size)) * size
    else:
        wall = _wall_between_corners(outline * size, _pixel_corners(solid) * size)
    chamber = chamber_from_wall(wall + origin)
    if chamber.length_mm < MIN_PIXELS_ALONG_AXIS * size.max():
        detail = f"the long axis of {chamber.length_mm:.0f} mm has fewer than {MIN_PIXELS_ALONG_AXIS} pixels"
        raise NotEvaluableError("too_coarse", detail)
    return chamber


def require_inside_image(mask: BoolArray) -> None:
    """Refuse a mask ``(rows, columns)`` that the edge of the image cuts off: ``touches_border``."""
    if mask[[0, -1]].any() or mask[:, [0, -1]].any():
        raise NotEvaluableError("touches_border", "the chamber reaches the edge of the image and may go on beyond it")


def largest_piece(mask: BoolArray) -> BoolArray:
    """Largest 8-connected piece of a mask ``(rows, columns)``, holes filled: papillary muscles belong to the cavity."""
    labels, n = ndimage.label(mask, structure=np.ones((3, 3)))
    if n > 1:
        mask = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    return np.asarray(ndimage.binary_fill_holes(mask))


def _box_around(mask: BoolArray, margin: int) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        slice(max(int(rows[0]) - margin, 0), int(rows[-1]) + margin + 1),
        slice(max(int(columns[0]) - margin, 0), int(columns[-1]) + margin + 1),
    )


def _smooth(mask: BoolArray, size: FloatArray) -> FloatArray:
    sigma = SMOOTHING_PIXELS * size.max() / size
    return np.asarray(ndimage.gaussian_filter(mask.astype(np.float64), sigma, mode="nearest"))


def _outlines(field: FloatArray) -> list[FloatArray]:
    """Find closed level lines at one half ``(n, 2)``, the first point not repeated at the end."""
    lines: list[FloatArray] = find_contours(field, 0.5)  # type: ignore[no-untyped-call]
    return [line[:-1] for line in lines]


def _signed_area(points: FloatArray) -> float:
    """Area of the closed polygon; its sign is the sense of rotation."""
    following = np.roll(points, -1, axis=0)
    return float((points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]).sum() / 2)


def _chords(points: FloatArray, axis: FloatArray, length: float) -> FloatArray:
    """Widths of the closed polygon on the perpendiculars through the disc centres; origin at the annulus midpoint."""
    along, across = points @ axis, points @ np.array([-axis[1], axis[0]])
    centres = (np.arange(N_DISCS) + 0.5) * length / N_DISCS
    before = along[:, None] - centres
    after = np.roll(before, -1, axis=0)
    crosses = (before < 0) != (after < 0)
    share = np.where(crosses, before / np.where(crosses, before - after, 1.0), 0.0)
    at = across[:, None] + share * (np.roll(across, -1) - across)[:, None]
    # Entries count up and exits down, so that a fold of the wall is not bridged.
    return np.asarray(np.abs((np.sign(after - before) * crosses * at).sum(axis=0)))


def _wall_off_base(outline: FloatArray, base: FloatArray) -> FloatArray:
    """Open part of the outline ``(n, 2)`` pixels without its longest contact with the smoothed ``base``.

    On the smoothed outline half of what surrounds a point is the chamber itself; the base is beyond where it fills half
    of the rest. Both ends are interpolated.
    """
    excess = ndimage.map_coordinates(base, outline.T, order=1) - 0.25
    outside = np.flatnonzero(excess <= 0)
    if not 0 < len(outside) < len(outline):
        raise NotEvaluableError(
            "annulus_not_found", "the outline does not leave and meet a labelled base: is it there?"
        )
    outline, excess = np.roll(outline, -outside[0], axis=0), np.roll(excess, -outside[0])
    # The first point is outside, so no contact runs over the end.
    steps = np.diff((excess > 0).astype(int), append=0)
    starts, stops = np.flatnonzero(steps > 0), np.flatnonzero(steps < 0)
    longest = int((stops - starts).argmax())
    before, last = int(starts[longest]), int(stops[longest])

    def crossing(index: int) -> FloatArray:
        following = (index + 1) % len(outline)
        share = excess[index] / (excess[index] - excess[following])
        return np.asarray(outline[[index]] + share * (outline[[following]] - outline[[index]]))

    return np.concatenate([crossing(last), outline[last + 1 :], outline[: before + 1], crossing(before)])


def _pixel_corners(mask: BoolArray) -> FloatArray:
    """Corners ``(n, 2)`` of the pixels on the convex hull: unlike the smoothed outline, they keep a mask's corners."""
    half = np.array([(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)])
    return np.asarray((hull_points(np.argwhere(mask))[:, None, :] + half).reshape(-1, 2))


def _wall_between_corners(outline: FloatArray, points: FloatArray) -> FloatArray:
    """Part of the outline ``(n, 2)`` mm that passes the apex, between the other corners of the largest triangle.

    The triangle is that of ``points``; its apex is the corner with the longest median.
    """
    hull = hull_points(points)
    first, second = np.triu_indices(len(hull), 1)
    edge = hull[second] - hull[first]
    to_all = hull[None, :] - hull[first][:, None]
    doubled = np.abs(edge[:, :1] * to_all[..., 1] - edge[:, 1:] * to_all[..., 0])
    pair, third = np.unravel_index(int(doubled.argmax()), doubled.shape)
    corners = hull[[third, first[pair], second[pair]]]
    medians = np.linalg.norm(1.5 * corners - corners.sum(axis=0) / 2, axis=1)
    apex, one, other = (int(n) for n in cdist(np.roll(corners, -int(medians.argmax()), axis=0), outline).argmin(axis=1))
    outline = np.roll(outline, -one, axis=0)
    apex, other = (apex - one) % len(outline), (other - one) % len(outline)
    return outline[: other + 1] if apex < other else np.concatenate([outline[other:], outline[:1]])

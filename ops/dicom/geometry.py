"""Is this series one regular stack of slices, and where does it lie? Verdict, grid, slice order, rescale plan.

Positions are projected on the slice normal and sorted by it; the spacing comes from all positions, never from
SliceThickness or SpacingBetweenSlices (SPEC §0.2). The first check that fails gives the reason, and the checks run from
"what is this" over "can it be read" to "where does it lie", so that the reason is the most useful one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ops.dicom.encoding import Encoding, plan_encoding
from ops.dicom.headers import InstanceHeader
from ops.dicom.kinds import RefusedSeriesError, check_image, check_pixels
from ops.dicom.series import SeriesHeaders
from ops.verdict import Verdict, VerdictStatus
from ops.volume import FloatArray, Grid

# Two steps are the least from which a regular spacing can be told.
MIN_SLICES = 3
# Steps may deviate this much from their median (SPEC §0.2), plus what positions rounded to 3 decimals can add.
STEP_TOLERANCE = 0.01
POSITION_ROUNDING_MM = 0.002
# A step this close to a whole multiple of the median means slices are missing, not that spacing varies.
WHOLE_STEP_TOLERANCE = 0.1
# Slow drift of the spacing adds up: no slice may lie farther than this share of a step from the regular lattice.
LATTICE_TOLERANCE = 0.1
# Cosines of one stack agree to their written decimals; 1e-3 is half a millimetre over a field of view of 500 mm.
COSINE_TOLERANCE = 1e-3
SPACING_TOLERANCE = 1e-3
# Scanners tilt in steps of half a degree. Below this the true, slightly sheared affine is kept.
TILT_TOLERANCE_DEG = 0.25
# Slices of one stack share their in-plane origin, to this share of a pixel, once the stacking direction is removed.
INPLANE_TOLERANCE_PIXELS = 0.5
UNITS_BY_MODALITY = {"CT": "HU"}


@dataclass(frozen=True)
class Slice:
    """One image plane: frame ``frame`` of instance ``instance`` of a series."""

    instance: int
    frame: int
    position: FloatArray
    orientation: FloatArray
    spacing: FloatArray
    slope: float | None
    intercept: float | None


@dataclass(frozen=True)
class Assessment:
    """What `assess` found.

    Attributes
    ----------
    verdict
        Accepted, repaired (with every repair in the detail) or refused.
    grid
        LPS grid of the sorted stack; None when refused.
    order
        ``(instance, frame)`` of each slice, ascending along the slice normal.
    encoding
        How stored values become one integer array with one rescale; None when refused.
    units
        Unit of the rescaled values.
    """

    verdict: Verdict
    grid: Grid | None = None
    order: tuple[tuple[int, int], ...] = ()
    encoding: Encoding | None = None
    units: str = "a.u."


def assess(series: SeriesHeaders) -> Assessment:
    """Judge a series by its headers. Never raises on bad input: that is a refused verdict."""
    try:
        return _assess(series)
    except RefusedSeriesError as refusal:
        return Assessment(Verdict(VerdictStatus.REFUSED, refusal.reason, str(refusal)))


def _assess(series: SeriesHeaders) -> Assessment:
    check_image(series.instances)
    check_pixels(series.instances)
    slices = _slices(series.instances)
    orientation = _common_orientation(slices)
    spacing = _common_spacing(slices)
    normal = np.cross(orientation[:3], orientation[3:])
    slices.sort(key=lambda one: (float(one.position @ normal), one.instance, one.frame))
    positions = np.array([one.position for one in slices])
    _check_stack(positions, normal, float(spacing.min()), multi_frame=_is_multi_frame(series.instances))
    encoding = plan_encoding(series.instances, [(s.instance, s.slope, s.intercept) for s in slices])
    first = series.instances[0]
    return Assessment(
        verdict=_verdict(series),
        grid=_grid(first, positions, orientation, spacing),
        order=tuple((one.instance, one.frame) for one in slices),
        encoding=encoding,
        units=UNITS_BY_MODALITY.get(first.text("Modality"), first.text("Units") or "a.u."),
    )


def _verdict(series: SeriesHeaders) -> Verdict:
    if not series.repairs:
        return Verdict(VerdictStatus.ACCEPTED)
    detail = "; ".join(f"{repair.reason}: {repair.detail}" for repair in series.repairs)
    return Verdict(VerdictStatus.REPAIRED, series.repairs[0].reason, detail)


def _is_multi_frame(instances: tuple[InstanceHeader, ...]) -> bool:
    return any(header.frame_count > 1 for header in instances)


def _slices(instances: tuple[InstanceHeader, ...]) -> list[Slice]:
    slices = [one for index, header in enumerate(instances) for one in _slices_of(index, header)]
    if len(slices) < MIN_SLICES:
        raise RefusedSeriesError("too_few_slices", f"{len(slices)} slices; a volume needs at least {MIN_SLICES}")
    return slices


def _slices_of(index: int, header: InstanceHeader) -> list[Slice]:
    if header.frames:
        if len(header.frames) != header.frame_count:
            detail = f"{header.source}: {len(header.frames)} functional groups for {header.frame_count} frames"
            raise RefusedSeriesError("multi_frame_unsupported", detail)
        return [
            _slice(header, index, number, f.position, f.orientation, f.spacing, f.slope, f.intercept)
            for number, f in enumerate(header.frames)
        ]
    position = header.vector("ImagePositionPatient", 3)
    orientation = header.vector("ImageOrientationPatient", 6)
    spacing = header.vector("PixelSpacing", 2)
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    return [_slice(header, index, 0, position, orientation, spacing, slope, intercept)]


def _slice(
    header: InstanceHeader,
    index: int,
    frame: int,
    position: tuple[float, ...] | None,
    orientation: tuple[float, ...] | None,
    spacing: tuple[float, ...] | None,
    slope: float | None,
    intercept: float | None,
) -> Slice:
    if position is None or orientation is None or spacing is None:
        named = {"ImagePositionPatient": position, "ImageOrientationPatient": orientation, "PixelSpacing": spacing}
        missing = ", ".join(keyword for keyword, value in named.items() if value is None)
        raise RefusedSeriesError("no_position", f"{header.source}: {missing} missing or unreadable in frame {frame}")
    if header.text("Modality") == "CT" and (slope is None or intercept is None):
        raise RefusedSeriesError("missing_rescale", f"{header.source}: CT without RescaleSlope or RescaleIntercept")
    if min(spacing) <= 0:
        raise RefusedSeriesError("no_position", f"{header.source}: PixelSpacing {spacing} is not positive")
    arrays = (np.array(position), np.array(orientation), np.array(spacing))
    return Slice(index, frame, *arrays, slope, intercept)


def _common_orientation(slices: list[Slice]) -> FloatArray:
    """Return the unit row and column cosines shared by all slices, ``(6,)``."""
    orientations = np.array([one.orientation for one in slices])
    deviation = np.abs(orientations - orientations[0]).max(axis=1)
    if deviation.max() > COSINE_TOLERANCE:
        count = int((deviation > COSINE_TOLERANCE).sum())
        detail = f"{count} of {len(slices)} slices are oriented unlike the first ({orientations[0].tolist()})"
        raise RefusedSeriesError("mixed_orientation", detail)
    row, column = orientations[0][:3], orientations[0][3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if np.abs(np.array(lengths) - 1).max() > 0.01 or abs(row @ column) > COSINE_TOLERANCE:
        detail = f"ImageOrientationPatient {orientations[0].tolist()} is not a pair of perpendicular unit vectors"
        raise RefusedSeriesError("invalid_orientation", detail)
    return np.concatenate([row / lengths[0], column / lengths[1]])


def _common_spacing(slices: list[Slice]) -> FloatArray:
    spacings = np.array([one.spacing for one in slices])
    if (np.abs(spacings - spacings[0]) > SPACING_TOLERANCE * spacings[0]).any():
        found = sorted({tuple(spacing) for spacing in spacings.tolist()})
        raise RefusedSeriesError("mixed_spacing", f"PixelSpacing differs between slices: {found[:4]}")
    return np.asarray(spacings[0])


def _check_stack(positions: FloatArray, normal: FloatArray, pixel: float, multi_frame: bool) -> None:
    """Duplicates, tilt, gaps and uneven steps of sorted positions ``(n, 3)``."""
    along = positions @ normal
    steps = np.diff(along)
    repeated = int((steps < POSITION_ROUNDING_MM).sum())
    if repeated:
        reason = "multiple_volumes" if multi_frame else "duplicate_slices"
        at = float(along[int(np.argmin(steps))])
        shared = f"{repeated} of {len(along)} slices share a position with another (first at {at:.3f} mm)"
        raise RefusedSeriesError(reason, f"{shared}, and their pixel data differ")
    _check_tilt(positions, normal, pixel)
    _check_steps(along, steps)


def _check_tilt(positions: FloatArray, normal: FloatArray, pixel: float) -> None:
    travel = positions[-1] - positions[0]
    cosine = abs(travel @ normal) / np.linalg.norm(travel)
    tilt = float(np.degrees(np.arccos(min(1.0, cosine))))
    if tilt > TILT_TOLERANCE_DEG:
        detail = f"slices are stacked {tilt:.2f}° off their normal; resample the series to upright slices first"
        raise RefusedSeriesError("gantry_tilt", detail)
    fraction = ((positions - positions[0]) @ normal) / (travel @ normal)
    offset = positions - positions[0] - fraction[:, None] * travel
    worst = float(np.linalg.norm(offset, axis=1).max())
    if worst > INPLANE_TOLERANCE_PIXELS * pixel:
        raise RefusedSeriesError("misaligned_slices", f"a slice is shifted {worst:.2f} mm sideways within the stack")


def _check_steps(along: FloatArray, steps: FloatArray) -> None:
    median = float(np.median(steps))
    uneven = np.abs(steps - median) > STEP_TOLERANCE * median + POSITION_ROUNDING_MM
    if uneven.any():
        where = int(np.argmax(uneven))
        place = f"between {along[where]:.3f} and {along[where + 1]:.3f} mm along the normal"
        multiples = steps / median
        whole = np.abs(multiples - np.round(multiples)) <= WHOLE_STEP_TOLERANCE
        if whole.all() and multiples.min() > WHOLE_STEP_TOLERANCE:
            missing = int(np.round(multiples).sum()) - len(steps)
            if missing > 0:
                detail = f"{missing} slices are missing at a spacing of {median:.3f} mm, first {place}"
                raise RefusedSeriesError("missing_slices", detail)
        spread = f"steps range from {steps.min():.3f} to {steps.max():.3f} mm, median {median:.3f}"
        raise RefusedSeriesError("unequal_spacing", f"{spread}; first {place}")
    regular = along[0] + np.arange(len(along)) * (along[-1] - along[0]) / (len(along) - 1)
    drift = float(np.abs(along - regular).max())
    if drift > LATTICE_TOLERANCE * median:
        raise RefusedSeriesError("unequal_spacing", f"a slice lies {drift:.3f} mm off the regular lattice")


def _grid(header: InstanceHeader, positions: FloatArray, orientation: FloatArray, spacing: FloatArray) -> Grid:
    """Affine of PS3.3 C.7.6.2.1.1 with the mean step between slices as its first column."""
    rows, columns = int(header.values["Rows"]), int(header.values["Columns"])
    affine = np.eye(4)
    affine[:3, 0] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 1] = orientation[3:] * spacing[0]  # PixelSpacing is (between rows, between columns)
    affine[:3, 2] = orientation[:3] * spacing[1]
    affine[:3, 3] = positions[0]
    return Grid((len(positions), rows, columns), affine)

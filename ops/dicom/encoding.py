"""One integer encoding for a whole stack: dtype from all slices, and one rescale even where slices differ in theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ops.dicom.headers import InstanceHeader
from ops.dicom.kinds import RefusedSeriesError

# (instance, RescaleSlope, RescaleIntercept) of one slice; None where absent.
SliceRescale = tuple[int, float | None, float | None]

_INTEGER_TYPES = (np.uint8, np.int16, np.uint16, np.int32, np.uint32)
# Ratios of slopes and intercepts this close to whole numbers are whole: decimal strings carry 16 characters.
_WHOLE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Encoding:
    """How stored values of each slice become voxels: ``voxel = factor · stored + offset``.

    Attributes
    ----------
    dtype
        Type of the voxels.
    slope, intercept
        Rescale from voxels to physical values, for the whole volume.
    adjustments
        ``(factor, offset)`` per slice in sorted order; empty when stored values are taken as they are.
    """

    dtype: np.dtype[Any]
    slope: float
    intercept: float
    adjustments: tuple[tuple[float, float], ...] = ()


def plan_encoding(instances: Sequence[InstanceHeader], slices: Sequence[SliceRescale]) -> Encoding:
    """Choose dtype and rescale for slices in sorted order.

    Equal rescales: stored integers are kept. Different ones: integers on the finest slope when all slopes and
    intercepts are whole multiples of it (lossless), else the physical values as float32.

    Raises
    ------
    RefusedSeriesError
        ``invalid_rescale``: a slope of zero.
    """
    rescales = [(1.0 if slope is None else slope, 0.0 if b is None else b) for _, slope, b in slices]
    if any(slope == 0 for slope, _ in rescales):
        raise RefusedSeriesError("invalid_rescale", "RescaleSlope is 0: every pixel would have the same value")
    ranges = [stored_range(instances[index]) for index, _, _ in slices]
    slope, intercept = rescales[0]
    if all(rescale == rescales[0] for rescale in rescales):
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        return Encoding(_integer_type(low, high), slope, intercept)
    return _common_integers(rescales, ranges) or _floats(rescales)


def stored_range(header: InstanceHeader) -> tuple[int, int]:
    """Smallest and largest stored value that the header admits (BitsStored, PixelRepresentation)."""
    bits = int(header.values["BitsStored"])
    if header.values["PixelRepresentation"] == 1:
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1


def _integer_type(low: float, high: float) -> np.dtype[Any]:
    """Smallest type that holds the range; 32 stored bits always fit one of them."""
    return next(np.dtype(t) for t in _INTEGER_TYPES if np.iinfo(t).min <= low and high <= np.iinfo(t).max)


def _common_integers(rescales: list[tuple[float, float]], ranges: list[tuple[int, int]]) -> Encoding | None:
    slope = min((slope for slope, _ in rescales), key=abs)
    intercept = min(intercept for _, intercept in rescales)
    factors = np.array([a / slope for a, _ in rescales])
    offsets = np.array([(b - intercept) / slope for _, b in rescales])
    both = np.concatenate([factors, offsets])
    if (np.abs(both - np.round(both)) > _WHOLE_TOLERANCE * np.maximum(1, np.abs(both))).any():
        return None
    factors, offsets = np.round(factors), np.round(offsets)
    ends = np.array(ranges) * factors[:, None] + offsets[:, None]
    if ends.min() < np.iinfo(np.int32).min or ends.max() > np.iinfo(np.int32).max:
        return None
    adjustments = tuple(zip(factors.tolist(), offsets.tolist(), strict=True))
    return Encoding(_integer_type(ends.min(), ends.max()), slope, intercept, adjustments)


def _floats(rescales: list[tuple[float, float]]) -> Encoding:
    return Encoding(np.dtype(np.float32), 1.0, 0.0, tuple(rescales))

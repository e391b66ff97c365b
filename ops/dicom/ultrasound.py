"""Calibration of an ultrasound image: its regions, their pixel sizes, and the times of its frames (PS3.3 C.8.5.5)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydicom.dataset import Dataset

from ops.dicom.elements import RawElements, numbers, raw_elements
from ops.dicom.kinds import RefusedSeriesError

MM_PER_CM = 10.0
# PS3.3 C.8.5.5.1: Region Spatial Format 1 = 2D; Region Data Type 1 = tissue; Physical Units 3 = cm.
_TWO_DIMENSIONAL, _TISSUE, _CENTIMETRES = 1, 1, 3
_FORMATS = {0: "none", 1: "2D", 2: "M-mode", 3: "spectral", 4: "waveform", 5: "graphics"}
_TYPES = {1: "tissue", 2: "colour flow", 3: "PW Doppler", 4: "CW Doppler"}
_DOPPLER_TYPES = (2, 3, 4)
_UNITS = {
    0: "none", 1: "percent", 2: "dB", 3: "cm", 4: "s", 5: "Hz", 6: "dB/s", 7: "cm/s", 8: "cm2", 9: "cm2/s",
    10: "cm3", 11: "cm3/s", 12: "degrees",
}  # fmt: skip
_UNSIGNED_LONGS = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")


@dataclass(frozen=True)
class UltrasoundRegion:
    """One region of an ultrasound image.

    Attributes
    ----------
    bounds
        ``(top, left, bottom, right)`` pixels, inclusive, cut to the image; None when absent or outside it.
    spacing_mm
        ``(row, column)`` size of a pixel, positive; None unless ``reason`` is empty.
    directions
        ``(row, column)``: 1 where the physical axis runs along the pixel axis, -1 where it runs against it (a negative
        PhysicalDelta, which is no negative size).
    reason, detail
        Why lengths may not be measured here: ``doppler_region``, ``not_a_tissue_image``, ``wrong_physical_units``,
        ``bad_physical_delta``, ``region_outside_image``; empty for a calibrated two-dimensional tissue image.
    """

    bounds: tuple[int, int, int, int] | None
    spacing_mm: tuple[float, float] | None = None
    directions: tuple[int, int] = (1, 1)
    reason: str = ""
    detail: str = ""


def read_regions(dataset: Dataset) -> tuple[UltrasoundRegion, ...]:
    """Every item of SequenceOfUltrasoundRegions in order; empty when there is none.

    Parameters
    ----------
    dataset
        Header of an ultrasound image; values that cannot be read count as absent.
    """
    size = [numbers(raw_elements(dataset), keyword, "US") for keyword in ("Rows", "Columns")]
    rows, columns = (int(values[0]) if values else None for values in size)
    return tuple(_region(item, rows, columns) for item in dataset.get("SequenceOfUltrasoundRegions") or ())


def tissue_region(dataset: Dataset) -> UltrasoundRegion:
    """Return the one region of an image in which lengths may be measured.

    Raises
    ------
    RefusedSeriesError
        ``no_ultrasound_region``; ``several_tissue_regions`` (e.g. two views side by side); else the reason of the
        region that comes first with one of a two-dimensional image before others.
    """
    regions = read_regions(dataset)
    usable = [region for region in regions if not region.reason]
    if len(usable) == 1:
        return usable[0]
    if usable:
        detail = f"{len(usable)} calibrated tissue regions: which of them is meant?"
        raise RefusedSeriesError("several_tissue_regions", detail)
    if not regions:
        raise RefusedSeriesError("no_ultrasound_region", "no SequenceOfUltrasoundRegions: pixels have no size")
    ordered = sorted(regions, key=lambda region: region.reason == "not_a_tissue_image")
    raise RefusedSeriesError(ordered[0].reason, ordered[0].detail)


def frame_times_ms(dataset: Dataset) -> tuple[float, ...]:
    """Time of every frame from the first, in ms.

    From FrameTimeVector, whose increments may be uneven, else from FrameTime. The display rate is not used: it says how
    fast to show a loop, not how fast it was acquired.

    Raises
    ------
    RefusedSeriesError
        ``no_frame_time``, ``bad_frame_time`` (not above 0, or a vector that cannot be read or is not as long as
        the frames are many).
    """
    elements = raw_elements(dataset)
    count = int((numbers(elements, "NumberOfFrames", "IS") or (1,))[0])
    vector, step = numbers(elements, "FrameTimeVector"), numbers(elements, "FrameTime")
    if "FrameTimeVector" in dataset and not vector:
        raise RefusedSeriesError("bad_frame_time", "FrameTimeVector cannot be read; FrameTime would contradict it")
    if not vector and not step:
        raise RefusedSeriesError("no_frame_time", "neither FrameTimeVector nor FrameTime: the clip has no time axis")
    # The first element of the vector is the time before the first frame and says nothing.
    increments = vector[1:] if vector else step * (count - 1)
    if len(increments) != count - 1 or (increments and min(increments) <= 0):
        detail = f"{len(increments)} increments for {count} frames, smallest {min(increments, default=math.nan):g} ms"
        raise RefusedSeriesError("bad_frame_time", detail)
    times = [0.0]
    for increment in increments:
        times.append(times[-1] + increment)
    return tuple(times)


def _region(item: Dataset, rows: int | None, columns: int | None) -> UltrasoundRegion:
    elements = raw_elements(item)
    bounds = _bounds(elements, rows, columns)
    kind, data = _integer(elements, "RegionSpatialFormat"), _integer(elements, "RegionDataType")
    units = _integer(elements, "PhysicalUnitsYDirection"), _integer(elements, "PhysicalUnitsXDirection")
    if data in _DOPPLER_TYPES:
        return UltrasoundRegion(bounds, reason="doppler_region", detail=f"a region of {_TYPES[data]} shows no anatomy")
    if kind != _TWO_DIMENSIONAL or data != _TISSUE:
        shown = f"format {_FORMATS.get(kind, kind)}, data {_TYPES.get(data, data)}"
        return UltrasoundRegion(bounds, reason="not_a_tissue_image", detail=f"no two-dimensional tissue image: {shown}")
    if units != (_CENTIMETRES, _CENTIMETRES):
        shown = ", ".join(_UNITS.get(unit, str(unit)) for unit in units)
        return UltrasoundRegion(bounds, reason="wrong_physical_units", detail=f"rows and columns in {shown}, not cm")
    delta = numbers(elements, "PhysicalDeltaY", "FD"), numbers(elements, "PhysicalDeltaX", "FD")
    values = tuple(found[0] for found in delta if found and found[0] != 0)
    if len(values) != 2:
        return UltrasoundRegion(bounds, reason="bad_physical_delta", detail="PhysicalDelta is absent, 0 or not finite")
    if bounds is None:
        return UltrasoundRegion(bounds, reason="region_outside_image", detail="no bounds, or none inside the image")
    return UltrasoundRegion(
        bounds,
        (abs(values[0]) * MM_PER_CM, abs(values[1]) * MM_PER_CM),
        (1 if values[0] > 0 else -1, 1 if values[1] > 0 else -1),
    )


def _integer(elements: RawElements, keyword: str, vr: str = "US") -> int:
    """Value of an element, -1 when absent."""
    return int((numbers(elements, keyword, vr) or (-1,))[0])


def _bounds(elements: RawElements, rows: int | None, columns: int | None) -> tuple[int, int, int, int] | None:
    """Inclusive bounds cut to the image: some scanners write the size in place of the last index."""
    found = [numbers(elements, keyword, "UL") for keyword in _UNSIGNED_LONGS]
    if not all(found):
        return None
    left, top, right, bottom = (int(values[0]) for values in found)
    bottom = bottom if rows is None else min(bottom, rows - 1)
    right = right if columns is None else min(right, columns - 1)
    return (top, left, bottom, right) if top <= bottom and left <= right else None

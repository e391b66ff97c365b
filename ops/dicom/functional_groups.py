"""Geometry of the frames of an enhanced multi-frame instance, from its functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from ops.dicom.elements import numbers, raw_elements


@dataclass(frozen=True, slots=True)
class FrameAttributes:
    """What one frame says of itself; None where neither the frame nor the shared groups say it.

    Attributes
    ----------
    position
        ImagePositionPatient ``(x, y, z)`` LPS mm.
    orientation
        ImageOrientationPatient, six cosines.
    spacing
        PixelSpacing ``(dy, dx)`` mm.
    slope, intercept
        Pixel value transformation.
    """

    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    slope: float | None
    intercept: float | None


def frame_attributes(dataset: Dataset) -> tuple[FrameAttributes, ...]:
    """Per-frame attributes in stored order; empty when the instance has no per-frame functional groups."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared_groups = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    return tuple(_frame(group, shared_groups[0]) for group in per_frame)


def _frame(frame: Dataset, shared: Dataset) -> FrameAttributes:
    return FrameAttributes(
        position=_vector(frame, shared, "PlanePositionSequence", "ImagePositionPatient", 3),
        orientation=_vector(frame, shared, "PlaneOrientationSequence", "ImageOrientationPatient", 6),
        spacing=_vector(frame, shared, "PixelMeasuresSequence", "PixelSpacing", 2),
        slope=_number(frame, shared, "PixelValueTransformationSequence", "RescaleSlope"),
        intercept=_number(frame, shared, "PixelValueTransformationSequence", "RescaleIntercept"),
    )


def _vector(frame: Dataset, shared: Dataset, sequence: str, keyword: str, size: int) -> tuple[float, ...] | None:
    for group in (frame, shared):
        items = group.get(sequence)
        if items:
            values = numbers(raw_elements(items[0]), keyword)
            return values if len(values) == size else None
    return None


def _number(frame: Dataset, shared: Dataset, sequence: str, keyword: str) -> float | None:
    values = _vector(frame, shared, sequence, keyword, 1)
    return values[0] if values else None

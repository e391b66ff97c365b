"""A simulated study of any disease: what was imaged, as which DICOM object, and what is true of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ops.phantoms.participant import Participant
from ops.volume import Volume


@dataclass(frozen=True, eq=False)
class Stack:
    """One volume of a series, and what distinguishes it from the series' other volumes.

    Attributes
    ----------
    volume
        Integer voxels, stored as they are with the volume's slope and intercept.
    attributes
        DICOM keyword → value of this stack, e.g. ``{"DiffusionBValue": 1000.0}`` or ``{"TriggerTime": 120.0}``.
    """

    volume: Volume
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SliceSeries:
    """CT or MR slices, as one file a slice (``classic``) or, MR only, one file for all (``enhanced``).

    Attributes
    ----------
    role
        What the programme calls it: ``ct``, ``dwi``, ``adc``, ``cine`` …
    modality
        ``CT`` or ``MR``.
    description
        SeriesDescription.
    stacks
        Volumes on one grid.
    encoding
        ``classic`` or ``enhanced``.
    attributes
        DICOM keyword → value of the whole series.
    """

    role: str
    modality: Literal["CT", "MR"]
    description: str
    stacks: tuple[Stack, ...]
    encoding: Literal["classic", "enhanced"] = "classic"
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class UltrasoundClip:
    """A grey echo loop, written as US Multi-frame Image with one calibrated tissue region.

    Attributes
    ----------
    role, description
        As for `SliceSeries`.
    frames
        ``(t, rows, columns)`` uint8.
    spacing_mm
        ``(row, column)`` mm per pixel; written in cm as PhysicalDeltaY and PhysicalDeltaX. A negative one means that
        the physical axis runs against the pixel axis.
    frame_time_ms
        Time between frames.
    region
        ``(top, left, bottom, right)`` pixel bounds of the calibrated region, inclusive.
    """

    role: str
    description: str
    frames: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float]
    frame_time_ms: float
    region: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One projection, written as Digital X-Ray Image for presentation.

    Attributes
    ----------
    role, description
        As for `SliceSeries`.
    pixels
        ``(rows, columns)`` uint16, brighter = denser (MONOCHROME2).
    spacing_mm
        ``(row, column)`` at the imager.
    body_part
        BodyPartExamined, e.g. ``WRIST``.
    view
        ViewPosition, e.g. ``PA`` or ``LL``.
    orientation
        PatientOrientation: where rows and columns run, limbs as in the anatomical position.
    laterality
        ``L`` or ``R``.
    """

    role: str
    description: str
    pixels: npt.NDArray[np.uint16]
    spacing_mm: tuple[float, float]
    body_part: str
    view: str
    orientation: tuple[str, str]
    laterality: Literal["L", "R"]


SimulatedSeries = SliceSeries | UltrasoundClip | Radiograph


@dataclass(frozen=True, eq=False)
class SimulatedStudy:
    """One participant's study.

    Attributes
    ----------
    participant
        Age, sex and build in the headers.
    description
        StudyDescription.
    series
        What was imaged.
    labels
        True label maps by role, on the grid of the series of that role (units ``label``).
    truth
        True values by the measurement's own name, plain JSON; what ``truth.json`` gets.
    """

    participant: Participant
    description: str
    series: tuple[SimulatedSeries, ...]
    labels: Mapping[str, Volume]
    truth: dict[str, Any]

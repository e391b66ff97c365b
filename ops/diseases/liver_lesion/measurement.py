"""Liver lesions from a label map: number, diameters, volumes, size classes (SPEC §10).

A lesion is a 26-connected component in three dimensions. Its size is its longest diameter within a slice, the
largest over all slices (RECIST), and its short axis the largest width perpendicular to that in the same slice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.diseases.liver_lesion.recist import Target, select_targets
from ops.measure.checks import (
    require_isotropy,
    require_label_map,
    require_not_empty,
    require_orthogonal,
    touches_border,
)
from ops.measure.diameters import DiameterConvention, InPlaneDiameters, in_plane_diameters
from ops.measure.errors import NotEvaluableError
from ops.measure.record import MeasurementRecord
from ops.measure.value import MeasuredValue
from ops.volume import FloatArray, Volume

ALGORITHM, VERSION = "liver_lesion", "1"

LIVER, LESION = 1, 2
"""Labels: liver without its lesions, and all lesions."""

SMALL_MM, LARGE_MM = 10.0, 20.0
"""Both inclusive in the middle class (SPEC §10, after Vorontsov 2019)."""

SizeClass = Literal["<10", "10-20", ">20"]

_NEIGHBOURS_26 = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class LiverLesionPolicy:
    """Choices that change the numbers.

    Attributes
    ----------
    diameter
        ``edge_to_edge`` (default) measures to the outer edge of the outermost pixels, ``centre_to_centre`` about a
        pixel less.
    min_voxels
        Components of fewer voxels are not lesions; they are counted as ``specks``.
    max_anisotropy
        Longest over shortest voxel edge above which nothing is measured (policy; 5 mm slices of 0.6 mm pixels pass).
    """

    diameter: DiameterConvention = "edge_to_edge"
    min_voxels: int = 1
    max_anisotropy: float = 9.0

    def __post_init__(self) -> None:
        if self.diameter not in ("edge_to_edge", "centre_to_centre"):
            raise ValueError(f"diameter must be 'edge_to_edge' or 'centre_to_centre', got {self.diameter!r}")
        if self.min_voxels < 1:
            raise ValueError(f"min_voxels must be at least 1, got {self.min_voxels}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_POLICY = LiverLesionPolicy()


@dataclass(frozen=True, eq=False)
class LiverLesion:
    """One lesion.

    Attributes
    ----------
    diameters
        In the slice of the longest one, mm; ends in index coordinates ``(j, i)``.
    slice_index
        k of that slice.
    volume
        mm³, sum of voxels.
    centre
        Centre of mass ``(x, y, z)`` LPS mm.
    is_cut
        It reaches a face of the scan and may go on beyond.
    """

    diameters: InPlaneDiameters
    slice_index: int
    volume: float
    centre: FloatArray
    is_cut: bool


def size_class(diameter: float) -> SizeClass:
    """Class of a longest diameter in mm: below 10, 10 to 20 (both inclusive), above 20."""
    if diameter < SMALL_MM:
        return "<10"
    return "10-20" if diameter <= LARGE_MM else ">20"


def find_lesions(labels: Volume, policy: LiverLesionPolicy = DEFAULT_POLICY) -> tuple[tuple[LiverLesion, ...], int]:
    """Lesions of a label map, largest diameter first, and the number of specks left out.

    Raises
    ------
    NotEvaluableError
        ``not_a_label_map``, ``gantry_tilt`` or ``anisotropic``.
    """
    require_label_map(labels)
    require_orthogonal(labels.grid)
    require_isotropy(labels.grid, policy.max_anisotropy)
    components, n = ndimage.label(labels.voxels == LESION, structure=_NEIGHBOURS_26)
    found, specks = [], 0
    for number, box in enumerate(ndimage.find_objects(components, n), start=1):
        mask = components[box] == number
        if int(mask.sum()) < policy.min_voxels:
            specks += 1
            continue
        found.append(_lesion(labels, mask, box, policy))
    return tuple(sorted(found, key=lambda lesion: -lesion.diameters.longest)), specks


def _lesion(
    labels: Volume, mask: npt.NDArray[np.bool_], box: tuple[slice, slice, slice], policy: LiverLesionPolicy
) -> LiverLesion:
    start = np.array([side.start for side in box])
    slices = [
        (k, in_plane_diameters(plane, labels.grid.spacing[1:], policy.diameter))
        for k, plane in enumerate(mask)
        if plane.any()
    ]
    k, widest = max(slices, key=lambda item: item[1].longest)
    ends = widest.ends + start[1:]
    is_cut = any(side.start == 0 or side.stop == n for side, n in zip(box, labels.grid.shape, strict=True))
    return LiverLesion(
        InPlaneDiameters(widest.longest, widest.perpendicular, ends),
        int(start[0] + k),
        int(mask.sum()) * labels.grid.voxel_volume,
        labels.grid.index_to_patient(np.argwhere(mask).mean(axis=0) + start),
        is_cut,
    )


def measure(
    labels: Volume, policy: LiverLesionPolicy = DEFAULT_POLICY, inputs: tuple[str, ...] = ()
) -> MeasurementRecord:
    """Measure all lesions of a liver.

    Parameters
    ----------
    labels
        `LIVER` and `LESION`; a liver without a lesion is a finding of zero lesions, no liver is not evaluable.
    inputs
        UIDs of the series the labels come from.

    Returns
    -------
    MeasurementRecord
        ``lesion_count``, ``lesion_volume`` (mL), ``largest_diameter``, ``sum_of_targets`` (mm, RECIST baseline) and the
        class counts; ``lesion_<n>_…`` for each lesion, the largest first. A lesion cut off by the edge of the scan has
        no diameters, nor then are there sums.
    """
    try:
        require_label_map(labels)
        require_not_empty((labels.voxels == LIVER) | (labels.voxels == LESION), "liver")
        lesions, specks = find_lesions(labels, policy)
    except NotEvaluableError as error:
        return MeasurementRecord.refused(ALGORITHM, VERSION, error, policy=policy.to_dict(), inputs=inputs)
    flags = {
        "lesion_touches_scan_edge": any(lesion.is_cut for lesion in lesions),
        "liver_touches_scan_edge": touches_border(labels.voxels == LIVER),
        "specks_left_out": specks > 0,
    }
    return MeasurementRecord(
        ALGORITHM,
        VERSION,
        measurements=(*_totals(lesions, labels), *_each(lesions)),
        flags=tuple(name for name, raised in flags.items() if raised),
        policy=policy.to_dict(),
        inputs=inputs,
    )


def _totals(lesions: tuple[LiverLesion, ...], labels: Volume) -> list[MeasuredValue]:
    count = MeasuredValue("lesion_count", float(len(lesions)), "1")
    if any(lesion.is_cut for lesion in lesions):
        names = {"lesion_volume": "mL", "largest_diameter": "mm", "sum_of_targets": "mm"}
        names |= {f"lesion_count_{name}": "1" for name in _CLASS_NAMES.values()}
        return [count, *(MeasuredValue.missing(name, "touches_border", unit) for name, unit in names.items())]
    diameters = [lesion.diameters.longest for lesion in lesions]
    candidates = [Target("liver", lesion.diameters.longest, lesion.diameters.perpendicular) for lesion in lesions]
    targets = [target.diameter for target in select_targets(candidates, labels.grid.spacing[0])]
    classes = [size_class(diameter) for diameter in diameters]
    return [
        count,
        MeasuredValue("lesion_volume", sum(lesion.volume for lesion in lesions) / 1000, "mL"),
        _unless_none("largest_diameter", max(diameters, default=None), "no_lesion"),
        _unless_none("sum_of_targets", sum(targets) if targets else None, "no_target"),
        *(
            MeasuredValue(f"lesion_count_{name}", float(classes.count(each)), "1")
            for each, name in _CLASS_NAMES.items()
        ),
    ]


def _unless_none(name: str, value: float | None, reason: str) -> MeasuredValue:
    return MeasuredValue.missing(name, reason, "mm") if value is None else MeasuredValue(name, value, "mm")


def _each(lesions: tuple[LiverLesion, ...]) -> list[MeasuredValue]:
    values = []
    for number, lesion in enumerate(lesions, start=1):
        for name, value, unit in (
            ("longest_diameter", lesion.diameters.longest, "mm"),
            ("short_axis", lesion.diameters.perpendicular, "mm"),
            ("volume", lesion.volume / 1000, "mL"),
        ):
            named = f"lesion_{number}_{name}"
            missing = MeasuredValue.missing(named, "touches_border", unit)
            values.append(missing if lesion.is_cut else MeasuredValue(named, value, unit))
    return values


_CLASS_NAMES: dict[SizeClass, str] = {"<10": "below_10_mm", "10-20": "10_to_20_mm", ">20": "above_20_mm"}

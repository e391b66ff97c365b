"""Intracranial aneurysm: size and shape of a segmented sac (SPEC §3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import trimesh
from scipy import ndimage

from ops.diseases.aneurysm.geometry import (
    SacGeometry,
    aspect_ratio,
    bottleneck_factor,
    conicity,
    nonsphericity_index,
    open_sac,
    parent_diameter,
    sac_geometry,
    size_ratio,
    undulation_index,
)
from ops.diseases.aneurysm.parent import branch_diameters
from ops.diseases.aneurysm.risk import size_class
from ops.measure.checks import (
    require_inside,
    require_isotropy,
    require_label_map,
    require_not_empty,
    require_orthogonal,
)
from ops.measure.errors import NotEvaluableError
from ops.measure.record import MeasurementRecord
from ops.measure.surface import SurfaceEstimator, mask_volume
from ops.measure.value import MeasuredValue
from ops.volume import Volume

ALGORITHM = "aneurysm"
VERSION = "1"

VESSEL_LABEL, SAC_LABEL = 1, 2

# Voxels around the sac whose surface is meshed: smoothing looks no farther than this.
_SURFACE_MARGIN = 5
# A sac of fewer voxels (2 × 2 × 2) has no shape.
_MINIMUM_VOXELS = 8
# Pieces of a sac that together have more than this share of the largest are not strays.
_STRAY_SHARE = 0.05
_NEIGHBOURS_26 = ndimage.generate_binary_structure(3, 3)

NeckConvention = Literal["mean_radius", "hydraulic"]


@dataclass(frozen=True)
class AneurysmPolicy:
    """Named choices that change a value.

    Attributes
    ----------
    surface_estimator
        Surface of the lumen from voxels, see `ops.measure.surface`. Volumes are counted voxels in any case.
    neck_convention
        Neck diameter in AR and BF: ``mean_radius`` (default), twice the mean distance from the neck's centroid to its
        contour; ``hydraulic``, 4A/P. Both are in use under one name (SPEC §3.1).
    low_confidence_voxels
        A sac whose ball of equal volume has a diameter of fewer of the longest voxel edges is flagged
        ``low_confidence``. The bound 6 is uncertain [U]; the values are given all the same.
    largest_anisotropy
        Largest ratio of voxel edges that is measured; no source gives one.
    """

    surface_estimator: SurfaceEstimator = "humphrey"
    neck_convention: NeckConvention = "mean_radius"
    low_confidence_voxels: float = 6.0
    largest_anisotropy: float = 4.0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("surface_estimator", ("marching_cubes", "taubin", "humphrey")),
            ("neck_convention", ("mean_radius", "hydraulic")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name in ("low_confidence_voxels", "largest_anisotropy"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 1):
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_POLICY = AneurysmPolicy()


def measure(
    labels: Volume,
    policy: AneurysmPolicy = DEFAULT_POLICY,
    inputs: tuple[str, ...] = (),
    sac_label: int = SAC_LABEL,
) -> MeasurementRecord:
    """Size and shape of one sac in a label map; never raises for bad data.

    Lengths and areas come from the surface of `open_sac`, volumes from counted voxels.

    Parameters
    ----------
    labels
        Units ``label``: 0 outside the lumen, 1 parent vessel, ``sac_label`` sac; other sacs of the same study have
        other labels and are left out. The neck is where sac and vessel meet on the surface of the lumen.
    policy
        See `AneurysmPolicy`.
    inputs
        UIDs of the series segmented.
    sac_label
        Which sac.
    """
    known = {"policy": policy.to_dict(), "inputs": inputs}
    return _answer(known, lambda: _measure_labels(labels, policy, sac_label))


def measure_mesh(
    sac: trimesh.Trimesh,
    policy: AneurysmPolicy = DEFAULT_POLICY,
    inputs: tuple[str, ...] = (),
) -> MeasurementRecord:
    """Size and shape of a sac given as a surface in mm that is open at the neck; never raises for bad data.

    There is no parent vessel in it: ``size_ratio`` is missing.
    """
    known = {"policy": policy.to_dict(), "inputs": inputs}
    return _answer(known, lambda: _measure_mesh(sac, policy))


Answer = tuple[tuple[MeasuredValue, ...], tuple[str, ...]]


def _answer(known: dict[str, Any], compute: Callable[[], Answer]) -> MeasurementRecord:
    try:
        values, flags = compute()
    except NotEvaluableError as error:
        return MeasurementRecord.refused(ALGORITHM, VERSION, error, **known)
    return MeasurementRecord(ALGORITHM, VERSION, measurements=values, flags=flags, **known)


def _measure_mesh(sac: trimesh.Trimesh, policy: AneurysmPolicy) -> Answer:
    shape = sac_geometry(sac)
    values = _shape_values(shape, shape.volume, policy)
    missing = _missing_parent("no_parent_vessel")
    return (*values, *missing), _shape_flags(shape, shape.volume)


def _measure_labels(labels: Volume, policy: AneurysmPolicy, sac_label: int) -> Answer:
    require_label_map(labels)
    require_orthogonal(labels.grid)
    require_isotropy(labels.grid, policy.largest_anisotropy)
    if sac_label in (0, VESSEL_LABEL):
        raise NotEvaluableError("bad_sac_label", f"label {sac_label} is not that of a sac")
    around = _crop_to_sac(labels, sac_label)
    lumen, has_strays = _lumen(around, sac_label)
    is_sac, grid = lumen.voxels == SAC_LABEL, lumen.grid
    shape = sac_geometry(open_sac(lumen, SAC_LABEL, policy.surface_estimator))
    volume = mask_volume(is_sac, grid)
    across = float(np.cbrt(6 * volume / np.pi)) / max(grid.spacing)
    values = [
        *_shape_values(shape, volume, policy),
        *_parent_values(labels, shape),
        MeasuredValue("voxels_across", across, "1"),
    ]
    flags = [*_shape_flags(shape, volume)]
    if across < policy.low_confidence_voxels:
        flags.append("low_confidence")
    if has_strays:
        flags.append("stray_voxels_ignored")
    return tuple(values), tuple(flags)


def _crop_to_sac(labels: Volume, sac_label: int) -> Volume:
    """Sac and its surroundings, so that nothing after this depends on the size of the scan."""
    is_sac = labels.voxels == sac_label
    require_not_empty(is_sac, f"{sac_label} (sac)")
    require_inside(is_sac, "the sac")
    start, stop = [], []
    for axis in range(3):
        # Each axis only within the bounds found for those before it.
        planes = np.flatnonzero(is_sac.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = int(planes[0]), int(planes[-1])
        is_sac = is_sac.take(range(first, last + 1), axis=axis)
        start.append(max(first - _SURFACE_MARGIN, 0))
        stop.append(min(last + _SURFACE_MARGIN + 1, labels.grid.shape[axis]))
    return labels.crop((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _lumen(labels: Volume, sac_label: int) -> tuple[Volume, bool]:
    """Vessel and the largest piece of the sac as labels 1 and 2, and whether there were smaller pieces."""
    voxels = np.asarray(labels.voxels)
    pieces, n = ndimage.label(voxels == sac_label, structure=_NEIGHBOURS_26)
    sizes = np.bincount(pieces.reshape(-1))[1:]
    if sizes.sum() - sizes.max() > _STRAY_SHARE * sizes.max():
        raise NotEvaluableError("several_sacs", f"label {sac_label} has {n} pieces; give every sac its own label")
    if sizes.max() < _MINIMUM_VOXELS:
        raise NotEvaluableError("too_small", f"the sac has {sizes.max()} voxels, at least {_MINIMUM_VOXELS} are needed")
    is_sac = pieces == 1 + sizes.argmax()
    is_vessel = voxels == VESSEL_LABEL
    if not (ndimage.binary_dilation(is_sac) & is_vessel).any():
        raise NotEvaluableError("no_neck", f"no voxel of the vessel (label {VESSEL_LABEL}) adjoins the sac")
    out = is_vessel.astype(np.uint8)
    out[is_sac] = SAC_LABEL
    return Volume(out, labels.grid, "label"), n > 1


def _shape_values(shape: SacGeometry, volume: float, policy: AneurysmPolicy) -> tuple[MeasuredValue, ...]:
    neck = shape.neck_mean_radius if policy.neck_convention == "mean_radius" else shape.neck_hydraulic
    return (
        MeasuredValue("diameter_3d", shape.diameter_3d, "mm"),
        MeasuredValue("size_class", size_class(shape.diameter_3d)),
        MeasuredValue("diameter_section", shape.diameter_section, "mm"),
        MeasuredValue("dome_width", shape.dome_width, "mm"),
        MeasuredValue("height", shape.height, "mm"),
        MeasuredValue("height_max", shape.height_max, "mm"),
        MeasuredValue("neck_diameter_mean_radius", shape.neck_mean_radius, "mm"),
        MeasuredValue("neck_diameter_hydraulic", shape.neck_hydraulic, "mm"),
        MeasuredValue("aspect_ratio", aspect_ratio(shape.height, neck), "1"),
        MeasuredValue("bottleneck_factor", bottleneck_factor(shape.diameter_section, neck), "1"),
        MeasuredValue("volume", volume, "mm3"),
        MeasuredValue("surface_area", shape.surface_area, "mm2"),
        MeasuredValue("hull_volume", shape.hull_volume, "mm3"),
        MeasuredValue("hull_area", shape.hull_area, "mm2"),
        MeasuredValue("nonsphericity_index", nonsphericity_index(volume, shape.surface_area), "1"),
        MeasuredValue("ellipticity_index", nonsphericity_index(shape.hull_volume, shape.hull_area), "1"),
        MeasuredValue("undulation_index", undulation_index(volume, shape.hull_volume), "1"),
        MeasuredValue("conicity", conicity(shape.bulge_height, shape.height), "1"),
    )


def _shape_flags(shape: SacGeometry, volume: float) -> tuple[str, ...]:
    """Say what casts doubt on a shape: NSI < 0 means a neck that is not planar or a wrong area (SPEC §3.2)."""
    flags = []
    if nonsphericity_index(volume, shape.surface_area) < 0:
        flags.append("negative_nonsphericity")
    if shape.openings > 1:
        flags.append("several_openings")
    return tuple(flags)


def _parent_values(labels: Volume, shape: SacGeometry) -> tuple[MeasuredValue, ...]:
    try:
        branches = branch_diameters(labels, VESSEL_LABEL, shape.neck_centroid, shape.neck_mean_radius)
        diameter = parent_diameter(branches)
        ratio = size_ratio(shape.height_max, diameter)
    except NotEvaluableError as error:
        return _missing_parent(error.reason)
    return (
        MeasuredValue("parent_diameter", diameter, "mm"),
        MeasuredValue("parent_branches", len(branches), "1"),
        MeasuredValue("size_ratio", ratio, "1"),
    )


def _missing_parent(reason: str) -> tuple[MeasuredValue, ...]:
    return (
        MeasuredValue.missing("parent_diameter", reason, "mm"),
        MeasuredValue.missing("parent_branches", reason, "1"),
        MeasuredValue.missing("size_ratio", reason, "1"),
    )

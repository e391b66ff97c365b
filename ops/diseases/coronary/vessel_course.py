"""A coronary artery from its lumen mask: centreline, outline across it, and the part of it that can be measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.measure.centreline import Centreline, CentrelinePolicy, path_in_mask, sample, trunk_centreline
from ops.measure.checks import (
    require_finite,
    require_isotropy,
    require_modality,
    require_orthogonal,
    require_units,
)
from ops.measure.errors import NotEvaluableError
from ops.measure.sections import Sections, centred_sections
from ops.measure.value import MeasuredValue
from ops.phantoms.labels import ARTERY_LABELS
from ops.volume import Volume

FloatArray = npt.NDArray[np.float64]

LARGEST_ANISOTROPY = 3.0  # a slice thicker than three pixels hides what is to be measured in a coronary artery
LUMEN_REACH = 1.5  # of the largest distance to the wall; rays that go farther run into branches
OSTIUM_REACH_MM = 8.0  # the skeleton of a coronary lumen ends no farther from its ostium
# SPEC §2: HU bands hold for an enhanced lumen within these bounds; the bounds themselves are uncertain [U].
LUMEN_HU_BOUNDS = (250.0, 600.0)
CALCIUM_HU = 350.0  # calcified plaque lies above (set "A", SPEC §2 [R])
# Calcium must also stand out from the enhanced blood beside it.
CALCIUM_OVER_LUMEN_SD = 3.0
MINIMUM_POINTS = 10
TANGENT_POINTS = 4
PIECE_SHARE = 0.02  # smaller pieces of a mask are specks, not the vessel beyond an occlusion


@dataclass(frozen=True, eq=False)
class Course:
    """A vessel from proximal to distal.

    Attributes
    ----------
    line
        Centreline, equally spaced, without the caps at its ends.
    lumen
        Outline of the lumen across it.
    ostium
        How far before the first point the mask begins, mm.
    """

    line: Centreline
    lumen: Sections
    ostium: float

    @property
    def position(self) -> FloatArray:
        """Distance ``(n,)`` mm of each point from the ostium."""
        return self.ostium + self.line.arc


def require_angiogram(image: Volume, modality: str, kvp: float) -> None:
    """Refuse what is not a CT angiogram in HU on an orthogonal, nearly isotropic grid, or has no tube voltage.

    Raises
    ------
    NotEvaluableError
        ``wrong_modality``, ``wrong_units``, ``gantry_tilt``, ``anisotropic``, ``not_finite``, ``invalid_kvp``.
    """
    require_modality(modality, "CT")
    require_units(image, "HU")
    require_orthogonal(image.grid)
    require_isotropy(image.grid, LARGEST_ANISOTROPY)
    require_finite(image)
    if not (np.isfinite(kvp) and kvp > 0):
        raise NotEvaluableError("invalid_kvp", f"the tube voltage must be known in kV, got {kvp}")


def vessel_mask(labels: Volume, values: tuple[int, ...], name: str) -> Volume:
    """Bounding box of one vessel of a label map, as 0 and 1 with a margin of a voxel.

    Raises
    ------
    NotEvaluableError
        ``empty_mask``, ``touches_border``.
    """
    start, stop = _bounds(labels, values, name)
    if min(start) < 0 or any(b > n for b, n in zip(stop, labels.grid.shape, strict=True)):
        raise NotEvaluableError("touches_border", f"{name} reaches the edge of the scan and may go on beyond it")
    part = labels.crop(start, stop)
    return Volume(np.isin(part.voxels, values).astype(np.uint8), part.grid, units="label")


def connected_lumens(labels: Volume) -> Volume:
    """Return the numbered separate pieces of all labelled lumens together (26 neighbours), in their bounding box.

    Raises
    ------
    NotEvaluableError
        ``empty_mask``.
    """
    values = tuple(ARTERY_LABELS.values())
    start, stop = _bounds(labels, values, "a coronary artery")
    nz, ny, nx = (min(b, n) for b, n in zip(stop, labels.grid.shape, strict=True))
    part = labels.crop((max(start[0], 0), max(start[1], 0), max(start[2], 0)), (nz, ny, nx))
    pieces, _ = ndimage.label(np.isin(part.voxels, values), structure=np.ones((3, 3, 3)), output=np.int32)
    return Volume(pieces, part.grid, units="label")


def _bounds(labels: Volume, values: tuple[int, ...], name: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Index box of some labels with a margin of a voxel, which may lie outside the volume."""
    boxes = ndimage.find_objects(labels.voxels.view(np.uint8) if labels.voxels.dtype == bool else labels.voxels)
    found = [boxes[value - 1] for value in values if value <= len(boxes) and boxes[value - 1] is not None]
    if not found:
        raise NotEvaluableError("empty_mask", f"no voxel is labelled {name}")
    k, j, i = (min(box[axis].start for box in found) - 1 for axis in range(3))
    nz, ny, nx = (max(box[axis].stop for box in found) + 1 for axis in range(3))
    return (k, j, i), (nz, ny, nx)


def follow(lumen: Volume, tree: Volume, policy: CentrelinePolicy, ends: FloatArray | None = None) -> Course:
    """Centreline and outlines of one vessel.

    Parameters
    ----------
    lumen
        One vessel of `vessel_mask`.
    tree
        `connected_lumens` of the label map it was taken from.
    ends
        ``(2, 3)`` LPS mm, proximal and distal. None takes the longest way from its widest end.

    Raises
    ------
    NotEvaluableError
        ``vessel_interrupted``: an occlusion, or a gap in the mask; those of `trunk_centreline` and `path_in_mask`.
    """
    require_connected(lumen, tree)
    line = trunk_centreline(lumen, policy) if ends is None else path_in_mask(ends[0], ends[1], lumen, policy)
    outline = centred_sections(lumen, line.points, LUMEN_REACH * float(line.radii.max()) + 1)
    # Within a radius of its ends a plane across the tube meets the cap.
    arc = line.arc
    body = (arc >= line.radii[0]) & (arc <= arc[-1] - line.radii[-1])
    if body.sum() < MINIMUM_POINTS or not (outline.area[body] > 0).all():
        raise NotEvaluableError("centreline_too_short", f"only {line.length:.1f} mm of the vessel can be followed")
    points = line.points[body]
    return Course(Centreline(points, line.radii[body]), Sections(outline.radii[body]), _to_ostium(lumen, points))


def _to_ostium(lumen: Volume, points: FloatArray) -> float:
    """Distance in mm from the first point straight back to where the mask ends."""
    back = points[0] - points[TANGENT_POINTS]
    steps = np.arange(0, OSTIUM_REACH_MM, 0.1)
    inside = np.nan_to_num(sample(lumen, points[0] + steps[:, None] * back / np.linalg.norm(back))) >= 0.5
    return float(steps[-1] if inside.all() else steps[inside.argmin()])


def require_connected(lumen: Volume, tree: Volume) -> None:
    """Refuse a vessel with a part that no other lumen joins to the rest: ``vessel_interrupted``.

    Branches of one name may leave from another artery, as a ramus counted to the LCX does.
    """
    pieces = np.bincount(on_grid(tree, lumen).voxels[lumen.voxels != 0])
    sizes = np.sort(pieces)[::-1]
    if len(sizes) > 1 and sizes[1] >= PIECE_SHARE * sizes[0]:
        detail = (
            "the lumen is in separate pieces: an occlusion, or a gap in the segmentation; a reader must decide which"
        )
        raise NotEvaluableError("vessel_interrupted", detail)


def lumen_attenuation(image: Volume, lumen: Volume) -> tuple[float, float]:
    """Mean and standard deviation of the HU inside a lumen mask, its outermost voxels left out where some remain.

    Parameters
    ----------
    image
        HU.
    lumen
        0 and 1 on the image's grid or on a part of it as `vessel_mask` cuts it.
    """
    inside = lumen.voxels != 0
    core = ndimage.binary_erosion(inside)
    values = on_grid(image, lumen).physical(np.float64)[core if core.any() else inside]
    return float(values.mean()), float(values.std())


def on_grid(image: Volume, part: Volume) -> Volume:
    """Cut out of ``image`` the box on which ``part`` lies."""
    k, j, i = (int(n) for n in np.round(image.grid.patient_to_index(part.grid.origin)))
    nz, ny, nx = part.grid.shape
    return image.crop((k, j, i), (k + nz, j + ny, i + nx))


def calcium_threshold(lumen_mean: float, lumen_sd: float) -> float:
    """HU above which a voxel is calcium and not enhanced blood: 350, or 3 SD above the lumen where that is higher."""
    return max(CALCIUM_HU, lumen_mean + CALCIUM_OVER_LUMEN_SD * lumen_sd)


def acquisition(lumen_mean: float, kvp: float) -> tuple[tuple[MeasuredValue, ...], tuple[str, ...]]:
    """Return what HU bands depend on and every result stores (SPEC §2): lumen HU and kVp, and flags on the former."""
    low, high = LUMEN_HU_BOUNDS
    flags = ("lumen_enhancement_low",) if lumen_mean < low else ("lumen_enhancement_high",) if lumen_mean > high else ()
    return (MeasuredValue("lumen_attenuation", lumen_mean, "[hnsf'U]"), MeasuredValue("kvp", float(kvp), "kV")), flags

"""The intracranial cavity on head CT, stripped of skull and scalp, and its plane of symmetry.

Both work on a lattice of about 0.8 × 0.8 × 2.5 mm, whatever the scan's, so that thin slices cost little more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.measure.checks import require_finite, require_isotropy, require_modality, require_orthogonal, require_units
from ops.measure.errors import NotEvaluableError
from ops.volume import FloatArray, Grid, Volume

BoolArray = npt.NDArray[np.bool_]
HounsfieldArray = npt.NDArray[np.float32]

MM3_PER_ML = 1000.0
# Classic head CT has slices of 5 mm, older ones 10 mm, with pixels down to 0.4 mm (policy).
MAX_ANISOTROPY = 25.0
# A stack counts as axial up to this angle between its normal and the patient's long axis; head scans are angled along
# the skull base by up to 25° or so (policy).
MAX_AXIAL_TILT_DEGREES = 40.0
# Voxels that the search works on: about this large.
WORKING_PIXEL_MM, WORKING_SLICE_MM = 0.8, 2.5
BONE_HU = 200.0
SOFT_TISSUE_HU = (-25.0, 110.0)
# Bonds of the brain through foramina and fissures to the tissue outside are narrower than twice this.
BOND_MM = 4.0
# A head's cavity holds 1.0–1.8 L; less is not a whole head, or its skull is open.
SMALLEST_CAVITY_ML = 400.0
# Rows of the cavity that are wider than this tell where its middle is.
WIDE_ROW_MM = 60.0


def require_axial(grid: Grid) -> None:
    """Refuse slices that are not axial, within the usual angulation: ``not_axial``."""
    cosine = min(abs(float(slice_normal(grid)[2])), 1.0)
    angle = float(np.degrees(np.arccos(cosine)))
    if angle > MAX_AXIAL_TILT_DEGREES:
        detail = f"slices are {angle:.0f}° from axial, at most {MAX_AXIAL_TILT_DEGREES:g}°; reformat them"
        raise NotEvaluableError("not_axial", detail)


def slice_normal(grid: Grid) -> FloatArray:
    """Return the unit normal of the slices, towards the head."""
    _, rows, columns = grid.directions.T
    normal = np.cross(columns, rows)
    normal /= np.linalg.norm(normal)
    return np.asarray(normal if normal[2] >= 0 else -normal)


@dataclass(frozen=True, eq=False)
class Cavity:
    """Intracranial cavity on a working lattice.

    Attributes
    ----------
    hu
        ``(z, y, x)`` mean HU of blocks of voxels.
    mask
        The cavity: brain, its fluid and what lies in it.
    bone
        Dense voxels.
    grid
        Of the lattice.
    block
        Voxels of the scan in each voxel of the lattice, (z, y, x).
    """

    hu: HounsfieldArray
    mask: BoolArray
    bone: BoolArray
    grid: Grid
    block: tuple[int, int, int]

    @property
    def volume_ml(self) -> float:
        """Volume of the cavity in mL."""
        return float(np.count_nonzero(self.mask) * self.grid.voxel_volume / MM3_PER_ML)


def intracranial_cavity(ct: Volume, modality: str = "CT") -> Cavity:
    """Strip scalp and skull: the largest body of soft tissue with bone around it.

    Works slice by slice on what encloses, and in space on what belongs together, so that neither tilt nor thick slices
    matter.

    Raises
    ------
    NotEvaluableError
        Wrong modality or units, NaN, sheared or non-axial slices, or ``no_intracranial_cavity``.
    """
    require_modality(modality, "CT")
    require_units(ct, "HU")
    require_finite(ct)
    require_orthogonal(ct.grid)
    require_isotropy(ct.grid, MAX_ANISOTROPY)
    require_axial(ct.grid)
    hu, grid, block = _coarse(ct)
    bone = hu > BONE_HU
    soft = _enclosed(bone) & (hu > SOFT_TISSUE_HU[0]) & (hu < SOFT_TISSUE_HU[1])
    radii = radii_of(BOND_MM, grid)
    core, n = ndimage.label(box_filter(soft, radii, "erode"))
    if n == 0:
        raise NotEvaluableError(
            "no_intracranial_cavity", "no soft tissue is enclosed by bone; is this a head CT in HU?"
        )
    largest = 1 + int(np.bincount(core.ravel())[1:].argmax())
    wider = (radii[0], radii[1] + 1, radii[2] + 1)
    mask = _fill(soft & box_filter(core == largest, wider, "dilate"))
    cavity = Cavity(hu, mask, bone, grid, block)
    if cavity.volume_ml < SMALLEST_CAVITY_ML:
        detail = (
            f"bone encloses {cavity.volume_ml:.0f} mL of soft tissue, no head has less than {SMALLEST_CAVITY_ML:g} mL"
        )
        raise NotEvaluableError("no_intracranial_cavity", detail)
    return cavity


def symmetry_plane(cavity: Cavity) -> FloatArray:
    """Column of the cavity's symmetry plane as ``(a, b, c)``: i = a + b·j + c·k on its lattice.

    Fitted to the midpoints between the left and the right wall, which a mass does not move; outliers, where a wall is
    open, are left out in a second pass.
    """
    mask = cavity.mask
    n = mask.shape[2]
    width = mask.any(axis=2)
    left = mask.argmax(axis=2)
    right = n - 1 - mask[:, :, ::-1].argmax(axis=2)
    k, j = np.nonzero(width & ((right - left) * cavity.grid.spacing[2] > WIDE_ROW_MM))
    middle = ((left + right) / 2)[k, j]
    design = np.stack([np.ones(len(k)), j, k], axis=1)
    keep = np.ones(len(k), dtype=bool)
    for _ in range(3):
        plane, *_ = np.linalg.lstsq(design[keep], middle[keep], rcond=None)
        error = np.abs(design @ plane - middle)
        keep = error <= max(2.0, 2 * float(np.median(error)))
    return np.asarray(plane)


def _coarse(ct: Volume) -> tuple[HounsfieldArray, Grid, tuple[int, int, int]]:
    """Means of blocks of voxels near the working size; what does not fill a block at the far ends is left out."""
    wanted = (WORKING_SLICE_MM, WORKING_PIXEL_MM, WORKING_PIXEL_MM)
    block = tuple(min(max(1, round(w / s)), n) for w, s, n in zip(wanted, ct.grid.spacing, ct.grid.shape, strict=True))
    shape = tuple(n // b for n, b in zip(ct.grid.shape, block, strict=True))
    total = np.zeros(shape, dtype=np.float32)
    for offset in np.ndindex(*block):
        part = tuple(slice(o, o + n * b, b) for o, n, b in zip(offset, shape, block, strict=True))
        total += ct.voxels[part].astype(np.float32)
    total *= np.float32(ct.slope / np.prod(block))
    total += np.float32(ct.intercept)
    affine = ct.grid.affine.copy()
    affine[:3, :3] *= block
    affine[:3, 3] = ct.grid.index_to_patient([(b - 1) / 2 for b in block])
    return total, Grid((shape[0], shape[1], shape[2]), affine), (block[0], block[1], block[2])


def _enclosed(bone: BoolArray) -> BoolArray:
    """Voxels with bone on at least three of four sides in their slice; one may look through a foramen or thin bone."""
    sides = np.zeros(bone.shape, dtype=np.uint8)
    for axis in (1, 2):
        sides += np.maximum.accumulate(bone, axis=axis)
        sides += np.flip(np.maximum.accumulate(np.flip(bone, axis), axis=axis), axis)
    return np.asarray(sides >= 3)


def radii_of(mm: float, grid: Grid) -> tuple[int, int, int]:
    """Half sizes in voxels along (z, y, x) of about ``mm``; at least one in the plane."""
    dz, dy, dx = grid.spacing
    return int(mm / dz), max(1, round(mm / dy)), max(1, round(mm / dx))


def box_filter(mask: BoolArray, radii: tuple[int, int, int], kind: Literal["erode", "dilate"]) -> BoolArray:
    """Erode or dilate by a box of ``radii`` voxels along (z, y, x)."""
    filter1d = ndimage.minimum_filter1d if kind == "erode" else ndimage.maximum_filter1d
    out = mask.view(np.uint8)
    for axis, radius in enumerate(radii):
        if radius:
            # Repeating the last slice keeps a head that the scan cuts off; its in-plane edges are air.
            out = filter1d(out, 2 * radius + 1, axis=axis, mode="nearest")
    return np.asarray(out.astype(bool))


def _fill(mask: BoolArray) -> BoolArray:
    """Fill what the mask surrounds within each slice."""
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    outside, n = ndimage.label(~mask, structure=in_plane)
    open_to_air = np.zeros(n + 1, dtype=bool)
    for edge in (outside[:, 0], outside[:, -1], outside[:, :, 0], outside[:, :, -1]):
        open_to_air[edge.ravel()] = True
    open_to_air[0] = False
    return np.asarray(~open_to_air[outside])


def smooth_within(hu: HounsfieldArray, mask: BoolArray, sigma: tuple[float, float, float]) -> HounsfieldArray:
    """Gaussian mean of the voxels of ``mask`` only."""
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(mask, hu, np.float32(0)), sigma)
    return np.asarray(total / np.maximum(weight, np.float32(1e-3)), dtype=np.float32)

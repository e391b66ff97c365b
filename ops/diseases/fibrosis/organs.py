"""Liver segments and spleen on a label map: volumes, attenuation, widths of caudate and right lobe (SPEC §4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.stats import trim_mean

from ops.diseases.fibrosis.liver_surface import axial_axis
from ops.measure.errors import NotEvaluableError
from ops.volume import Volume

BoolArray = npt.NDArray[np.bool_]
Corner = tuple[int, int, int]
Box = tuple[slice, slice, slice]
Landmark = tuple[float, float, float]

SEGMENTS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII")
SPLEEN = "spleen"
LABELS: Mapping[str, int] = MappingProxyType({name: n for n, name in enumerate((*SEGMENTS, SPLEEN), start=1)})
"""Label map: Couinaud segments I–VIII = 1–8, spleen = 9, all else 0."""

MM3_PER_CM3 = 1000.0
# Parenchyma of the living lies within these HU, from gross steatosis to the portal-venous spleen (policy).
PLAUSIBLE_HU = (-100.0, 300.0)
# Attenuation and connection are looked at on every n-th voxel, so that steps stay within this.
COARSE_MM = 2.0
# A liver in pieces: the largest holds less than this share of its voxels.
CONNECTED_SHARE = 0.99


class Organs:
    """Voxels of each label, counted in its own box.

    Parameters
    ----------
    labels
        Label map, see `LABELS`; no label above 9.
    """

    def __init__(self, labels: Volume) -> None:
        voxels = labels.voxels.astype(np.uint8) if labels.voxels.dtype == bool else labels.voxels
        boxes = ndimage.find_objects(voxels, max_label=len(LABELS))
        self.labels = labels
        self._boxes: dict[str, Box] = {name: boxes[n - 1] for name, n in LABELS.items() if boxes[n - 1] is not None}
        self._counts = {name: int(np.count_nonzero(voxels[box] == LABELS[name])) for name, box in self._boxes.items()}

    def has(self, *names: str) -> bool:
        """Tell whether any of these has a voxel."""
        return any(name in self._boxes for name in names)

    def cut_off(self, *names: str) -> bool:
        """Tell whether one of these reaches a face of the scan; a label's box reaches as far as its voxels."""
        shape = self.labels.grid.shape
        boxes = [self._boxes[name] for name in names if name in self._boxes]
        return any(side.start == 0 or side.stop == n for box in boxes for side, n in zip(box, shape, strict=True))

    def volume(self, name: str) -> float:
        """Volume of one label in cm³, voxels × voxel volume.

        Raises
        ------
        NotEvaluableError
            ``empty_mask`` or ``touches_border``.
        """
        self._require(name)
        if self.cut_off(name):
            raise NotEvaluableError("touches_border", f"{name} reaches the edge of the scan and may go on beyond it")
        return self._counts[name] * self.labels.grid.voxel_volume / MM3_PER_CM3

    def attenuation(self, names: Sequence[str], image: Volume, erosion_mm: float) -> float:
        """Mean of the middle half of the HU of some labels together, about ``erosion_mm`` and more inside their edge.

        The middle half leaves vessels and small lesions out, as the median does, but is not a whole number.

        Raises
        ------
        NotEvaluableError
            ``empty_mask``, ``mask_too_thin`` or ``implausible_hu``.
        """
        self._require(*names)
        mask, box = self._coarse(names)
        inside = mask.astype(np.uint8)
        for axis, (part, step) in enumerate(zip(box, image.grid.spacing, strict=True)):
            reach = round(erosion_mm / (step * part.step))
            inside = ndimage.minimum_filter1d(inside, 2 * reach + 1, axis=axis, mode="constant", cval=0)
        hu = image.voxels[box][inside > 0].astype(np.float64)
        if not hu.size:
            raise NotEvaluableError("mask_too_thin", f"no voxel lies {erosion_mm:g} mm inside {' + '.join(names)}")
        middle = float(trim_mean(hu, 0.25)) * image.slope + image.intercept
        if not PLAUSIBLE_HU[0] <= middle <= PLAUSIBLE_HU[1]:
            detail = f"{middle:.0f} HU is no parenchyma; is it the right mask, and is the rescale right?"
            raise NotEvaluableError("implausible_hu", detail)
        return middle

    def connected(self, names: Sequence[str]) -> bool:
        """Tell whether nearly all voxels of some labels hang together."""
        pieces, n = ndimage.label(self._coarse(names)[0], structure=np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.reshape(-1), minlength=n + 1)[1:]
        return bool(sizes.max(initial=0) >= CONNECTED_SHARE * sizes.sum())

    def corners(self, names: Sequence[str], margin_mm: float = 0.0) -> tuple[Corner, Corner]:
        """Start and stop of the box around some labels, grown by a margin within the scan."""
        self._require(*names)
        boxes = [self._boxes[name] for name in names if name in self._boxes]
        grid = self.labels.grid
        low, high = [], []
        for axis, (n, step) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
            margin = int(np.ceil(margin_mm / step))
            low.append(max(0, min(box[axis].start for box in boxes) - margin))
            high.append(min(n, max(box[axis].stop for box in boxes) + margin))
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def _coarse(self, names: Sequence[str]) -> tuple[BoolArray, Box]:
        """Mask of some labels on every n-th voxel of their box, and the slices that take the same voxels of a scan."""
        steps = [max(1, int(COARSE_MM // step)) for step in self.labels.grid.spacing]
        box = [slice(a, b, step) for a, b, step in zip(*self.corners(names), steps, strict=True)]
        cut = (box[0], box[1], box[2])
        return mask_of(self.labels.voxels[cut], names), cut

    def _require(self, *names: str) -> None:
        if not self.has(*names):
            raise NotEvaluableError("empty_mask", f"no voxel is labelled {' or '.join(names)}")


def mask_of(voxels: npt.NDArray[np.generic], names: Sequence[str]) -> BoolArray:
    """Voxels that carry one of these labels, which must be neighbours in `LABELS`."""
    numbers = [LABELS[name] for name in names]
    return np.asarray(np.greater_equal(voxels, min(numbers)) & np.less_equal(voxels, max(numbers)), dtype=bool)


def caudate_widths(labels: Volume, landmark: Landmark) -> tuple[float, float]:
    """Transverse widths in mm of the caudate and of the right lobe from a sagittal line through a portal landmark.

    In the axial slice nearest to the landmark: from the line to the caudate's left margin, wherever in the slice that
    is, and from the landmark straight to the right margin of the liver (Harbin 1980; construction [R]). Margins are
    edges of voxels.

    Parameters
    ----------
    labels
        Label map, see `LABELS`.
    landmark
        Patient LPS mm ``(x, y, z)``: right wall of the portal vein at a bifurcation, and midway in depth between portal
        vein and vena cava.

    Raises
    ------
    NotEvaluableError
        ``not_axial``, ``landmark_outside_scan``, ``caudate_not_in_slice``, ``landmark_outside_liver``: to its right
        there is no liver, or to its left no caudate.
    """
    grid = labels.grid
    axis = axial_axis(grid)
    place = grid.patient_to_index(landmark)
    if not all(-0.5 <= index <= n - 0.5 for index, n in zip(place, grid.shape, strict=True)):
        raise NotEvaluableError("landmark_outside_scan", f"landmark {landmark} mm does not lie in the scan")
    k = min(max(round(float(place[axis])), 0), grid.shape[axis] - 1)
    plane = np.take(labels.voxels, [k], axis=axis)
    index = np.argwhere(mask_of(plane, SEGMENTS))
    caudate = mask_of(plane, ("I",))[tuple(index.T)]
    if not caudate.any():
        raise NotEvaluableError("caudate_not_in_slice", "the slice of the landmark holds no segment I")
    index[:, axis] = k
    across = grid.index_to_patient(index) - np.asarray(landmark)
    half = np.abs(grid.affine[:2, :3]).sum(axis=1) / 2  # of a voxel's extent along x and y
    in_row = np.abs(across[:, 1]) <= half[1]
    width = float(across[caudate, 0].max() + half[0])
    right = float(half[0] - across[in_row, 0].min()) if in_row.any() else 0.0
    if width <= 0 or right <= 0:
        detail = f"{width:.1f} mm of caudate left of the landmark, {right:.1f} mm of liver right of it"
        raise NotEvaluableError("landmark_outside_liver", detail)
    return width, right

"""Connected components of the voxels above a threshold, held as sparse voxel lists.

A chest CT has some 10⁸ voxels and a few thousand calcified ones. The dense array is therefore touched once, in
its stored integer domain, and everything after that works on the voxels found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.volume import Volume

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Connectivity = Literal[4, 8]

# Structuring elements (3, 3, 3) of ndimage.label. The in-plane ones have no neighbour in z, so that one call
# labels every slice on its own.
_IN_PLANE_4 = np.zeros((3, 3, 3), dtype=bool)
_IN_PLANE_4[1] = ndimage.generate_binary_structure(2, 1)
_IN_PLANE_8 = np.zeros((3, 3, 3), dtype=bool)
_IN_PLANE_8[1] = ndimage.generate_binary_structure(2, 2)
_NEIGHBOURS_26 = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True, eq=False)
class VoxelList:
    """Some voxels of a volume.

    Attributes
    ----------
    index
        ``(n, 3)`` int64, ``(k, j, i)`` in the volume they were taken from.
    value
        ``(n,)`` float64 physical value (HU for CT).
    spacing
        ``(dz, dy, dx)`` mm between voxel centres; ``dz`` is the slice increment.
    """

    index: IntArray
    value: npt.NDArray[np.float64]
    spacing: tuple[float, float, float]

    def __len__(self) -> int:
        """Return the number of voxels."""
        return len(self.value)

    def select(self, keep: BoolArray) -> VoxelList:
        """Voxels where ``keep`` ``(n,)`` is true."""
        return replace(self, index=self.index[keep], value=self.value[keep])


def stored_threshold(volume: Volume, threshold: float) -> float:
    """Smallest stored value whose physical value reaches ``threshold`` (inclusive).

    For integer voxels this is an integer, found exactly: rounding of ``(threshold - intercept) / slope`` is
    corrected against the definition ``slope * stored + intercept >= threshold``.

    Raises
    ------
    ValueError
        The slope is not positive; a CT with a falling grey scale is refused at ingest.
    """
    if volume.slope <= 0:
        raise ValueError(f"rescale slope {volume.slope} must be positive to threshold stored values")
    bound = (threshold - volume.intercept) / volume.slope
    if not np.issubdtype(volume.voxels.dtype, np.integer):
        return bound
    stored = math.ceil(bound)
    while volume.slope * (stored - 1) + volume.intercept >= threshold:
        stored -= 1
    while volume.slope * stored + volume.intercept < threshold:
        stored += 1
    return stored


def voxels_above(volume: Volume, threshold: float, mask: npt.NDArray[np.generic] | None = None) -> VoxelList:
    """Voxels with physical value ≥ ``threshold`` inside ``mask``, in index order.

    Parameters
    ----------
    volume
        Any integer or floating volume; integers are compared as stored.
    threshold
        Inclusive, in the volume's units.
    mask
        Array ``(z, y, x)``; nonzero = inside. None = everywhere.
    """
    if mask is not None and mask.shape != volume.voxels.shape:
        raise ValueError(f"mask of shape {mask.shape} does not fit a volume of shape {volume.voxels.shape}")
    above = np.asarray(volume.voxels) >= stored_threshold(volume, threshold)
    if mask is not None:
        above &= mask.astype(bool, copy=False)
    flat = np.flatnonzero(above)
    index = np.stack(np.unravel_index(flat, above.shape), axis=1)
    value = volume.voxels.reshape(-1)[flat].astype(np.float64) * volume.slope + volume.intercept
    return VoxelList(index, value, volume.grid.spacing)


def label_in_plane(voxels: VoxelList, connectivity: Connectivity = 8) -> IntArray:
    """Component number ``(n,)`` 0, 1, … of each voxel; components never cross a slice.

    Parameters
    ----------
    voxels
        The voxels to join.
    connectivity
        In-plane neighbours: 8 (with diagonals) or 4.
    """
    if connectivity not in (4, 8):
        raise ValueError(f"in-plane connectivity must be 4 or 8, got {connectivity}")
    return _label(voxels, _IN_PLANE_8 if connectivity == 8 else _IN_PLANE_4)


def label_in_space(voxels: VoxelList) -> IntArray:
    """Component number ``(n,)`` 0, 1, … of each voxel with all 26 neighbours in three dimensions."""
    return _label(voxels, _NEIGHBOURS_26)


def _label(voxels: VoxelList, structure: BoolArray) -> IntArray:
    """Label the voxels inside their own bounding box, which is small where the volume is large."""
    if len(voxels) == 0:
        return np.zeros(0, dtype=np.int64)
    local = voxels.index - voxels.index.min(axis=0)
    box = np.zeros(tuple(local.max(axis=0) + 1), dtype=bool)
    where = (local[:, 0], local[:, 1], local[:, 2])
    box[where] = True
    labels, _ = ndimage.label(box, structure=structure)
    return np.asarray(labels[where], dtype=np.int64) - 1


def maximum_by_component(value: npt.NDArray[np.float64], component: IntArray) -> npt.NDArray[np.float64]:
    """Largest value ``(m,)`` of each component 0 … m-1."""
    largest = np.full(int(component.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(largest, component, value)
    return largest


def majority_label(label: IntArray, component: IntArray, n_labels: int) -> IntArray:
    """Most frequent label ``(m,)`` of each component 0 … m-1; a tie goes to the lowest label."""
    n_components = int(component.max(initial=-1)) + 1
    votes = np.bincount(component * n_labels + label, minlength=n_components * n_labels)
    return np.asarray(votes.reshape(n_components, n_labels).argmax(axis=1), dtype=np.int64)

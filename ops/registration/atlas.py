"""Where the organs of an atlas lie in a participant's image, and how much of each is inside its field of view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ops.registration.transforms import Transform
from ops.volume import Grid, Volume

Index = tuple[int, int, int]
Number = TypeVar("Number", np.int64, np.float64)

# Slices of an atlas that are mapped at a time: ten of 512 × 512 voxels take some 250 MB.
SLAB_SLICES = 10


@dataclass(frozen=True)
class OrganInView:
    """An organ of an atlas in a participant's image.

    Attributes
    ----------
    centre_mm
        Centre of mass of the whole organ, LPS mm, inside the image or not.
    inside
        Fraction of the organ's volume that lies in the field of view, 0–1.
    start, stop
        Box ``[start, stop)`` of that part, indices ``(z, y, x)`` of the image; empty where ``inside`` is 0.
    """

    centre_mm: tuple[float, float, float]
    inside: float
    start: Index
    stop: Index


def organs_in_view(labels: Volume, to_participant: Transform, image: Grid) -> dict[int, OrganInView]:
    """Look up the organs of a registered atlas in an image.

    Parameters
    ----------
    labels
        Label map of the atlas, integer; 0 is no organ.
    to_participant
        From registering with the atlas as the fixed image: its points (LPS mm) → the participant's.
    image
        Grid of the participant's image, of any field of view.

    Returns
    -------
    dict
        Label → organ, for every label of the atlas.

    Raises
    ------
    ValueError
        ``labels`` are not integers from 0, or there is no organ among them.

    Notes
    -----
    As exact as people are alike: after an affine registration of one simulated chest to others the heart's centre was
    off by 15 to 27 mm, mostly along the body axis (three participants). Enough to say which part of the body a scan
    shows and where to look; not to say that an organ is complete.
    """
    if labels.voxels.dtype.kind not in "iub" or not labels.voxels.max() > 0 or labels.voxels.min() < 0:
        raise ValueError(f"an atlas needs a label map of integers from 0 with an organ, got {labels.voxels.dtype}")
    sums = _Sums(int(labels.voxels.max()) + 1)
    for first in range(0, len(labels.voxels), SLAB_SLICES):
        slab = labels.voxels[first : first + SLAB_SLICES]
        where = np.argwhere(slab)
        organ = slab[tuple(where.T)].astype(np.int64)
        where[:, 0] += first
        sums.add(organ, to_participant.apply(labels.grid.index_to_patient(where)), image)
    return sums.organs()


class _Sums:
    """What is summed up of each label over the slabs of an atlas; rows by label."""

    def __init__(self, labels: int) -> None:
        self.voxels, self.seen = np.zeros(labels), np.zeros(labels)
        self.points = np.zeros((labels, 3))
        self.start = np.full((labels, 3), np.iinfo(np.int64).max)
        self.stop = np.zeros((labels, 3), dtype=np.int64)

    def add(self, organ: npt.NDArray[np.int64], points: npt.NDArray[np.float64], image: Grid) -> None:
        """Take in voxels: their label, and where they lie in the participant."""
        index = np.rint(image.patient_to_index(points)).astype(np.int64)
        seen = np.all((index >= 0) & (index < image.shape), axis=1)
        count = len(self.voxels)
        self.voxels += np.bincount(organ, minlength=count)
        self.seen += np.bincount(organ[seen], minlength=count)
        for axis in range(3):
            self.points[:, axis] += np.bincount(organ, points[:, axis], minlength=count)
        np.minimum.at(self.start, organ[seen], index[seen])
        np.maximum.at(self.stop, organ[seen], index[seen] + 1)

    def organs(self) -> dict[int, OrganInView]:
        """Give every label that occurs."""
        found = {}
        for label in np.flatnonzero(self.voxels).tolist():
            centre = self.points[label] / self.voxels[label]
            inside = float(self.seen[label] / self.voxels[label])
            start = self.start[label] if inside else np.zeros(3, dtype=np.int64)
            found[label] = OrganInView(_triple(centre), inside, _triple(start), _triple(self.stop[label]))
        return found


def _triple(values: npt.NDArray[Number]) -> tuple[Any, Any, Any]:
    first, second, third = values.tolist()
    return first, second, third

"""Learned keypoints of one image, and the rigid map between two images that they give in closed form.

After KeyMorph (Wang, Evan, Dalca and Sabuncu 2023, MedIA 90:102962 [R]): a network turns an image into heat maps, their
centres of mass are keypoints, and the map that brings those of one image onto those of another needs no optimisation.
The network sees each image by itself, so that any contrast goes with any other, and a turn may be of any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ops.inference.predictor import Predictor
from ops.measure.errors import NotEvaluableError
from ops.preprocess.intensity import quantiles_tensor, window_tensor
from ops.preprocess.resample import resample, spaced_grid
from ops.registration.pyramid import CT_RANGE_HU
from ops.registration.transforms import Affine
from ops.volume import FloatArray, Grid, Volume

Float32Array = npt.NDArray[np.float32]

# The network's field: a cube of 240 mm holds an adult's head in any pose.
SIDE, SPACING_MM = 20, 12.0
# Quantiles of the image on that lattice that become 0 and 1: values of MR have no unit.
QUANTILES = (0.01, 0.99)
# Keypoints this near each other after the map, root mean square, give a guess: of 240 simulated pairs of any contrast
# and pose that kept 210 of the 224 maps within 25° of the truth and 7 of the 16 others.
LARGEST_RESIDUAL_MM = 15.0
# Points near a line leave the turn about it open: least spread across it, over that along it.
LEAST_SPREAD = 0.05
# Answers for two turned copies are alike when the keypoints are this near, root mean square: about 30° in a head.
AGREEMENT_MM = 30.0
# Of a keypoint's place: no turned copies agree better than the lattice resolves.
LEAST_DEVIATION_MM = 1.0
# Turned copies that are shown to the network at a time.
BATCH = 8
# Of float32 sums: resampling makes a flat image uneven by this, relative to its value.
ROUNDING = 1e-5
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Keypoints of one image.

    Attributes
    ----------
    points
        ``(K, 3)`` LPS mm, means over the turned copies of the image that agree.
    deviations_mm
        ``(K,)`` root mean square distance of those copies' answers from it.
    copies
        How many agree.
    """

    points: FloatArray
    deviations_mm: FloatArray
    copies: int


@dataclass(frozen=True, eq=False)
class Match:
    """Rigid map of one image's keypoints to another's, and how far apart they are after it (root mean square, mm)."""

    transform: Affine
    residual_mm: float


class KeypointInitialiser:
    """A further start of a registration (:class:`ops.registration.starts.Initialiser`) from learned keypoints.

    Parameters
    ----------
    predictor
        Network of the bundle ``head-keypoints``: ``(n, 1, SIDE, SIDE, SIDE)`` → one heat map per keypoint.
    largest_residual_mm
        Keypoints that agree worse give no guess.
    """

    def __init__(self, predictor: Predictor, largest_residual_mm: float = LARGEST_RESIDUAL_MM) -> None:
        self._predictor = predictor
        self._largest_residual_mm = largest_residual_mm

    def __call__(self, fixed: Volume, moving: Volume) -> Affine:
        """Map from the fixed to the moving image's LPS mm.

        Where there is no guess it is the shift between the centres of mass, one of the usual starts.
        """
        first, second = network_field(fixed), network_field(moving)
        try:
            match = self._match(first, second)
        except NotEvaluableError:
            return Affine.rigid((0, 0, 0), _centre(second) - _centre(first))
        return match.transform

    def match(self, fixed: Volume, moving: Volume) -> Match:
        """Map between two images whose keypoints agree.

        Raises
        ------
        NotEvaluableError
            ``degenerate_keypoints`` or ``keypoints_disagree``: there is no guess.
        """
        return self._match(network_field(fixed), network_field(moving))

    def _match(self, fixed: Volume, moving: Volume) -> Match:
        match = match_keypoints(*(find_keypoints(field, self._predictor) for field in (fixed, moving)))
        if not match.residual_mm <= self._largest_residual_mm:
            detail = f"keypoints are {match.residual_mm:.1f} mm apart, at most {self._largest_residual_mm:g} mm"
            raise NotEvaluableError("keypoints_disagree", detail)
        return match


def network_field(volume: Volume) -> Volume:
    """Give what the network sees of an image: ``SIDE³`` voxels of ``SPACING_MM`` about its centre of mass, 0 to 1.

    Parameters
    ----------
    volume
        Any shape, spacing and orientation, in physical units, finite.

    Returns
    -------
    Volume
        Float32 on a lattice parallel to the image's; 0, as air, beyond its field of view and throughout a flat image.
    """
    grid = spaced_grid(volume.grid, (SPACING_MM,) * 3)
    clip = CT_RANGE_HU if volume.units == "HU" else (-np.inf, np.inf)
    values = normalised(torch.from_numpy(resample(volume, grid, clip).voxels))
    first = np.rint(centre_of_mass(values)).astype(int) - SIDE // 2
    low, high = np.clip(first, 0, values.shape), np.clip(first + SIDE, 0, values.shape)
    source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    target = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
    window = np.zeros((SIDE, SIDE, SIDE), dtype=np.float32)
    window[target] = values.numpy()[source]
    affine = grid.affine.copy()
    affine[:3, 3] = grid.index_to_patient(first)
    return Volume(window, Grid((SIDE, SIDE, SIDE), affine), "a.u.")


def normalised(values: Tensor) -> Tensor:
    """Map an image's ``QUANTILES`` to 0 and 1 and clip what lies outside; a flat image becomes 0."""
    low, high = quantiles_tensor(values, *QUANTILES)
    is_flat = high - low <= ROUNDING * max(abs(low), abs(high))
    return torch.zeros_like(values) if is_flat else window_tensor(values, low, high)


def centre_of_mass(values: Tensor) -> FloatArray:
    """Index ``(k, j, i)`` of the centre of mass of ``(z, y, x)`` values; the middle of an image that is 0."""
    weights = values if float(values.sum()) > 0 else torch.ones_like(values)
    return np.asarray(mean_index(weights[None])[0].double().numpy())


def mean_index(weights: Tensor) -> Tensor:
    """Index ``(n, 3)`` ``(k, j, i)`` of the weighted mean of each ``(n, z, y, x)``, differentiable."""
    total = weights.sum((1, 2, 3)).clamp(min=TINY)
    means = []
    for axis in (1, 2, 3):
        others = tuple({1, 2, 3} - {axis})
        index = torch.arange(weights.shape[axis], dtype=weights.dtype, device=weights.device)
        means.append(weights.sum(others) @ index / total)
    return torch.stack(means, dim=1)


def _centre(field: Volume) -> FloatArray:
    """LPS mm of the centre of mass of a field."""
    return field.grid.index_to_patient(centre_of_mass(torch.from_numpy(field.physical())))


def keypoint_index(logits: Tensor) -> Tensor:
    """Keypoints ``(n, K, 3)``, index ``(k, j, i)``: centres of mass of the heat maps of ``(n, K, z, y, x)`` logits."""
    return mean_index(logits.sigmoid().flatten(0, 1)).reshape(*logits.shape[:2], 3)


def find_keypoints(field: Volume, predictor: Predictor) -> Keypoints:
    """Find the keypoints of an image: the answer on which most of its 24 quarter-turned copies agree.

    The network has learned turns as it has learned contrasts, imperfectly. Its right answers for the copies are alike
    and its wrong ones are not, and where it is unsure its keypoints shrink towards a middle: an answer has as much of
    a vote as its points spread.

    Parameters
    ----------
    field
        From :func:`network_field`.
    predictor
        As in :class:`KeypointInitialiser`.
    """
    answers = _answers(torch.from_numpy(field.physical()), predictor) @ field.grid.affine[:3, :3].T
    gaps = np.sqrt(((answers[:, None] - answers) ** 2).sum(-1).mean(-1))
    votes = np.array([np.linalg.svd(points - points.mean(0), compute_uv=False)[-1] for points in answers])
    agree = gaps <= AGREEMENT_MM
    chosen = agree[(agree @ votes).argmax()]
    points = answers[chosen].mean(0)
    deviations = np.sqrt(((answers[chosen] - points) ** 2).sum(-1).mean(0))
    return Keypoints(points + field.grid.origin, deviations, int(chosen.sum()))


def _answers(image: Tensor, predictor: Predictor) -> FloatArray:
    """Keypoints ``(24, K, 3)``, index ``(k, j, i)`` of the image, that the network finds in its turned copies."""
    turns = quarter_turns()
    found = []
    for first in range(0, len(turns), BATCH):
        copies = torch.stack([turned(image, turn) for turn in turns[first : first + BATCH]])[:, None]
        found.append(keypoint_index(torch.from_numpy(predictor.predict(copies.numpy()))).double().numpy())
    middle = (SIDE - 1) / 2
    return np.asarray((np.concatenate(found) - middle) @ np.stack(turns).transpose(0, 2, 1) + middle)


def quarter_turns() -> list[npt.NDArray[np.int64]]:
    """Return the 24 rotations that bring a cube onto itself: signed permutation matrices of determinant 1."""
    unit = np.eye(3, dtype=np.int64)
    signed = [unit[list(order)] * signs for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
    return [matrix for matrix in signed if np.linalg.det(matrix) > 0]


def turned(image: Tensor, turn: npt.NDArray[np.int64]) -> Tensor:
    """Cube ``(n, n, n)`` turned about its middle: the voxel at ``p`` shows what was at ``turn @ p``."""
    order = np.abs(turn).argmax(axis=0)
    flipped = [axis for axis in range(3) if turn[order[axis], axis] < 0]
    return image.permute(*order.tolist()).flip(flipped)


def match_keypoints(fixed: Keypoints, moving: Keypoints) -> Match:
    """Rigid map of one image's keypoints to another's; those on which the turned copies agreed count more.

    Raises
    ------
    NotEvaluableError
        ``degenerate_keypoints``.
    """
    variances = LEAST_DEVIATION_MM**2 + fixed.deviations_mm**2 + moving.deviations_mm**2
    transform = rigid_fit(fixed.points, moving.points, 1 / variances)
    squares = ((transform.apply(fixed.points) - moving.points) ** 2).sum(1)
    return Match(transform, float(np.sqrt(np.average(squares, weights=1 / variances))))


def rigid_fit(source: FloatArray, target: FloatArray, weights: FloatArray) -> Affine:
    """Rotation and shift of least weighted squares, never a reflection (Kabsch 1976, Acta Cryst A32:922; Umeyama 1991).

    Parameters
    ----------
    source, target
        ``(n, 3)`` mm, point by point.
    weights
        ``(n,)``, positive.

    Raises
    ------
    NotEvaluableError
        ``degenerate_keypoints``: not finite, or so near a line (or each other) that the rotation is open.
    """
    share = (weights / weights.sum())[:, None]
    centres = [(share * points).sum(0) for points in (source, target)]
    centred = [points - centre for points, centre in zip((source, target), centres, strict=True)]
    for points in centred:
        _require_spread(np.sqrt(share) * points)
    u, _, vt = np.linalg.svd(centred[1].T @ (share * centred[0]))
    rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return Affine.about(rotation, centres[1] - centres[0], centres[0])


def _require_spread(centred: FloatArray) -> None:
    """Refuse points that do not spread over a plane."""
    if not np.isfinite(centred).all():
        raise NotEvaluableError("degenerate_keypoints", "keypoints are not finite")
    along, across = np.linalg.svd(centred, compute_uv=False)[:2]
    if across <= max(LEAST_SPREAD * along, TINY):
        detail = f"keypoints spread {along:.3g} mm along a line and {across:.3g} mm across it: the rotation is open"
        raise NotEvaluableError("degenerate_keypoints", detail)

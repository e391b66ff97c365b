"""Candidates for aneurysms on MR and CT angiography (SPEC §3.6): places on the arteries that bulge in every direction.

Two scores, both without training:

- ``shape``: the smallest of the three curvatures of the brightness, −σ²λ of the Hessian, at the scale where it is
  largest. It is near 0 along a tube, small at a fork and large in a ball.
- ``mip``: the places of ``shape`` scored anew, by the same in two dimensions on maximum-intensity projections of the
  surroundings, averaged over directions.
  An aneurysm looks round from everywhere, a bend or a crossing only from some sides. The projections are those named
  here; the geometry of published systems (Nakao 2018 [R], [U]) is not known and not claimed.

Matching with truth and FROC curves are in `ops.metrics`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.measure.checks import require_finite, require_modality, require_orthogonal, require_units
from ops.measure.errors import NotEvaluableError
from ops.measure.vesselness import frangi_vesselness, hessian, symmetric_eigenvalues
from ops.preprocess.resample import resample, spaced_grid
from ops.volume import Volume

Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
DetectionScore = Literal["shape", "mip"]

ALGORITHM = "aneurysm_detection"
VERSION = "1"

# The image is looked at with cubes of this edge: fine enough for a sac of 2 mm, and the same for every scanner.
WORKING_MM = 0.7
# Standard deviations in mm at which a ball of about 2 to 12 mm diameter answers most.
BLOB_SCALES_MM = (0.8, 1.2, 1.8, 2.7, 4.0)
TUBE_SCALES_MM = (0.8, 1.4)
# Blood is at least this share of the way from tissue to the brightest arteries; slow flow dims large sacs.
BLOOD_SHARE = 0.4
# Arteries hang together in trees with at least this volume of tubes in them, and this share of the largest one's.
TREE_MM3, TREE_SHARE = 30.0, 0.2
TUBE_VESSELNESS = 0.3
# Two candidates are at least this far apart.
SEPARATION_MM = 3.5
# Share of the brightest voxels of an MR angiogram that is arteries, and of the dark ones that is air.
MR_BLOOD_PERCENTILE, MR_AIR_SHARE = 99.9, 0.1
# CT: usual brain and arterial HU. Bone (in pieces larger than a calcification) and air are taken out with a rim where
# partial volume looks like blood.
CT_TISSUE_HU, CT_BONE_HU, CT_BLOOD_HU, CT_AIR_HU = 40.0, 650.0, 350.0, -300.0
CT_BONE_MM3, CT_RIM_MM = 200.0, 2.1
# Half edge of the cube that is projected.
PROJECTION_HALF_MM = 9.0


@dataclass(frozen=True)
class DetectionPolicy:
    """Named choices.

    Attributes
    ----------
    score
        ``shape`` (default: more sensitive at fewer false positives on simulated scans) or ``mip``.
    lowest_score
        Candidates below are not returned.
    most
        At most this many candidates a scan, the best.
    """

    score: DetectionScore = "shape"
    lowest_score: float = 0.02
    most: int = 30

    def __post_init__(self) -> None:
        if self.score not in ("shape", "mip"):
            raise ValueError(f"score must be shape or mip, got {self.score!r}")
        if not np.isfinite(self.lowest_score) or self.most < 1:
            raise ValueError(f"lowest_score must be finite and most at least 1: {self.lowest_score}, {self.most}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_POLICY = DetectionPolicy()


@dataclass(frozen=True)
class Candidate:
    """A place that may be an aneurysm: LPS mm, and a score that is larger the more it is one."""

    centre: tuple[float, float, float]
    score: float


def find_candidates(image: Volume, modality: str, policy: DetectionPolicy = DEFAULT_POLICY) -> list[Candidate]:
    """Find candidates in an angiogram, the most likely first.

    Parameters
    ----------
    image
        Time-of-flight MR in any unit, or contrast CT in HU; any orientation.
    modality
        DICOM Modality: ``MR`` or ``CT``.
    policy
        See `DetectionPolicy`.

    Raises
    ------
    NotEvaluableError
        ``wrong_modality``, ``wrong_units`` (CT not in HU), ``not_finite``, ``gantry_tilt``, ``no_vessel`` when nothing
        in the image is as bright and as long as an artery.
    """
    require_modality(modality, "MR", "CT")
    if modality == "CT":
        require_units(image, "HU")
    require_finite(image)
    require_orthogonal(image.grid)
    small = resample(image, spaced_grid(image.grid, (WORKING_MM,) * 3))
    blood = _blood_ct(small) if modality == "CT" else _blood_mr(small)
    arteries = _arteries(blood)
    blood, arteries = _crop(blood, arteries)
    response = _roundness(blood, arteries)
    index = _peaks(response, arteries)
    scores = response[tuple(index.T)].astype(np.float64)
    index, scores = _best(index, scores, policy)
    if policy.score == "mip":
        index, scores = _best(index, _projected_roundness(blood, index), policy)
    points = blood.grid.index_to_patient(index)
    return [Candidate((float(x), float(y), float(z)), float(s)) for (x, y, z), s in zip(points, scores, strict=True)]


def _best(index: IntArray, scores: FloatArray, policy: DetectionPolicy) -> tuple[IntArray, FloatArray]:
    order = np.argsort(-scores, kind="stable")[: policy.most]
    order = order[scores[order] >= policy.lowest_score]
    return index[order], scores[order]


def _crop(blood: Volume, arteries: BoolArray) -> tuple[Volume, BoolArray]:
    """Box of the arteries with room for the widest filter and the projections."""
    margin = int(np.ceil(max(PROJECTION_HALF_MM, 4 * BLOB_SCALES_MM[-1]) / WORKING_MM))
    (where,) = ndimage.find_objects(arteries.astype(np.uint8))
    start = [max(s.start - margin, 0) for s in where]
    stop = [min(s.stop + margin, n) for s, n in zip(where, arteries.shape, strict=True)]
    cropped = blood.crop((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    return cropped, arteries[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]


def _blood_mr(image: Volume) -> Volume:
    """Brightness with tissue at 0 and the brightest arteries at 1."""
    signal = image.physical()
    top = float(np.percentile(signal, MR_BLOOD_PERCENTILE))
    tissue = signal[signal > MR_AIR_SHARE * top]
    if top <= 0 or not len(tissue):
        raise NotEvaluableError("no_vessel", "the image is empty")
    return _scaled(signal, image, float(np.median(tissue)), top)


def _blood_ct(image: Volume) -> Volume:
    """Brightness with brain at 0 and arteries at about 1; bone, air and their rims are set to brain."""
    hu = image.physical()
    pieces, _ = ndimage.label(hu >= CT_BONE_HU)
    large = np.bincount(pieces.reshape(-1)) * image.grid.voxel_volume >= CT_BONE_MM3
    large[0] = False
    removed = large[pieces] | (hu <= CT_AIR_HU)
    if removed.any():
        away = ndimage.distance_transform_edt(~removed, sampling=image.grid.spacing)
        hu[away <= CT_RIM_MM] = CT_TISSUE_HU
    return _scaled(hu, image, CT_TISSUE_HU, CT_BLOOD_HU)


def _scaled(values: npt.NDArray[np.floating], image: Volume, low: float, high: float) -> Volume:
    if high <= low:
        raise NotEvaluableError("no_vessel", f"blood at {high:g} is no brighter than tissue at {low:g}")
    share = np.clip((values - low) / (high - low), 0, 1.2).astype(np.float32)
    return Volume(share, image.grid, "1")


def _arteries(blood: Volume) -> BoolArray:
    """Voxels of the bright pieces with the most tubes."""
    bright = np.asarray(blood.voxels) >= BLOOD_SHARE
    vesselness = frangi_vesselness(blood, TUBE_SCALES_MM, c=BLOOD_SHARE / 2, where=bright)
    pieces, n = ndimage.label(bright, structure=np.ones((3, 3, 3)))
    tubes = np.bincount(pieces[vesselness >= TUBE_VESSELNESS], minlength=n + 1) * blood.grid.voxel_volume
    tubes[0] = 0
    is_tree = tubes >= max(TREE_MM3, TREE_SHARE * tubes.max())
    if not is_tree.any():
        raise NotEvaluableError("no_vessel", f"no bright piece has {TREE_MM3:g} mm³ of tubes")
    return np.asarray(is_tree[pieces])


def _roundness(blood: Volume, where: BoolArray) -> Array:
    """Largest over the scales of the smallest curvature, 0 outside ``where``."""
    out = np.zeros(where.shape, dtype=np.float32)
    for sigma in BLOB_SCALES_MM:
        highest = symmetric_eigenvalues(hessian(blood, sigma)[:, where])[2]
        out[where] = np.maximum(out[where], -highest)
    return out


def _peaks(response: Array, where: BoolArray) -> IntArray:
    """Index ``(n, 3)`` of the places with the largest response within `SEPARATION_MM`."""
    reach = int(np.ceil(SEPARATION_MM / WORKING_MM))
    offsets = np.indices((2 * reach + 1,) * 3) - reach
    ball = (offsets**2).sum(axis=0) * WORKING_MM**2 <= SEPARATION_MM**2
    largest = ndimage.maximum_filter(response, footprint=ball)
    return np.argwhere((response == largest) & (response > 0) & where)


def _projected_roundness(blood: Volume, index: IntArray) -> FloatArray:
    """Mean over directions of the smaller curvature at the middle of the maximum-intensity projection."""
    half = round(PROJECTION_HALF_MM / WORKING_MM)
    steps = np.arange(-half, half + 1, dtype=np.float64)
    kernels = np.stack([_second_derivatives(steps, sigma / WORKING_MM) for sigma in BLOB_SCALES_MM])
    total = np.zeros(len(index))
    directions = _directions()
    for direction in directions:
        axes = np.linalg.svd(direction[None])[2]  # rows: the direction, and two across it
        cube = np.einsum("da,dkji->akji", axes, np.stack(np.meshgrid(steps, steps, steps, indexing="ij")))
        for n, centre in enumerate(index):
            voi = ndimage.map_coordinates(blood.voxels, cube + centre[:, None, None, None], order=1, mode="nearest")
            aa, ab, bb = np.tensordot(kernels, voi.max(axis=0), axes=([2, 3], [0, 1])).T
            highest = (aa + bb) / 2 + np.sqrt(((aa - bb) / 2) ** 2 + ab**2)
            total[n] += np.max(-highest)
    return total / len(directions)


def _directions() -> FloatArray:
    """Thirteen unit directions: through the faces, edges and corners of a cube, one of each opposite pair."""
    whole = np.array([d for d in product((-1, 0, 1), repeat=3) if d > (0, 0, 0)], dtype=np.float64)
    return np.asarray(whole / np.linalg.norm(whole, axis=1, keepdims=True))


def _second_derivatives(steps: FloatArray, sigma: float) -> FloatArray:
    """Kernels ``(3, n, n)`` of σ² times the derivatives aa, ab, bb of a Gaussian of ``sigma`` samples."""
    gauss = np.exp(-0.5 * (steps / sigma) ** 2)
    gauss /= gauss.sum()
    first = steps / sigma * gauss
    second = ((steps / sigma) ** 2 - 1) * gauss
    second -= gauss * second.sum()  # flat tissue has no curvature
    return np.stack([np.outer(second, gauss), np.outer(first, first), np.outer(gauss, second)])

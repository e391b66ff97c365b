"""Find the heart and the territories of its arteries in a CT, and say whether what was found is plausible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from ops.inference.inferer import Inferer
from ops.inference.segment import to_network_grid
from ops.inference.sliding_window import Shape
from ops.preprocess.intensity import window_tensor
from ops.preprocess.resample import spaced_grid
from ops.spans import span
from ops.verdict import Verdict, VerdictStatus
from ops.volume import Grid, Volume

# Range kept before averaging to the network's spacing. −1024 is the usual floor of CT and the value that sentinels
# below it (−2000, −3024, −8192: outside the reconstruction circle) stand for; 3071 is the ceiling of 12-bit CT.
HU_RANGE = (-1024.0, 3071.0)
# A resampled voxel this close to the floor is padding: measured air is noisy and lung lies above −950 HU.
PADDING_HU = -1020.0

# Plausible volume of everything inside the pericardium, mL. Adult CT: about 400–1100 with the pericardial fat
# (order of magnitude recalled, not re-read [R]); the bounds leave room for small women and cardiomegaly.
HEART_ML_RANGE = (200.0, 2000.0)
# Mean probability of the winning class inside the heart below which the network is guessing. On simulated scans it
# stays above this; see docs/models/heart-territories.md for the measured distributions.
MIN_CONFIDENCE = 0.55
# A heart lies between the lungs: this share of the shell around it must be aerated lung. It is about half in a healthy
# chest and survives a large effusion; brain, liver and bowel have next to none.
LUNG_HU = (-960.0, -500.0)
LUNG_SHELL_MM = 9.0
MIN_LUNG_CONTACT = 0.12
# Every scan of a whole heart shows the ascending and the descending aorta, mL.
MIN_AORTA_ML = 15.0
# A piece this large that ends at the border of the scan is a truncated heart; a smaller one is nothing.
MIN_FRAGMENT_ML = 60.0
# Share of the heart's silhouette that may end at the border of the scan: an apex or an auricle just clipped.
MAX_CUT_FRACTION = 0.15

# Face of the scan towards each direction of the canonical axes: (axis, step).
FACES: Mapping[str, tuple[int, int]] = {
    "inferior": (0, -1),
    "superior": (0, 1),
    "anterior": (1, -1),
    "posterior": (1, 1),
    "right": (2, -1),
    "left": (2, 1),
}

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class NetworkContract:
    """What the network expects and returns (from its manifest).

    Attributes
    ----------
    spacing_mm
        Voxel spacing ``(dz, dy, dx)`` of its input.
    window_hu
        HU mapped to 0 and 1.
    patch_shape
        Window ``(z, y, x)`` it was trained on.
    heart_labels
        Output classes that lie in or on the heart (chambers, artery territories, valves).
    aorta_label
        Output class of the aorta.
    """

    spacing_mm: tuple[float, float, float]
    window_hu: tuple[float, float]
    patch_shape: Shape
    heart_labels: tuple[int, ...]
    aorta_label: int = 6


@dataclass(frozen=True)
class HeartLocation:
    """Facts about the heart that was found; every field has a value when none was (volume 0).

    Attributes
    ----------
    heart_ml
        Volume of the largest connected piece of the heart classes, mL.
    share
        Its fraction of everything called heart in the scan.
    confidence
        Mean probability of the winning class over it.
    entropy
        Mean entropy of the class probabilities over it, as a fraction of the largest possible, 0–1.
    lung_contact
        Fraction of the 9 mm shell around it that is aerated lung, of the part inside the scan.
    aorta_ml
        Volume of aorta in the scan, mL.
    cut_fraction
        Largest, over the six directions, fraction of the heart's silhouette that ends at the border of the scan or
        at padding.
    cut_faces
        Directions in which any of it does, worst first.
    """

    heart_ml: float
    share: float
    confidence: float
    entropy: float
    lung_contact: float
    aorta_ml: float
    cut_fraction: float
    cut_faces: tuple[str, ...]


def locate_territories(volume: Volume, network: Inferer, contract: NetworkContract) -> tuple[Volume, HeartLocation]:
    """Label the heart, its artery territories, the aorta and bone at the network's resolution.

    Parameters
    ----------
    volume
        CT in HU, any orientation and spacing.
    network
        The ``heart-territories`` network in some runtime.
    contract
        Its input and output, from the manifest.

    Returns
    -------
    territories, location
        Uint8 label map on a canonical grid of the network's spacing over the volume's whole field of view (only
        the largest piece of the heart is kept), and facts for :func:`heart_verdict`.

    Raises
    ------
    ValueError
        The volume is not in HU.
    """
    if volume.units != "HU":
        raise ValueError(f"heart location needs CT in HU, this volume is in {volume.units!r}")
    grid = spaced_grid(volume.grid, contract.spacing_mm)
    with span("resample"):
        coarse = to_network_grid(volume, grid, network.place, HU_RANGE)
        image = window_tensor(coarse, *contract.window_hu)
    with span("infer"):
        blended = network.probabilities(image)
    with span("export"):
        values = coarse.cpu().numpy()
        probabilities = blended.to(torch.float16).cpu().numpy()
        labels = blended.max(dim=0).indices.to(torch.uint8).cpu().numpy()
    hearts = np.isin(labels, contract.heart_labels)
    heart = largest_piece(hearts)
    location = HeartLocation(
        heart_ml=_millilitres(heart, grid),
        share=float(heart.sum() / max(1, hearts.sum())),
        **_certainty(heart, probabilities),
        lung_contact=lung_contact(heart, values, grid.spacing),
        aorta_ml=_millilitres(labels == contract.aorta_label, grid),
        **_cuts(heart, values <= PADDING_HU),
    )
    labels[hearts & ~heart] = 0
    return Volume(labels, grid, units="label"), location


def largest_piece(mask: BoolArray) -> BoolArray:
    """Keep the largest 6-connected component of a mask (an empty mask stays empty)."""
    pieces, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(pieces == sizes.argmax())


def _millilitres(mask: BoolArray, grid: Grid) -> float:
    return float(mask.sum() * grid.voxel_volume / 1000)


class _Certainty(TypedDict):
    confidence: float
    entropy: float


def _certainty(heart: BoolArray, probabilities: npt.NDArray[np.float16]) -> _Certainty:
    """Mean winning probability and mean relative entropy inside the heart."""
    if not heart.any():
        return {"confidence": 0.0, "entropy": 1.0}
    inside = probabilities[:, heart].astype(np.float32)
    # 1e-6: a float16 probability of 0 has no logarithm, and contributes nothing.
    entropy = -(inside * np.log(np.maximum(inside, 1e-6))).sum(axis=0).mean() / np.log(len(inside))
    return {"confidence": float(inside.max(axis=0).mean()), "entropy": float(entropy)}


def lung_contact(heart: BoolArray, values: npt.NDArray[np.floating], spacing_mm: tuple[float, float, float]) -> float:
    """Fraction of the shell around a mask that holds aerated lung; padding is left out, 0 for an empty mask.

    Parameters
    ----------
    heart
        ``(z, y, x)``.
    values
        HU on the same grid.
    spacing_mm
        Of the grid.
    """
    if not heart.any():
        return 0.0
    distance = ndimage.distance_transform_edt(~heart, sampling=spacing_mm)
    shell = values[(distance > 0) & (distance <= LUNG_SHELL_MM) & (values > PADDING_HU)]
    low, high = LUNG_HU
    return float(((shell >= low) & (shell <= high)).sum() / max(1, shell.size))


class _Cuts(TypedDict):
    cut_fraction: float
    cut_faces: tuple[str, ...]


def _cuts(heart: BoolArray, padding: BoolArray) -> _Cuts:
    """How much of the heart's silhouette ends at the border of the data, and where."""
    if not heart.any():
        return {"cut_fraction": 0.0, "cut_faces": ()}
    # The resampling filter is two voxels wide: that far into the field of view a voxel may be part padding.
    near_padding = ndimage.binary_dilation(padding, iterations=2)
    cuts = {face: cut_fraction(heart, near_padding, *FACES[face]) for face in FACES}
    worst_first = sorted((face for face in cuts if cuts[face] > 0), key=lambda face: -cuts[face])
    return {"cut_fraction": max(cuts.values()), "cut_faces": tuple(worst_first)}


def cut_fraction(mask: BoolArray, padding: BoolArray, axis: int, step: int) -> float:
    """Fraction of a mask's silhouette along one axis that ends at the array's border or at padding.

    Parameters
    ----------
    mask
        Not empty.
    padding
        Voxels without data.
    axis, step
        Viewing direction: towards higher (+1) or lower (−1) indices of ``axis``.
    """
    last = -1 if step > 0 else 0
    beyond = np.roll(padding, -step, axis=axis)
    beyond[(slice(None),) * axis + (last,)] = True
    silhouette = mask.any(axis=axis)
    return float((mask & beyond).any(axis=axis).sum() / silhouette.sum())


def heart_verdict(location: HeartLocation) -> Verdict:
    """Decide whether a scan shows a whole heart: ``heart_not_found``, ``heart_truncated`` or accepted."""
    refusal = _not_a_heart(location)
    if refusal:
        return Verdict(VerdictStatus.REFUSED, "heart_not_found", f"{refusal}: is this a chest CT?")
    if location.cut_fraction > MAX_CUT_FRACTION:
        detail = (
            f"{location.cut_fraction:.0%} of the heart's silhouette ends at the {location.cut_faces[0]} border of the "
            f"scan (allowed {MAX_CUT_FRACTION:.0%}): a score would miss what lies beyond"
        )
        return Verdict(VerdictStatus.REFUSED, "heart_truncated", detail)
    return Verdict(VerdictStatus.ACCEPTED)


def _not_a_heart(location: HeartLocation) -> str:
    """Say why what was found cannot be a heart; empty when it can."""
    truncated = location.cut_fraction > MAX_CUT_FRACTION
    low, high = MIN_FRAGMENT_ML if truncated else HEART_ML_RANGE[0], HEART_ML_RANGE[1]
    if not low <= location.heart_ml <= high:
        return f"the network found {location.heart_ml:.0f} mL of heart, plausible are {low:.0f}–{high:.0f} mL"
    if location.confidence < MIN_CONFIDENCE:
        return f"the network is unsure of its heart: confidence {location.confidence:.2f}, needed {MIN_CONFIDENCE}"
    if location.lung_contact < MIN_LUNG_CONTACT:
        return (
            f"{location.lung_contact:.0%} of the surroundings of the supposed heart is lung, "
            f"needed {MIN_LUNG_CONTACT:.0%}"
        )
    if not truncated and location.aorta_ml < MIN_AORTA_ML:
        return f"the scan shows {location.aorta_ml:.0f} mL of aorta, needed {MIN_AORTA_ML:.0f} mL"
    return ""

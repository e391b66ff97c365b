"""Real images of the shared data folder: thighs in three modalities (IBSI), heads painted from labels (SynthSeg)."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from ops.volume import Grid, Volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
REVERSED = [2, 1, 0, 3]
PATIENTS = ("STS_008", "STS_025", "STS_042")
# FreeSurfer codes, left and right: thalamus, caudate, putamen, pallidum, hippocampus, amygdala, accumbens.
SUBCORTICAL = (10, 11, 12, 13, 17, 18, 26, 49, 50, 51, 52, 53, 54, 58)
MIRRORED = {2: 41, 3: 42, 4: 43, 5: 44, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54, 26: 58, 28: 60}
# T1- and T2-weighted brightness: white matter, cortex, ventricles and other fluid, cerebellum, deep grey, brainstem.
MR = {
    2: (800, 350), 3: (480, 520), 4: (150, 1000), 5: (150, 1000), 14: (150, 1000), 15: (150, 1000), 24: (150, 1000),
    7: (760, 370), 8: (500, 520), 10: (620, 420), 11: (500, 480), 12: (540, 440), 13: (680, 300), 16: (700, 400),
    17: (480, 540), 18: (470, 530), 26: (490, 490), 28: (690, 380),
}  # fmt: skip


def read(path: Path, units: str) -> Volume:
    """A NIfTI file as a volume in LPS."""
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj).T
    return Volume(voxels.copy(), Grid(voxels.shape, (LPS @ image.affine)[:, REVERSED]), units)


def patient(realdata: Path, name: str) -> dict[str, Volume]:
    """CT, MR and PET of one thigh, delivered in register."""
    folder = realdata / "ibsi/ibsi_validation/nifti" / name
    kinds = {"CT": "HU", "MR_T1": "a.u.", "PET": "SUV"}
    return {kind: read(folder / f"{kind}_image.nii.gz", units) for kind, units in kinds.items()}


def body_points(*volumes: Volume) -> np.ndarray:
    """Bright places of the smaller image, about 300."""
    smaller = min(volumes, key=lambda v: v.voxels.size * v.grid.voxel_volume)
    index = np.argwhere(smaller.voxels > np.percentile(smaller.voxels, 70))
    return smaller.grid.index_to_patient(index[:: max(1, len(index) // 300)])


def head_labels(realdata: Path, number: int) -> Volume:
    """FreeSurfer labels of one head, cut to it."""
    name = f"synthseg_labelmaps/data/training_label_maps/training_seg_{number:02d}.nii.gz"
    whole = read(realdata / name, "label")
    index = np.argwhere(whole.voxels > 0)
    low, high = np.maximum(index.min(0) - 3, 0), np.minimum(index.max(0) + 4, whole.grid.shape)
    cut = whole.crop(tuple(map(int, low)), tuple(map(int, high)))
    return Volume(cut.voxels.astype(np.int16), cut.grid, "label")


def random_contrast(seed: int) -> np.ndarray:
    """A random brightness per label, left as right."""
    means = np.random.default_rng(seed).uniform(100, 1000, 1000)
    means[0] = 0
    means[500:] *= 0.05  # background structures of the set
    return _mirrored(means)


def mr_contrast(kind: str) -> np.ndarray:
    """Brightness per label as in T1- or T2-weighted MR, so that every structure is seen in both; random elsewhere."""
    means = random_contrast(7)
    for label, values in MR.items():
        means[label] = values[("T1", "T2").index(kind)]
    return _mirrored(means)


def _mirrored(means: np.ndarray) -> np.ndarray:
    for left, right in MIRRORED.items():
        means[right] = means[left]
    return means


def simulated(labels: Volume, means: np.ndarray, noise: int) -> Volume:
    """Image of a label map with a brightness per label, slightly blurred, with noise of 3 %."""
    values = ndimage.gaussian_filter(means[labels.voxels], 0.6)
    values += np.random.default_rng(noise).normal(scale=30, size=values.shape)
    return Volume(values.astype(np.int16), labels.grid, "a.u.")


def dice(reference: Volume, found: Volume) -> float:
    """Mean Dice coefficient of the subcortical labels."""
    pairs = [(reference.voxels == label, found.voxels == label) for label in SUBCORTICAL]
    return float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))

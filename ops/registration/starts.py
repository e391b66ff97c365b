"""Where a linear registration begins: candidates from the scanner's coordinates and the images' centres."""

from __future__ import annotations

from itertools import product
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from ops.registration.fields import identity, transform_points
from ops.registration.pyramid import Level
from ops.registration.transforms import Affine
from ops.volume import Volume

# Rotations tried about each axis at every start. A rigid optimisation at 8 mm converges from within about 15° (tests);
# steps of 20° leave none of the rotations up to 30° about one axis farther than 10° from a start.
START_ANGLES_DEG = (-20.0, 20.0)
# From these starts heads were found when turned by up to 90°, and hardly beyond (docs/models/head-keypoints.md).
USUAL_STARTS_REACH_DEG = 90.0
# Turns of any angle: one lies within 19° of half of all rotations, within 33° of every one (measured).
ANY_TURNS = 300
# √2, and the real root above 1 of ψ⁴ = ψ + 4: the spirals' irrational ratios (Alexa 2022).
SPIRAL_RATIOS = (2**0.5, 1.533751168755204288118041)


class Initialiser(Protocol):
    """Anything that guesses a linear map of fixed to moving patient space, e.g. a learned registration network."""

    def __call__(self, fixed: Volume, moving: Volume) -> Affine:
        """Map from the fixed to the moving image's LPS mm; it is tried beside the usual starts, never trusted alone."""


def start_matrices(fixed: Level, moving: Level, guesses: list[list[Affine]], largest_rotation_deg: float) -> Tensor:
    """Candidate matrices ``(B, S, 4, 4)`` float64, LPS mm → LPS mm, the scanner's own coordinates first.

    Each of three translations (scanner's coordinates, centres of the fields of view, centres of mass) is combined with
    no rotation and with ``START_ANGLES_DEG`` about the x, y and z axis through the fixed centre. Where turns beyond
    ``USUAL_STARTS_REACH_DEG`` are allowed, ``ANY_TURNS`` about the centres of mass are tried too.

    Parameters
    ----------
    fixed, moving
        Coarsest level.
    guesses
        Further candidates of each case; all cases must have as many.
    largest_rotation_deg
        That is not refused.
    """
    everywhere = any_turns(ANY_TURNS) if largest_rotation_deg > USUAL_STARTS_REACH_DEG else []
    turns = [np.zeros(3)] + [angle * axis for axis, angle in product(np.eye(3), START_ANGLES_DEG)]
    uniform = [_centres(level.mask, level.matrices) for level in (fixed, moving)]
    heavy = [_centres(level.mask * level.values, level.matrices) for level in (fixed, moving)]
    cases = []
    for case, extra in enumerate(guesses):
        shifts = [(uniform[0][case], np.zeros(3))]
        shifts += [(first[case], second[case] - first[case]) for first, second in (uniform, heavy)]
        tried = [Affine.rigid(turn, shift, centre).matrix for (centre, shift), turn in product(shifts, turns)]
        tried += [Affine.rigid(turn, shifts[-1][1], shifts[-1][0]).matrix for turn in everywhere]
        cases.append(np.stack(tried + [guess.matrix for guess in extra]))
    return torch.from_numpy(np.stack(cases)).to(fixed.values.device)


def any_turns(count: int) -> list[npt.NDArray[np.float64]]:
    """Rotations spread evenly over all there are, as rotation vectors in degrees.

    Super-Fibonacci spirals on the unit quaternions (Alexa 2022, CVPR, "Super-Fibonacci Spirals: Fast, Low-Discrepancy
    Sampling of SO(3)").
    """
    s = np.arange(count) + 0.5
    r, rest = np.sqrt(s / count), np.sqrt(1 - s / count)
    a, b = (2 * np.pi * s / ratio for ratio in SPIRAL_RATIOS)
    quaternions = np.stack([r * np.sin(a), r * np.cos(a), rest * np.sin(b), rest * np.cos(b)], axis=1)
    return list(Rotation.from_quat(quaternions).as_rotvec(degrees=True))


def _centres(weights: Tensor, matrices: Tensor) -> list[np.ndarray]:
    """Weighted mean position of each case in LPS mm."""
    units = identity(weights.shape, weights.device).reshape(-1, 3)
    flat = weights.flatten(1)
    means = (flat @ units) / flat.sum(1, keepdim=True).clamp(min=1e-6)
    return list(transform_points(matrices, means.double()[:, None])[:, 0].cpu().numpy())

"""Where a linear registration begins: candidates from the scanner's coordinates and the images' centres."""

from __future__ import annotations

from itertools import product
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ops.registration.fields import identity, transform_points
from ops.registration.pyramid import Level
from ops.registration.transforms import Affine
from ops.volume import Volume

# Rotations tried about each axis at every start. A rigid optimisation at 8 mm converges from within about 15° (tests);
# steps of 20° leave none of the rotations up to 30° about one axis farther than 10° from a start.
START_ANGLES_DEG = (-20.0, 20.0)


class Initialiser(Protocol):
    """Anything that guesses a linear map of fixed to moving patient space, e.g. a learned registration network."""

    def __call__(self, fixed: Volume, moving: Volume) -> Affine:
        """Map from the fixed to the moving image's LPS mm; it is tried beside the usual starts, never trusted alone."""


def start_matrices(fixed: Level, moving: Level, guesses: list[list[Affine]]) -> Tensor:
    """Candidate matrices ``(B, S, 4, 4)`` float64, LPS mm → LPS mm, the scanner's own coordinates first.

    Each of three translations (scanner's coordinates, centres of the fields of view, centres of mass) is combined with
    no rotation and with ``START_ANGLES_DEG`` about the x, y and z axis through the fixed centre.

    Parameters
    ----------
    fixed, moving
        Coarsest level.
    guesses
        Further candidates of each case; all cases must have as many.
    """
    turns = [np.zeros(3)] + [angle * axis for axis, angle in product(np.eye(3), START_ANGLES_DEG)]
    uniform = [_centres(level.mask, level.matrices) for level in (fixed, moving)]
    heavy = [_centres(level.mask * level.values, level.matrices) for level in (fixed, moving)]
    cases = []
    for case, extra in enumerate(guesses):
        shifts = [(uniform[0][case], np.zeros(3))]
        shifts += [(first[case], second[case] - first[case]) for first, second in (uniform, heavy)]
        tried = [Affine.rigid(turn, shift, centre).matrix for (centre, shift), turn in product(shifts, turns)]
        cases.append(np.stack(tried + [guess.matrix for guess in extra]))
    return torch.from_numpy(np.stack(cases)).to(fixed.values.device)


def _centres(weights: Tensor, matrices: Tensor) -> list[np.ndarray]:
    """Weighted mean position of each case in LPS mm."""
    units = identity(weights.shape, weights.device).reshape(-1, 3)
    flat = weights.flatten(1)
    means = (flat @ units) / flat.sum(1, keepdim=True).clamp(min=1e-6)
    return list(transform_points(matrices, means.double()[:, None])[:, 0].cpu().numpy())

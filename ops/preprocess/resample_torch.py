"""The same resampling as :mod:`ops.preprocess.resample` on a torch device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ops.preprocess.resample import SLAB_SLICES, AxisWeights, Float32Array


def apply_weights_torch(
    voxels: npt.NDArray[np.generic], weights: AxisWeights, clip: tuple[float, float], device: str
) -> Float32Array:
    """Apply three interpolation matrices on a torch device; see :func:`ops.preprocess.resample.apply_weights`.

    Slabs travel to the device as stored integers and become float there; only the reduced result comes back.
    """
    z, y, x = (torch.from_numpy(w).to(device) for w in weights)
    slabs = []
    for first in range(0, voxels.shape[0], SLAB_SLICES):
        stored = torch.from_numpy(np.ascontiguousarray(voxels[first : first + SLAB_SLICES])).to(device)
        slab = stored.to(torch.float32).clamp(*clip)
        slabs.append(y @ (slab @ x.T))
    reduced = torch.cat(slabs)
    out = (z @ reduced.reshape(reduced.shape[0], -1)).reshape(z.shape[0], *reduced.shape[1:])
    return out.cpu().numpy()

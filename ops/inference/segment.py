"""From a scan to its label map: resample, window, network, argmax and back to the scan's grid on one device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ops.inference.inferer import Inferer
from ops.preprocess.intensity import quantiles_tensor, window_tensor
from ops.preprocess.resample import resample, spaced_grid
from ops.preprocess.resample_torch import resample_labels, resample_tensor
from ops.volume import Grid, Volume


@dataclass(frozen=True)
class SegmentationContract:
    """What a segmentation network expects (from its manifest).

    Attributes
    ----------
    units
        Of the scan's values.
    spacing_mm
        Voxel spacing ``(dz, dy, dx)`` of its input, in canonical axis order.
    window
        Ends of the range that is mapped to 0 … 1: in ``units``, or with ``of_quantiles`` as quantiles of the image.
    of_quantiles
        How to read ``window``.
    """

    units: str
    spacing_mm: tuple[float, float, float]
    window: tuple[float, float]
    of_quantiles: bool = False


def segment(volume: Volume, network: Inferer, contract: SegmentationContract) -> Volume:
    """Label map of a scan on the scan's own grid.

    Parameters
    ----------
    volume
        Any orientation and spacing.
    network
        Where it computes, everything else does too: the host gets the uint8 labels and never a probability.
    contract
        What the network expects.

    Raises
    ------
    ValueError
        The volume is in other units than the network expects, or without contrast.
    """
    if volume.units != contract.units:
        raise ValueError(f"this network needs a scan in {contract.units!r}, this one is in {volume.units!r}")
    grid = spaced_grid(volume.grid, contract.spacing_mm)
    image = _network_input(to_network_grid(volume, grid, network.place), contract)
    back = resample_labels(network.labels(image), grid, volume.grid)
    return Volume(back.cpu().numpy(), volume.grid, units="label")


def to_network_grid(
    volume: Volume, grid: Grid, place: torch.device, clip: tuple[float, float] = (-np.inf, np.inf)
) -> Tensor:
    """Physical values ``(z, y, x)`` at the network's resolution, where the network computes; NaN outside the scan."""
    if place.type == "cpu":
        return torch.from_numpy(resample(volume, grid, clip).voxels)
    return resample_tensor(volume, grid, clip, np.nan, place)


def _network_input(values: Tensor, contract: SegmentationContract) -> Tensor:
    low, high = contract.window
    if contract.of_quantiles:
        low, high = quantiles_tensor(values, low, high)
    return window_tensor(values, low, high)

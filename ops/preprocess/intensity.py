"""Intensity mappings between physical units and network input, on NumPy and on torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# NumPy and torch divide the same float32 numbers, and interpolate quantiles in float64: largest difference allowed
# between their outputs, which lie in 0–1. Tests hold both to it.
BACKEND_TOLERANCE = 1e-6


def window(values: npt.NDArray[np.floating], low: float, high: float) -> npt.NDArray[np.float32]:
    """Map ``[low, high]`` linearly to ``[0, 1]`` and clip what lies outside.

    Parameters
    ----------
    values
        Physical values (HU for CT), any shape; NaN becomes 0, the value of air.
    low, high
        Ends of the window in the same units, ``low < high``.

    Returns
    -------
    ndarray
        Float32, same shape, within ``[0, 1]``.

    Raises
    ------
    ValueError
        ``low`` is not below ``high``.
    """
    _check_window(low, high)
    scaled = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(np.nan_to_num(scaled, copy=False, nan=0.0), 0.0, 1.0, out=scaled)


def window_tensor(values: Tensor, low: float, high: float) -> Tensor:
    """As :func:`window`, on the tensor's device."""
    _check_window(low, high)
    return values.to(torch.float32).sub(low).div_(high - low).nan_to_num_(nan=0.0).clamp_(0.0, 1.0)


def quantiles(values: npt.NDArray[np.floating], low: float, high: float) -> tuple[float, float]:
    """Two quantiles of an image, as the ends of a window for modalities without units (MR).

    Parameters
    ----------
    values
        Any shape, at least one value is not NaN; NaN (outside the field of view) is left out.
    low, high
        Fractions, ``0 <= low < high <= 1``; between two values the quantile is interpolated linearly.
    """
    found = np.quantile(values[~np.isnan(values)].astype(np.float64), (low, high))
    return float(found[0]), float(found[1])


def quantiles_tensor(values: Tensor, low: float, high: float) -> tuple[float, float]:
    """As :func:`quantiles`, on the tensor's device; :func:`torch.quantile` takes no more than 16 million values."""
    ordered = values[~values.isnan()].sort().values
    return _interpolated(ordered, low), _interpolated(ordered, high)


def _interpolated(ordered: Tensor, fraction: float) -> float:
    position = fraction * (len(ordered) - 1)
    below = int(position)
    a, b = ordered[[below, min(below + 1, len(ordered) - 1)]].tolist()
    return float(a + (b - a) * (position - below))


def _check_window(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"window {low}..{high} is empty")

"""Intensity mappings between physical units and network input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


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
    if not low < high:
        raise ValueError(f"window {low}..{high} is empty")
    scaled = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(np.nan_to_num(scaled, copy=False, nan=0.0), 0.0, 1.0, out=scaled)

"""Apply a fixed-window network to an array of any size."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product

import numpy as np
import numpy.typing as npt

from ops.inference.predictor import Float32Array, Predictor

Shape = tuple[int, int, int]

# Standard deviation of the blending weight as a fraction of the window: nnU-Net's value (Isensee 2021, Nat Methods
# 18:203 [R]). Predictions near a window's edge lack context and so count less.
BLEND_SIGMA = 1 / 8
# Lowest blending weight along one axis relative to the centre. Per axis, not of the product: at the border of the
# array every window is near a face in some axis, and the other axes must still decide between them.
BLEND_FLOOR = 1e-3


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """First indices of evenly spread windows covering ``[0, size)``, overlapping by at least ``overlap``.

    Parameters
    ----------
    size, window
        Length of the axis and of the window, ``size >= window``.
    overlap
        Smallest fraction of a window shared with the next, in ``[0, 1)``.
    """
    if size <= window:
        return [0]
    count = int(np.ceil((size - window) / max(1.0, window * (1 - overlap)))) + 1
    return [int(start) for start in np.rint(np.linspace(0, size - window, count))]


def blend_weights(window: Shape) -> Float32Array:
    """Gaussian weight of every voxel of a window, about 1 at its centre, never below ``BLEND_FLOOR`` cubed."""
    z, y, x = (
        np.maximum(np.exp(-0.5 * (((np.arange(n) + 0.5) / n - 0.5) / BLEND_SIGMA) ** 2), BLEND_FLOOR) for n in window
    )
    return np.asarray(z[:, None, None] * y[:, None] * x, dtype=np.float32)


def softmax(logits: Float32Array, axis: int) -> Float32Array:
    """Class probabilities; the largest logit is subtracted first so that none overflows."""
    scores = np.exp(logits - logits.max(axis=axis, keepdims=True))
    scores /= scores.sum(axis=axis, keepdims=True)
    return np.asarray(scores, dtype=np.float32)


def sliding_window(
    predictor: Predictor,
    array: Float32Array,
    window: Shape,
    overlap: float = 0.25,
    pad_value: float = 0.0,
    batch: int = 1,
) -> npt.NDArray[np.float16]:
    """Class probabilities of an array, blended from overlapping windows.

    Parameters
    ----------
    predictor
        Network with logits of the same spatial size as its input.
    array
        ``(z, y, x)`` float32 network input at model resolution.
    window
        Window size ``(z, y, x)``; shorter axes of ``array`` are padded symmetrically up to it.
    overlap
        Smallest fraction shared by neighbouring windows, in ``[0, 1)``.
    pad_value
        Network input outside the array (0: air).
    batch
        Windows per call of the predictor.

    Returns
    -------
    ndarray
        Probabilities ``(classes, z, y, x)`` float16 on the grid of ``array``: model resolution, never the scan's.
    """
    missing = [max(0, n - size) for n, size in zip(window, array.shape, strict=True)]
    before = [m // 2 for m in missing]
    padding = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    padded = np.pad(array, padding, constant_values=pad_value)
    inside = tuple(slice(b, b + size) for b, size in zip(before, array.shape, strict=True))
    return _blend(predictor, padded, window, overlap, batch)[(slice(None), *inside)]


def _blend(
    predictor: Predictor, padded: Float32Array, window: Shape, overlap: float, batch: int
) -> npt.NDArray[np.float16]:
    """Weighted mean of the windows' probabilities over an array at least one window large."""
    starts = [window_starts(size, n, overlap) for size, n in zip(padded.shape, window, strict=True)]
    boxes = [tuple(slice(s, s + n) for s, n in zip(start, window, strict=True)) for start in product(*starts)]
    weights = blend_weights(window)
    total = np.zeros(padded.shape, dtype=np.float32)
    summed: Float32Array | None = None
    for group in _groups(boxes, batch):
        logits = predictor.predict(np.stack([padded[box] for box in group])[:, None])
        for box, probabilities in zip(group, softmax(logits, axis=1), strict=True):
            if summed is None:
                summed = np.zeros((probabilities.shape[0], *padded.shape), dtype=np.float32)
            summed[(slice(None), *box)] += probabilities * weights
            total[box] += weights
    assert summed is not None  # there is always at least one window
    summed /= total
    return summed.astype(np.float16)


def _groups(boxes: list[tuple[slice, ...]], size: int) -> Iterator[list[tuple[slice, ...]]]:
    """Split a list into consecutive groups of at most ``size``."""
    rest = iter(boxes)
    while group := list(islice(rest, size)):
        yield group

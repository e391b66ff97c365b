"""How many windows to compute at once on a device: found by trying."""

from __future__ import annotations

import logging
import time
from weakref import WeakKeyDictionary

import torch

from ops.inference.memory import is_out_of_memory, release_cached
from ops.inference.predictor import TensorPredictor
from ops.inference.sliding_window import Shape

# Doubling goes on while a window gets at least this much cheaper: less is within the noise of two timings.
LEAST_GAIN = 0.05
# No more than this many windows are tried at once; a card that this does not fill gains nothing from more.
MOST_WINDOWS = 64

logger = logging.getLogger(__name__)

_found: WeakKeyDictionary[TensorPredictor, dict[Shape, int]] = WeakKeyDictionary()


def best_batch(predictor: TensorPredictor, window: Shape) -> int:
    """Windows per call that a predictor computes fastest; tried once for each predictor and window.

    The batch doubles until a window gets no cheaper or memory runs out. Where it ran out, half of what still fitted
    is taken: volumes and sums need room too, and so do the neighbours on the card.

    Parameters
    ----------
    predictor
        One model on one device in one precision.
    window
        Window size ``(z, y, x)``.

    Raises
    ------
    torch.OutOfMemoryError
        Or ONNX Runtime's error: not even one window fits.
    """
    known = _found.setdefault(predictor, {})
    if window not in known:
        known[window] = _try_batches(predictor, window)
    return known[window]


def _try_batches(predictor: TensorPredictor, window: Shape) -> int:
    best, cheapest = 1, seconds_per_window(predictor, window, 1)
    while 2 * best <= MOST_WINDOWS:
        seconds = _seconds_if_it_fits(predictor, window, 2 * best)
        if seconds is None:
            return max(1, best // 2)
        if seconds > cheapest * (1 - LEAST_GAIN):
            break
        best, cheapest = 2 * best, seconds
    return best


def _seconds_if_it_fits(predictor: TensorPredictor, window: Shape, batch: int) -> float | None:
    """Seconds per window, or None when the device cannot compute the batch: one window it could, so it is too large."""
    try:
        return seconds_per_window(predictor, window, batch)
    except Exception as error:
        if not is_out_of_memory(error):
            logger.warning("%d windows of %s at once: %s: %s", batch, window, type(error).__name__, error)
    release_cached()  # after the handler: the error's traceback held the tensors
    return None


def seconds_per_window(predictor: TensorPredictor, window: Shape, batch: int) -> float:
    """Time of one window in a batch; the first call, which loads and chooses kernels, is not counted."""
    windows = torch.zeros((batch, 1, *window), device=predictor.place)
    _run(predictor, windows)
    began = time.perf_counter()
    _run(predictor, windows)
    return (time.perf_counter() - began) / batch


def _run(predictor: TensorPredictor, windows: torch.Tensor) -> None:
    """Run the network with the softmax that follows it, and wait for the device."""
    predictor.infer(windows).softmax(dim=1)
    if predictor.place.type == "cuda":
        torch.cuda.synchronize(predictor.place)

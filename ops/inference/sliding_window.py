"""Apply a fixed-window network to arrays of any size, on the device where the network computes.

Windows are gathered from volumes that lie there and blended there. Windows of several volumes share a batch, so that
small volumes fill a GPU too; volumes come in and results go out one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from ops.device import Pace
from ops.inference.predictor import Float32Array, TensorPredictor

Shape = tuple[int, int, int]
Box = tuple[slice, slice, slice]

# Standard deviation of the blending weight as a fraction of the window: nnU-Net's value (Isensee 2021, Nat Methods
# 18:203 [R]). Predictions near a window's edge lack context and so count less.
BLEND_SIGMA = 1 / 8
# Lowest blending weight along one axis relative to the centre. Per axis, not of the product: at the border of the
# array every window is near a face in some axis, and the other axes must still decide between them.
BLEND_FLOOR = 1e-3
# Smallest fraction of a window shared with the next.
OVERLAP = 0.25


@dataclass(frozen=True)
class Tiling:
    """How windows are laid out and computed.

    Attributes
    ----------
    window
        Window size ``(z, y, x)``; volumes that are shorter are padded symmetrically up to it with 0 (air).
    overlap
        Smallest fraction shared by neighbouring windows, in ``[0, 1)``.
    batch
        Windows per call of the network.
    on_host
        Keep padded volumes and sums in host memory; the device holds no more of them than one batch.
    """

    window: Shape
    overlap: float = OVERLAP
    batch: int = 1
    on_host: bool = False


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


def axis_blend(window: int) -> npt.NDArray[np.float64]:
    """Gaussian weight along one axis of a window, about 1 at its centre, never below ``BLEND_FLOOR``."""
    distance = (np.arange(window) + 0.5) / window - 0.5
    return np.maximum(np.exp(-0.5 * (distance / BLEND_SIGMA) ** 2), BLEND_FLOOR)


def blend_weights(window: Shape) -> Float32Array:
    """Weight of every voxel of a window: the product of :func:`axis_blend` over its axes."""
    return outer(*map(axis_blend, window))


def outer(z: npt.NDArray[np.float64], y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> Float32Array:
    """Product ``(z, y, x)`` float32 of three vectors."""
    return np.asarray(z[:, None, None] * y[:, None] * x, dtype=np.float32)


class Mosaic:
    """One volume on its way: its padded voxels, the windows still to come, and the weighted sum of those that came."""

    def __init__(self, volume: Tensor, tiling: Tiling, weights: Tensor) -> None:
        missing = [max(0, n - size) for n, size in zip(tiling.window, volume.shape, strict=True)]
        before = [m // 2 for m in missing]
        widths = [width for b, m in zip(before, missing, strict=True) for width in (b, m - b)]
        self.padded = pad(volume.to(weights.device, torch.float32), [*widths[4:], *widths[2:4], *widths[:2]])
        self._inside = tuple(slice(b, b + size) for b, size in zip(before, volume.shape, strict=True))
        self._window, self._weights = tiling.window, weights
        sides = zip(self.padded.shape, tiling.window, strict=True)
        self._starts = [window_starts(size, n, tiling.overlap) for size, n in sides]
        self.pending = int(np.prod([len(starts) for starts in self._starts]))
        self._sum: Tensor | None = None

    def boxes(self) -> Iterator[Box]:
        """Windows in the order of memory."""
        a, b, c = self._window
        for z, y, x in product(*self._starts):
            yield slice(z, z + a), slice(y, y + b), slice(x, x + c)

    def add(self, box: Box, probabilities: Tensor) -> None:
        """Blend in one window ``(classes, z, y, x)``."""
        if self._sum is None:
            self._sum = self.padded.new_zeros((len(probabilities), *self.padded.shape))
        self._sum[(slice(None), *box)].addcmul_(probabilities, self._weights)
        self.pending -= 1

    def labels(self) -> Tensor:
        """Most probable class of every voxel, uint8 ``(z, y, x)``: that of the largest weighted sum."""
        return self._sums().max(dim=0).indices.to(torch.uint8)

    def probabilities(self) -> Tensor:
        """Weighted means ``(classes, z, y, x)`` float32; call once, as the sums become them in place."""
        # As windows and weights are products over the axes, so is the sum of the weights.
        covered = [np.zeros(size) for size in self.padded.shape]
        for axis, total in enumerate(covered):
            for start in self._starts[axis]:
                total[start : start + self._window[axis]] += axis_blend(self._window[axis])
        weight = torch.from_numpy(outer(*covered)[self._inside]).to(self._weights.device)
        return self._sums().div_(weight)

    def _sums(self) -> Tensor:
        assert self._sum is not None  # every volume has at least one window
        return self._sum[(slice(None), *self._inside)]


@torch.no_grad()
def mosaics(predictor: TensorPredictor, volumes: Iterable[Tensor], tiling: Tiling) -> Iterator[Mosaic]:
    """Compute the windows of volumes in common batches.

    Parameters
    ----------
    predictor
        Network with logits of the same spatial size as its input.
    volumes
        ``(z, y, x)`` network inputs at model resolution, on any device; taken one by one as batches have room.
    tiling
        Windows and batches.

    Yields
    ------
    Mosaic
        Each volume in turn, as soon as it is complete, on the predictor's device (in host memory with
        ``tiling.on_host``).
    """
    weights = torch.from_numpy(blend_weights(tiling.window)).to("cpu" if tiling.on_host else predictor.place)
    opened: deque[Mosaic] = deque()
    pace = Pace(predictor.place)

    def windows() -> Iterator[tuple[Mosaic, Box]]:
        for volume in volumes:
            opened.append(mosaic := Mosaic(volume, tiling, weights))
            for box in mosaic.boxes():
                yield mosaic, box

    rest = windows()
    while group := list(islice(rest, tiling.batch)):
        _compute(predictor, group, weights.device)
        pace.step()
        while opened and opened[0].pending == 0:
            yield opened.popleft()


def _compute(predictor: TensorPredictor, group: Sequence[tuple[Mosaic, Box]], sums_on: torch.device) -> None:
    """Run one batch of windows and blend them in."""
    batch = torch.stack([mosaic.padded[box] for mosaic, box in group])[:, None]
    probabilities = predictor.infer(batch.to(predictor.place)).softmax(dim=1).to(sums_on)
    for (mosaic, box), window in zip(group, probabilities, strict=True):
        mosaic.add(box, window)

"""Apply a network to whole volumes: at once for one thread, or in common batches for many.

Threads that work on a case each share the card: what one case leaves of a batch, the next fills.
"""

from __future__ import annotations

import threading
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ops.inference.memory import is_out_of_memory, release_cached
from ops.inference.predictor import Predictor, TensorPredictor, on_tensors
from ops.inference.sliding_window import Mosaic, Tiling, mosaics


class Inferer(ABC):
    """A network that takes volumes of any size.

    Parameters
    ----------
    predictor
        The network.
    tiling
        Windows and batches.
    """

    def __init__(self, predictor: Predictor | TensorPredictor, tiling: Tiling) -> None:
        self._predictor, self._tiling = on_tensors(predictor), tiling

    @property
    def place(self) -> torch.device:
        """Where it computes; volumes are best prepared there."""
        return self._predictor.place

    def probabilities(self, volume: Tensor) -> Tensor:
        """Class probabilities ``(classes, z, y, x)`` float32 of a network input ``(z, y, x)``."""
        return self._mosaic(volume).probabilities()

    def labels(self, volume: Tensor) -> Tensor:
        """Most probable class of every voxel, uint8 ``(z, y, x)``."""
        return self._mosaic(volume).labels()

    @abstractmethod
    def _mosaic(self, volume: Tensor) -> Mosaic:
        """Compute all windows of a volume."""


class WindowInferer(Inferer):
    """A sliding window over one volume at a time, in the thread that asks."""

    def _mosaic(self, volume: Tensor) -> Mosaic:
        (mosaic,) = mosaics(self._predictor, [volume], self._tiling)
        return mosaic


@dataclass(frozen=True)
class _Request:
    """A volume that some thread waits for."""

    volume: Tensor
    answer: Future[Mosaic] = field(default_factory=Future)


@dataclass(frozen=True)
class _Try:
    """Requests to be computed together; after the last try of a single one its error is its answer."""

    requests: Iterator[_Request]
    is_last: bool = False


class SharedInferer(Inferer):
    """A sliding window over the volumes of many threads, in common batches.

    One thread at a time runs the network; it starts when a volume comes and ends when none waits. A batch is
    composed, of whatever has come until then, while the device computes the one before (after that under ONNX Runtime,
    which waits for the device). When a batch raises, its volumes are tried again in halves, down to the one at fault:
    only the thread that brought it gets the error.
    """

    def __init__(self, predictor: Predictor | TensorPredictor, tiling: Tiling) -> None:
        super().__init__(predictor, tiling)
        self._waiting: deque[_Request] = deque()
        self._lock = threading.Lock()
        self._is_serving = False

    def _mosaic(self, volume: Tensor) -> Mosaic:
        """Wait for a volume's turn, and for all of its windows."""
        request = _Request(volume)
        with self._lock:
            self._waiting.append(request)
            starts = not self._is_serving
            self._is_serving = True
        if starts:
            self._start()
        try:
            return request.answer.result()
        finally:
            del request  # else an error and this frame hold each other, and with them the volume

    def _start(self) -> None:
        try:
            threading.Thread(target=self._serve, name="popscan-inference", daemon=True).start()
        except RuntimeError:  # the system has no thread to give
            self._serve()

    def _serve(self) -> None:
        """Compute until nobody waits. No variable holds a request: an error's traceback would hold it by this frame."""
        while self._anybody_waits():
            tries = deque([_Try(self._arriving())])
            while tries:
                tries.extend(self._compute(tries.popleft()))

    def _anybody_waits(self) -> bool:
        with self._lock:
            self._is_serving = bool(self._waiting)
            return self._is_serving

    def _arriving(self) -> Iterator[_Request]:
        """Give requests as there is room for them in a batch; ends when none waits, so that nothing is held back."""
        while True:
            with self._lock:
                if not self._waiting:
                    return
                request = self._waiting.popleft()
            yield request

    def _compute(self, attempt: _Try) -> list[_Try]:
        """Answer requests in order; after an error give those without an answer, in halves, to be tried again."""
        taken: deque[_Request] = deque()

        def volumes() -> Iterator[Tensor]:
            for request in attempt.requests:
                taken.append(request)
                yield request.volume

        try:
            for mosaic in mosaics(self._predictor, volumes(), self._tiling):
                taken.popleft().answer.set_result(mosaic)
                del mosaic  # it is its case's now, and goes with it
            return []
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold tensors, for as long as somebody holds the error
            taken.extend(attempt.requests)
            if len(taken) == 1 and (attempt.is_last or not is_out_of_memory(error)):
                taken.popleft().answer.set_exception(error)
        release_cached()
        left, middle = list(taken), (len(taken) + 1) // 2
        taken.clear()
        return [_Try(iter(half), is_last=len(left) == 1) for half in (left[:middle], left[middle:]) if half]

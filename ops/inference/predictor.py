"""The contract every inference runtime fulfils."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Float32Array = npt.NDArray[np.float32]

Precision = Literal["float32", "float16", "bfloat16"]
"""What the network computes in. Its input and its logits are float32 in any case."""


class Predictor(Protocol):
    """A network held ready in one runtime on one device."""

    @property
    def device(self) -> str:
        """Where it really runs: the runtime's own answer, not what was asked for."""

    def predict(self, batch: Float32Array) -> Float32Array:
        """Compute class scores before softmax.

        Parameters
        ----------
        batch
            ``(n, 1, z, y, x)`` float32, windowed as the model's contract says; z, y, x divisible by its stride.

        Returns
        -------
        ndarray
            Logits ``(n, classes, z, y, x)`` float32.
        """


@runtime_checkable
class TensorPredictor(Protocol):
    """A predictor that takes and gives tensors where it computes, so that nothing travels between windows."""

    @property
    def place(self) -> torch.device:
        """Where its batches and logits lie."""

    def infer(self, batch: Tensor) -> Tensor:
        """As :meth:`Predictor.predict`, for a contiguous float32 tensor on :attr:`place`; so are the logits."""


class HostPredictor:
    """Tensors in host memory for a predictor that knows NumPy only."""

    place = torch.device("cpu")

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def infer(self, batch: Tensor) -> Tensor:
        """See :meth:`TensorPredictor.infer`."""
        return torch.from_numpy(np.asarray(self._predictor.predict(batch.numpy()), dtype=np.float32))


def on_tensors(predictor: Predictor | TensorPredictor) -> TensorPredictor:
    """Give the predictor itself where it takes tensors, else one that converts in host memory."""
    return predictor if isinstance(predictor, TensorPredictor) else HostPredictor(predictor)


def predict_on_host(predictor: TensorPredictor, batch: Float32Array) -> Float32Array:
    """Logits of a NumPy batch: there and back again."""
    logits: Float32Array = (
        predictor.infer(torch.from_numpy(np.ascontiguousarray(batch)).to(predictor.place)).cpu().numpy()
    )
    return logits

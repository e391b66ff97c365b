"""The contract every inference runtime fulfils."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]


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

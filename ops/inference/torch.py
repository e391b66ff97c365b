"""Predictor on torch: a module as it is, compiled, or a program from ``torch.export``."""

from __future__ import annotations

import io

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from ops.inference.predictor import Float32Array, Precision, predict_on_host

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class TorchPredictor:
    """A torch module in evaluation mode on one device.

    Parameters
    ----------
    module
        Maps ``(n, 1, z, y, x)`` to logits ``(n, classes, z, y, x)``.
    device
        ``"cpu"``, ``"cuda:0"`` …; torch raises when it is not there.
    precision
        Autocast to it where torch allows. For GPUs: a CPU without AVX512-BF16 took 15.8 s in bfloat16 for a
        convolution of 15 to 15 channels on 64³ that took it 0.2 s in float32 (measured), one with it was twice as
        fast as in float32 (environment measurement).
    compiled
        Through ``torch.compile``, anew for each shape of a batch: with free shapes torch 2.13 fails on this network
        (``ValueRangeError`` in the lowering of its strided convolutions).
    """

    def __init__(
        self, module: nn.Module, device: str = "cpu", precision: Precision = "float32", compiled: bool = False
    ) -> None:
        self._place = torch.device(device)
        self._module = module.to(self._place)
        if self._module.training:
            self._module.eval()
        self._parameter = next(self._module.parameters())
        self._run = torch.compile(self._module, dynamic=False) if compiled else self._module
        self._dtype = DTYPES[precision]
        if self._place.type == "cuda":  # windows are of few shapes, for which cuDNN may choose its fastest algorithm
            torch.backends.cudnn.benchmark = True

    @property
    def device(self) -> str:
        """Device of the module's first parameter."""
        return str(self._parameter.device)

    @property
    def place(self) -> torch.device:
        """See :attr:`ops.inference.predictor.TensorPredictor.place`."""
        return self._parameter.device

    @property
    def nbytes(self) -> int:
        """Memory of the weights, bytes."""
        tensors = (*self._module.parameters(), *self._module.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @torch.inference_mode()
    def infer(self, batch: Tensor) -> Tensor:
        """See :meth:`ops.inference.predictor.TensorPredictor.infer`."""
        autocast = torch.autocast(self._place.type, self._dtype, enabled=self._dtype is not torch.float32)
        with autocast:
            logits: Tensor = self._run(batch)
        return logits.float()

    def predict(self, batch: Float32Array) -> Float32Array:
        """See :meth:`ops.inference.predictor.Predictor.predict`."""
        return predict_on_host(self, batch)


def load_exported(program: bytes, device: str) -> nn.Module:
    """Load a program that ``torch.export.save`` wrote, on a device.

    Parameters
    ----------
    program
        From evaluation mode, with the batch size left free (``torch.export.Dim``).
    device
        ``"cpu"``, ``"cuda:0"`` …; the program may have been exported on another.

    Raises
    ------
    RuntimeError
        The device is not there, or the program is of a torch that this one cannot read.
    """
    exported = torch.export.load(io.BytesIO(program))
    module: nn.Module = move_to_device_pass(exported, device).module()
    for part in module.modules():
        part.training = False  # it was exported so; the flag is wrong and eval() not supported
    return module

"""Predictor on ONNX Runtime: CPU, CUDA or TensorRT."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from ops.inference.predictor import Float32Array, predict_on_host

# ONNX Runtime's log level 3 = errors only; it otherwise warns about every folded constant.
LOG_ERRORS_ONLY = 3

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


class OnnxPredictor:
    """An ONNX model in one session.

    Parameters
    ----------
    model
        The serialised model.
    provider
        Execution provider, always named: ``CPUExecutionProvider``, ``CUDAExecutionProvider``,
        ``TensorrtExecutionProvider``.
    threads
        Threads used inside one operator. Workers share a machine, so this is never left to the runtime.
    device_id
        Which GPU, for the other two providers.

    Raises
    ------
    RuntimeError
        The session does not run on ``provider``: ONNX Runtime falls back to the CPU with no more than a log line.

    Notes
    -----
    The session reads and writes the memory of torch tensors, on a GPU too (IO binding). There it computes on a stream
    of its own, so torch is waited for before and the session after.
    """

    def __init__(self, model: bytes, provider: str = CPU, threads: int = 2, device_id: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = LOG_ERRORS_ONLY
        settings: list[dict[str, Any]] = [{} if provider == CPU else {"device_id": device_id}]
        if provider == CUDA:
            settings[0]["arena_extend_strategy"] = "kSameAsRequested"  # else doubled, and never given back to torch
        self._session = onnxruntime.InferenceSession(model, options, [provider], settings)
        if self.device != provider:
            raise RuntimeError(
                f"asked ONNX Runtime for {provider}, the session runs on {self.device}; "
                f"available here: {onnxruntime.get_available_providers()}"
            )
        self._place = torch.device("cpu") if provider == CPU else torch.device("cuda", device_id)
        self._input, (output,) = self._session.get_inputs()[0].name, self._session.get_outputs()
        self._output, self._classes = output.name, int(output.shape[1])
        self._nbytes = len(model)

    @property
    def device(self) -> str:
        """First execution provider of the session."""
        return str(self._session.get_providers()[0])

    @property
    def place(self) -> torch.device:
        """See :attr:`ops.inference.predictor.TensorPredictor.place`."""
        return self._place

    @property
    def nbytes(self) -> int:
        """Size of the serialised model: the runtime does not tell what it keeps."""
        return self._nbytes

    def infer(self, batch: Tensor) -> Tensor:
        """See :meth:`ops.inference.predictor.TensorPredictor.infer`."""
        batch = batch.contiguous()
        logits = torch.empty((len(batch), self._classes, *batch.shape[2:]), device=self._place)
        where = self._place.type, self._place.index or 0, np.float32
        binding = self._session.io_binding()
        binding.bind_input(self._input, *where, tuple(batch.shape), batch.data_ptr())
        binding.bind_output(self._output, *where, tuple(logits.shape), logits.data_ptr())
        if self._place.type == "cuda":
            torch.cuda.current_stream(self._place).synchronize()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return logits

    def predict(self, batch: Float32Array) -> Float32Array:
        """See :meth:`ops.inference.predictor.Predictor.predict`."""
        return predict_on_host(self, batch)

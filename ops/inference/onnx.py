"""Predictor on ONNX Runtime."""

from __future__ import annotations

import onnxruntime

from ops.inference.predictor import Float32Array

# ONNX Runtime's log level 3 = errors only; it otherwise warns about every folded constant.
LOG_ERRORS_ONLY = 3


class OnnxPredictor:
    """An ONNX model in one session.

    Parameters
    ----------
    model
        The serialised model.
    provider
        Execution provider, always named: ``CPUExecutionProvider``, ``CUDAExecutionProvider`` …
    threads
        Threads used inside one operator. Workers share a machine, so this is never left to the runtime.

    Raises
    ------
    RuntimeError
        The session does not run on ``provider``: ONNX Runtime falls back to the CPU with no more than a log line.
    """

    def __init__(self, model: bytes, provider: str = "CPUExecutionProvider", threads: int = 2) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = LOG_ERRORS_ONLY
        self._session = onnxruntime.InferenceSession(model, options, providers=[provider])
        if self.device != provider:
            raise RuntimeError(
                f"asked ONNX Runtime for {provider}, the session runs on {self.device}; "
                f"available here: {onnxruntime.get_available_providers()}"
            )
        self._input = self._session.get_inputs()[0].name

    @property
    def device(self) -> str:
        """First execution provider of the session."""
        return str(self._session.get_providers()[0])

    def predict(self, batch: Float32Array) -> Float32Array:
        """See :meth:`ops.inference.predictor.Predictor.predict`."""
        (logits,) = self._session.run(None, {self._input: batch})
        out: Float32Array = logits
        return out

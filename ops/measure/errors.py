"""Why something was not measured: errors that carry a reason code and the status of the result they lead to."""

from __future__ import annotations

from typing import ClassVar

from ops.verdict import ResultStatus


class NotEvaluableError(ValueError):
    """An input cannot be measured; the result is ``status`` with ``reason``, never zero (SPEC §0.4).

    Attributes
    ----------
    reason
        Stable snake_case reason code.
    detail
        One sentence for a person: which value, where it came from, what to do.
    """

    status: ClassVar[ResultStatus] = ResultStatus.NOT_EVALUABLE

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class OutOfModelRangeError(NotEvaluableError):
    """No published constants cover this input."""

    status: ClassVar[ResultStatus] = ResultStatus.OUT_OF_MODEL_RANGE

"""One measured value with its unit and status, as diseases report it."""

from __future__ import annotations

from dataclasses import dataclass

from ops.verdict import ResultStatus


@dataclass(frozen=True)
class MeasuredValue:
    """A named value, or the reason why there is none (SPEC §0.4: never 0 for not evaluable).

    Attributes
    ----------
    name
        Stable snake_case name, e.g. ``agatston_LAD``.
    value
        Number or text; None unless the status is ``ok``.
    unit
        UCUM; ``1`` for counts and ratios, empty for text.
    status, reason
        Whether the value may be used, and why not.
    """

    name: str
    value: float | str | None
    unit: str = ""
    status: ResultStatus = ResultStatus.OK
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.status is ResultStatus.OK) != (self.value is not None):
            raise ValueError(f"{self.name}: status {self.status} does not go with value {self.value!r}")

    @classmethod
    def missing(
        cls, name: str, reason: str, unit: str = "", status: ResultStatus = ResultStatus.NOT_EVALUABLE
    ) -> MeasuredValue:
        """Return a value that could not be measured."""
        return cls(name, None, unit, status, reason)

"""Verdicts: every series × programme is accepted, repaired or refused, with a reason code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class VerdictStatus(StrEnum):
    """Outcome of looking at one series (or one case) before any number is computed."""

    ACCEPTED = "accepted"
    REPAIRED = "repaired"
    REFUSED = "refused"


class ResultStatus(StrEnum):
    """Status of a result or of one measurement (SPEC §0.4); only ``OK`` carries a value."""

    OK = "ok"
    NOT_EVALUABLE = "not_evaluable"
    OUT_OF_MODEL_RANGE = "out_of_model_range"
    FAILED = "failed"


@dataclass(frozen=True)
class Verdict:
    """A decision and its reason.

    Attributes
    ----------
    status
        Accepted, repaired or refused.
    reason
        Stable snake_case reason code; empty only when nothing needs saying (plain acceptance).
    detail
        One sentence for a person: which value, where it came from, what to do.
    """

    status: VerdictStatus
    reason: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        if self.status is not VerdictStatus.ACCEPTED and not self.reason:
            raise ValueError(f"a {self.status} verdict needs a reason code")

    @property
    def refused(self) -> bool:
        """True when no number may be computed."""
        return self.status is VerdictStatus.REFUSED

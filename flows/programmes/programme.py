"""What a screening programme declares: what it accepts, its stages, its models, its policy, its version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ops.verdict import ResultStatus
from storage.records import SeriesRecord, VerdictRecord
from tasks.stage import Stage


@dataclass(frozen=True)
class Selection:
    """What a programme makes of one study before any voxel is read.

    Attributes
    ----------
    verdicts
        One for every series of the study, with the programme's name.
    roles
        Role → the series that plays it; empty when the study cannot be evaluated.
    facts
        What later stages must know from headers (tube voltage, gating, age …), JSON-able. Enters the fingerprint.
    reason, detail, status
        Why the study cannot be evaluated; reason is empty exactly when there are roles.
    """

    verdicts: Sequence[VerdictRecord]
    roles: Mapping[str, SeriesRecord] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""
    status: ResultStatus = ResultStatus.NOT_EVALUABLE

    def __post_init__(self) -> None:
        if bool(self.roles) == bool(self.reason):
            raise ValueError(f"a selection has either roles or a reason, got {sorted(self.roles)} and {self.reason!r}")


Accept = Callable[[Sequence[SeriesRecord], Sequence[VerdictRecord], Mapping[str, Any]], Selection]
"""``accept(series of one study, ingest's verdicts on them, policy) -> Selection``."""

ChartScale = Literal["linear", "log1p"]
"""A chart of ``log1p`` watches log(1 + value): for scores that are zero in many and huge in a few."""


Simulate = Callable[[Path, int, int], tuple[str, Mapping[str, Any]]]
"""``simulate(folder, index, seed) -> (StudyInstanceUID, truth)``; writes the DICOM of one participant."""


@dataclass(frozen=True)
class CanarySet:
    """Simulated participants of known truth, computed anew before the participants of a run (`flows.canary`).

    Attributes
    ----------
    seed
        Of the simulation.
    participants
        Name → index of the participant under this seed.
    simulate
        Writes one of them.
    measurement
        The measurement that is compared with the truth.
    truth
        Its true value, from what ``simulate`` returns.
    judge
        ``judge(expected, found)`` says what is wrong with a value, or None.
    """

    seed: int
    participants: Mapping[str, int]
    simulate: Simulate
    measurement: str
    truth: Callable[[Mapping[str, Any]], float]
    judge: Callable[[float, float], str | None]


@dataclass(frozen=True)
class Programme:
    """A declaration; the planner and the executor do the rest.

    Attributes
    ----------
    name, version
        Identity; a new version makes every earlier result stale.
    accept
        Chooses the series of a study, or says why there is none.
    stages
        Steps from :class:`tasks.case.Case` to :class:`tasks.case.Findings`.
    models
        Names of the model bundles the stages use.
    policy
        Named options with their defaults, JSON-able; part of every result.
    check_policy
        Raises ValueError when an option has a value it cannot have.
    categories
        Text measurements that class a result; a result has one of them. Reclassification tables compare them.
    severity
        Numeric measurements whose highest values are looked at first; a result has one of them.
    charted
        Numeric measurements watched by control charts, and the scale on which each is charted.
    canaries
        Simulated participants that scheduled runs compute first; None for a programme without.
    """

    name: str
    version: str
    accept: Accept
    stages: tuple[Stage, ...]
    models: tuple[str, ...] = ()
    policy: Mapping[str, Any] = field(default_factory=dict)
    check_policy: Callable[[Mapping[str, Any]], object] = dict
    categories: tuple[str, ...] = ()
    severity: tuple[str, ...] = ()
    charted: Mapping[str, ChartScale] = field(default_factory=dict)
    canaries: CanarySet | None = None

    def with_policy(self, options: Mapping[str, Any]) -> Programme:
        """Set named options, nested ones too; the rest keep their defaults.

        Raises
        ------
        ValueError
            An option this programme does not have, or a value it cannot have.
        """
        policy = _set_options(self.policy, options, self.name)
        self.check_policy(policy)
        return replace(self, policy=policy)


def _set_options(defaults: Mapping[str, Any], options: Mapping[str, Any], where: str) -> dict[str, Any]:
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise ValueError(f"{where} has no option {unknown[0]!r}; it has: {', '.join(sorted(defaults))}")
    merged = dict(defaults)
    for name, value in options.items():
        nested = isinstance(defaults[name], Mapping) and isinstance(value, Mapping)
        merged[name] = _set_options(defaults[name], value, f"{where}.{name}") if nested else value
    return merged

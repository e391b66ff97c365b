"""Stages of a case and what a worker does with them: fuse them into hops, run a hop, keep failures in the case."""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

Placement = Literal["cpu", "gpu"]

RECORD_BYTES = 1 << 20
"""Most a case may send back; arrays stay with the workers and the store."""


class EndCase(Exception):  # noqa: N818 - an answer, not an error
    """Raised by a stage that knows the case's result already (say, not evaluable): later stages are skipped."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


@dataclass(frozen=True)
class Stage:
    """One step of a case.

    Attributes
    ----------
    name, version
        Identity of the computation; both enter the fingerprint of every result.
    function
        ``function(value, **parameters) -> value``; importable by name on the workers. The first stage gets the
        case, the last returns a small record.
    needs
        Kind of worker. ``"gpu"`` means a GPU worker where the cluster has one, and any worker where it has none.
    parameters
        JSON-able keyword arguments; they enter the fingerprint too.
    """

    name: str
    version: str
    function: Callable[..., Any]
    needs: Placement = "cpu"
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Hop:
    """Stages that run as one Dask task on one kind of worker."""

    stages: tuple[Stage, ...]
    needs: Placement

    @property
    def name(self) -> str:
        """Names of its stages, joined: what the Dask dashboard shows."""
        return "+".join(stage.name for stage in self.stages)


def fuse(stages: Sequence[Stage], has_gpu: bool) -> tuple[Hop, ...]:
    """Join neighbouring stages with the same placement; without a GPU worker everything is placed on ``cpu``."""
    if not stages:
        raise ValueError("a programme needs at least one stage")

    def place(stage: Stage) -> Placement:
        return stage.needs if has_gpu else "cpu"

    return tuple(Hop(tuple(members), needs) for needs, members in groupby(stages, key=place))


@dataclass(frozen=True)
class Failure:
    """Why a case failed: what goes into the ledger in place of a result."""

    error_class: str
    message: str
    traceback: str
    transient: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe a caught exception. Trouble with files, network or memory may pass and counts as transient."""
        text = "".join(traceback.format_exception(error))
        return cls(type(error).__name__, str(error), text, isinstance(error, OSError | MemoryError))


@dataclass(frozen=True)
class Outcome:
    """What became of one case: a value or a failure, never both.

    Attributes
    ----------
    case
        The case as it was given.
    value
        What the last stage (or :class:`EndCase`) returned; None when it failed.
    failure
        None when it succeeded.
    timings
        Seconds spent in each stage, by stage name; a failed stage is included.
    attempts
        How often the case was started in this run.
    """

    case: Any
    value: Any
    failure: Failure | None
    timings: Mapping[str, float]
    attempts: int


@dataclass(frozen=True)
class Item:
    """A case on its way through the hops, as the workers see it."""

    value: Any
    timings: dict[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    ended: bool = False


def run_hop(hop: Hop, items: list[Item]) -> list[Item]:
    """Run one hop for a group of cases, on a worker; no exception of a case leaves it."""
    return [item if item.failure or item.ended else _run_stages(hop, item) for item in items]


def run_last_hop(hop: Hop, items: list[Item]) -> list[bytes]:
    """Run the last hop and seal each result for the way home: one that cannot travel fails its own case only."""
    return [_seal(item) for item in run_hop(hop, items)]


def _seal(item: Item) -> bytes:
    try:
        sealed = pickle.dumps(item)
        if len(sealed) > RECORD_BYTES:
            raise ValueError(f"the last stage returned {len(sealed)} bytes; publish data and return its URL")
    except Exception as error:
        return pickle.dumps(Item(None, item.timings, Failure.of(error)))
    return sealed


def _run_stages(hop: Hop, item: Item) -> Item:
    value, timings = item.value, dict(item.timings)
    for stage in hop.stages:
        began = time.perf_counter()
        try:
            value = stage.function(value, **stage.parameters)
        except EndCase as end:
            return Item(end.value, timings, ended=True)
        except Exception as error:
            return Item(None, timings, Failure.of(error))
        finally:
            timings[stage.name] = time.perf_counter() - began
    return Item(value, timings)

"""Where the time goes inside a computation: steps name themselves, and cost next to nothing while nobody asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_seconds: ContextVar[dict[str, float] | None] = ContextVar("popscan_spans", default=None)


@contextmanager
def span(step: str) -> Iterator[None]:
    """Count the wall time of the block as ``step``, for whoever records in the same thread or task."""
    seconds = _seconds.get()
    if seconds is None:
        yield
        return
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - began


@contextmanager
def recorded() -> Iterator[dict[str, float]]:
    """Record the spans of the block: step → seconds, filled as they end. Spans within spans count in both."""
    seconds: dict[str, float] = {}
    token = _seconds.set(seconds)
    try:
        yield seconds
    finally:
        _seconds.reset(token)

"""Where the time of a run goes: every phase has its own time, and none of another's."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from flows.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_phases_add_up_even_where_they_fail(clock: list[float]) -> None:
    watch = Stopwatch()

    def fail_after(seconds: float) -> None:
        with watch.phase("outputs"):
            clock[0] += seconds
            raise OSError("disk")

    for seconds in (1.0, 2.5):
        with pytest.raises(OSError, match="disk"):
            fail_after(seconds)
    assert watch.seconds == {"outputs": 3.5}
    assert str(watch) == "outputs 3.5 s"


def test_making_items_counts_and_using_them_does_not(clock: list[float]) -> None:
    def pages() -> Iterator[int]:
        for page in range(3):
            clock[0] += 2.0
            yield page
        clock[0] += 1.0

    watch, met = Stopwatch(), []
    for page in watch.each("planning", pages()):
        clock[0] += 10.0
        met.append(page)
    assert met == [0, 1, 2]
    assert watch.seconds == {"planning": 7.0}

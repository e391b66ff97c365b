"""Where the time of a run goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Seconds by phase, for phases that take turns and do not overlap."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - began

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield ``items``, counting the time it takes to make them and not the time between them."""
        iterator = iter(items)
        while True:
            with self.phase(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    @property
    def seconds(self) -> dict[str, float]:
        """Phase → seconds spent in it so far, to a tenth."""
        return {name: round(seconds, 1) for name, seconds in self._seconds.items()}

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds} s" for name, seconds in self.seconds.items())

"""Time a function as the benchmarks compare it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def best_of(n: int, function: Callable[[], Value]) -> tuple[Value, float]:
    """Value and shortest time in s of ``n`` calls: other load on the machine only ever lengthens one."""
    times = []
    for _ in range(n):
        began = time.perf_counter()
        value = function()
        times.append(time.perf_counter() - began)
    return value, min(times)

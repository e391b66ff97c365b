"""What the executor costs on cases that do nothing, beside plain ``client.map`` in the same run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from tasks.stage import Outcome, Stage
from tasks.stream import stream

CASES, FEWER_CASES = 10_000, 2_000
MOST_MS_PER_CASE = 1.0
MAP_MS_ON_A_QUIET_MACHINE = 1.4
"""What ``client.map`` costs a case on two quiet cores; where it costs more, the limit is as much higher."""

MOST_GROWTH_MB = 30
"""Resident memory allowed between the first thousand cases and the last; 10,000 kept outcomes would take more."""


def nothing(value: int) -> int:
    return value


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.fixture(params=[False, True], ids=["threads", "processes"])
def two_workers(request: pytest.FixtureRequest) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=request.param, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.slow
def test_overhead_a_case(two_workers: Client, capsys: pytest.CaptureFixture[str], measuring: bool) -> None:
    cases = CASES if measuring else FEWER_CASES
    began = time.perf_counter()
    two_workers.gather(two_workers.map(nothing, range(cases), pure=False))
    map_ms = (time.perf_counter() - began) / cases * 1e3

    committed = 0
    memory: list[float] = []

    def commit(lot: list[Outcome]) -> None:
        nonlocal committed
        committed += len(lot)
        if committed > cases // 10:
            memory.append(resident_mb())

    began = time.perf_counter()
    tally = stream(two_workers, [Stage("nothing", "1", nothing)], range(cases), commit)
    stream_ms = (time.perf_counter() - began) / cases * 1e3
    growth = memory[-1] - memory[0]
    with capsys.disabled():
        print(f"\n  client.map {map_ms:.2f} ms a case, stream {stream_ms:.2f} ms a case, memory +{growth:.1f} MB")
    assert committed == tally.succeeded == cases
    assert stream_ms <= MOST_MS_PER_CASE * max(1.0, map_ms / MAP_MS_ON_A_QUIET_MACHINE)
    assert stream_ms < map_ms
    assert growth < MOST_GROWTH_MB

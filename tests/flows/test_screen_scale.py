"""Thousands of cases through the flow ``screen``: few task runs, every case once, and memory that does not grow."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster
from prefect.client.orchestration import get_client

from flows.artifacts import LISTENER
from flows.home import Home
from flows.screen import screen
from tests.deployments.pulse_answers import wrong_computing, wrong_results
from tests.deployments.pulse_programme import LOG, PROGRAMME, add_studies

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

STUDIES, BATCH = 5_000, 500
FIRST = 1_000
"""Cases after which memory is watched: by then everything is loaded and cached."""

MOST_GROWTH_MB = 3.0
"""The 4,000 results that follow would take some 20 MB, their cases alone 10."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr("flows.screen.load_programme", lambda name: PROGRAMME)
    monkeypatch.setenv("POPSCAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("POPSCAN_BATCH_SIZE", str(BATCH))
    monkeypatch.setenv(LOG, str(tmp_path / "computed"))
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        monkeypatch.setenv("POPSCAN_SCHEDULER", cluster.scheduler_address)
        yield Home.at(tmp_path / "home")


class Growth:
    """Memory that Python has allocated since the first cases were done and not freed, in MB, batch by batch."""

    def __init__(self) -> None:
        self.megabytes: list[float] = []

    def __call__(self, done: int, total: int) -> None:
        if not tracemalloc.is_tracing() and FIRST <= done < total:
            tracemalloc.start()
        if len(self.megabytes) < done // BATCH - FIRST // BATCH or done == total:
            gc.collect()
            self.megabytes.append(tracemalloc.get_traced_memory()[0] / 1e6)
        if done == total:
            tracemalloc.stop()


def count_task_runs() -> int:
    with get_client(sync_client=True) as client:
        return int(client.request("POST", "/task_runs/count", json={}).json())


def test_a_batch_is_a_task_run_and_memory_does_not_grow(home: Home, tmp_path: Path) -> None:
    before = count_task_runs()
    growth = Growth()
    with home.open_ledger() as ledger:
        add_studies(ledger, STUDIES)
        token = LISTENER.set(growth)
        try:
            summary = screen("pulse")
        finally:
            LISTENER.reset(token)
        assert list(wrong_results(ledger, STUDIES)) == []
    assert list(wrong_computing(tmp_path / "computed", STUDIES)) == []
    assert count_task_runs() - before <= STUDIES / BATCH + 1
    print(growth.megabytes, summary["seconds"])
    assert max(growth.megabytes) < MOST_GROWTH_MB

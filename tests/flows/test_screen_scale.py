"""Thousands of cases through the flow ``screen``: few task runs, every case once, and memory that does not grow."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import SubprocessCluster
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

MOST_BLOCKS_A_CASE = 5
"""Blocks of memory that a finished case may leave behind: one that is kept has 14, its result far more."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr("flows.screen.load_programme", lambda name: PROGRAMME)
    monkeypatch.setenv("POPSCAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("POPSCAN_BATCH_SIZE", str(BATCH))
    monkeypatch.setenv(LOG, str(tmp_path / "computed"))
    with SubprocessCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster:
        monkeypatch.setenv("POPSCAN_CLUSTER", cluster.scheduler_address)
        yield Home.at(tmp_path / "home")


class Memory:
    """Blocks of memory that Python's objects take, batch by batch, once the first cases are done."""

    def __init__(self) -> None:
        self.blocks: list[int] = []

    def __call__(self, done: int, total: int) -> None:
        if done >= FIRST + BATCH * len(self.blocks) or done == total:
            gc.collect()
            self.blocks.append(sys.getallocatedblocks())


def count_task_runs() -> int:
    with get_client(sync_client=True) as client:
        return int(client.request("POST", "/task_runs/count", json={}).json())


def test_a_batch_is_a_task_run_and_memory_does_not_grow(home: Home, tmp_path: Path) -> None:
    before = count_task_runs()
    memory = Memory()
    with home.open_ledger() as ledger:
        add_studies(ledger, STUDIES)
        token = LISTENER.set(memory)
        try:
            screen("pulse")
        finally:
            LISTENER.reset(token)
        assert list(wrong_results(ledger, STUDIES)) == []
    assert list(wrong_computing(tmp_path / "computed", STUDIES)) == []
    assert 0 < count_task_runs() - before <= STUDIES / BATCH + 1
    assert max(memory.blocks) - memory.blocks[0] < MOST_BLOCKS_A_CASE * (STUDIES - FIRST)

"""Cases that share a card, when one of them is at fault or the worker dies in mid-inference; only the card is faked."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import pytest
from distributed import Client

from flows.clusters import gpu_cluster
from flows.settings import CASES_PER_GPU, DASK_CONFIG
from tasks.infer import DEVICE_VARIABLE
from tasks.stage import Outcome, Stage
from tasks.stream import CommitPolicy, Tally, stream
from tests.tasks.fake_card import BREAKS, KILLS, RAISES, locate_on_the_card

HEALTHY = list(range(-40, -28))  # HU


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """One worker process with a card, by name, under a nanny."""
    environment = pytest.MonkeyPatch()
    environment.setenv(DEVICE_VARIABLE, "cuda:0")
    with dask.config.set(DASK_CONFIG), gpu_cluster(["0"], 0) as cluster, Client(cluster) as client:
        yield client
    environment.undo()


Run = Callable[..., tuple[dict[int, Outcome], Tally]]


@pytest.fixture
def run(client: Client, tmp_path: Path) -> Run:
    def run_cases(
        cases: list[int], commit: Callable[[list[Outcome]], None] = lambda _: None
    ) -> tuple[dict[int, Outcome], Tally]:
        client.wait_for_workers(1, timeout=60)
        outcomes: list[Outcome] = []

        def take(lot: list[Outcome]) -> None:
            commit(lot)
            outcomes.extend(lot)

        stages = [Stage("locate", "1", locate_on_the_card, "gpu", {"notes": str(tmp_path)})]
        tally = stream(client, stages, cases, take, lots=CommitPolicy(count=1))
        assert sorted(outcome.case for outcome in outcomes) == sorted(cases), "a case is lost, or there twice"
        return {outcome.case: outcome for outcome in outcomes}, tally

    return run_cases


def batches(notes: Path) -> list[list[int]]:
    return [[int(word) for word in line.split()] for log in notes.iterdir() for line in log.read_text().splitlines()]


def check_healthy(found: dict[int, Outcome]) -> None:
    for case in HEALTHY:
        assert found[case].failure is None
        assert found[case].value == (case, ())


def test_cases_share_batches(run: Run, tmp_path: Path) -> None:
    found, _ = run(HEALTHY)
    check_healthy(found)
    sizes = [len(batch) for batch in batches(tmp_path)]
    assert sum(sizes) == len(HEALTHY)
    assert 1 < max(sizes) <= CASES_PER_GPU


@pytest.mark.parametrize("place", [0, 5])
def test_an_error_is_of_the_case_that_brought_it(run: Run, tmp_path: Path, place: int) -> None:
    found, tally = run([*HEALTHY[:place], RAISES, *HEALTHY[place:]])
    check_healthy(found)
    assert found[RAISES].failure is not None
    assert found[RAISES].failure.error_class == "RuntimeError"
    assert (tally.failed, tally.retried) == (1, 0)
    assert len(list(tmp_path.iterdir())) == 1  # one process all along


@pytest.mark.parametrize("poison", [KILLS, BREAKS])
def test_a_case_that_takes_the_card_with_it_is_quarantined_alone(run: Run, tmp_path: Path, poison: int) -> None:
    found, tally = run([*HEALTHY[:5], poison, *HEALTHY[5:]])
    check_healthy(found)
    assert found[poison].failure is not None
    assert found[poison].failure.error_class == "KilledWorker"
    assert (tally.failed, found[poison].attempts) == (1, 3)
    assert len(list(tmp_path.iterdir())) >= 2  # processes that computed


def test_a_worker_killed_in_mid_inference_costs_its_cases_in_flight(run: Run, client: Client, tmp_path: Path) -> None:
    client.wait_for_workers(1, timeout=60)
    (victim,) = client.run(os.getpid).values()
    killed: list[Outcome] = []

    def kill_once(lot: list[Outcome]) -> None:
        if not killed:
            os.kill(victim, signal.SIGKILL)
        killed.extend(lot)

    found, tally = run(HEALTHY, kill_once)
    check_healthy(found)
    assert tally.failed == 0
    computed = sum(len(batch) for batch in batches(tmp_path))
    assert (
        computed <= len(HEALTHY) + 2 * CASES_PER_GPU
    )  # done, being computed, and one batch more until the news is out

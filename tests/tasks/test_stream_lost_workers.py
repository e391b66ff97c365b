"""The executor when worker processes really die."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from distributed import Client

from tasks.stage import Outcome, Stage
from tasks.stream import CommitPolicy, stream


def log_and_nap(value: int, folder: str) -> int:
    with open(Path(folder) / f"{value}", "a") as log:
        log.write(f"{os.getpid()}\n")
    time.sleep(0.1)
    return value


def test_a_killed_worker_costs_only_its_cases_in_flight(process_client: Client, tmp_path: Path) -> None:
    victim = next(iter(process_client.run(os.getpid).values()))
    outcomes: list[Outcome] = []

    def commit(lot: list[Outcome]) -> None:
        if not outcomes:
            os.kill(victim, signal.SIGKILL)
        outcomes.extend(lot)

    stages = [Stage("nap", "1", log_and_nap, parameters={"folder": str(tmp_path)})]
    tally = stream(process_client, stages, range(40), commit, lots=CommitPolicy(count=5))
    assert sorted(outcome.case for outcome in outcomes) == list(range(40))
    assert tally.failed == 0
    started = {int(log.name): len(log.read_text().split()) for log in tmp_path.iterdir()}
    again = sum(count - 1 for count in started.values())
    assert again <= 3, f"{again} cases were computed again for one worker of one thread"
    committed_before = {outcome.case for outcome in outcomes[:5]}
    assert all(started[case] == 1 for case in committed_before)


def die_on_seven(value: int) -> int:
    if value == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return value


def test_a_case_that_kills_workers_is_quarantined_alone(process_client: Client) -> None:
    outcomes: list[Outcome] = []
    tally = stream(process_client, [Stage("die", "1", die_on_seven)], range(30), outcomes.extend)
    failed = {outcome.case: outcome for outcome in outcomes if outcome.failure}
    assert sorted(outcome.case for outcome in outcomes) == list(range(30))
    assert set(failed) == {7}
    assert failed[7].failure is not None
    assert failed[7].failure.error_class == "KilledWorker"
    assert failed[7].attempts == 3  # beside others, again beside others, alone
    assert tally.succeeded == 29

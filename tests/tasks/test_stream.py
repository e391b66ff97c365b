"""The executor on threads: order, window, commits, failures and where stages run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from distributed import Client, LocalCluster, Scheduler, SpecCluster, Worker

from tasks.stage import EndCase, Outcome, Stage, fuse
from tasks.stream import WAITING_PER_THREAD, CommitPolicy, NoWorkersError, RetryPolicy, stream


def double(value: int) -> int:
    return 2 * value


def add(value: int, amount: int) -> int:
    return value + amount


def fail_on_three(value: int) -> int:
    if value == 3:
        raise ValueError("three is not allowed")
    return value


def end_on_three(value: int) -> int | str:
    if value == 3:
        raise EndCase("not evaluable")
    return value


def collect(into: list[Outcome]) -> Callable[[list[Outcome]], None]:
    return into.extend


def values(outcomes: list[Outcome]) -> dict[Any, Any]:
    assert len({outcome.case for outcome in outcomes}) == len(outcomes), "a case came back twice"
    return {outcome.case: outcome.value for outcome in outcomes}


def test_stages_run_in_order_with_their_parameters_and_are_timed(client: Client) -> None:
    outcomes: list[Outcome] = []
    stages = [Stage("double", "1", double), Stage("add", "1", add, parameters={"amount": 5})]
    tally = stream(client, stages, range(50), collect(outcomes))
    assert values(outcomes) == {n: 2 * n + 5 for n in range(50)}
    assert (tally.succeeded, tally.failed, tally.retried) == (50, 0, 0)
    assert all(list(outcome.timings) == ["double", "add"] for outcome in outcomes)


def test_neighbours_with_the_same_placement_fuse() -> None:
    stages = [Stage(name, "1", double, needs) for name, needs in zip("abcde", ["cpu", "cpu", "gpu", "gpu", "cpu"])]  # noqa: B905
    assert [(hop.name, hop.needs) for hop in fuse(stages, has_gpu=True)] == [
        ("a+b", "cpu"),
        ("c+d", "gpu"),
        ("e", "cpu"),
    ]
    assert [(hop.name, hop.needs) for hop in fuse(stages, has_gpu=False)] == [("a+b+c+d+e", "cpu")]


def test_a_programme_without_stages_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one stage"):
        fuse([], has_gpu=False)


def worker_name(value: list[str]) -> list[str]:
    from distributed import get_worker

    return [*value, str(get_worker().name)]


def test_gpu_stages_go_to_gpu_workers_and_back() -> None:
    """A worker that declares the GPU resource gets the gpu hop; it needs no GPU to prove where tasks are sent."""
    options = {"threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, resources={"GPU": 1}, **options) as cluster, Client(cluster) as client:
        outcomes: list[Outcome] = []
        stages = [Stage("a", "1", worker_name, "cpu"), Stage("b", "1", worker_name, "gpu"), Stage("c", "1", double)]
        tally = stream(client, stages, (["case"] for _ in range(10)), collect(outcomes))
    assert tally.succeeded == 10
    assert all(list(outcome.timings) == ["a", "b", "c"] for outcome in outcomes)


def test_a_failing_case_is_recorded_and_its_neighbours_finish(client: Client) -> None:
    outcomes: list[Outcome] = []
    stages = [Stage("check", "1", fail_on_three), Stage("double", "1", double)]
    tally = stream(client, stages, range(200), collect(outcomes))
    (failed,) = [outcome for outcome in outcomes if outcome.failure]
    assert failed.case == 3
    assert failed.value is None
    assert failed.failure is not None
    assert (failed.failure.error_class, failed.failure.message) == ("ValueError", "three is not allowed")
    assert "fail_on_three" in failed.failure.traceback
    assert list(failed.timings) == ["check"]
    assert failed.attempts == 1, "an error that will come again is not retried"
    assert (tally.succeeded, tally.failed) == (199, 1)


def test_a_case_that_knows_its_answer_skips_the_later_stages(client: Client) -> None:
    outcomes: list[Outcome] = []
    stream(client, [Stage("check", "1", end_on_three), Stage("double", "1", double)], range(6), collect(outcomes))
    assert values(outcomes) == {0: 0, 1: 2, 2: 4, 3: "not evaluable", 4: 8, 5: 10}


flaky_calls: dict[int, int] = {}


def flaky(value: int) -> int:
    flaky_calls[value] = flaky_calls.get(value, 0) + 1
    if value % 2 and flaky_calls[value] == 1:
        raise ConnectionError("store not reachable")
    return value


def test_a_transient_failure_is_retried(client: Client) -> None:
    flaky_calls.clear()
    outcomes: list[Outcome] = []
    tally = stream(client, [Stage("flaky", "1", flaky)], range(20), collect(outcomes), retry=RetryPolicy(2))
    assert values(outcomes) == {n: n for n in range(20)}
    assert {outcome.case: outcome.attempts for outcome in outcomes} == {n: 1 + n % 2 for n in range(20)}
    assert tally.retried == 10


def test_retries_are_bounded(client: Client) -> None:
    flaky_calls.clear()
    outcomes: list[Outcome] = []
    tally = stream(client, [Stage("flaky", "1", flaky)], [1, 2], collect(outcomes), retry=RetryPolicy(1))
    assert (tally.succeeded, tally.failed, tally.retried) == (1, 1, 0)


gate = threading.Event()


def wait_at_gate(value: int) -> int:
    assert gate.wait(20)
    return value


def test_no_more_than_the_window_is_taken_from_the_cases(client: Client) -> None:
    gate.clear()
    taken: list[int] = []

    def cases() -> Iterator[int]:
        for n in range(40):
            taken.append(n)
            yield n

    outcomes: list[Outcome] = []
    threading.Timer(1.0, lambda: (seen_at_gate.extend(taken), gate.set())).start()
    seen_at_gate: list[int] = []
    tally = stream(client, [Stage("wait", "1", wait_at_gate)], cases(), collect(outcomes), window=7)
    assert len(seen_at_gate) == 7
    assert tally.peak_in_flight == 7
    assert len(values(outcomes)) == 40


def sleep_first(value: int) -> int:
    if value == 0:
        assert gate.wait(20)
    return value


def test_a_slow_case_holds_nobody_back(client: Client) -> None:
    """No barrier: everything else is committed while the first case is still running."""
    gate.clear()
    outcomes: list[Outcome] = []

    def commit(lot: list[Outcome]) -> None:
        outcomes.extend(lot)
        if len(outcomes) == 49:
            gate.set()

    stages = [Stage("sleep", "1", sleep_first), Stage("double", "1", double)]
    stream(client, stages, range(50), commit, lots=CommitPolicy(count=1))
    assert [outcome.case for outcome in outcomes].index(0) == 49


def nap(value: int) -> int:
    time.sleep(0.02)
    return value


def test_commits_come_by_count_and_by_age(client: Client) -> None:
    lots: list[int] = []
    stream(client, [Stage("nap", "1", nap)], range(20), lambda lot: lots.append(len(lot)), lots=CommitPolicy(5, 60))
    assert sum(lots) == 20
    assert all(5 <= lot < 20 for lot in lots[:-1])
    lots.clear()
    stream(client, [Stage("nap", "1", nap)], range(40), lambda lot: lots.append(len(lot)), lots=CommitPolicy(99, 0.1))
    assert sum(lots) == 40
    assert len(lots) > 2, "old results were held back for a full lot"


def test_cases_may_keep_coming(client: Client) -> None:
    """None means nothing new yet; what is there is worked off and committed meanwhile."""
    outcomes: list[Outcome] = []

    def cases() -> Iterator[int | None]:
        yield 1
        while not outcomes:
            yield None
        yield 2

    stream(client, [Stage("double", "1", double)], cases(), collect(outcomes), lots=CommitPolicy(99, 0.05))
    assert values(outcomes) == {1: 2, 2: 4}


class Unpicklable:
    def __reduce__(self) -> str:
        raise TypeError("stays where it is")


def odd(value: int) -> Any:
    return {2: Unpicklable(), 3: bytes(2_000_000)}.get(value, value)


def test_a_result_that_cannot_travel_or_is_too_large_fails_its_case_only(client: Client) -> None:
    outcomes: list[Outcome] = []
    stream(client, [Stage("odd", "1", odd)], range(20), collect(outcomes))
    failures = {outcome.case: outcome.failure.message for outcome in outcomes if outcome.failure}
    assert len(outcomes) == 20
    assert set(failures) == {2, 3}
    assert failures[2] == "stays where it is"
    assert "return its URL" in failures[3]


def test_an_interrupt_keeps_what_was_finished_and_leaves_nothing_behind(client: Client) -> None:
    outcomes: list[Outcome] = []

    def cases() -> Iterator[int | None]:
        yield from range(10)
        while len(outcomes) < 5:
            yield None
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(client, [Stage("double", "1", double)], cases(), collect(outcomes), lots=CommitPolicy(5, 60))
    assert {outcome.case for outcome in outcomes} <= set(range(10))
    assert len(outcomes) >= 5
    assert_no_tasks_left(client)


def assert_no_tasks_left(client: Client) -> None:
    for _ in range(50):
        left = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
        if left == 0:
            return
        time.sleep(0.1)
    pytest.fail(f"{left} tasks were left on the scheduler")


def test_nothing_stays_on_the_scheduler(client: Client) -> None:
    stream(client, [Stage("check", "1", fail_on_three)], range(300), lambda lot: None)
    assert_no_tasks_left(client)


def test_a_commit_that_fails_is_not_swallowed(client: Client) -> None:
    def commit(lot: list[Outcome]) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        stream(client, [Stage("double", "1", double)], range(5), commit)


def test_a_cluster_without_workers_is_reported() -> None:
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        pytest.raises(NoWorkersError, match="no workers for 1 s"),
    ):
        stream(client, [Stage("double", "1", double)], range(5), lambda lot: None, patience=1)


def test_losing_the_last_gpu_worker_is_reported_though_cpu_workers_remain() -> None:
    options = {"nthreads": 1, "dashboard_address": "127.0.0.1:0"}
    workers = {
        "cpu": {"cls": Worker, "options": options},
        "gpu": {"cls": Worker, "options": {**options, "resources": {"GPU": 1}}},
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": "127.0.0.1:0", "protocol": "inproc://"}}
    with SpecCluster(workers=workers, scheduler=scheduler) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)

        def cases() -> Iterator[int]:
            yield from range(5)
            client.retire_workers(names=["gpu"])
            yield from range(5, 10)

        stages = [Stage("double", "1", double), Stage("nap", "1", nap, "gpu")]
        with pytest.raises(NoWorkersError, match="no GPU workers for 1 s"):
            stream(client, stages, cases(), lambda lot: None, patience=1)


def test_workers_that_join_later_widen_the_window() -> None:
    options = {"threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, **options) as cluster, Client(cluster) as client:

        def cases() -> Iterator[int]:
            for n in range(400):
                if n == 40:
                    cluster.scale(3)
                yield n

        tally = stream(client, [Stage("nap", "1", nap)], cases(), lambda lot: None)
    assert tally.succeeded == 400
    assert tally.peak_in_flight > WAITING_PER_THREAD


def test_any_scheduler_address_will_do() -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        outcomes: list[Outcome] = []
        stream(client, [Stage("double", "1", double)], range(5), collect(outcomes))
        assert cluster.scheduler_address.startswith("tcp://")
        assert values(outcomes) == {n: 2 * n for n in range(5)}

"""The flow ``screen`` against a real Prefect server: task runs, artifacts, table, report and failures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Artifact, TaskRun
from prefect.client.schemas.sorting import TaskRunSort

from flows.artifacts import LISTENER
from flows.home import Home
from flows.screen import BATCH_RETRIES, ScreenFailedError, run_batch, screen
from tasks.stream import NoWorkersError
from tests.flows.mean_programme import PROGRAMME, add_study

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr("flows.screen.load_programme", lambda name: PROGRAMME)
    monkeypatch.setattr("flows.screen.run_batch", run_batch.with_options(retry_delay_seconds=0))
    monkeypatch.setenv("POPSCAN_HOME", str(tmp_path / "home"))
    return Home.at(tmp_path / "home")


def run(scheduler: str, retry_quarantined: bool = False, **settings: Any) -> dict[str, Any]:
    """Screen with these settings."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"cluster": scheduler, **settings}.items():
            patch.setenv(f"POPSCAN_{name.upper()}", str(value))
        summary: Any = screen("mean", retry_quarantined)
    return summary


def task_runs() -> list[TaskRun]:
    with get_client(sync_client=True) as client:
        return client.read_task_runs(sort=TaskRunSort.EXPECTED_START_TIME_DESC)


def artifacts(key: str) -> list[Artifact]:
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/filter", json={"artifacts": {"key": {"any_": [key]}}})
        return [Artifact.model_validate(item) for item in found.json()]


def test_one_task_run_per_batch_and_everything_published(home: Home, scheduler: str) -> None:
    with home.open_ledger() as ledger:
        for number in (1, 2, 4, 5, 6, 8, 9):
            add_study(home, ledger, number, refused=number == 6)
    heard: list[tuple[int, int]] = []
    before = {run.id for run in task_runs()}
    token = LISTENER.set(lambda done, total: heard.append((done, total)))
    summary = run(scheduler, batch_size=4)
    LISTENER.reset(token)

    assert summary["results"] == {"ok": 5, "not_evaluable": 2, "out_of_model_range": 0, "failed": 0}
    assert summary["not_evaluable_by_reason"] == {"too_bright": 1, "no_eligible_series": 1}
    assert (summary["studies"], summary["computed"], summary["planned"]) == (7, 6, {"new": 7})
    assert heard[-1] == (6, 6)
    names = {run.name for run in task_runs() if run.id not in before}
    assert names == {"cases 1 to 4 of 6", "cases 5 to 6 of 6"}
    assert pq.read_table(summary["table"]).num_rows == 7
    assert Path(summary["report"]).read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")

    (progress,) = artifacts("screen-mean-progress")
    (refusals,) = artifacts("screen-mean-refusals")
    (link,) = artifacts("screen-mean-report")
    assert float(progress.data) == 100.0
    assert "| too_bright | 1 |" in str(refusals.data)
    assert summary["report"] in str(link.data)
    assert len(artifacts("screen-mean-results")) == 1

    again = run(scheduler)
    assert (again["computed"], again["planned"]) == (0, {"unchanged": 7})


def test_a_batch_that_fails_too_often_fails_the_run_after_everything_is_done(home: Home, scheduler: str) -> None:
    with home.open_ledger() as ledger:
        for number in (3, 1, 2, 5):
            add_study(home, ledger, number)
        with pytest.raises(ScreenFailedError, match="1 of 4 cases failed"):
            run(scheduler, batch_size=2)
        assert {result.study_uid: result.status.value for result in ledger.results("mean")} == {
            "1.2.1": "ok",
            "1.2.2": "ok",
            "1.2.3": "failed",
            "1.2.5": "ok",
        }
    assert home.report.is_file()
    assert home.table.exists()


def test_failures_within_the_threshold_do_not_fail_the_run(home: Home, scheduler: str) -> None:
    with home.open_ledger() as ledger:
        for number in (3, 1, 2, 5):
            add_study(home, ledger, number)
    assert run(scheduler, failure_threshold=0.25)["failed"] == 1


def test_quarantined_cases_still_fail_the_run(home: Home, scheduler: str) -> None:
    with home.open_ledger() as ledger:
        add_study(home, ledger, 3)
    for _ in range(4):  # the fourth run computes nothing
        with pytest.raises(ScreenFailedError, match="1 of 1 cases failed"):
            run(scheduler)
    before = len(task_runs())
    with pytest.raises(ScreenFailedError):
        run(scheduler, retry_quarantined=True)
    assert len(task_runs()) == before + 1


def test_what_is_not_about_a_case_is_raised_itself_and_ends_the_run(
    home: Home, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def no_workers(*_: Any, **__: Any) -> None:
        tries.append(1)
        raise NoWorkersError("no workers for 300 s")

    monkeypatch.setattr("flows.screen.stream", no_workers)
    with home.open_ledger() as ledger:
        for number in (1, 2):
            add_study(home, ledger, number)
    before = len(task_runs())
    with pytest.raises(NoWorkersError, match="no workers for 300 s"):
        run(scheduler, batch_size=1)
    assert len(task_runs()) == before + 1, "the second batch is not tried"
    assert tries == [1] * (1 + BATCH_RETRIES), "an outage may pass: the first batch is tried again"
    assert home.report.is_file()


def test_a_server_that_takes_no_progress_does_not_stop_the_run(
    home: Home, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr("flows.artifacts.update_progress_artifact", refuse)
    with home.open_ledger() as ledger:
        add_study(home, ledger, 1)
    assert run(scheduler)["results"]["ok"] == 1


def test_a_lane_that_drifts_pauses_itself_and_holds_studies_until_it_is_resumed(
    home: Home, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    charted = replace(PROGRAMME, charted={"mean": "linear"})
    monkeypatch.setattr("flows.screen.load_programme", lambda name: charted)
    with home.open_ledger() as ledger:
        for number in range(10, 130):
            add_study(home, ledger, number, Manufacturer="Simulated", ConvolutionKernel="Qr36")
        assert run(scheduler)["lanes_paused"] == 0
        for number in range(600, 640):  # the scanner came back from service
            add_study(home, ledger, number, Manufacturer="Simulated", ConvolutionKernel="Qr36")
        assert run(scheduler)["lanes_paused"] == 1
        (lane,) = ledger.lanes.all("mean")
        assert "mean" in lane.reason
        assert any("paused since" in str(shown.data) for shown in artifacts("screen-mean-lanes"))

        add_study(home, ledger, 640, Manufacturer="Simulated", ConvolutionKernel="Qr36")
        other = add_study(home, ledger, 641, Manufacturer="Simulated", ConvolutionKernel="Qr40")
        held = run(scheduler)
        assert (held["computed"], held["planned"]["held"]) == (1, 1)
        assert ledger.result(other) is not None, "another kernel is another lane"

        ledger.lanes.resume(lane.lane_id, rebaseline=True)
        resumed = run(scheduler)
        assert (resumed["computed"], resumed["planned"].get("held", 0)) == (1, 0)
        assert {record.paused_at for record in ledger.lanes.all("mean")} == {None}

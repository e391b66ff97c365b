"""The sweep against a real Prefect server: what is due is started once, and what died is buried."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Completed, Pending, Running, Scheduled

from flows.home import Home
from flows.plan import MissingModelError
from flows.sweep import SILENT, SweepFailedError, _bury_silent_runs, missed_window, sweep
from tests.flows.mean_programme import PROGRAMME, add_study

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

ZURICH = ZoneInfo("Europe/Zurich")


@flow(name="screen")
def screen() -> None: ...


@flow(name="reprocess")
def reprocess() -> None: ...


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as connection:
        yield connection


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("POPSCAN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("flows.sweep.programme_names", lambda: ("mean",))
    monkeypatch.setattr("flows.sweep.load_programme", lambda name: PROGRAMME)
    return Home.at(tmp_path / "home")


@pytest.fixture
def deployments(client: SyncPrefectClient) -> Iterator[dict[str, UUID]]:
    """The two deployments of a programme ``mean``; gone after the test."""
    made = {}
    for each in (screen, reprocess):
        flow_id = client.create_flow(each)
        made[each.name] = client.create_deployment(flow_id=flow_id, name="mean", tags=[each.name, "mean"])
    yield made
    for identity in made.values():
        client.delete_deployment(identity)


def runs_of(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    found = client.read_flow_runs(limit=200)
    return [run for run in found if run.deployment_id == deployment]


def swept() -> dict[str, str]:
    started: Any = sweep()
    return started


def test_what_is_new_is_screened_and_asked_for_once(
    client: SyncPrefectClient, deployments: dict[str, UUID], home: Home
) -> None:
    assert swept() == {}
    with home.open_ledger() as ledger:
        add_study(home, ledger, 1)
    assert swept() == {"screen/mean": "1 studies are new"}
    assert swept() == {}, "a run is waiting already"
    (run,) = runs_of(client, deployments["screen"])
    assert {"screen", "sweep"} <= set(run.tags)


def test_one_programme_that_cannot_be_planned_does_not_stop_the_others(
    client: SyncPrefectClient, deployments: dict[str, UUID], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> Any:
        if name == "broken":
            raise MissingModelError("no such model")
        return PROGRAMME

    monkeypatch.setattr("flows.sweep.programme_names", lambda: ("broken", "mean"))
    monkeypatch.setattr("flows.sweep.load_programme", load)
    with home.open_ledger() as ledger:
        add_study(home, ledger, 1)
    with pytest.raises(SweepFailedError, match=r"broken: MissingModelError: no such model\. screen/mean: 1 studies"):
        sweep()
    assert len(runs_of(client, deployments["screen"])) == 1


@pytest.mark.parametrize("minutes", [0, 30])
def test_a_window_that_passed_without_a_run_was_missed(
    client: SyncPrefectClient, deployments: dict[str, UUID], minutes: int
) -> None:
    identity = deployments["screen"]
    client.create_deployment_schedules(identity, [(CronSchedule(cron="0 4 * * *", timezone=ZURICH.key), True)])
    created = client.read_deployment(identity).created
    assert created is not None
    local = created.astimezone(ZURICH)
    today = local.replace(hour=4, minute=0, second=0, microsecond=0)
    first = today if today > local else (today + timedelta(days=1)).replace(hour=4)
    assert missed_window(client, "screen/mean", first - timedelta(minutes=1)) is None
    assert missed_window(client, "screen/mean", first + timedelta(hours=3)) == first
    assert missed_window(client, "screen/mean", first + timedelta(hours=28)) == first + timedelta(days=1)
    state = Scheduled(scheduled_time=first + timedelta(minutes=minutes))
    client.create_flow_run_from_deployment(identity, state=state)
    assert missed_window(client, "screen/mean", first + timedelta(hours=3)) is None, "it ran, if late"


LAUNCH = timedelta(minutes=10)


def test_only_our_own_runs_are_buried_and_only_silent_ones(
    client: SyncPrefectClient, deployments: dict[str, UUID]
) -> None:
    ours = client.create_flow_run_from_deployment(deployments["screen"])
    finished = client.create_flow_run_from_deployment(deployments["screen"])
    foreign = client.create_flow_run(screen)
    for run, states in ((ours, [Pending(), Running()]), (finished, [Running(), Completed()]), (foreign, [Running()])):
        for state in states:
            client.set_flow_run_state(run.id, state, force=True)
    _bury_in_a_flow(datetime.now(UTC))
    assert client.read_flow_run(ours.id).state_name == "Running"
    _bury_in_a_flow(datetime.now(UTC) + SILENT + timedelta(seconds=5))
    assert client.read_flow_run(ours.id).state_name == "Crashed"
    assert client.read_flow_run(finished.id).state_name == "Completed"
    assert client.read_flow_run(foreign.id).state_name == "Running"


def test_a_run_whose_worker_died_before_it_began_is_given_up(
    client: SyncPrefectClient, deployments: dict[str, UUID]
) -> None:
    run = client.create_flow_run_from_deployment(deployments["screen"])
    client.set_flow_run_state(run.id, Pending(name="Submitting"), force=True)
    _bury_in_a_flow(datetime.now(UTC) + LAUNCH - timedelta(seconds=5))
    assert client.read_flow_run(run.id).state_name == "Submitting"
    _bury_in_a_flow(datetime.now(UTC) + LAUNCH + timedelta(seconds=5))
    assert client.read_flow_run(run.id).state_name == "Crashed"


@flow(name="bury")
def _bury_in_a_flow(now: datetime) -> None:
    with get_client(sync_client=True) as client:
        _bury_silent_runs(client, now, LAUNCH)

"""The flow ``sweep``: looks at the ledger for work that is due, and starts what an event should have started.

Events make things happen sooner; this makes them happen. It computes nothing itself. A deployment that is running or
waiting already is left alone, because it will find the same work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.server.schemas.schedules import SCHEDULE_TYPES
from prefect.states import Completed, Crashed
from pydantic import TypeAdapter

from flows import events
from flows.plan import SCREENED, overview
from flows.programmes import load_programme, programme_names
from flows.settings import HEARTBEAT_SECONDS, Settings
from storage.ledger import Ledger
from storage.records import utc_time

INGEST = "ingest-settled/inbox"

HEARTBEAT = "prefect.flow-run.heartbeat"
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

LOOK_BACK = timedelta(days=40)
MAX_WINDOWS = 10_000
"""How far back a missed window is looked for: a monthly one is found, one a minute is not listed to the end."""

SERVER_SCHEDULES: TypeAdapter[Any] = TypeAdapter(SCHEDULE_TYPES)
"""The server's schedules know their times; the client's are only their description."""

SILENT = timedelta(seconds=3 * HEARTBEAT_SECONDS + 10)
"""A run that has not been heard of for three heartbeats has died with its process, and its worker could not say so."""

ACTIVE = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


@flow(name="sweep", flow_run_name="sweep")
def sweep() -> State[dict[str, str]]:
    """Start what is due: ingest of settled arrivals, screening of new studies, reprocessing of stale results, and one
    screening for all cron windows that were missed.

    Returns
    -------
    State
        Completed; its result is a dict of the deployments that were started, each with the reason.
    """
    settings = Settings()
    with settings.open_home().open_ledger() as ledger:
        due = _due(settings, ledger)
    with get_client(sync_client=True) as client:
        _bury_silent_runs(client, datetime.now(UTC))
        for programme in programme_names():
            if missed := missed_window(client, screening(programme), datetime.now(UTC)):
                due.setdefault(screening(programme), f"the window of {missed:%Y-%m-%d %H:%M} was missed")
        started = {name: reason for name, reason in due.items() if _start(client, name, reason)}
    text = "; ".join(f"{name}: {reason}" for name, reason in started.items())
    return Completed(message=text or "nothing was due", data=started)


def _bury_silent_runs(client: SyncPrefectClient, now: datetime) -> None:
    """Mark runs as crashed that have gone silent: they would hold their deployment's slot for ever."""
    active = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ACTIVE)))
    for run in client.read_flow_runs(flow_run_filter=active):
        signs = [moment for moment in (run.start_time, run.state and run.state.timestamp) if moment]
        if max(signs, default=now) + SILENT < now and _last_heartbeat(client, run) + SILENT < now:
            get_run_logger().warning("run %s has gone silent", run.name)
            client.set_flow_run_state(run.id, Crashed(message="its process went silent: killed, or lost"), force=True)


def _last_heartbeat(client: SyncPrefectClient, run: FlowRun) -> datetime:
    wanted = {"event": {"name": [HEARTBEAT]}, "resource": {"id": [f"prefect.flow-run.{run.id}"]}, "order": "DESC"}
    answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    events_found = answer.json()["events"]
    return datetime.fromisoformat(events_found[0]["occurred"]) if events_found else LONG_AGO


def screening(programme: str) -> str:
    """Name of the deployment that screens a programme."""
    return f"screen/{programme}"


def reprocessing(programme: str) -> str:
    """Name of the deployment that reprocesses a programme."""
    return f"reprocess/{programme}"


def _due(settings: Settings, ledger: Ledger) -> dict[str, str]:
    due: dict[str, str] = {}
    before = utc_time(datetime.now(UTC) - timedelta(seconds=settings.quiet_seconds))
    if settled := ledger.arrivals.count_settled(before):
        due[INGEST] = f"{settled} studies have settled"
    for programme in programme_names():
        declared = load_programme(programme).with_policy(settings.options(programme))
        found = overview(ledger, declared, settings.open_home().stores, SCREENED)
        if stale := found.counts["stale"]:
            events.emit_case_stale(programme, stale, found.reasons)
            due[reprocessing(programme)] = f"{stale} results are stale ({_listed(found.reasons)})"
        if new := found.counts["new"]:
            due[screening(programme)] = f"{new} studies are new"
    return due


def _listed(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} × {count}" for reason, count in reasons.items())


def missed_window(client: SyncPrefectClient, name: str, now: datetime) -> datetime | None:
    """Latest cron window of a deployment that has passed without any run of it; None when none was missed.

    A screening computes whatever is missing at that time, so one run makes up for all missed windows. Windows before
    the deployment was made, or while its schedule was switched off, were not missed.
    """
    deployment = _deployment(client, name)
    if deployment is None or deployment.paused:
        return None
    since = deployment.created or now
    found = [_last_window(each.schedule, since, now) for each in deployment.schedules if each.active]
    latest = max((window for window in found if window), default=None)
    if latest is None:
        return None
    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=20,
    )
    covered = any(run.expected_start_time and latest <= run.expected_start_time <= now for run in runs)
    return None if covered else latest


def _last_window(schedule: Any, since: datetime, now: datetime) -> datetime | None:
    """Latest time of a schedule between two moments; None when there is none."""
    served = SERVER_SCHEDULES.validate_python(schedule.model_dump())
    moments = asyncio.run(served.get_dates(MAX_WINDOWS, start=max(since, now - LOOK_BACK), end=now))
    return max((moment.astimezone(UTC) for moment in moments), default=None)


def _start(client: SyncPrefectClient, name: str, reason: str) -> bool:
    """Create a run of a deployment; False when one is on its way, or there is no such deployment."""
    deployment = _deployment(client, name)
    if deployment is None:
        get_run_logger().warning("there is no deployment %s: `popscan deploy` makes it", name)
        return False
    if _is_active(client, deployment):
        return False
    client.create_flow_run_from_deployment(deployment.id, tags=["sweep"])
    get_run_logger().info("started %s: %s", name, reason)
    return True


def _is_active(client: SyncPrefectClient, deployment: DeploymentResponse) -> bool:
    only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    active = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ACTIVE)))
    waiting = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
    if client.read_flow_runs(deployment_filter=only, flow_run_filter=active, limit=1):
        return True
    scheduled = client.read_flow_runs(
        deployment_filter=only, flow_run_filter=waiting, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=1
    )
    soon = datetime.now(UTC) + timedelta(minutes=1)
    return any(run.expected_start_time and run.expected_start_time <= soon for run in scheduled)


def _deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None

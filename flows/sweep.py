"""The flow ``sweep``: looks at the ledger for work that is due, and starts what an event should have started.

Events make things happen sooner; this makes them happen. It computes nothing itself. A deployment that is running or
waiting already is left alone, because it will find the same work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.server.schemas.schedules import SCHEDULE_TYPES
from prefect.states import Completed, Crashed
from pydantic import TypeAdapter

from flows.plan import SCREENED, overview
from flows.programmes import load_programme, programme_names
from flows.settings import HEARTBEAT_SECONDS, Settings
from storage.ledger import Ledger
from storage.records import utc_time

INGEST = "ingest-settled/inbox"

HEARTBEAT = "prefect.flow-run.heartbeat"
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

LOOK_BACK = (timedelta(hours=2), timedelta(days=40))
MAX_WINDOWS = 1_000
"""How far back a missed window is looked for: first where one a minute has its last, then where a monthly one has."""

TAGS = ["ingest", "screen", "reprocess", "sweep", "report"]
"""What our deployments' runs are tagged with; other projects may share the server."""

SERVER_SCHEDULES: TypeAdapter[Any] = TypeAdapter(SCHEDULE_TYPES)
"""The server's schedules know their times; the client's are only their description."""

SILENT = timedelta(seconds=3 * HEARTBEAT_SECONDS + 10)
"""A run that has not been heard of for three heartbeats has died with its process, and its worker could not say so."""

ACTIVE = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


class SweepFailedError(RuntimeError):
    """Something could not be looked at; whatever else was due has been started."""


@flow(name="sweep", flow_run_name="sweep")
def sweep() -> State[dict[str, str]]:
    """Start what is due: ingest of settled arrivals, screening of new studies, reprocessing of stale results, and one
    screening for all cron windows that were missed.

    Returns
    -------
    State
        Completed; its result is a dict of the deployments that were started, each with the reason.

    Raises
    ------
    SweepFailedError
        A programme could not be planned, such as for want of its model; the others were.
    """
    settings = Settings()
    started: dict[str, str] = {}
    troubles: dict[str, str] = {}
    with get_client(sync_client=True) as client, settings.open_home().open_ledger() as ledger:
        _bury_silent_runs(client, datetime.now(UTC), timedelta(seconds=settings.launch_seconds))
        looks = [partial(_ingest_due, settings, ledger)]
        looks += [partial(_programme_due, settings, ledger, client, name) for name in programme_names()]
        for look in looks:
            try:
                due = look()
            except Exception as error:  # one programme's trouble is not the others'
                troubles[str(look.args[-1])] = f"{type(error).__name__}: {error}"
                continue
            started |= {name: reason for name, reason in due.items() if _start(client, name, reason)}
    text = "; ".join(f"{name}: {reason}" for name, reason in started.items()) or "nothing was due"
    if troubles:
        raise SweepFailedError("; ".join(f"{name}: {trouble}" for name, trouble in troubles.items()) + f". {text}")
    return Completed(message=text, data=started)


def screening(programme: str) -> str:
    """Name of the deployment that screens a programme."""
    return f"screen/{programme}"


def reprocessing(programme: str) -> str:
    """Name of the deployment that reprocesses a programme."""
    return f"reprocess/{programme}"


def _ingest_due(settings: Settings, ledger: Ledger) -> dict[str, str]:
    before = utc_time(datetime.now(UTC) - timedelta(seconds=settings.quiet_seconds))
    settled = ledger.arrivals.count_settled(before, str(settings.inbox_folder))
    return {INGEST: f"{settled} studies have settled"} if settled else {}


def _programme_due(settings: Settings, ledger: Ledger, client: SyncPrefectClient, programme: str) -> dict[str, str]:
    """Deployments of one programme that have something to do; screening does what reprocessing does, and more."""
    declared = load_programme(programme).with_policy(settings.options(programme))
    found = overview(ledger, declared, settings.open_home().stores, SCREENED)
    if new := found.counts["new"]:
        return {screening(programme): f"{new} studies are new"}
    if stale := found.counts["stale"]:
        return {reprocessing(programme): f"{stale} results are stale ({_listed(found.reasons)})"}
    if restored := found.counts["restored"]:
        return {reprocessing(programme): f"{restored} earlier results answer again"}
    if missed := missed_window(client, screening(programme), datetime.now(UTC)):
        return {screening(programme): f"the window of {missed:%Y-%m-%d %H:%M} UTC was missed"}
    return {}


def _listed(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} × {count}" for reason, count in reasons.items())


def _bury_silent_runs(client: SyncPrefectClient, now: datetime, launch: timedelta) -> None:
    """Mark runs of deployments as crashed that have gone silent: they would hold their deployment's slot for ever.

    A running one sends heartbeats. A pending one belongs to a worker that has ``launch`` to begin it; one whose worker
    was killed meanwhile is taken up by no other. Should its process begin after all, the ledger lets only one run of a
    programme compute at a time.
    """
    active = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ACTIVE)),
        deployment_id=FlowRunFilterDeploymentId(is_null_=False),
        tags=FlowRunFilterTags(any_=TAGS),
    )
    for run in client.read_flow_runs(flow_run_filter=active):
        began = max((moment for moment in (run.start_time, run.state and run.state.timestamp) if moment), default=now)
        if run.state_type is StateType.PENDING:
            message, silent = "its worker went away before it began", began + launch < now
        else:
            message = "its process went silent: killed, or lost"
            silent = max(began, _last_heartbeat(client, run)) + SILENT < now
        if silent:
            get_run_logger().warning("run %s is given up: %s", run.name, message)
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)


def _last_heartbeat(client: SyncPrefectClient, run: FlowRun) -> datetime:
    wanted = {"event": {"name": [HEARTBEAT]}, "resource": {"id": [f"prefect.flow-run.{run.id}"]}, "order": "DESC"}
    found = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1}).json()["events"]
    return datetime.fromisoformat(found[0]["occurred"]) if found else LONG_AGO


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
    between = FlowRunFilterExpectedStartTime.model_validate({"after_": latest, "before_": now})
    then = FlowRunFilter(expected_start_time=between)
    only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    return None if client.read_flow_runs(deployment_filter=only, flow_run_filter=then, limit=1) else latest


def _last_window(schedule: Any, since: datetime, now: datetime) -> datetime | None:
    """Latest time of a schedule between two moments; None when there is none."""
    served = SERVER_SCHEDULES.validate_python(schedule.model_dump())
    for look_back in LOOK_BACK:
        moments: list[datetime] = asyncio.run(served.get_dates(MAX_WINDOWS, start=max(since, now - look_back), end=now))
        if moments:
            return max(moment.astimezone(UTC) for moment in moments)
    return None


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

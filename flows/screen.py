"""The flow ``screen``: plan, stream the cases batch by batch, then table, report and artifacts.

Prefect sees one flow run, and one task run per batch of up to a few hundred cases; the cases themselves are plain
Dask futures (see :mod:`tasks.stream`). Studies are planned a page at a time, so that a million of them take no more
memory than a thousand. What the installation is like (ledger, store, scheduler) comes from the environment: Prefect
shows parameters to everybody, and a database address may hold a password.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

from distributed import Client
from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Cancelled, Completed
from prefect.task_engine import TaskRunTimeoutError
from prefect.tasks import Task, exponential_backoff
from prefect.utilities.annotations import quote

from flows import artifacts, events
from flows.canary import check_canaries
from flows.clusters import scheduler_address
from flows.home import Home
from flows.lanes import chart_new_results
from flows.outputs import write_outputs
from flows.plan import SCREENED, Overview, Plan, overview, plan_pages
from flows.programmes import load_programme
from flows.programmes.programme import Programme
from flows.reclassification import reclassification
from flows.settings import Settings
from flows.stopwatch import Stopwatch
from ops.verdict import ResultStatus
from storage.ledger import Ledger
from storage.records import utc_now
from tasks.case import Case, result_of
from tasks.infer import keep_resident
from tasks.stage import Outcome
from tasks.stream import NoWorkersError, Tally, stream

BATCH_RETRIES = 3
BATCH_RETRY_SECONDS = 10.0
"""A batch that lost the cluster is tried again after 10, 20 and 40 s, give or take half: a restart takes that long."""

BATCH_TIMEOUT_SECONDS = 12 * 3600
"""No batch of some hundred cases takes this long; one that does hangs, and hanging is worse than failing."""


class ScreenFailedError(RuntimeError):
    """More cases failed than the threshold allows; everything that could be computed is in the ledger."""


class BatchFailedError(RuntimeError):
    """More cases of one batch failed than the threshold allows."""


def run_name() -> str:
    """Name of a flow run, e.g. ``screen calcium 2026-11-25 02:00 UTC``: what, and for when."""
    when = runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    return f"{runtime.flow_run.flow_name} {runtime.flow_run.parameters['programme']} {when:%Y-%m-%d %H:%M} UTC"


Canaries = Literal["never", "before cases", "always"]
"""When simulated participants are computed first: never, when there are cases to compute, or in every run."""


@flow(name="screen", flow_run_name=run_name)
def screen(programme: str, retry_quarantined: bool = False, canaries: Canaries = "never") -> State[dict[str, Any]]:
    """Compute what is missing or stale under one programme; as `compute`, which see."""
    return compute(programme, SCREENED, retry_quarantined, canaries)


def compute(
    programme: str, wanted: Set[str], retry_quarantined: bool = False, canaries: Canaries = "never"
) -> State[dict[str, Any]]:
    """Compute the cases of one programme that have one of the needs ``wanted``; the body of a flow.

    Parameters
    ----------
    programme
        Name of a programme.
    wanted
        Needs as of `flows.plan`.
    retry_quarantined
        Try cases again that failed too often.
    canaries
        When simulated participants of known truth are computed first, and no other where one of them comes out wrong.

    Returns
    -------
    State
        Completed; its message counts what was done, its result is a dict of the counts of this run and of all current
        results, and where table and report are. Cancelled where another run of the programme is at work: two would
        compute the same, and the one that began before a change would undo what the other has done about it.

    Raises
    ------
    ScreenFailedError
        Failures of a batch, or of all current results, are beyond the threshold; raised after everything was done.
    CanariesFailedError
        A simulated participant came out wrong; no other was computed.
    Exception
        What kept a batch from running at all, such as a cluster without workers: later batches are not tried.
    """
    settings, began, watch = Settings(), utc_now(), Stopwatch()
    home = settings.open_home()
    declared = load_programme(programme).with_policy(settings.options(programme))
    with home.open_ledger() as ledger, ledger.alone(f"programme-{programme}", wait=False) as is_alone:
        if not is_alone:
            return Cancelled(message=f"another run of {programme} is at work; what that leaves, the sweep finds")
        with watch.phase("overview"):
            expected = overview(ledger, declared, home.stores, wanted, retry_quarantined)
        get_run_logger().info("%s", expected)
        planned = plan_pages(ledger, declared, home.stores, wanted, retry_quarantined, settings.batch_size)
        pages = watch.each("planning", planned)
        with ExitStack() as stack:
            scheduler = cache(lambda: stack.enter_context(scheduler_address(settings)))
            run = _Run(settings, ledger, declared, artifacts.Progress(programme, expected.cases), watch, scheduler)
            if canaries == "always" or (canaries == "before cases" and expected.cases):
                check_canaries(scheduler(), home, declared)
            error = _run_batches(run, pages)
        if run.changes or not home.report.exists():
            with watch.phase("outputs"):
                write_outputs(home, ledger)
        get_run_logger().info("time spent: %s", watch)
        summary = _summary(expected, run, ledger, home)
        _show(settings, home, ledger, declared, summary)
        if expected.counts["stale"]:
            artifacts.show_reclassification(programme, reclassification(ledger, declared, since=began))
    if error is not None and not isinstance(error, BatchFailedError):
        raise error
    _check_failures(summary, error, settings.failure_threshold)
    return Completed(message=_sentence(summary), data=summary)


@dataclass
class _Run:
    """What the batches of one flow run share. Lives in the coordinating process."""

    settings: Settings
    ledger: Ledger
    programme: Programme
    progress: artifacts.Progress
    watch: Stopwatch
    scheduler: Callable[[], str]
    computed: int = 0
    failed: int = 0
    paused: int = 0
    changes: int = 0
    resident: list[str] = field(default_factory=list)  # models on the workers, as last told
    batch: dict[str, bool] = field(default_factory=dict)  # cases of the present batch, and whether they failed

    def commit_what_needs_no_computing(self, page: Plan) -> None:
        self.changes += len(page.verdicts) + len(page.refused) + len(page.restored)
        self.ledger.record_verdicts(page.verdicts)
        self.ledger.commit_results(page.refused)
        self.ledger.restore(page.restored)

    def stream(self, cases: tuple[Case, ...]) -> Tally:
        def commit(lot: list[Outcome]) -> None:
            self.ledger.commit_results([result_of(outcome) for outcome in lot])
            known = len(self.batch)  # a batch that is tried again computes what had failed once more
            self.batch |= {outcome.case.case_id: outcome.failure is not None for outcome in lot}
            self.progress.advance(len(self.batch) - known)

        connection: Any = Client  # Dask's own annotations are partial
        with connection(self.scheduler(), set_as_default=False) as client:
            for case in cases[:1]:
                self._keep_models(client, case)
            return stream(client, self.programme.stages, cases, commit, window=self.settings.window)

    def _keep_models(self, client: Client, case: Case) -> None:
        resident = keep_resident(client, case.recipe.models, case.stores.models)
        if resident != self.resident:
            get_run_logger().info("models in the workers' memory: %s", "; ".join(resident) or "none")
        self.resident = resident

    def close_batch(self) -> None:
        self.computed += len(self.batch)
        self.changes += len(self.batch)
        self.failed += sum(self.batch.values())
        self.batch.clear()


def _run_batches(run: _Run, pages: Iterable[Plan]) -> Exception | None:
    """Run all batches; return why one failed. What is not about its cases ends the run there and then."""
    failed, first = None, 1
    run.progress.start()
    for batch in _batches(pages, run.settings.batch_size):
        with run.watch.phase("refusals"):
            run.commit_what_needs_no_computing(batch)
        if batch.cases:
            last = first + len(batch.cases) - 1
            with run.watch.phase("computing"):
                # Quoted, or Prefect looks for results of other tasks in every field of every case.
                state: Any = run_batch(run, quote(batch.cases), first, last, run.progress.total, return_state=True)
            run.close_batch()
            first = last + 1
            if not state.is_completed():
                failed = state.result(raise_on_failure=False)
                if not isinstance(failed, BatchFailedError):
                    return failed if isinstance(failed, Exception) else RuntimeError(f"batch ended as {state.name}")
        with run.watch.phase("charts"):
            _watch_lanes(run)
    return failed


def _batches(pages: Iterable[Plan], size: int) -> Iterator[Plan]:
    """Join pages until there is enough to do. What is refused stays with the cases beside it, so that control charts
    meet both in the proportion in which they occur.
    """
    batch: Plan | None = None
    for page in pages:
        batch = page if batch is None else batch + page
        if len(batch.cases) + len(batch.refused) >= size:
            yield batch
            batch = None
    if batch is not None:
        yield batch


def _watch_lanes(run: _Run) -> None:
    for lane in chart_new_results(run.ledger, run.programme):
        where = f"{lane.scanner}, {lane.kernel}"
        get_run_logger().warning("lane %s (%s) pauses itself: %s", lane.lane_id, where, lane.reason)
        events.emit_lane_paused(lane.lane_id, lane.reason)
        run.paused += 1


def _is_outage(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Tell what may pass (cluster, network) from what will not: failed cases, defects, a batch that hangs."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, NoWorkersError | OSError) and not isinstance(error, TaskRunTimeoutError)


@task(
    name="batch",
    task_run_name="cases {first} to {last} of {total}",
    cache_policy=NO_CACHE,
    retries=BATCH_RETRIES,
    retry_delay_seconds=exponential_backoff(BATCH_RETRY_SECONDS),
    retry_jitter_factor=0.5,
    retry_condition_fn=_is_outage,
    timeout_seconds=BATCH_TIMEOUT_SECONDS,
)
def run_batch(run: _Run, cases: tuple[Case, ...], first: int, last: int, total: int) -> None:
    """Stream cases, the ``first`` to the ``last`` (counted from 1); fails when more than the threshold failed."""
    tally = run.stream(_not_done(run.ledger, cases))
    if tally.failed > run.settings.failure_threshold * len(cases):
        raise BatchFailedError(f"{tally.failed} of {len(cases)} cases failed")


def _not_done(ledger: Ledger, cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """Leave out what an earlier attempt at the batch, or another run, has committed meanwhile."""
    known = ledger.current_fingerprints(cases[0].recipe.programme, [case.study_uid for case in cases])
    done = {(case, state.fingerprint) for case, state in known.items() if state.status is not ResultStatus.FAILED}
    return tuple(case for case in cases if (case.case_id, case.fingerprint) not in done)


def _summary(expected: Overview, run: _Run, ledger: Ledger, home: Home) -> dict[str, Any]:
    counted = ledger.count_results(expected.programme)
    by_status = {status.value: 0 for status in ResultStatus}
    by_reason: dict[str, int] = {}
    for (status, reason), count in counted.most_common():
        by_status[status.value] += count
        if reason:
            by_reason[reason] = by_reason.get(reason, 0) + count
    return {
        "programme": expected.programme,
        "studies": sum(expected.counts.values()),
        "planned": dict(expected.counts),
        "stale_because": dict(expected.reasons.most_common()),
        "computed": run.computed,
        "failed": run.failed,
        "quarantined": expected.counts["quarantined"],
        "lanes_paused": run.paused,
        "seconds": run.watch.seconds,
        "results": by_status,
        "not_evaluable_by_reason": by_reason,
        "table": home.table.url,
        "report": str(home.report),
    }


def _sentence(summary: dict[str, Any]) -> str:
    """Say what was done, for Prefect to show beside a run's state."""
    results = ", ".join(f"{count} {status}" for status, count in summary["results"].items() if count)
    paused = f"; {summary['lanes_paused']} lanes paused" if summary["lanes_paused"] else ""
    return f"{summary['computed']} computed, {summary['failed']} failed; all results: {results or 'none'}{paused}"


def _check_failures(summary: dict[str, Any], error: BatchFailedError | None, threshold: float) -> None:
    total, failed = sum(summary["results"].values()), summary["results"][ResultStatus.FAILED.value]
    if error is not None or failed > threshold * total:
        raise ScreenFailedError(
            f"{failed} of {total} cases failed; `popscan results --programme {summary['programme']}` says why. The "
            "next run tries them again, up to three runs; after that add --retry-quarantined"
        ) from error


def _show(settings: Settings, home: Home, ledger: Ledger, programme: Programme, summary: dict[str, Any]) -> None:
    name = programme.name
    first = ledger.first_results(name, artifacts.RESULT_ROWS)
    highest = ledger.highest_results(name, programme.severity, artifacts.PICTURES)
    total = sum(summary["results"].values())
    artifacts.show_results(programme, first, total)
    artifacts.show_refusals(name, list(summary["not_evaluable_by_reason"].items()), total)
    artifacts.show_pictures(programme, highest, home.objects)
    artifacts.show_lanes(name, ledger.lanes.all(name))
    artifacts.show_link(f"screen-{name}-report", settings.address_of(home.report))

"""The flow ``screen``: plan, stream the cases batch by batch, then table, report and artifacts.

Prefect sees one flow run, and one task run per batch of up to a few hundred cases; the cases themselves are plain
Dask futures (see :mod:`tasks.stream`). Nothing that could name a person goes into names, logs or artifacts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distributed import Client
from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE

from flows.home import Home
from flows.plan import Plan, make_plan
from flows.programmes import load_programme
from flows.programmes.programme import Programme
from flows.report import write_report
from ops.verdict import ResultStatus
from storage.ledger import Ledger
from storage.records import ResultRecord
from storage.tables import write_results_table
from tasks.case import Case, result_of
from tasks.stage import Outcome
from tasks.stream import Tally, stream

BATCH_SIZE = 500
"""Cases a task run. Measured: 1.8 ms a case at 500 against 85–98 ms for a Prefect task run per case."""

FAILURE_THRESHOLD = 0.1
"""Fraction of failed cases (refusals do not count) beyond which a batch, and in the end the run, counts as failed."""

ARTIFACT_ROWS = 500
"""Rows of the results artifact; Prefect keeps artifacts in its database, and the Parquet table has all of them."""

PROGRESS_SECONDS = 2.0
"""Shortest time between two updates of the progress artifact: each is a request to Prefect's server."""

Listener = Callable[[int, int], None]
"""``listener(done, total)``, called in the coordinating process after every commit."""


class ScreenFailedError(RuntimeError):
    """More cases failed than the threshold allows; everything that could be computed is in the ledger."""


class BatchFailedError(RuntimeError):
    """More cases of one batch failed than the threshold allows."""


@flow(name="screen", flow_run_name="screen {programme}", validate_parameters=False)
def screen(
    programme: str,
    home: str,
    scheduler: str,
    ledger_url: str | None = None,
    store_url: str | None = None,
    window: int | None = None,
    batch_size: int = BATCH_SIZE,
    failure_threshold: float = FAILURE_THRESHOLD,
    policy: dict[str, Any] | None = None,
    retry_quarantined: bool = False,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Compute what is missing or stale under one programme.

    Parameters
    ----------
    programme
        Name of a programme.
    home, ledger_url, store_url
        Where everything lies, see :class:`flows.home.Home`.
    scheduler
        Address of a Dask scheduler.
    window
        Most cases in flight; by default from the cluster's size.
    batch_size, failure_threshold
        Cases a task run, and the fraction of failures that makes one fail.
    policy
        Options of the programme that differ from its defaults.
    retry_quarantined
        Try cases again that failed too often.
    listener
        Told of progress.

    Returns
    -------
    dict
        Counts of this run and of all current results, and where table and report are.

    Raises
    ------
    ScreenFailedError
        Failures of a batch, or of all current results, are beyond the threshold; raised after everything was done.
    Exception
        What kept a batch from running at all, such as a cluster without workers: later batches are not tried.
    """
    place = Home.at(home, ledger_url, store_url)
    declared = load_programme(programme).with_policy(policy or {})
    connection: Any = Client  # Dask's own annotations are partial
    with place.open_ledger() as ledger, connection(scheduler, set_as_default=False) as client:
        plan = make_plan(ledger, declared, place.stores, retry_quarantined)
        get_run_logger().info("%s", plan)
        progress = _Progress(programme, len(plan.cases), listener)
        run = _Run(client, ledger, declared, plan, window, failure_threshold, progress)
        run.commit_what_needs_no_computing()
        error = _run_batches(run, batch_size)
        records = ledger.results(programme)
        write_outputs(place, ledger)
        _publish_artifacts(place, programme, records)
    if error is not None and not isinstance(error, BatchFailedError):
        raise error
    failed = sum(record.status is ResultStatus.FAILED for record in records)
    if error is not None or failed > failure_threshold * len(records):
        raise ScreenFailedError(
            f"{failed} of {len(records)} cases failed; `popscan results --programme {programme}` says why. The next "
            "run tries them again, up to three runs; after that add --retry-quarantined"
        )
    return _summary(plan, records, run.failed, place)


def _run_batches(run: _Run, batch_size: int) -> Exception | None:
    """Run all batches; return why one failed. What is not about its cases ends the run there and then."""
    failed = None
    for first, last in _spans(len(run.plan.cases), batch_size):
        state: Any = run_batch(run, first, last, run.progress.total, return_state=True)
        if state.is_completed():
            continue
        failed = state.result(raise_on_failure=False)
        if not isinstance(failed, BatchFailedError):
            return failed if isinstance(failed, Exception) else RuntimeError(f"batch ended as {state.name}")
    return failed


@task(name="batch", task_run_name="cases {first} to {last} of {total}", cache_policy=NO_CACHE)
def run_batch(run: _Run, first: int, last: int, total: int) -> None:
    """Stream the cases ``first`` … ``last`` (counted from 1); fails when more than the threshold failed."""
    tally = run.stream(run.plan.cases[first - 1 : last])
    if tally.failed > run.failure_threshold * (last - first + 1):
        raise BatchFailedError(f"{tally.failed} of {last - first + 1} cases failed")


def write_outputs(home: Home, ledger: Ledger, truth: dict[str, Any] | None = None) -> None:
    """Write the Parquet table and the report of all current results."""
    write_results_table(ledger.results(), home.table)
    home.report.parent.mkdir(parents=True, exist_ok=True)
    write_report(ledger, home.objects, home.report, truth)


class _Progress:
    """How far a flow run is: one progress artifact for all its batches, and the listener."""

    def __init__(self, programme: str, total: int, listener: Listener | None) -> None:
        self.total, self._done, self._listener = total, 0, listener
        self._artifact: Any = create_progress_artifact(0.0, key=f"screen-{programme}-progress") if total else None
        self._updated = time.monotonic()

    def advance(self, cases: int) -> None:
        """Count finished cases."""
        self._done += cases
        if self._listener:
            self._listener(self._done, self.total)
        if time.monotonic() - self._updated > PROGRESS_SECONDS or self._done == self.total:
            self._updated = time.monotonic()
            self._show()

    def _show(self) -> None:
        """Update the artifact; that Prefect does not answer is no reason to stop computing."""
        try:
            update_progress_artifact(self._artifact, self._done / self.total * 100)
        except Exception as error:
            get_run_logger().warning("Prefect did not take the progress: %s: %s", type(error).__name__, error)


@dataclass
class _Run:
    """What the batches of one flow run share. Lives in the coordinating process."""

    client: Client
    ledger: Ledger
    programme: Programme
    plan: Plan
    window: int | None
    failure_threshold: float
    progress: _Progress
    failed: int = 0

    def commit_what_needs_no_computing(self) -> None:
        self.ledger.record_verdicts(self.plan.verdicts)
        self.ledger.commit_results(self.plan.refused)
        self.ledger.restore(self.plan.restored)

    def stream(self, cases: tuple[Case, ...]) -> Tally:
        def commit(lot: list[Outcome]) -> None:
            self.ledger.commit_results([result_of(outcome) for outcome in lot])
            self.progress.advance(len(lot))

        tally = stream(self.client, self.programme.stages, cases, commit, window=self.window)
        self.failed += tally.failed
        return tally


def _spans(count: int, size: int) -> list[tuple[int, int]]:
    return [(first + 1, min(first + size, count)) for first in range(0, count, size)]


def _summary(plan: Plan, records: list[ResultRecord], failed: int, home: Home) -> dict[str, Any]:
    return {
        "programme": plan.programme,
        "studies": sum(plan.counts.values()),
        "planned": dict(plan.counts),
        "computed": len(plan.cases),
        "failed": failed,
        "quarantined": plan.counts["quarantined"],
        "results": _count_by_status(records),
        "not_evaluable_by_reason": _count_by_reason(records),
        "table": home.table.url,
        "report": str(home.report),
    }


def _count_by_status(records: list[ResultRecord]) -> dict[str, int]:
    counts = Counter(record.status.value for record in records)
    return {status.value: counts[status.value] for status in ResultStatus}


def _count_by_reason(records: list[ResultRecord]) -> dict[str, int]:
    return dict(Counter(record.reason for record in records if record.reason).most_common())


def _publish_artifacts(home: Home, programme: str, records: list[ResultRecord]) -> None:
    create_table_artifact(
        [_artifact_row(record) for record in records[:ARTIFACT_ROWS]],
        key=f"screen-{programme}-results",
        description=f"First {ARTIFACT_ROWS} of {len(records)} current results",
    )
    reasons = _count_by_reason(records).items()
    lines = ["| reason | cases |", "|---|---:|", *(f"| {reason} | {count} |" for reason, count in reasons)]
    create_markdown_artifact("\n".join(lines), key=f"screen-{programme}-refusals", description="Cases without a number")
    create_link_artifact(link=home.report.as_uri(), key=f"screen-{programme}-report", link_text="Report")


def _artifact_row(record: ResultRecord) -> dict[str, Any]:
    values = {m.name: m.value for m in record.measurements if m.status is ResultStatus.OK}
    return {"case": record.case_id, "status": record.status.value, "reason": record.reason or "", **values}

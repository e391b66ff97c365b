"""The flow ``ingest-settled``: `tasks.ingest.ingest_files` for what has arrived in the watched folder.

Neither paths nor study UIDs go to Prefect: the flow has no parameters, shows counts only, and of an error its kind.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact

from flows.artifacts import attempt
from flows.events import emit_case_stale, emit_study_ingested
from flows.programmes import programme_names
from flows.settings import Settings
from storage.arrivals import ArrivalRecord
from storage.ledger import Ledger
from storage.records import case_id, storable_text, utc_now, utc_time
from storage.volumes import VolumeStore
from tasks.ingest import IngestCounts, ingest_files

UNITS_PER_BATCH = 200
"""Studies that are ingested together, and the most that an interrupted run has to look at again."""


class IngestError(RuntimeError):
    """What stopped a run, by its kind: Prefect shows it, and what the error says may name files and studies."""


@flow(name="ingest-settled", flow_run_name="ingest what has settled")
def ingest_settled() -> dict[str, Any]:
    """Ingest what has arrived in the watched folder and has settled, until nothing more has.

    A second run at the same time waits for the first one and then finds what that has left.

    Returns
    -------
    dict
        `tasks.ingest.IngestCounts` as JSON.

    Raises
    ------
    IngestError
        Such as for a full disk: what was not finished stays to be ingested. The error itself is on standard error, in
        the worker's log.
    """
    try:
        counts = _ingest_settled(Settings())
    except Exception as error:
        sys.stderr.write(traceback.format_exc())  # not `print`: Prefect may be set to send that to its server
        raise IngestError(_kind(error)) from None
    return _shown(counts)


def _ingest_settled(settings: Settings) -> IngestCounts:
    home = settings.open_home()
    with home.open_ledger() as ledger, ledger.alone("ingest"):
        run = _Run(settings, ledger, home.volumes)
        while run.ingest_settled():
            pass
    return run.counts


def _kind(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return type(error).__name__ if number is None else f"{type(error).__name__} (errno {number})"


class _Run:
    """One run of ``ingest-settled``, and what it met and did."""

    def __init__(self, settings: Settings, ledger: Ledger, volumes: VolumeStore) -> None:
        self._ledger, self._volumes = ledger, volumes
        self._folder = str(settings.inbox_folder)
        self._quiet = timedelta(seconds=settings.quiet_seconds)
        self.counts = IngestCounts()

    def ingest_settled(self) -> int:
        """Ingest what has settled by now; return how many files that were."""
        units = self._ledger.arrivals.settled(utc_time(datetime.now(UTC) - self._quiet), self._folder)
        return sum(self._ingest(batch) for batch in _batches(units))

    def _ingest(self, units: list[str]) -> int:
        files = _there(self._ledger.arrivals.of_units(units))
        if all(record.ingested_at for record in files):
            return 0
        began = utc_now()
        counts = ingest_files([record.path for record in files], self._ledger, self._volumes)
        unreadable = self._ledger.arrivals.unreadable_since(began)
        ingested = [record for record in _there(files) if storable_text(record.path) not in unreadable]
        self._ledger.arrivals.mark_ingested(ingested)
        get_run_logger().info("%d of %d files of %d settled units ingested", len(ingested), len(files), len(units))
        _announce(self._ledger, counts.studies, began)
        self._count(counts)
        return sum(record.ingested_at is None for record in ingested)

    def _count(self, counts: IngestCounts) -> None:
        for name in ("files", "instances", "not_dicom", "rejected_files", "unchanged"):
            setattr(self.counts, name, getattr(self.counts, name) + getattr(counts, name))
        self.counts.studies |= counts.studies
        self.counts.by_status += counts.by_status
        self.counts.by_reason += counts.by_reason


def _announce(ledger: Ledger, studies: Set[str], began: str) -> None:
    """Tell which studies there are to be screened, and how many results of each programme a late slice made stale."""
    superseded = studies & ledger.studies_superseded_since(began)
    late: set[str] = set()
    for programme in programme_names():
        has_result = ledger.current_fingerprints(programme, superseded)
        stale = {study for study in superseded if case_id(programme, study) in has_result}
        if stale:
            emit_case_stale(programme, len(stale), {"input changed": len(stale)})
        late |= stale
    emit_study_ingested(studies - late)


def _there(files: Sequence[ArrivalRecord]) -> list[ArrivalRecord]:
    """Leave out files that vanished: the watch will forget them."""
    return [record for record in files if os.path.isfile(record.path)]


def _batches(units: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(units), UNITS_PER_BATCH):
        yield units[first : first + UNITS_PER_BATCH]


def _shown(found: IngestCounts) -> dict[str, Any]:
    """Log the counts, make an artifact of them, and return them."""
    counts = found.to_dict()
    get_run_logger().info("%d files, %d studies, series: %s", counts["files"], counts["studies"], counts["series"])
    rows = [{"outcome": outcome, "count": count} for outcome, count in _rows(counts)]
    attempt(create_table_artifact, table=rows, key="ingest", description="What this run of ingest met and did")
    return counts


def _rows(counts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    for name, value in counts.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value

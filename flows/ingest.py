"""Flows around `tasks.ingest.ingest_paths`: ``ingest`` for what is named, ``ingest-settled`` for what has arrived.

Neither paths nor study UIDs go to Prefect from the watched folder: the flow has no parameters and shows counts only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact

from flows.artifacts import attempt
from flows.events import emit_study_ingested
from flows.home import Home
from flows.settings import Settings
from storage.arrivals import ArrivalRecord
from storage.ledger import Ledger
from storage.records import storable_text, utc_now, utc_time
from tasks.ingest import IngestCounts, ingest_paths

UNITS_PER_BATCH = 200
"""Studies that are ingested together, and the most that an interrupted run has to look at again. Every batch reads the
digests of all series in the ledger once."""


@flow(name="ingest", validate_parameters=False)
def ingest(paths: list[str]) -> dict[str, Any]:
    """Ingest files, folders and zip archives into the home that the settings name.

    Returns
    -------
    dict
        `tasks.ingest.IngestCounts` as JSON.
    """
    home = Settings().open_home()
    with home.open_ledger() as ledger:
        counts = ingest_paths(paths, ledger, home.volumes)
    return _shown(counts)


@flow(name="ingest-settled", flow_run_name="ingest what has settled")
def ingest_settled() -> dict[str, Any]:
    """Ingest what has arrived in watched folders and has settled, until nothing more has.

    A second run at the same time waits for the first one and then finds what that has left.

    Returns
    -------
    dict
        `tasks.ingest.IngestCounts` as JSON.

    Raises
    ------
    OSError
        Such as a full disk: what was not finished stays to be ingested.
    """
    settings = Settings()
    home = settings.open_home()
    with home.open_ledger() as ledger, ledger.alone("ingest"):
        run = _Run(home, ledger, settings.quiet_seconds)
        while run.ingest_settled():
            pass
    return _shown(run.counts)


class _Run:
    """One run of ``ingest-settled``: what it ingested, and what it could not read and leaves to the next one."""

    def __init__(self, home: Home, ledger: Ledger, quiet_seconds: float) -> None:
        self._volumes, self._ledger = home.volumes, ledger
        self._quiet = timedelta(seconds=quiet_seconds)
        self._unreadable: set[str] = set()
        self.counts = IngestCounts()

    def ingest_settled(self) -> int:
        """Ingest what has settled by now; return how many files that were."""
        units = self._ledger.arrivals.settled(utc_time(datetime.now(UTC) - self._quiet))
        return sum(self._ingest(batch) for batch in _batches(units))

    def _ingest(self, units: list[str]) -> int:
        files = [record for record in self._ledger.arrivals.of_units(units) if self._is_there(record)]
        if all(record.ingested_at for record in files):
            return 0
        began = utc_now()
        counts = ingest_paths([record.path for record in files], self._ledger, self._volumes)
        self._unreadable |= self._ledger.arrivals.unreadable_since(began)
        ingested = [record for record in files if self._is_there(record)]
        self._ledger.arrivals.mark_ingested(ingested)
        get_run_logger().info("%d of %d files of %d settled units ingested", len(ingested), len(files), len(units))
        emit_study_ingested(counts.studies)
        self._count(counts)
        return sum(record.ingested_at is None for record in ingested)

    def _is_there(self, record: ArrivalRecord) -> bool:
        """Tell whether a file can be ingested: one that vanished is for the watch to forget."""
        return storable_text(record.path) not in self._unreadable and os.path.isfile(record.path)

    def _count(self, counts: IngestCounts) -> None:
        for name in ("files", "instances", "not_dicom", "rejected_files", "unchanged"):
            setattr(self.counts, name, getattr(self.counts, name) + getattr(counts, name))
        self.counts.studies |= counts.studies
        self.counts.by_status += counts.by_status
        self.counts.by_reason += counts.by_reason


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

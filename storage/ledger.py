"""The ledger: which series there are, what was decided on them, and every result with its provenance.

The ledger is the record of truth (design §4). One coordinating process writes it, in batches; every method
that writes is one transaction, so a crash loses at most the batch that was not committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, exists, func, select, update

from ops.verdict import ResultStatus, VerdictStatus
from storage import _queries
from storage import _schema as db
from storage._engine import alone, open_engine, read, write
from storage._queries import IS_CURRENT
from storage._statements import (
    case_row,
    forgive_files,
    keep_superseded,
    measurement_rows,
    one_per_fingerprint,
    result_records,
    upsert,
    upsert_results,
    upsert_verdicts,
)
from storage.arrivals import Arrivals
from storage.changes import Changes
from storage.lanes import Lanes
from storage.records import (
    CaseState,
    RejectedFileRecord,
    ResultRecord,
    SeriesOutline,
    SeriesRecord,
    SupersededSeries,
    VerdictRecord,
    utc_now,
)

_SERIES_COLUMNS = [column for column in db.series.c if column.name != "recorded_at"]
_VERDICT_COLUMNS = [column for column in db.verdict.c if column.name != "recorded_at"]
_REJECTED_COLUMNS = [column for column in db.rejected_file.c if column.name != "recorded_at"]
_RESULT_COLUMNS = [db.screening_case.c.programme, db.screening_case.c.study_uid, *db.result.c]

# Results that `iter_results` reads at a time: some 30 KB of memory each.
RESULT_PAGE = 500

# Series that are looked up in one statement; SQLite takes 32,766 values (SQLITE_MAX_VARIABLE_NUMBER).
SERIES_PAGE = 10_000


class Ledger:
    """Series, verdicts, cases and results in SQLite (default) or PostgreSQL.

    Parameters
    ----------
    location
        ``postgresql+psycopg://…``, ``sqlite:///…`` or the path of a SQLite file, made when it is not there.

    Raises
    ------
    storage.ledger.LedgerError
        It cannot be opened, or was written by a newer Popscan.
    """

    def __init__(self, location: str | Path) -> None:
        self._engine = open_engine(location)
        self.arrivals = Arrivals(self._engine)
        self.lanes = Lanes(self._engine)
        self.changes = Changes(self._engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the database connections back."""
        self._engine.dispose()

    def alone(self, what: str, wait: bool = True) -> AbstractContextManager[bool]:
        """Keep others from doing ``what`` on this ledger; the block is told whether it is held (`_engine.alone`)."""
        return alone(self._engine, what, wait)

    def _write(self, work: Callable[[Connection], None]) -> None:
        write(self._engine, work)

    def _read(self, query: Select[Any]) -> Sequence[RowMapping]:
        return read(self._engine, lambda connection: connection.execute(query).mappings().all())

    # ---- series and verdicts -------------------------------------------------------------------------

    def record_series(self, series: SeriesRecord, verdict: VerdictRecord) -> None:
        """Record one series and ingest's verdict on it."""
        self.record_ingest([series], [verdict], [])

    def record_ingest(
        self,
        series: Iterable[SeriesRecord],
        verdicts: Iterable[VerdictRecord],
        rejected_files: Iterable[RejectedFileRecord],
    ) -> None:
        """Record a batch of ingest in one transaction.

        A series that is already there with another source digest is replaced, and what it was is kept (see
        `superseded`). A file that was rejected before and is now among a series' sources is no longer rejected.
        """
        now = utc_now()
        series_rows = [{**vars(record), "sources": list(record.sources), "recorded_at": now} for record in series]
        rejected_rows = [{**vars(record), "recorded_at": now} for record in rejected_files]
        passed = list(verdicts)

        def record(connection: Connection) -> None:
            keep_superseded(connection, series_rows, now)
            upsert(connection, db.series, series_rows, ["series_uid"])
            upsert_verdicts(connection, passed, now)
            forgive_files(connection, {path for row in series_rows for path in row["sources"]})
            upsert(connection, db.rejected_file, rejected_rows, ["path"])

        self._write(record)

    def record_verdicts(self, verdicts: Iterable[VerdictRecord]) -> None:
        """Record a programme's verdicts; a newer verdict on the same series replaces the older one."""
        passed, now = list(verdicts), utc_now()
        self._write(lambda connection: upsert_verdicts(connection, passed, now))

    def series(self, study_uid: str | None = None) -> list[SeriesRecord]:
        """All series, or those of one study, in order of study and series UID."""
        query = select(*_SERIES_COLUMNS).order_by(db.series.c.study_uid, db.series.c.series_uid)
        if study_uid is not None:
            query = query.where(db.series.c.study_uid == study_uid)
        return [SeriesRecord(**row) for row in self._read(query)]

    def study_pages(self, studies: int) -> Iterator[list[SeriesRecord]]:
        """Yield all series in order of study and series UID, so many studies at a time and none of them cut in two."""
        last = ""
        while True:
            uids = (
                select(db.series.c.study_uid)
                .distinct()
                .where(db.series.c.study_uid > last)
                .order_by(db.series.c.study_uid)
                .limit(studies)
            )
            page = [row["study_uid"] for row in self._read(uids)]
            if not page:
                return
            query = select(*_SERIES_COLUMNS).where(db.series.c.study_uid.between(page[0], page[-1]))
            ordered = query.order_by(db.series.c.study_uid, db.series.c.series_uid)
            yield [SeriesRecord(**row) for row in self._read(ordered)]
            last = page[-1]

    def series_by_uid(self, series_uid: str) -> SeriesRecord | None:
        """Return the series with this UID, or None."""
        rows = self._read(select(*_SERIES_COLUMNS).where(db.series.c.series_uid == series_uid))
        return SeriesRecord(**rows[0]) if rows else None

    def series_outlines(self, series_uids: Collection[str]) -> dict[str, SeriesOutline]:
        """Series UID → what it is, without its files; meant for some hundreds at a time."""
        table = db.series.c
        query = select(table.series_uid, table.modality, table.n_instances, table.header)
        rows = self._read(query.where(table.series_uid.in_(list(series_uids)))) if series_uids else []
        return {row["series_uid"]: SeriesOutline(row["modality"], row["n_instances"], row["header"]) for row in rows}

    def superseded(self, series_uid: str) -> list[SupersededSeries]:
        """Return what the series was before its files changed, oldest first."""
        table = db.superseded_series
        query = select(table).where(table.c.series_uid == series_uid).order_by(table.c.superseded_at)
        return [SupersededSeries(**row) for row in self._read(query)]

    def source_digests(self, series_uids: Iterable[str]) -> dict[str, str]:
        """Series UID → digest of the source files it was ingested from, of those of these series that are recorded."""
        table, uids = db.series.c, iter(series_uids)
        digests: dict[str, str] = {}
        while some := list(islice(uids, SERIES_PAGE)):
            rows = self._read(select(table.series_uid, table.source_digest).where(table.series_uid.in_(some)))
            digests |= {row["series_uid"]: row["source_digest"] for row in rows}
        return digests

    def studies_superseded_since(self, time: str) -> set[str]:
        """Return the studies of which a series was replaced at ``time`` or later."""
        of_series = db.superseded_series.c.series_uid == db.series.c.series_uid
        query = select(db.series.c.study_uid).distinct().join(db.superseded_series, of_series)
        return {row["study_uid"] for row in self._read(query.where(db.superseded_series.c.superseded_at >= time))}

    def studies(self) -> list[str]:
        """Every study UID of which at least one series is recorded, sorted."""
        query = select(db.series.c.study_uid).distinct().order_by(db.series.c.study_uid)
        return [row["study_uid"] for row in self._read(query)]

    def verdicts(
        self, programme: str | None = None, studies: Collection[str] | None = None, limit: int | None = None
    ) -> list[VerdictRecord]:
        """Verdicts of one programme (``ingest`` is one), or all, in order of study, series and programme.

        Parameters
        ----------
        programme, studies
            Only those of one programme, and on series of these studies.
        limit
            At most so many, the first ones.
        """
        table = db.verdict
        query = select(*_VERDICT_COLUMNS).order_by(table.c.study_uid, table.c.series_uid, table.c.programme)
        if programme is not None:
            query = query.where(table.c.programme == programme)
        if studies is not None:
            query = query.where(table.c.study_uid.in_(studies))
        return [VerdictRecord(**row) for row in self._read(query.limit(limit))]

    def count_verdicts(self) -> Counter[tuple[str, VerdictStatus, str]]:
        """(programme, status, reason) → number of verdicts."""
        rows = self._read(_queries.verdict_counts())
        return Counter({(row["programme"], VerdictStatus(row["status"]), row["reason"]): row["n"] for row in rows})

    def rejected_files(self) -> list[RejectedFileRecord]:
        """Files that look like DICOM and could not be read, by path."""
        query = select(*_REJECTED_COLUMNS).order_by(db.rejected_file.c.path)
        return [RejectedFileRecord(**row) for row in self._read(query)]

    def count_rejected_files(self) -> Counter[str]:
        """Reason → number of files that look like DICOM and could not be read."""
        return Counter({row["reason"]: row["n"] for row in self._read(_queries.rejected_file_counts())})

    # ---- results -------------------------------------------------------------------------------------

    def commit_results(self, results: Iterable[ResultRecord]) -> None:
        """Commit results, their measurements and the cases' state in one transaction.

        Idempotent on (case, fingerprint): what was computed once stays as it was. Only a failed attempt is
        replaced, by success or by a newer failure. A new fingerprint becomes the case's current result; the
        older ones stay readable (`history`).
        """
        records = sorted(one_per_fingerprint(results), key=attrgetter("case_id"))  # as `upsert` locks rows
        if not records:
            return

        def commit(connection: Connection) -> None:
            upsert(connection, db.screening_case, [case_row(record) for record in records], ["case_id"])
            stored = upsert_results(connection, records)
            rows = [
                row
                for record in records
                if (key := (record.case_id, record.fingerprint)) in stored
                for row in measurement_rows(stored[key], record)
            ]
            if rows:
                connection.execute(db.measurement.insert(), rows)

        self._write(commit)

    def results(self, programme: str | None = None, current_only: bool = True) -> list[ResultRecord]:
        """Results of one programme or of all, in order of case; with ``current_only=False`` the history too."""
        wanted = [] if programme is None else [db.screening_case.c.programme == programme]
        return self._results(*wanted, *([IS_CURRENT] if current_only else []))

    def iter_results(self, programme: str | None = None, page: int = RESULT_PAGE) -> Iterator[ResultRecord]:
        """Yield the current results of one programme or of all, in order of case, with ``page`` of them in memory.

        Every page is read in its own transaction: what is committed meanwhile appears when its turn has not passed.
        """
        last = ""
        while True:
            cases = [row["case_id"] for row in self._read(_queries.case_ids(programme, last, page))]
            yield from self.results_of(cases)
            if len(cases) < page:
                return
            last = cases[-1]

    def first_results(self, programme: str, count: int) -> list[ResultRecord]:
        """Return the first ``count`` current results of a programme, in order of case."""
        return list(islice(self.iter_results(programme, min(count, RESULT_PAGE)), count))

    def highest_results(self, programme: str, names: Collection[str], count: int) -> list[ResultRecord]:
        """Return the current results with the highest value of any of these measurements, highest first.

        Parameters
        ----------
        programme
            Of this programme only.
        names
            Numeric measurements; a result without a value of any of them is left out.
        count
            At most so many; those of equal value in order of case.
        """
        cases = [row["case_id"] for row in self._read(_queries.highest(programme, names, count))]
        found = {record.case_id: record for record in self.results_of(cases)}
        return [found[case] for case in cases if case in found]

    def count_results(self, programme: str | None = None) -> Counter[tuple[ResultStatus, str]]:
        """(status, reason) → number of current results of one programme or of all; the reason of ``ok`` is empty."""
        rows = self._read(_queries.result_counts(programme))
        return Counter({(ResultStatus(row["status"]), row["reason"] or ""): row["n"] for row in rows})

    def result(self, case_id: str) -> ResultRecord | None:
        """Return the current result of a case, or None when there is no such case."""
        found = self._results(db.result.c.case_id == case_id, IS_CURRENT)
        return found[0] if found else None

    def results_of(self, cases: Collection[str]) -> list[ResultRecord]:
        """Return the current results of these cases; meant for some hundreds at a time."""
        return self._results(db.result.c.case_id.in_(cases), IS_CURRENT) if cases else []

    def history(self, case_id: str) -> list[ResultRecord]:
        """All results of a case, one per fingerprint, oldest first."""
        return self._results(db.result.c.case_id == case_id)

    def count_studies(self) -> int:
        """Return how many studies there are."""
        (row,) = self._read(select(func.count(db.series.c.study_uid.distinct()).label("n")))
        return int(row["n"])

    def count_studies_without_result(self) -> int:
        """Return how many studies have no result under any programme."""
        (row,) = self._read(_queries.studies_without_result())
        return int(row["n"])

    def current_fingerprints(self, programme: str, studies: Collection[str] | None = None) -> dict[str, CaseState]:
        """Case id → newest fingerprint, how it ended, and how often it was tried; of all studies or of these."""
        query = (
            select(db.result.c.case_id, db.result.c.fingerprint, db.result.c.status, db.result.c.attempts)
            .join(db.screening_case, IS_CURRENT)
            .where(db.screening_case.c.programme == programme, *_in_studies(studies))
        )
        return {
            row["case_id"]: CaseState(row["fingerprint"], ResultStatus(row["status"]), row["attempts"])
            for row in self._read(query)
        }

    def earlier_fingerprints(self, programme: str, studies: Collection[str] | None = None) -> set[tuple[str, str]]:
        """Return (case id, fingerprint) of every result that was current once and did not fail."""
        query = (
            select(db.result.c.case_id, db.result.c.fingerprint)
            .join(db.screening_case, db.screening_case.c.case_id == db.result.c.case_id)
            .where(db.screening_case.c.programme == programme, ~IS_CURRENT, *_in_studies(studies))
            .where(db.result.c.status != ResultStatus.FAILED.value)
        )
        return {(row["case_id"], row["fingerprint"]) for row in self._read(query)}

    def restore(self, fingerprints: Mapping[str, str]) -> None:
        """Make earlier results current again, without computing anything.

        Parameters
        ----------
        fingerprints
            Case id → fingerprint of a result that the case has.

        Raises
        ------
        KeyError
            A case has no result of that fingerprint; nothing is changed then.
        """

        def point(connection: Connection) -> None:
            for case, fingerprint in sorted(fingerprints.items()):
                has_result = (
                    exists().where(db.result.c.case_id == case, db.result.c.fingerprint == fingerprint).correlate(None)
                )
                pointed = update(db.screening_case).where(db.screening_case.c.case_id == case, has_result)
                if connection.execute(pointed.values(fingerprint=fingerprint)).rowcount != 1:
                    raise KeyError(f"case {case} has no result with fingerprint {fingerprint}")

        self._write(point)

    def _results(self, *conditions: ColumnElement[bool]) -> list[ResultRecord]:
        joined = db.result.join(db.screening_case, db.screening_case.c.case_id == db.result.c.case_id)
        result_query = select(*_RESULT_COLUMNS).select_from(joined).where(*conditions)
        measurement_query = (
            select(db.measurement)
            .select_from(joined.join(db.measurement, db.measurement.c.result_id == db.result.c.result_id))
            .where(*conditions)
            .order_by(db.measurement.c.result_id, db.measurement.c.position)
        )

        def both(connection: Connection) -> tuple[Sequence[RowMapping], Sequence[Any]]:
            ordered = result_query.order_by(db.result.c.case_id, db.result.c.result_id)
            return connection.execute(ordered).mappings().all(), connection.execute(measurement_query).all()

        rows, measured = read(self._engine, both)  # one transaction: both queries see the same state
        return list(result_records(rows, measured).values())


def _in_studies(studies: Collection[str] | None) -> list[ColumnElement[bool]]:
    return [] if studies is None else [db.screening_case.c.study_uid.in_(studies)]

"""The ledger: which series there are, what was decided on them, and every result with its provenance.

The ledger is the record of truth (design §4). One coordinating process writes it, in batches; every method
that writes is one transaction, so a crash loses at most the batch that was not committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, delete, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ops.verdict import ResultStatus
from storage import _schema as db
from storage._engine import WRITES, open_engine
from storage.records import (
    RESULT_JSON_FIELDS,
    CaseState,
    Measurement,
    RejectedFileRecord,
    ResultRecord,
    SeriesRecord,
    SupersededSeries,
    VerdictRecord,
    utc_now,
)

Row = dict[str, Any]

_SERIES_COLUMNS = [column for column in db.series.c if column.name != "recorded_at"]
_VERDICT_COLUMNS = [column for column in db.verdict.c if column.name != "recorded_at"]
_REJECTED_COLUMNS = [column for column in db.rejected_file.c if column.name != "recorded_at"]
_RESULT_COLUMNS = [db.screening_case.c.programme, db.screening_case.c.study_uid, *db.result.c]
_IS_CURRENT = and_(
    db.screening_case.c.case_id == db.result.c.case_id,
    db.screening_case.c.fingerprint == db.result.c.fingerprint,
)


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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the database connections back."""
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._engine.execution_options(**{WRITES: True}).begin() as connection:
            yield connection

    def _read(self, query: Select[Any]) -> Sequence[RowMapping]:
        with self._engine.connect() as connection:
            return connection.execute(query).mappings().all()

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
        with self._write() as connection:
            _keep_superseded(connection, series_rows, now)
            _upsert(connection, db.series, series_rows, ["series_uid"])
            _upsert_verdicts(connection, verdicts, now)
            _forgive_files(connection, {path for row in series_rows for path in row["sources"]})
            rejected_rows = [{**vars(record), "recorded_at": now} for record in rejected_files]
            _upsert(connection, db.rejected_file, rejected_rows, ["path"])

    def record_verdicts(self, verdicts: Iterable[VerdictRecord]) -> None:
        """Record a programme's verdicts; a newer verdict on the same series replaces the older one."""
        with self._write() as connection:
            _upsert_verdicts(connection, verdicts, utc_now())

    def series(self, study_uid: str | None = None) -> list[SeriesRecord]:
        """All series, or those of one study, in order of study and series UID."""
        query = select(*_SERIES_COLUMNS).order_by(db.series.c.study_uid, db.series.c.series_uid)
        if study_uid is not None:
            query = query.where(db.series.c.study_uid == study_uid)
        return [SeriesRecord(**row) for row in self._read(query)]

    def series_by_uid(self, series_uid: str) -> SeriesRecord | None:
        """Return the series with this UID, or None."""
        rows = self._read(select(*_SERIES_COLUMNS).where(db.series.c.series_uid == series_uid))
        return SeriesRecord(**rows[0]) if rows else None

    def superseded(self, series_uid: str) -> list[SupersededSeries]:
        """Return what the series was before its files changed, oldest first."""
        table = db.superseded_series
        query = select(table).where(table.c.series_uid == series_uid).order_by(table.c.superseded_at)
        return [SupersededSeries(**row) for row in self._read(query)]

    def known_source_digests(self) -> dict[str, str]:
        """Series UID → digest of the source files it was ingested from."""
        rows = self._read(select(db.series.c.series_uid, db.series.c.source_digest))
        return {row["series_uid"]: row["source_digest"] for row in rows}

    def studies(self) -> list[str]:
        """Every study UID of which at least one series is recorded, sorted."""
        query = select(db.series.c.study_uid).distinct().order_by(db.series.c.study_uid)
        return [row["study_uid"] for row in self._read(query)]

    def verdicts(self, programme: str | None = None) -> list[VerdictRecord]:
        """Verdicts of one programme (``ingest`` is one), or all, in order of study, series and programme."""
        table = db.verdict
        query = select(*_VERDICT_COLUMNS).order_by(table.c.study_uid, table.c.series_uid, table.c.programme)
        if programme is not None:
            query = query.where(table.c.programme == programme)
        return [VerdictRecord(**row) for row in self._read(query)]

    def rejected_files(self) -> list[RejectedFileRecord]:
        """Files that look like DICOM and could not be read, by path."""
        query = select(*_REJECTED_COLUMNS).order_by(db.rejected_file.c.path)
        return [RejectedFileRecord(**row) for row in self._read(query)]

    # ---- results -------------------------------------------------------------------------------------

    def commit_results(self, results: Iterable[ResultRecord]) -> None:
        """Commit results, their measurements and the cases' state in one transaction.

        Idempotent on (case, fingerprint): what was computed once stays as it was. Only a failed attempt is
        replaced, by success or by a newer failure. A new fingerprint becomes the case's current result; the
        older ones stay readable (`history`).
        """
        records = _one_per_fingerprint(results)
        if not records:
            return
        with self._write() as connection:
            _upsert(connection, db.screening_case, [_case_row(record) for record in records], ["case_id"])
            stored = _upsert_results(connection, records)
            rows = [
                row
                for record in records
                if (key := (record.case_id, record.fingerprint)) in stored
                for row in _measurement_rows(stored[key], record)
            ]
            if rows:
                connection.execute(db.measurement.insert(), rows)

    def results(self, programme: str | None = None, current_only: bool = True) -> list[ResultRecord]:
        """Results of one programme or of all, in order of case; with ``current_only=False`` the history too."""
        wanted = [] if programme is None else [db.screening_case.c.programme == programme]
        return self._results(*wanted, *([_IS_CURRENT] if current_only else []))

    def result(self, case_id: str) -> ResultRecord | None:
        """Return the current result of a case, or None when there is no such case."""
        found = self._results(db.result.c.case_id == case_id, _IS_CURRENT)
        return found[0] if found else None

    def history(self, case_id: str) -> list[ResultRecord]:
        """All results of a case, one per fingerprint, oldest first."""
        return self._results(db.result.c.case_id == case_id)

    def current_fingerprints(self, programme: str) -> dict[str, CaseState]:
        """Case id → newest fingerprint, how it ended, and how often it was tried."""
        query = (
            select(db.result.c.case_id, db.result.c.fingerprint, db.result.c.status, db.result.c.attempts)
            .join(db.screening_case, _IS_CURRENT)
            .where(db.screening_case.c.programme == programme)
        )
        return {
            row["case_id"]: CaseState(row["fingerprint"], ResultStatus(row["status"]), row["attempts"])
            for row in self._read(query)
        }

    def earlier_fingerprints(self, programme: str) -> set[tuple[str, str]]:
        """Return (case id, fingerprint) of every result that was current once and did not fail."""
        query = (
            select(db.result.c.case_id, db.result.c.fingerprint)
            .join(db.screening_case, db.screening_case.c.case_id == db.result.c.case_id)
            .where(db.screening_case.c.programme == programme, ~_IS_CURRENT)
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
        with self._write() as connection:
            for case, fingerprint in fingerprints.items():
                has_result = (
                    exists().where(db.result.c.case_id == case, db.result.c.fingerprint == fingerprint).correlate(None)
                )
                pointed = update(db.screening_case).where(db.screening_case.c.case_id == case, has_result)
                if connection.execute(pointed.values(fingerprint=fingerprint)).rowcount != 1:
                    raise KeyError(f"case {case} has no result with fingerprint {fingerprint}")

    def _results(self, *conditions: ColumnElement[bool]) -> list[ResultRecord]:
        joined = db.result.join(db.screening_case, db.screening_case.c.case_id == db.result.c.case_id)
        result_query = select(*_RESULT_COLUMNS).select_from(joined).where(*conditions)
        measurement_query = (
            select(db.measurement)
            .select_from(joined.join(db.measurement, db.measurement.c.result_id == db.result.c.result_id))
            .where(*conditions)
            .order_by(db.measurement.c.result_id, db.measurement.c.position)
        )
        with self._engine.connect() as connection:  # one transaction: both queries see the same state
            rows = (
                connection.execute(result_query.order_by(db.result.c.case_id, db.result.c.result_id)).mappings().all()
            )
            measured = connection.execute(measurement_query).all()
        by_result = {key: list(group) for key, group in groupby(measured, key=lambda row: row.result_id)}
        return [_result_record(row, by_result.get(row["result_id"], [])) for row in rows]


def _upsert(connection: Connection, table: Any, rows: list[Row], keys: list[str]) -> None:
    if not rows:
        return
    unique = {tuple(row[key] for key in keys): row for row in rows}  # one statement may touch a row only once
    statement = _insert(connection, table)
    updates = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=updates), list(unique.values()))


def _insert(connection: Connection, table: Any) -> Any:
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def _upsert_verdicts(connection: Connection, verdicts: Iterable[VerdictRecord], now: str) -> None:
    rows = [{**vars(record), "status": record.status.value, "recorded_at": now} for record in verdicts]
    _upsert(connection, db.verdict, rows, ["series_uid", "programme"])


def _keep_superseded(connection: Connection, rows: list[Row], now: str) -> None:
    new_digest = {row["series_uid"]: row["source_digest"] for row in rows}
    kept = [column for column in db.superseded_series.c if column.name != "superseded_at"]
    query = select(*[db.series.c[column.name] for column in kept]).where(db.series.c.series_uid.in_(new_digest))
    changed = [
        {**row, "superseded_at": now}
        for row in connection.execute(query).mappings()
        if row["source_digest"] != new_digest[row["series_uid"]]
    ]
    _upsert(connection, db.superseded_series, changed, ["series_uid", "source_digest"])


def _forgive_files(connection: Connection, readable: set[str]) -> None:
    rejected = set(connection.execute(select(db.rejected_file.c.path)).scalars())
    if forgiven := rejected & readable:
        connection.execute(delete(db.rejected_file).where(db.rejected_file.c.path.in_(forgiven)))


def _one_per_fingerprint(results: Iterable[ResultRecord]) -> list[ResultRecord]:
    """Fold repeated (case, fingerprint) by the rule of `Ledger.commit_results`, the newest case state last."""
    folded: dict[tuple[str, str], ResultRecord] = {}
    for record in results:
        key = (record.case_id, record.fingerprint)
        earlier = folded.pop(key, None)
        folded[key] = record if earlier is None or earlier.status is ResultStatus.FAILED else earlier
    return list(folded.values())


def _case_row(record: ResultRecord) -> Row:
    return {
        "case_id": record.case_id,
        "programme": record.programme,
        "study_uid": record.study_uid,
        "fingerprint": record.fingerprint,
    }


def _upsert_results(connection: Connection, records: list[ResultRecord]) -> dict[tuple[str, str], int]:
    """Insert results, replacing failed attempts; the ids of those that were written, by (case, fingerprint)."""
    rows = [_result_row(record) for record in records]
    keys = ["case_id", "fingerprint"]
    statement = _insert(connection, db.result)
    updates = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    statement = statement.on_conflict_do_update(
        index_elements=keys, set_=updates, where=db.result.c.status == ResultStatus.FAILED.value
    ).returning(db.result.c.case_id, db.result.c.fingerprint, db.result.c.result_id)
    return {(row.case_id, row.fingerprint): row.result_id for row in connection.execute(statement, rows)}


def _result_row(record: ResultRecord) -> Row:
    scalars = ("case_id", "fingerprint", "programme_version", "reason", "detail", "attempts", "created_at")
    row: Row = {name: getattr(record, name) for name in (*scalars, *RESULT_JSON_FIELDS)}
    row["status"] = record.status.value
    return row


def _measurement_rows(result_id: int, record: ResultRecord) -> Iterator[Row]:
    for position, item in enumerate(record.measurements):
        is_text = isinstance(item.value, str)
        yield {
            "result_id": result_id,
            "name": item.name,
            "position": position,
            "number": None if is_text else item.value,
            "text": item.value if is_text else None,
            "unit": item.unit,
            "status": item.status.value,
            "reason": item.reason,
        }


def _result_record(row: RowMapping, measured: Iterable[Any]) -> ResultRecord:
    measurements = [
        Measurement(
            name=item.name,
            value=item.number if item.text is None else item.text,
            unit=item.unit,
            status=ResultStatus(item.status),
            reason=item.reason,
        )
        for item in measured
    ]
    fields = {name: value for name, value in row.items() if name != "result_id"}
    return ResultRecord(**fields, measurements=measurements)

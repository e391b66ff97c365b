"""Statements of the ledger: upserts that both databases understand, and rows from records and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, RowMapping, case, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from ops.verdict import ResultStatus
from storage import _schema as db
from storage.records import RESULT_JSON_FIELDS, Measurement, ResultRecord, VerdictRecord

Row = dict[str, Any]


def upsert(connection: Connection, table: Any, rows: list[Row], keys: list[str]) -> None:
    if not rows:
        return
    unique = {tuple(row[key] for key in keys): row for row in rows}  # one statement may touch a row only once
    ordered = [unique[key] for key in sorted(unique)]  # who locks rows in one order waits, and never in a circle
    statement = _insert(connection, table)
    updates = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=updates), ordered)


def insert_missing(connection: Connection, table: Any, rows: list[Row]) -> None:
    if rows:
        connection.execute(_insert(connection, table).on_conflict_do_nothing(), rows)


def _insert(connection: Connection, table: Any) -> Any:
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def upsert_verdicts(connection: Connection, verdicts: Iterable[VerdictRecord], now: str) -> None:
    rows = [{**vars(record), "status": record.status.value, "recorded_at": now} for record in verdicts]
    upsert(connection, db.verdict, rows, ["series_uid", "programme"])


def keep_superseded(connection: Connection, rows: list[Row], now: str) -> None:
    new_digest = {row["series_uid"]: row["source_digest"] for row in rows}
    kept = [column for column in db.superseded_series.c if column.name != "superseded_at"]
    query = select(*[db.series.c[column.name] for column in kept]).where(db.series.c.series_uid.in_(new_digest))
    changed = [
        {**row, "superseded_at": now}
        for row in connection.execute(query).mappings()
        if row["source_digest"] != new_digest[row["series_uid"]]
    ]
    upsert(connection, db.superseded_series, changed, ["series_uid", "source_digest"])


def forgive_files(connection: Connection, readable: set[str]) -> None:
    rejected = set(connection.execute(select(db.rejected_file.c.path)).scalars())
    if forgiven := rejected & readable:
        connection.execute(delete(db.rejected_file).where(db.rejected_file.c.path.in_(forgiven)))


def one_per_fingerprint(results: Iterable[ResultRecord]) -> list[ResultRecord]:
    """Fold repeated (case, fingerprint) by the rule of `Ledger.commit_results`, the newest case state last."""
    folded: dict[tuple[str, str], ResultRecord] = {}
    for record in results:
        key = (record.case_id, record.fingerprint)
        earlier = folded.pop(key, None)
        folded[key] = record if earlier is None or earlier.status is ResultStatus.FAILED else earlier
    return list(folded.values())


def case_row(record: ResultRecord) -> Row:
    return {
        "case_id": record.case_id,
        "programme": record.programme,
        "study_uid": record.study_uid,
        "fingerprint": record.fingerprint,
    }


def upsert_results(connection: Connection, records: list[ResultRecord]) -> dict[tuple[str, str], int]:
    """Insert results, replacing failed attempts; the ids of those that were written, by (case, fingerprint).

    A success after a failure gets a new id, because it is news to those who read on; another failure keeps its id.
    """
    rows = [_result_row(record) for record in records]
    keys = ["case_id", "fingerprint"]
    statement = _insert(connection, db.result)
    updates = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    failed_again = statement.excluded.status == ResultStatus.FAILED.value
    updates["result_id"] = case((failed_again, db.result.c.result_id), else_=statement.excluded.result_id)
    statement = statement.on_conflict_do_update(
        index_elements=keys, set_=updates, where=db.result.c.status == ResultStatus.FAILED.value
    ).returning(db.result.c.case_id, db.result.c.fingerprint, db.result.c.result_id)
    return {(row.case_id, row.fingerprint): row.result_id for row in connection.execute(statement, rows)}


def _result_row(record: ResultRecord) -> Row:
    scalars = ("case_id", "fingerprint", "programme_version", "reason", "detail", "attempts", "created_at")
    row: Row = {name: getattr(record, name) for name in (*scalars, *RESULT_JSON_FIELDS)}
    row["status"] = record.status.value
    return row


def measurement_rows(result_id: int, record: ResultRecord) -> Iterator[Row]:
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


def result_records(rows: Iterable[RowMapping], measured: Iterable[Any]) -> dict[int, ResultRecord]:
    """Join rows with their measurements, which come in order of result id; records by id, in the order of the rows."""
    by_result = {key: list(group) for key, group in groupby(measured, key=lambda row: row.result_id)}
    return {row["result_id"]: _result_record(row, by_result.get(row["result_id"], [])) for row in rows}


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

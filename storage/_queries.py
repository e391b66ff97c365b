"""Queries of the ledger that count and rank in the database, so that no result is loaded for a number."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, select

from storage import _schema as db

IS_CURRENT = and_(
    db.screening_case.c.case_id == db.result.c.case_id,
    db.screening_case.c.fingerprint == db.result.c.fingerprint,
)


def of_programme(programme: str | None) -> list[ColumnElement[bool]]:
    return [] if programme is None else [db.screening_case.c.programme == programme]


def is_of(programme: str) -> ColumnElement[bool]:
    # An expression, so that SQLite does not take the index on (programme, study): it would walk all cases of the
    # programme for every page, where the ids of cases and results lead straight to it.
    return db.screening_case.c.programme.concat("") == programme


def case_ids(programme: str | None, after: str, limit: int) -> Select[Any]:
    query = select(db.screening_case.c.case_id).where(db.screening_case.c.case_id > after)
    if programme is not None:
        query = query.where(is_of(programme))
    return query.order_by(db.screening_case.c.case_id).limit(limit)


def result_counts(programme: str | None) -> Select[Any]:
    query = select(db.result.c.status, db.result.c.reason, func.count().label("n"))
    query = query.join(db.screening_case, IS_CURRENT).where(*of_programme(programme))
    return query.group_by(db.result.c.status, db.result.c.reason)


def highest(programme: str, names: Collection[str], limit: int) -> Select[Any]:
    """Query the case ids with the highest number under any of these measurement names, highest first."""
    top = func.max(db.measurement.c.number)
    query = (
        select(db.result.c.case_id)
        .join(db.screening_case, IS_CURRENT)
        .join(db.measurement, db.measurement.c.result_id == db.result.c.result_id)
        .where(*of_programme(programme), db.measurement.c.name.in_(names), db.measurement.c.number.is_not(None))
    )
    return query.group_by(db.result.c.case_id).order_by(top.desc(), db.result.c.case_id).limit(limit)


def verdict_counts() -> Select[Any]:
    columns = (db.verdict.c.programme, db.verdict.c.status, db.verdict.c.reason)
    return select(*columns, func.count().label("n")).group_by(*columns)


def rejected_file_counts() -> Select[Any]:
    return select(db.rejected_file.c.reason, func.count().label("n")).group_by(db.rejected_file.c.reason)


def studies_without_result() -> Select[Any]:
    answered = select(db.screening_case.c.study_uid)
    missing = db.series.c.study_uid.not_in(answered)
    return select(func.count(db.series.c.study_uid.distinct()).label("n")).where(missing)

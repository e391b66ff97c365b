"""What the ledger knows of recomputing: how long stages took, and which result replaced which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from sqlalchemy import Connection, Engine, Text, cast, select

from ops.verdict import ResultStatus
from storage import _schema as db
from storage._engine import read
from storage._queries import IS_CURRENT, is_of
from storage._statements import result_records
from storage.records import ResultRecord

# Cases read at a time; each with two results of some twenty measurements.
PAGE_CASES = 250

# What a replacement is judged by; detail, flags, pictures, timings and traceback would be most of the bytes.
_COLUMNS = [
    db.screening_case.c.programme,
    db.screening_case.c.study_uid,
    *[
        db.result.c[name]
        for name in (
            "result_id", "case_id", "fingerprint", "programme_version", "status", "reason",
            "roles", "policy", "models", "stages", "inputs", "created_at",
        )
    ],
]  # fmt: skip


@dataclass(frozen=True)
class StageTimes:
    """How long the stages of one case took.

    Attributes
    ----------
    versions
        Stage → its version, of all stages of the programme then.
    seconds
        Stage → seconds, of those that ran.
    """

    versions: Mapping[str, str]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Replacement:
    """The current result of a case and the one it replaced, if any; both without detail, flags, pictures and timings.

    The one replaced is the newest other result of the case: the ledger keeps when results were made, and not when an
    earlier one was made current again.
    """

    current: ResultRecord
    earlier: ResultRecord | None


class Changes:
    """Slim queries over all results of a ledger, in constant memory. Open it as `storage.ledger.Ledger.changes`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def stage_times(self, programme: str, latest: int) -> list[StageTimes]:
        """Return the times of the latest results of a programme that stages made, failed ones left out, newest first.

        Parameters
        ----------
        programme, latest
            Of this programme, at most so many.
        """
        query = (
            select(db.result.c.stages, db.result.c.timings)
            .join(db.screening_case, db.screening_case.c.case_id == db.result.c.case_id)
            .where(is_of(programme), db.result.c.status != ResultStatus.FAILED.value)
            .where(cast(db.result.c.timings, Text) != "{}")
            .order_by(db.result.c.result_id.desc())
            .limit(latest)
        )
        rows = read(self._engine, lambda connection: connection.execute(query).all())
        return [StageTimes({stage["name"]: stage["version"] for stage in stages}, times) for stages, times in rows]

    def has_replacements(self, programme: str) -> bool:
        """Tell whether any case of a programme has another result beside its current one."""
        other = select(db.result.c.result_id).join(
            db.screening_case,
            (db.screening_case.c.case_id == db.result.c.case_id)
            & (db.screening_case.c.fingerprint != db.result.c.fingerprint),
        )
        query = other.where(db.screening_case.c.programme == programme).limit(1)
        return read(self._engine, lambda connection: connection.execute(query).first()) is not None

    def replacements(self, programme: str, since: str | None = None) -> Iterator[Replacement]:
        """Yield the current result of every case of a programme with the one it replaced, in order of case.

        Parameters
        ----------
        programme
            Of this programme.
        since
            Only of cases whose current result was made then or later: a time as of `storage.records.utc_time`.
        """
        last = ""
        while page := read(self._engine, partial(_current_cases, programme, since, last)):
            yield from read(self._engine, partial(_replacements, page))
            last = page[-1]


def _current_cases(programme: str, since: str | None, after: str, connection: Connection) -> list[str]:
    query = select(db.screening_case.c.case_id).where(is_of(programme), db.screening_case.c.case_id > after)
    if since is not None:
        query = query.join(db.result, IS_CURRENT).where(db.result.c.created_at >= since)
    return list(connection.execute(query.order_by(db.screening_case.c.case_id).limit(PAGE_CASES)).scalars())


def _replacements(cases: list[str], connection: Connection) -> list[Replacement]:
    pairs = _chosen(cases, connection)
    wanted = [result_id for pair in pairs for result_id in pair if result_id is not None]
    query = select(*_COLUMNS).join(db.screening_case, db.screening_case.c.case_id == db.result.c.case_id)
    rows = connection.execute(query.where(db.result.c.result_id.in_(wanted))).mappings().all()
    ordered = (db.measurement.c.result_id, db.measurement.c.position)
    values = select(db.measurement).where(db.measurement.c.result_id.in_(wanted)).order_by(*ordered)
    records = result_records(rows, connection.execute(values))
    return [Replacement(records[current], records[earlier] if earlier else None) for current, earlier in pairs]


def _chosen(cases: list[str], connection: Connection) -> list[tuple[int, int | None]]:
    """Return the ids of the current and of the newest other result of every case."""
    query = (
        select(db.result.c.case_id, db.result.c.result_id, db.screening_case.c.fingerprint == db.result.c.fingerprint)
        .join(db.screening_case, db.screening_case.c.case_id == db.result.c.case_id)
        .where(db.result.c.case_id.in_(cases))
        .order_by(db.result.c.case_id, db.result.c.created_at, db.result.c.result_id)
    )
    pairs = []
    for _, group in groupby(connection.execute(query), key=lambda row: row.case_id):
        current: list[int] = []
        others: list[int] = []
        for _case, result_id, is_current in group:
            (current if is_current else others).append(result_id)
        pairs.append((current[0], others[-1] if others else None))
    return pairs

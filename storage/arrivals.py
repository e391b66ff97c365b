"""Files of watched folders in the ledger: which have arrived, which have settled, which were ingested.

What is ingested together is a *unit*, named by a text:

- a study, by its StudyInstanceUID;
- the files of one folder that are DICOM without such a UID, by the folder with a ``/`` at its end: ingest derives the
  study from all of them (:mod:`ops.dicom.series`);
- any other file (an archive, or no DICOM), by its path.

The files of a unit go together, those ingested before included: what a study lacked when its first files came under
other names (``incomplete_resend``, :mod:`tasks.ingest`) may have come since.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, bindparam, delete, func, select, update

from storage import _schema as db
from storage._engine import read, write
from storage._statements import upsert
from storage.records import storable_text, utc_now, utc_time
from storage.sources import MEMBER_MARK

FileState = tuple[int, int]
"""Size in bytes and modification time in nanoseconds."""

# Values in one statement; SQLite takes 32,766 (SQLITE_MAX_VARIABLE_NUMBER).
_PER_STATEMENT = 10_000

# How soon a file that could not be read is tried again, where nothing of its unit changes: a share that was away is
# back in an hour as a rule, and a file that is nobody's to read costs one try an hour.
RETRY_AFTER = timedelta(hours=1)

_TABLE = db.arrival.c
_WAITING = _TABLE.ingested_at.is_(None)
_UNIT = func.coalesce(_TABLE.study_uid, _TABLE.path)
_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2})")


@dataclass(frozen=True)
class ArrivalRecord:
    """One file of a watched folder.

    Attributes
    ----------
    path
        Absolute.
    size, mtime_ns
        As it was when it was last taken in.
    study_uid
        Name of the study or the folder that it is part of (see the module); None for a file on its own.
    changed_at
        When it was seen to have changed, by our clock: its own time may lie in the past (``cp -p``, ``rsync -t``).
    ingested_at
        When it was ingested as it is now.
    """

    path: str
    size: int
    mtime_ns: int
    study_uid: str | None
    changed_at: str
    ingested_at: str | None = None


class Arrivals:
    """The arrivals of one ledger, see `storage.ledger.Ledger.arrivals`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def known(self, folder: str) -> dict[str, FileState]:
        """Path → state of every file on record below ``folder``, an absolute path."""
        query = select(_TABLE.path, _TABLE.size, _TABLE.mtime_ns).where(_below(folder))

        def states(connection: Connection) -> dict[str, FileState]:
            return {_original(path): (size, mtime_ns) for path, size, mtime_ns in connection.execute(query)}

        return read(self._engine, states)

    def record(self, arrivals: Iterable[ArrivalRecord]) -> None:
        """Record files that are new or have changed; whatever the records say, they are not ingested yet."""
        rows = [{**vars(one), "path": _stored(one.path), "ingested_at": None} for one in arrivals]
        for row in rows:
            row["study_uid"] = None if row["study_uid"] is None else _stored(row["study_uid"])
        write(self._engine, lambda connection: upsert(connection, db.arrival, rows, ["path"]))

    def forget(self, paths: Iterable[str]) -> int:
        """Remove files that are gone; return how many of them had not been ingested."""
        stored = [_stored(path) for path in paths]

        def remove(connection: Connection) -> int:
            lost = 0
            for some in _parts(stored):
                waiting = select(func.count()).where(_TABLE.path.in_(some), _WAITING)
                lost += connection.execute(waiting).scalar_one()
                connection.execute(delete(db.arrival).where(_TABLE.path.in_(some)))
            return lost

        return write(self._engine, remove) if stored else 0

    def settled(self, before: str, folder: str = "/", since: str = "") -> list[str]:
        """Return the units with files to ingest of which the last one changed at ``before`` or earlier, sorted.

        A unit is left out while all its files to ingest are on record as unreadable, as they are now and for less than
        `RETRY_AFTER`.

        Parameters
        ----------
        before
            ISO 8601 in UTC as of `storage.records.utc_now`: now less the quiet time.
        folder
            Only files below it, an absolute path.
        since
            Only units whose last change is later: with the ``before`` of the previous call, each settling is met once.
        """
        # Files ingested already need no look: a change makes a file one that is to be ingested.
        last = func.max(_TABLE.changed_at)
        query = select(_UNIT, func.count()).where(_WAITING, _below(folder)).group_by(_UNIT)
        settled = query.having(last <= before, last > since)
        units = read(self._engine, lambda connection: connection.execute(settled).tuples().all())
        tried = self._tried(folder)
        return sorted(_original(unit) for unit, files in units if tried[unit] < files)

    def count_settled(self, before: str, folder: str = "/") -> int:
        """Return how many units `settled` would return."""
        return len(self.settled(before, folder))

    def _tried(self, folder: str) -> Counter[str]:
        """Count the files to ingest that were found unreadable of late, as they are now, by unit as stored."""
        unreadable = self.unreadable_since(utc_time(datetime.now(UTC) - RETRY_AFTER))
        if not unreadable:
            return Counter()
        query = select(_UNIT, _TABLE.path, _TABLE.changed_at).where(_WAITING, _below(folder))

        def count(connection: Connection) -> Counter[str]:
            rows = connection.execution_options(yield_per=_PER_STATEMENT).execute(query).tuples()
            return Counter(
                unit
                for unit, path, changed_at in rows
                if changed_at <= unreadable.get(storable_text(_original(path)), "")
            )

        return read(self._engine, count)

    def of_units(self, units: Collection[str]) -> list[ArrivalRecord]:
        """Return all files of those of these units that have files to ingest, in order of path."""
        stored = [_stored(unit) for unit in units]
        paths = [unit for unit in stored if unit.startswith("/") and not unit.endswith("/")]
        named = [unit for unit in stored if not unit.startswith("/") or unit.endswith("/")]
        conditions = [
            *[_TABLE.study_uid.in_(_that_wait(some)) for some in _parts(named)],
            *[and_(_WAITING, _TABLE.study_uid.is_(None), _TABLE.path.in_(some)) for some in _parts(paths)],
        ]
        found = read(self._engine, lambda connection: [one for query in conditions for one in _rows(connection, query)])
        return sorted(found, key=lambda record: record.path)

    def unreadable_since(self, time: str) -> dict[str, str]:
        """Path → when ingest put the file on record as unreadable, since ``time``; it may be readable later.

        Paths are as of `storage.records.storable_text`. An archive is unreadable when a member of it is.
        """
        rejected = db.rejected_file.c
        query = select(rejected.path, rejected.recorded_at).order_by(rejected.recorded_at)
        of_late = query.where(rejected.reason == "unreadable_file", rejected.recorded_at >= time)
        rows = read(self._engine, lambda connection: connection.execute(of_late).tuples().all())
        return {name: at for path, at in rows for name in (path, path.partition(MEMBER_MARK)[0])}

    def mark_ingested(self, arrivals: Iterable[ArrivalRecord]) -> None:
        """Mark files as ingested, given as they were read before: one that changed since then is left as it is."""
        now = utc_now()
        same = and_(*[_TABLE[name] == bindparam(f"was_{name}") for name in ("path", "size", "mtime_ns", "changed_at")])
        statement = update(db.arrival).where(same).values(ingested_at=now)
        rows = [
            {
                "was_path": _stored(one.path),
                "was_size": one.size,
                "was_mtime_ns": one.mtime_ns,
                "was_changed_at": one.changed_at,
            }
            for one in arrivals
        ]
        if rows:
            write(self._engine, lambda connection: connection.execute(statement, rows))


def _below(folder: str) -> ColumnElement[bool]:
    below = _stored(folder.rstrip("/") + "/")
    # By substring: a range of texts follows the collation of the database, and LIKE ignores case in SQLite.
    return func.substr(_TABLE.path, 1, len(below)) == below


def _that_wait(units: list[str]) -> Select[tuple[str | None]]:
    return select(_TABLE.study_uid).where(_WAITING, _TABLE.study_uid.in_(units))


def _rows(connection: Connection, condition: ColumnElement[bool]) -> list[ArrivalRecord]:
    query: Select[Any] = select(db.arrival).where(condition)
    return [ArrivalRecord(**{**row, "path": _original(row["path"])}) for row in connection.execute(query).mappings()]


def _parts(values: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(values), _PER_STATEMENT):
        yield values[first : first + _PER_STATEMENT]


def _stored(path: str) -> str:
    r"""Return ``path`` as databases take it, bytes of no character as ``\xe9``; `_original` is the way back."""
    escaped = path.replace("\\", "\\\\")
    return escaped.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _original(stored: str) -> str:
    return _ESCAPED.sub(lambda found: _unescaped(found[1]), stored) if "\\" in stored else stored


def _unescaped(code: str) -> str:
    # Bytes that are no UTF-8 are what `os.fsdecode` makes lone surrogates of: U+DC00 plus the byte (PEP 383).
    return "\\" if code == "\\" else chr(0xDC00 + int(code[1:], 16))

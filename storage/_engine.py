"""Opening the ledger's database: engine settings, and migration to the newest schema."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError

from storage._schema import HEAD_REVISION
from storage.records import canonical_json

MIGRATIONS = Path(__file__).parent / "migrations"

# How long a SQLite writer waits for another process's transaction. A batch commits in well under a second.
BUSY_TIMEOUT_S = 30.0

# Any constant of our own: the PostgreSQL advisory lock under which schemas are migrated.
MIGRATION_LOCK = 0x706F7073

# How long a transaction is tried again while the database is away: a restart takes seconds, a fail-over minutes.
OUTAGE_SECONDS = 180.0

T = TypeVar("T")

# What libpq says of a server that is not there, not there yet, or on its way out; a missing database is none of these.
_AWAY = (
    "connection refused",
    "starting up",
    "shutting down",
    "no such file or directory",
    "server closed",
    "terminating",
)

# Execution option marking a transaction that is going to write (see `_begin`).
WRITES = "ledger_writes"


class LedgerError(RuntimeError):
    """The ledger cannot be opened; the message says which, why, and what to do."""


def ledger_url(location: str | Path) -> URL:
    """SQLAlchemy URL of ``location``: a database URL as it is, anything else the path of a SQLite file."""
    if isinstance(location, str) and "://" in location:
        return make_url(location)
    path = Path(location).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    return URL.create("sqlite", database=str(path))


def open_engine(location: str | Path) -> Engine:
    """Engine on the database at ``location``, its schema migrated to `HEAD_REVISION`.

    Safe when several processes open the same new ledger at once: one migrates, the others wait.

    Raises
    ------
    LedgerError
        The database cannot be reached, is no database, or was written by a newer Popscan.
    """
    url = ledger_url(location)
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise LedgerError(f"ledger {_shown(url)}: only sqlite and postgresql+psycopg URLs are supported")
    engine = create_engine(url, json_serializer=canonical_json, pool_pre_ping=url.get_backend_name() == "postgresql")
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin)
    try:
        _migrate(engine)
    except DBAPIError as error:
        engine.dispose()
        raise LedgerError(f"ledger {_shown(url)} cannot be opened: {error.orig}") from error
    except LedgerError:
        engine.dispose()
        raise
    return engine


def write(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Run ``work`` in one transaction that writes; it runs again when the database went away, so it must be idempotent.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
        The database stayed away for `OUTAGE_SECONDS`, or refused what ``work`` does.
    """

    def transaction() -> T:
        with engine.execution_options(**{WRITES: True}).begin() as connection:
            return work(connection)

    return _through_outages(transaction)


def read(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Run ``work`` in one transaction that only reads; errors as in `write`."""

    def transaction() -> T:
        with engine.connect() as connection:
            return work(connection)

    return _through_outages(transaction)


def _through_outages(transaction: Callable[[], T]) -> T:
    """Repeat until it is done: waiting 0.1 s and up to 5 s between attempts, with jitter, so that workers spread."""
    deadline, wait = time.monotonic() + OUTAGE_SECONDS, 0.1
    while True:
        try:
            return transaction()
        except DBAPIError as error:
            if not _is_away(error) or time.monotonic() + wait > deadline:
                raise
        time.sleep(wait * random.uniform(0.5, 1.5))
        wait = min(2 * wait, 5.0)


def _is_away(error: DBAPIError) -> bool:
    """Tell an outage (connection refused, server shut down or starting) from a statement the database refused."""
    if error.connection_invalidated:
        return True
    original = str(error.orig).lower()
    return isinstance(error, OperationalError) and any(words in original for words in _AWAY)


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver's own transaction handling begins late and not before DDL; `_begin` takes it over.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")  # readers never wait for the writer
    cursor.execute("PRAGMA synchronous = FULL")  # a committed batch survives power loss; one fsync a batch
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A writer takes the write lock at once: a read lock raised later fails without waiting (SQLITE_BUSY_SNAPSHOT).
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(engine: Engine) -> None:
    with engine.connect() as connection:
        if _revision(connection) == HEAD_REVISION:
            return
    with engine.execution_options(**{WRITES: True}).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        if _revision(connection) != HEAD_REVISION:
            _upgrade(connection)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def _upgrade(connection: Connection) -> None:
    from alembic import command  # takes 0.1 s to import and is needed once in a ledger's life
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    found = _revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise LedgerError(
            f"ledger {_shown(connection.engine.url)} has schema revision {found}, this Popscan knows up to "
            f"{HEAD_REVISION}: it was written by a newer version; upgrade Popscan or use another --home"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")

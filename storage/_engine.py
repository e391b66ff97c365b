"""Opening the ledger's database: engine settings, and migration to the newest schema."""

from __future__ import annotations

import fcntl
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.engine import URL, ExceptionContext
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

# The same for opening, where somebody waits for an answer and the address may be wrong: a restart is ridden out.
OPEN_SECONDS = 30.0

# One attempt to connect may not take longer; psycopg's own limit is 130 s.
CONNECT_SECONDS = 10

# A client that is lost without a word (power, network) keeps its session, and the session's locks, until the server has
# asked so often for a sign of life: two minutes here, more than two hours by the defaults of PostgreSQL and Linux.
_KEEPALIVES = "SET tcp_keepalives_idle = 60; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 6"

T = TypeVar("T")

# SQLSTATEs (PostgreSQL 17 manual, appendix A), or their beginnings, of what passes: connection exceptions; a server
# that shuts down, crashed, starts, has too many clients or only reads (a former primary); deadlock, serialisation.
_PASSES = ("08", "57P01", "57P02", "57P03", "53300", "25006", "40P01", "40001")

_READ_ONLY = "25006"

# A connection that was never made has no SQLSTATE, only words: of the resolver, the network, libpq or the server.
# SQLite never has one: a new file that two open at once is locked, without any wait, while one turns it to WAL.
_AWAY = (
    "failed to resolve host",
    "could not translate host name",
    "name or service not known",
    "temporary failure in name resolution",
    "connection refused",
    "connection reset",
    "no route to host",
    "network is unreachable",
    "timed out",
    "timeout expired",
    "no such file or directory",
    "server closed",
    "eof detected",
    "starting up",
    "shutting down",
    "terminating",
    "in recovery mode",
    "not yet accepting connections",
    "too many clients",
    "too many connections",
    "connection slots",
    "database is locked",
)

# Said by a server that is there, though another address of its name may have refused the connection.
_DENIED = ("authentication failed", "does not exist", "no pg_hba.conf entry")

# Alembic keeps what it is working on in module globals: two threads must not migrate at once, not even two databases.
_MIGRATING = threading.Lock()

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
        The database cannot be reached within `OPEN_SECONDS`, denies access, is no database, or was written by a newer
        Popscan.
    """
    url = ledger_url(location)
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise LedgerError(f"ledger {_shown(url)}: only sqlite and postgresql+psycopg URLs are supported")
    engine = _engine(url)
    try:
        _through_outages(lambda: _migrate(engine), OPEN_SECONDS)
    except DBAPIError as error:
        engine.dispose()
        raise LedgerError(f"ledger {_shown(url)} cannot be opened: {error.orig}") from error
    except LedgerError:
        engine.dispose()
        raise
    return engine


def _engine(url: URL) -> Engine:
    is_postgresql = url.get_backend_name() == "postgresql"
    if is_postgresql and "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": str(CONNECT_SECONDS)})
    # Parameters are UIDs and headers, and whoever shows an exception (Prefect does) would show them.
    engine = create_engine(url, json_serializer=canonical_json, pool_pre_ping=is_postgresql, hide_parameters=True)
    if is_postgresql:
        event.listen(engine, "handle_error", _handle_postgresql)
    else:
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin)
    return engine


def write(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Run ``work`` in one transaction that writes; ``work`` must be idempotent.

    It runs again when the database went away, or made it give way to another transaction (deadlock).

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
    """Run ``work`` in one transaction that only reads: all its queries see the same state. Errors as in `write`."""
    if engine.dialect.name == "postgresql":  # SQLite always reads so; by default PostgreSQL takes a look for each query
        engine = engine.execution_options(isolation_level="REPEATABLE READ")

    def transaction() -> T:
        with engine.connect() as connection:
            return work(connection)

    return _through_outages(transaction)


@contextmanager
def alone(engine: Engine, what: str, wait: bool = True) -> Iterator[bool]:
    """Keep every other process, and every other user in this one, from doing ``what`` on the same database.

    Held by a file beside the database (SQLite) or by a connection of its own (PostgreSQL): both end with the process. A
    PostgreSQL that is started again has forgotten it. A SQLite database in memory is nobody else's.

    Parameters
    ----------
    engine
        Of the database.
    what
        Any name that can end a file's name.
    wait
        Until the other one has done, however long it takes.

    Yields
    ------
    bool
        Whether it is held; always True with ``wait``.
    """
    if engine.dialect.name == "postgresql":
        with _advisory_lock(engine, what, wait) as is_held:
            yield is_held
    elif engine.url.database in (None, "", ":memory:"):
        yield True
    else:
        with _file_lock(f"{engine.url.database}-{what}", wait) as is_held:
            yield is_held


@contextmanager
def _file_lock(path: str, wait: bool) -> Iterator[bool]:
    with open(path, "w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_held = False
        else:
            is_held = True
        yield is_held


@contextmanager
def _advisory_lock(engine: Engine, what: str, wait: bool) -> Iterator[bool]:
    key = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big") >> 1  # bigint has a sign
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(_KEEPALIVES)
        function = "pg_advisory_lock" if wait else "pg_try_advisory_lock"
        answer = connection.execute(text(f"SELECT {function}(:key)"), {"key": key}).scalar()
        try:
            yield wait or bool(answer)
        finally:
            connection.invalidate()  # ends the session and with it the lock, also where the server is away


def _through_outages(transaction: Callable[[], T], seconds: float = OUTAGE_SECONDS) -> T:
    """Repeat until it is done: waiting 0.1 s and up to 5 s between attempts, with jitter, so that workers spread."""
    deadline, wait = time.monotonic() + seconds, 0.1
    while True:
        try:
            return transaction()
        except DBAPIError as error:
            if not _passes(error) or time.monotonic() + wait > deadline:
                raise
        time.sleep(wait * random.uniform(0.5, 1.5))
        wait = min(2 * wait, 5.0)


def _passes(error: DBAPIError) -> bool:
    """Tell an outage, or a transaction that had to give way, from what the database refused for good."""
    if error.connection_invalidated:
        return True
    if state := getattr(error.orig, "sqlstate", None):
        return str(state).startswith(_PASSES)
    words = str(error.orig).lower()
    if not isinstance(error, OperationalError) or any(denied in words for denied in _DENIED):
        return False
    return any(away in words for away in _AWAY)


def _handle_postgresql(context: ExceptionContext) -> None:
    """Leave out what an error tells of rows (UIDs, headers), and leave the connection to a former primary."""
    original, raised = context.original_exception, context.sqlalchemy_exception
    state, diagnostics = getattr(original, "sqlstate", None), getattr(original, "diag", None)
    if state == _READ_ONLY:
        context.is_disconnect = True
    if state and diagnostics is not None and raised is not None:
        whole, original.args = str(original), (diagnostics.message_primary,)
        raised.args = tuple(str(part).replace(whole, diagnostics.message_primary) for part in raised.args)


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
            with _MIGRATING:
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

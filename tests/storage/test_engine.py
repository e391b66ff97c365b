"""Outages, deadlocks and snapshots, on a real PostgreSQL; what an exception tells of the rows it is about."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InternalError, OperationalError

from ops.verdict import ResultStatus
from storage import _engine
from storage import _schema as db
from storage._engine import LedgerError, open_engine, write
from storage._statements import case_row
from storage.ledger import Ledger
from storage.records import ResultRecord, case_id
from storage.testing import example_result, example_series, example_verdict
from tests.servers import Postgres

CASES = 60
ROWS = 200


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL with a database ``popscan``, for tests that stop it and start it; role ``locked`` has a password."""
    with tempfile.TemporaryDirectory(prefix="popscan-pg-") as name:
        server = Postgres(Path(name))
        access = Path(name) / "data" / "pg_hba.conf"
        access.write_text("local all locked scram-sha-256\n" + access.read_text())
        server.start()
        server.create("popscan")
        yield server
        server.stop()


def later(seconds: float, action: Callable[[], object]) -> threading.Thread:
    thread = threading.Timer(seconds, action)
    thread.start()
    return thread


def no_connection(words: str) -> DBAPIError:
    return OperationalError("", {}, psycopg.OperationalError(words))


def refused(state: str) -> DBAPIError:
    return OperationalError("", {}, psycopg.errors.lookup(state)("Worte in einer anderen Sprache"))


class TestWhatPasses:
    @pytest.mark.parametrize(
        "words",
        [
            "failed to resolve host 'db': [Errno -3] Temporary failure in name resolution",
            "[Errno -2] Name or service not known",
            'could not translate host name "db" to address: Name or service not known',
            'connection failed: connection to server at "10.0.0.1", port 5432 failed: No route to host',
            'connection to server at "10.0.0.1", port 5432 failed: Connection refused',
            'connection to server at "10.0.0.1", port 5432 failed: timeout expired',
            "connection timeout expired",
            'connection to server on socket "/tmp/.s.PGSQL.5432" failed: No such file or directory',
            "FATAL:  the database system is starting up",
            "FATAL:  the database system is shutting down",
            "FATAL:  the database system is in recovery mode",
            "FATAL:  the database system is not yet accepting connections",
            "FATAL:  sorry, too many clients already",
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "server closed the connection unexpectedly",
        ],
    )
    def test_a_server_that_cannot_be_reached(self, words: str) -> None:
        assert _engine._passes(no_connection(words))

    @pytest.mark.parametrize(
        "words",
        [
            'FATAL:  password authentication failed for user "popscan"',
            'FATAL:  database "popscan" does not exist',
            'FATAL:  role "popscan" does not exist',
            'FATAL:  no pg_hba.conf entry for host "10.0.0.1"',
            # Both addresses of localhost, of which the server listens on one.
            "Multiple connection attempts failed: - ::1: Connection refused - 127.0.0.1: authentication failed",
        ],
    )
    def test_not_a_server_that_denies_access(self, words: str) -> None:
        assert not _engine._passes(no_connection(words))

    @pytest.mark.parametrize("state", ["08000", "08006", "57P01", "57P02", "57P03", "53300", "25006", "40P01", "40001"])
    def test_by_sqlstate_whatever_the_words(self, state: str) -> None:
        assert _engine._passes(refused(state))

    @pytest.mark.parametrize("state", ["23505", "42P01", "57014", "53100", "28P01", "3D000"])
    def test_not_what_is_refused_for_good(self, state: str) -> None:
        assert not _engine._passes(refused(state))

    def test_not_words_beside_another_sqlstate(self) -> None:
        error = psycopg.errors.UniqueViolation("connection refused")
        assert not _engine._passes(OperationalError("", {}, error))


class TestOutages:
    def test_opening_waits_for_a_server_that_starts(self, own_postgres: Postgres) -> None:
        own_postgres.stop()
        starting = later(1.0, own_postgres.start)
        with Ledger(own_postgres.url("popscan")) as ledger:
            starting.join()
            assert ledger.studies() == []

    def test_opening_does_not_wait_for_ever(self, own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_engine, "OPEN_SECONDS", 1.0)
        own_postgres.stop()
        began = time.monotonic()
        with pytest.raises(LedgerError, match="cannot be opened"):
            Ledger(own_postgres.url("popscan"))
        assert 0.3 < time.monotonic() - began < 5
        own_postgres.start()

    def test_who_is_denied_is_told_at_once(self, own_postgres: Postgres) -> None:
        with psycopg.connect(host=str(own_postgres.folder), user="postgres", dbname="postgres") as connection:
            connection.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
        began = time.monotonic()
        for old, new, message in (
            ("/popscan?", "/misspelt?", 'database "misspelt" does not exist'),
            ("postgres@", "nobody-here@", 'role "nobody-here" does not exist'),
            ("postgres@", "locked:wrong@", "password authentication failed"),
        ):
            with pytest.raises(LedgerError, match=message):
                Ledger(own_postgres.url("popscan").replace(old, new))
        assert time.monotonic() - began < 10

    def test_a_server_killed_while_it_writes_and_reads_is_waited_for(self, own_postgres: Postgres) -> None:
        with Ledger(own_postgres.url("popscan")) as ledger, ThreadPoolExecutor(1) as pool:
            ledger.commit_results([example_result("1.0")])

            def commit() -> None:
                for n in range(CASES):
                    ledger.commit_results([example_result(f"1.{n}")])
                    assert ledger.result(case_id("calcium", f"1.{n}")) is not None

            writing = pool.submit(commit)
            for _ in range(2):
                time.sleep(0.3)
                own_postgres.kill()
                own_postgres.start()
            writing.result(timeout=120)
            assert len(ledger.results()) >= CASES

    def test_a_former_primary_is_left_for_a_new_connection(self, postgres_url: str) -> None:
        def read_only(connection: Connection, value: str) -> None:
            name = connection.engine.url.database
            connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}'))

        engine = open_engine(postgres_url)
        write(engine, lambda connection: read_only(connection, "on"))
        engine.dispose()  # a session keeps what it began with
        with pytest.raises(InternalError), engine.begin() as connection:
            connection.execute(text("CREATE TABLE t ()"))

        def back() -> None:
            with engine.begin() as connection:
                connection.execute(text("SET TRANSACTION READ WRITE"))
                read_only(connection, "off")

        with Ledger(postgres_url) as ledger:
            ledger.results()
            changing = later(0.5, back)
            ledger.commit_results([example_result()])
            changing.join()
            assert len(ledger.results()) == 1
        engine.dispose()


class TestDeadlocks:
    def test_who_has_to_give_way_tries_again(self, postgres_url: str) -> None:
        engine = open_engine(postgres_url)
        with Ledger(postgres_url) as ledger:
            ledger.commit_results([example_result("1.1"), example_result("1.2")])
        attempts, both_hold_one = [], threading.Barrier(2)

        def crossed(first: str, second: str) -> None:
            def work(connection: Connection) -> None:
                attempts.append(first)
                set_fingerprint(connection, first, f"of {first}")
                if attempts.count(first) == 1:
                    both_hold_one.wait(10)
                set_fingerprint(connection, second, f"of {first}")

            write(engine, work)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(crossed, ["1.1", "1.2"], ["1.2", "1.1"]))
        assert deadlocks(engine) == 1
        assert len(attempts) == 3
        engine.dispose()

    @pytest.mark.parametrize("what", ["results", "restored", "verdicts", "series"])
    def test_committers_in_opposite_order_never_meet_in_one(self, postgres_url: str, what: str) -> None:
        studies = [f"1.{n}" for n in range(ROWS)]

        def commit(ledger: Ledger, fingerprint: str, order: list[str]) -> None:
            if what == "results":
                ledger.commit_results([example_result(uid, fingerprint=fingerprint) for uid in order])
            elif what == "restored":
                ledger.restore({case_id("calcium", uid): "fingerprint-1" for uid in order})
            elif what == "verdicts":
                ledger.record_verdicts([example_verdict(uid) for uid in order])
            else:
                changed = [example_series(uid, source_digest=fingerprint, sources=()) for uid in order]
                ledger.record_ingest(changed, [], [])

        def committer(order: list[str]) -> None:
            with Ledger(postgres_url) as ledger:
                for n in range(8):
                    commit(ledger, f"fingerprint-{n}", order)

        with Ledger(postgres_url) as ledger:
            ledger.commit_results([example_result(uid) for uid in studies])
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(committer, [studies, studies[::-1]]))
        engine = open_engine(postgres_url)
        assert deadlocks(engine) == 0
        engine.dispose()


def set_fingerprint(connection: Connection, study: str, fingerprint: str) -> None:
    table = db.screening_case
    row = case_row(example_result(study))
    connection.execute(table.update().where(table.c.case_id == row["case_id"]).values(fingerprint=fingerprint))


def deadlocks(engine: Engine) -> int:
    query = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    time.sleep(1.5)  # a backend tells its counts once a second
    with engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


def whole_results(ledger: Ledger) -> list[ResultRecord]:
    return ledger.results()


def replacements(ledger: Ledger) -> list[ResultRecord]:
    return [pair.current for pair in ledger.changes.replacements("calcium")]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
class TestSnapshots:
    @pytest.fixture
    def location(self, database: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
        return str(tmp_path / "l.sqlite") if database == "sqlite" else str(request.getfixturevalue("postgres_url"))

    @pytest.mark.parametrize("read", [whole_results, replacements])
    def test_what_is_committed_between_two_queries_is_not_seen_by_half(
        self, location: str, read: Callable[[Ledger], list[ResultRecord]]
    ) -> None:
        with Ledger(location) as ledger, Ledger(location) as other:
            ledger.commit_results([example_result()])
            news = [
                example_result(fingerprint=f"fingerprint-{n}", status=status)
                for n in (2, 3)
                for status in (ResultStatus.FAILED, ResultStatus.OK)
            ]
            committed: list[ResultRecord] = []

            @event.listens_for(ledger._engine, "after_cursor_execute")
            def commit(_connection: Connection, _cursor: Any, statement: str, *_rest: Any) -> None:
                if statement.startswith("SELECT") and len(committed) < len(news):
                    committed.append(news[len(committed)])
                    other.commit_results(committed[-1:])

            (found,) = read(ledger)
            assert found.fingerprint in ("fingerprint-1", "fingerprint-2")
            assert len(committed) > 1

    def test_what_an_exception_says_names_no_study(self, location: str) -> None:
        with Ledger(location) as ledger:
            ledger.commit_results([example_result("1.3.777")])
            clash = example_result("1.3.777", case_id="calcium-other-id-for-the-same-study")
            with pytest.raises(IntegrityError, match=r"(?i)unique") as caught:
                ledger.commit_results([clash])
        assert "777" not in f"{caught.value} {caught.value.orig!r} {caught.value.__cause__}"

"""What is particular to one database or to one process; what every ledger must do is in the conformance suite."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from ops.verdict import ResultStatus
from storage import _engine, _schema
from storage._engine import MIGRATIONS, LedgerError, ledger_url
from storage.ledger import Ledger
from storage.testing import example_result

# Commits batches of ten for ever and says so after each; the parent kills it.
WRITER = """
import sys
from storage.ledger import Ledger
from storage.testing import example_result
with Ledger(sys.argv[1]) as ledger:
    batch = int(sys.argv[2])
    while True:
        ledger.commit_results([example_result(f"1.2.{batch}.{i}") for i in range(10)])
        print(batch, flush=True)
        batch += 1
"""

# Waits with its imports done until its input is closed, so that several open at the same moment.
OPENER = """
import sys
from storage.ledger import Ledger
print("ready", flush=True)
sys.stdin.read()
Ledger(sys.argv[1]).close()
"""

# Says when it is alone, and then waits to be killed.
HOLDER = """
import sys
from storage.ledger import Ledger
with Ledger(sys.argv[1]) as ledger, ledger.alone("work"):
    print("alone", flush=True)
    sys.stdin.read()
"""


@contextmanager
def started(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process running ``script``, gone when the block is left."""
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def kill_while_writing(location: str, first_batch: int, after_batches: int) -> int:
    """Let a writer commit, kill it with SIGKILL at no particular moment, return the last batch it announced."""
    with started(WRITER, location, str(first_batch)) as writer:
        assert writer.stdout is not None
        for _ in range(after_batches):
            announced = int(writer.stdout.readline())
        time.sleep(0.003)  # into the middle of a later batch
        os.kill(writer.pid, signal.SIGKILL)
        remaining = writer.stdout.read().split("\n")[:-1]
    return int(remaining[-1]) if remaining else announced


def assert_whole_batches(location: str, at_least: int) -> int:
    with Ledger(location) as ledger:
        batches: dict[int, int] = {}
        for record in ledger.results():
            assert len(record.measurements) == 3
            number = int(record.study_uid.split(".")[2])
            batches[number] = batches.get(number, 0) + 1
    assert set(batches.values()) == {10}
    assert sorted(batches) == list(range(len(batches)))
    assert len(batches) >= at_least
    return len(batches)


@pytest.mark.parametrize("after_batches", [1, 4])
def test_killed_writer_loses_only_the_uncommitted_batch(tmp_path: Path, after_batches: int) -> None:
    location = str(tmp_path / "ledger.sqlite")
    last = kill_while_writing(location, 0, after_batches)
    committed = assert_whole_batches(location, at_least=last + 1)
    assert committed <= last + 2  # at most one was committed and not yet announced
    last = kill_while_writing(location, max(0, committed - 1), 2)  # start again one batch early: nothing twice
    assert_whole_batches(location, at_least=last + 1)


def test_killed_writer_on_postgresql_loses_only_the_uncommitted_batch(postgres_url: str) -> None:
    last = kill_while_writing(postgres_url, 0, 2)
    assert_whole_batches(postgres_url, at_least=last + 1)


def test_several_processes_can_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    location = str(tmp_path / "ledger.sqlite")
    with ExitStack() as stack:
        openers = [stack.enter_context(started(OPENER, location)) for _ in range(3)]
        for opener in openers:
            assert opener.stdout is not None
            assert opener.stdout.readline() == "ready\n"
        for opener in openers:
            assert opener.stdin is not None
            opener.stdin.close()
        assert [opener.wait(timeout=60) for opener in openers] == [0, 0, 0]
    with Ledger(location) as ledger:
        assert ledger.results() == []


def test_reader_is_not_blocked_by_a_writer(tmp_path: Path) -> None:
    location = tmp_path / "ledger.sqlite"
    with Ledger(location) as ledger:
        ledger.commit_results([example_result()])
        other = sqlite3.connect(location, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert ledger.results() == [example_result()]
        other.execute("ROLLBACK")
        other.close()


def test_writer_waits_for_another_writer(tmp_path: Path) -> None:
    location = str(tmp_path / "ledger.sqlite")
    with Ledger(location) as ledger, started(WRITER, location, "0") as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        for i in range(20):
            ledger.commit_results([example_result(f"1.3.{i}")])
        assert len([record for record in ledger.results() if record.study_uid.startswith("1.3.")]) == 20


def test_sqlite_settings_that_durability_rests_on(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger, ledger._engine.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}


def test_head_revision_is_the_newest_script() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == _schema.HEAD_REVISION


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_migrations_build_the_schema(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    sqlite = str(tmp_path / "ledger.sqlite")
    location = sqlite if database == "sqlite" else request.getfixturevalue("postgres_url")
    Ledger(location).close()
    engine = create_engine(ledger_url(location))
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), _schema.metadata)
        checks = inspect(connection).get_check_constraints("measurement")
    engine.dispose()
    assert differences == []
    assert [check["name"] for check in checks] == ["ck_measurement_value_only_when_ok"]


def test_folder_of_the_ledger_is_made(tmp_path: Path) -> None:
    with Ledger(tmp_path / "new" / "home" / "ledger.sqlite") as ledger:
        assert ledger.studies() == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/db", "only sqlite and postgresql"),
        ("postgresql+psycopg://popscan:secret@127.0.0.1:1/db", "cannot be opened"),
    ],
)
def test_unreachable_ledger_is_a_clear_error_without_the_password(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_engine, "OPEN_SECONDS", 0.5)
    with pytest.raises(LedgerError, match=message) as caught:
        Ledger(url)
    assert "secret" not in str(caught.value)


def test_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite cannot be opened: file is not a database"):
        Ledger(path)


def test_attempts_are_counted_by_fingerprint(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.commit_results([example_result(status=ResultStatus.FAILED, attempts=3)])
        ledger.commit_results([example_result(status=ResultStatus.FAILED, fingerprint="fingerprint-2")])
        (state,) = ledger.current_fingerprints("calcium").values()
    assert state == ("fingerprint-2", ResultStatus.FAILED, 1)


def test_a_ledger_in_memory_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Ledger("sqlite://") as ledger, ledger.alone("work"), ledger.alone("work", wait=False) as is_held:
        assert is_held
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_who_is_killed_is_no_longer_alone(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    location = str(tmp_path / "l.sqlite") if database == "sqlite" else request.getfixturevalue("postgres_url")
    with Ledger(location) as ledger, started(HOLDER, location) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "alone\n"
        with ledger.alone("work", wait=False) as is_held:
            assert not is_held
        process.kill()
        with ledger.alone("work") as is_held:
            assert is_held

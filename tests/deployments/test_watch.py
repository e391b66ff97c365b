"""The watch as a process of its own: it announces each settling once, rides out what goes away, and ends when told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from flows.events import STUDY_SETTLED, study_digest
from storage.ledger import Ledger
from tests.flows.prefect_events import events_of
from tests.ops.dicom.builders import files, setting

NO_SERVER = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "POPSCAN"))}
QUIET_SECONDS = 1.0


@contextmanager
def watching(home: Path, folder: Path, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    settings = {
        "POPSCAN_HOME": str(home),
        "POPSCAN_INBOX": str(folder),
        "POPSCAN_WATCH_SECONDS": "0.2",
        "POPSCAN_QUIET_SECONDS": str(QUIET_SECONDS),
    }
    command = [sys.executable, "-m", "deployments.watch"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**NO_SERVER, **settings, **environment}, cwd=Path(__file__).parents[2], stderr=output
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def put(folder: Path, study: str, count: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files(count, setting(StudyInstanceUID=study)).items():
        (folder / Path(name).name).write_bytes(data)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_goes_on_without_folder_and_ledger_and_ends_when_told(tmp_path: Path, number: signal.Signals) -> None:
    home, inbox, log = tmp_path / "home", tmp_path / "inbox", tmp_path / "log"
    ledger = home / "ledger.sqlite"
    ledger.mkdir(parents=True)
    with watching(home, inbox, log) as process:
        until(lambda: "cannot look" in log.read_text())
        ledger.rmdir()
        until(lambda: "No such file or directory" in log.read_text())
        put(inbox / "Doe^Jane", "1.2.3")
        until(lambda: "1 studies or other units have settled" in log.read_text())
        process.send_signal(number)
        assert process.wait(30) == 0
    text = log.read_text()
    assert "can look again" in text
    assert text.rstrip().endswith("stopped")
    assert "1.2.3" not in text
    assert "Jane" not in text
    with Ledger(ledger) as opened:
        assert opened.arrivals.settled("9999") == ["1.2.3"]


def test_a_prefect_server_that_is_away_does_not_matter(tmp_path: Path) -> None:
    home, inbox, log = tmp_path / "home", tmp_path / "inbox", tmp_path / "log"
    put(inbox, "1.2.3")
    away = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path / "prefect")}
    with watching(home, inbox, log, **away) as process:
        until(lambda: "1 studies or other units have settled" in log.read_text())
        put(inbox / "later", "1.2.4")
        until(lambda: log.read_text().count("1 studies or other units have settled") == 2)
        process.terminate()
        assert process.wait(60) == 0
    assert "1.2.3" not in log.read_text()


@pytest.mark.slow
def test_each_settling_is_announced_once_and_again_after_a_change(tmp_path: Path) -> None:
    home, inbox, log = tmp_path / "home", tmp_path / "inbox", tmp_path / "log"
    event = STUDY_SETTLED, f"popscan.study.{study_digest('1.2.3')}"
    with prefect_test_harness(server_startup_timeout=120):
        server = {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_HOME": str(tmp_path / "prefect")}
        with watching(home, inbox, log, **server):
            put(inbox / "a", "1.2.3")
            until(lambda: len(events_of(*event)) == 1)
            time.sleep(2 * QUIET_SECONDS)
            assert len(events_of(*event)) == 1
            put(inbox / "late", "1.2.3", 1)
            until(lambda: len(events_of(*event, least=2)) == 2)
            time.sleep(2 * QUIET_SECONDS)
            assert len(events_of(*event)) == 2

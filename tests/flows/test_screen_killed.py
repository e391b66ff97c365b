"""Kill the process in mid-run, start it again: the same results as without, and nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from flows.home import Home
from storage.records import ResultRecord
from tests.flows.mean_programme import add_study

STUDIES = range(1, 41)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def start(home: Home, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "tests.flows.screen_in_process", str(home.root), str(log)]
    # A shell that runs the tests in the background has them ignore SIGINT, and children would inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2], preexec_fn=heed)


def prepare(folder: Path) -> Home:
    home = Home.at(folder)
    with home.open_ledger() as ledger:
        for number in STUDIES:
            add_study(home, ledger, number, refused=number == 6)
    return home


def results(home: Home) -> dict[str, ResultRecord]:
    with home.open_ledger() as ledger:
        found = ledger.results("mean")
    assert len({record.case_id for record in found}) == len(found)
    return {record.case_id: record for record in found}


def what_matters(records: dict[str, ResultRecord]) -> dict[str, tuple[object, ...]]:
    return {case: (r.status, r.reason, r.fingerprint, r.measurements, r.pictures) for case, r in records.items()}


def test_killed_and_started_again(tmp_path: Path) -> None:
    undisturbed = prepare(tmp_path / "undisturbed")
    assert start(undisturbed, tmp_path / "undisturbed.log").wait(120) == 0

    home, log = prepare(tmp_path / "killed"), tmp_path / "killed.log"
    process = start(home, log)
    deadline = time.monotonic() + 120
    while not (done := {case for case, r in results(home).items() if r.timings}) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    done = {record.study_uid for record in results(home).values() if record.timings}
    assert 0 < len(done) < len(STUDIES) - 1, "the process was killed too late or too early to prove anything"

    assert start(home, log).wait(120) == 0
    assert what_matters(results(home)) == what_matters(results(undisturbed))
    computed = Counter(log.read_text().split())
    assert {study for study in done if computed[study] != 1} == set(), "a committed case was computed again"
    with home.open_ledger() as ledger:
        assert len(ledger.results("mean", current_only=False)) == len(STUDIES), "a result was stored twice"


def test_an_interrupt_keeps_what_was_finished(tmp_path: Path) -> None:
    home, log = prepare(tmp_path / "home"), tmp_path / "log"
    process = start(home, log)
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().split()) > 4) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    done = {record.study_uid for record in results(home).values() if record.timings}
    assert done
    assert start(home, log).wait(120) == 0
    computed = Counter(log.read_text().split())
    assert {study for study in done if computed[study] != 1} == set()
    assert len(results(home)) == len(STUDIES)

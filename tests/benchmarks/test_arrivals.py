"""The watched folder: looks at 100,000 files of which none is new, against `os.walk` and `os.stat` of the same files in
the same run, and at 10,000 new ones, against `pydicom.dcmread` up to the same element.

``pytest tests/benchmarks/test_arrivals.py --benchmark-enable -s`` prints and judges the times; without, a tenth of the
files is looked at.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from storage.ledger import Ledger
from tasks.arrivals import Seen, Watch
from tests.ops.dicom.builders import STUDY_UID, instance, to_bytes

UNCHANGED, NEW, A_FOLDER = 100_000, 10_000, 300
TENTH = 10

# A look also reads what the ledger knows and compares; the peer does neither.
MOST_TIMES_WALK = 4.0
# A new file is opened, parsed and recorded durably; the peer does not record.
MOST_TIMES_READ = 2.0

pytestmark = pytest.mark.slow


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


def fill(folder: Path, count: int, data: bytes) -> Path:
    for first in range(0, count, A_FOLDER):
        place = folder / str(first)
        place.mkdir(parents=True)
        for number in range(first, min(first + A_FOLDER, count)):
            (place / f"{number}.dcm").write_bytes(data)
    return folder


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def walk_and_stat(folder: Path) -> int:
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            state = os.stat(path)
            found[path] = (state.st_size, state.st_mtime_ns)
    return len(found)


def test_a_look_at_files_of_which_none_is_new(tmp_path: Path, ledger: Ledger, measuring: bool) -> None:
    count = UNCHANGED if measuring else UNCHANGED // TENTH
    watch = Watch(fill(tmp_path / "inbox", count, b""))
    watch.look(ledger)
    assert watch.look(ledger) == Seen(new=count)
    peer = statistics.median(seconds(lambda: walk_and_stat(tmp_path / "inbox")) for _ in range(3))
    ours = statistics.median(seconds(lambda: watch.look(ledger)) for _ in range(3))
    print(f"{count} unchanged files: os.walk and stat {peer:.2f} s, look {ours:.2f} s")
    assert not measuring or ours < MOST_TIMES_WALK * peer


def test_a_look_at_new_files(tmp_path: Path, ledger: Ledger, measuring: bool) -> None:
    count = NEW if measuring else NEW // TENTH
    inbox = fill(tmp_path / "inbox", count, to_bytes(instance(0)))
    watch = Watch(inbox)
    first = seconds(lambda: watch.look(ledger))
    ours = seconds(lambda: watch.look(ledger))
    assert ledger.arrivals.settled("9999") == [STUDY_UID]
    paths = list(inbox.rglob("*.dcm"))

    def read() -> None:
        for path in paths:
            pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])

    peer = seconds(read)
    print(f"{count} new files: first look {first:.2f} s, second look {ours:.2f} s, pydicom alone {peer:.2f} s")
    assert not measuring or ours < MOST_TIMES_READ * peer

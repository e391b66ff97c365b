"""What the arrivals of every ledger must do."""

# ruff: noqa: D102 - a test's name says what it checks

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from time import sleep
from typing import Any

import pytest

from storage import arrivals
from storage.arrivals import ArrivalRecord
from storage.ledger import Ledger
from storage.records import RejectedFileRecord, storable_text
from storage.testing.database import DatabaseConformance

# Quotes, wildcards and escapes of SQL, other scripts, and a byte that is no UTF-8 (as Python names it).
HOSTILE_PATH = "/in/it's 100%_\\xe9 \\ 心臓/\udce9\".dcm"

LONG_AGO = "2000-01-01T00:00:00.000+00:00"


def example_arrival(path: str = "/in/a.dcm", **changes: Any) -> ArrivalRecord:
    """Make a valid arrival; ``changes`` replace its fields."""
    fields: dict[str, Any] = {"path": path, "size": 10, "mtime_ns": 1 << 60, "study_uid": "1.2", "changed_at": time(1)}
    return ArrivalRecord(**(fields | changes))


def time(second: int) -> str:
    """Time ``second`` seconds after noon."""
    return f"2026-01-01T12:00:{second:02}.000+00:00"


class ArrivalsConformance(DatabaseConformance):
    """Contract of `storage.arrivals.Arrivals` on one database. Give `ledger_location`: a new, empty one per test."""

    def test_a_file_comes_back_as_it_went_in(self, ledger: Ledger) -> None:
        hostile = example_arrival(HOSTILE_PATH, study_uid=None)
        ledger.arrivals.record([example_arrival(), hostile])
        assert ledger.arrivals.known("/in") == {"/in/a.dcm": (10, 1 << 60), HOSTILE_PATH: (10, 1 << 60)}
        assert ledger.arrivals.of_units(["1.2", HOSTILE_PATH]) == [example_arrival(), hostile]
        ledger.arrivals.mark_ingested([hostile])
        assert ledger.arrivals.forget([HOSTILE_PATH]) == 0
        assert list(ledger.arrivals.known("/in")) == ["/in/a.dcm"]

    def test_only_files_below_the_folder_are_known(self, ledger: Ledger) -> None:
        paths = ["/in/a", "/in/b/c", "/in2/a", "/IN/a", "/in"]
        ledger.arrivals.record(map(example_arrival, paths))
        assert sorted(ledger.arrivals.known("/in")) == ["/in/a", "/in/b/c"]
        assert sorted(ledger.arrivals.known("/in/")) == ["/in/a", "/in/b/c"]
        assert sorted(ledger.arrivals.known("/")) == sorted(paths)
        assert ledger.arrivals.known("/in/b%") == {}

    def test_a_study_settles_when_its_last_file_has(self, ledger: Ledger) -> None:
        table = ledger.arrivals
        table.record([example_arrival("/in/a", changed_at=time(1)), example_arrival("/in/b", changed_at=time(5))])
        table.record([example_arrival("/in/c", study_uid="1.3", changed_at=time(2))])
        table.record([example_arrival("/in/d.zip", study_uid=None, changed_at=time(3))])
        assert table.settled(time(1)) == []
        assert table.settled(time(2)) == ["1.3"]
        assert table.settled(time(4)) == ["/in/d.zip", "1.3"]
        assert table.settled(time(5)) == ["/in/d.zip", "1.2", "1.3"]
        assert table.count_settled(time(4)) == 2

    def test_only_what_lies_below_the_folder_settles(self, ledger: Ledger) -> None:
        paths = ["/in/a", "/in2/b", "/IN/c", "/in/x/d"]
        ledger.arrivals.record(example_arrival(path, study_uid=f"1.{n}") for n, path in enumerate(paths))
        assert ledger.arrivals.settled(time(1), "/in") == ["1.0", "1.3"]
        assert ledger.arrivals.count_settled(time(1), "/in/x/") == 1

    def test_consecutive_windows_meet_each_settling_once(self, ledger: Ledger) -> None:
        table = ledger.arrivals
        table.record([example_arrival(f"/in/{n}", study_uid=f"1.{n}", changed_at=time(n)) for n in range(1, 5)])
        windows = [table.settled(time(n), since=time(n - 1)) for n in range(1, 6)]
        assert windows == [["1.1"], ["1.2"], ["1.3"], ["1.4"], []]
        table.record([example_arrival("/in/late", study_uid="1.1", changed_at=time(7))])
        assert table.settled(time(7), since=time(5)) == ["1.1"]

    def test_a_unit_holds_the_files_that_are_to_be_ingested(self, ledger: Ledger) -> None:
        first = [example_arrival("/in/b"), example_arrival("/in/a"), example_arrival("/in/c", study_uid="1.3")]
        ledger.arrivals.record(first)
        assert [record.path for record in ledger.arrivals.of_units(["1.2"])] == ["/in/a", "/in/b"]
        ledger.arrivals.mark_ingested(first)
        assert ledger.arrivals.of_units(["1.2", "1.3"]) == []
        assert ledger.arrivals.settled(time(59)) == []
        late = example_arrival("/in/z", changed_at=time(9))
        ledger.arrivals.record([late])
        found = ledger.arrivals.of_units(["1.2", "1.3"])
        assert [(record.path, record.ingested_at is None) for record in found] == [
            ("/in/a", False),
            ("/in/b", False),
            ("/in/z", True),
        ]

    def test_a_folder_without_study_uids_goes_as_a_whole(self, ledger: Ledger) -> None:
        files = [example_arrival(f"/in/x/{n}", study_uid="/in/x/") for n in range(3)]
        ledger.arrivals.record(files)
        assert ledger.arrivals.settled(time(1)) == ["/in/x/"]
        ledger.arrivals.mark_ingested(files)
        assert ledger.arrivals.of_units(["/in/x/"]) == []
        ledger.arrivals.record([example_arrival("/in/x/late", study_uid="/in/x/")])
        found = ledger.arrivals.of_units(["/in/x/"])
        assert [(record.path, record.ingested_at is None) for record in found] == [
            ("/in/x/0", False),
            ("/in/x/1", False),
            ("/in/x/2", False),
            ("/in/x/late", True),
        ]

    def test_a_change_makes_an_ingested_file_one_to_ingest(self, ledger: Ledger) -> None:
        ledger.arrivals.record([example_arrival()])
        ledger.arrivals.mark_ingested([example_arrival()])
        changed = example_arrival(size=11, study_uid="1.9", changed_at=time(8))
        ledger.arrivals.record([replace(changed, ingested_at=time(8))])
        assert ledger.arrivals.settled(time(8)) == ["1.9"]
        assert ledger.arrivals.of_units(["1.9"]) == [changed]

    @pytest.mark.parametrize("change", [{"size": 11}, {"mtime_ns": 7}, {"changed_at": time(2)}])
    def test_a_file_that_changed_while_it_was_ingested_stays_to_be_ingested(
        self, ledger: Ledger, change: dict[str, Any]
    ) -> None:
        other = example_arrival("/in/b")
        ledger.arrivals.record([example_arrival(), other])
        as_read = ledger.arrivals.of_units(["1.2"])
        ledger.arrivals.record([example_arrival(**change)])
        ledger.arrivals.mark_ingested(as_read)
        (changed, same) = ledger.arrivals.of_units(["1.2"])
        assert changed == example_arrival(**change)
        assert same.ingested_at is not None

    def test_forgetting_counts_what_was_never_ingested(self, ledger: Ledger) -> None:
        files = [example_arrival(f"/in/{n}") for n in range(4)]
        ledger.arrivals.record(files)
        ledger.arrivals.mark_ingested(files[:1])
        assert ledger.arrivals.forget(["/in/0", "/in/1", "/in/2", "/in/unheard-of"]) == 2
        assert list(ledger.arrivals.known("/in")) == ["/in/3"]
        assert ledger.arrivals.forget([]) == 0

    def test_more_files_than_a_statement_takes(self, ledger: Ledger) -> None:
        files = [example_arrival(f"/in/{n}", study_uid=None if n % 2 else f"1.{n}") for n in range(24_000)]
        ledger.arrivals.record(files)
        units = ledger.arrivals.settled(time(1))
        assert len(units) == len(files)
        assert sorted(ledger.arrivals.of_units(units), key=lambda r: int(r.path[4:])) == files
        assert ledger.arrivals.forget([record.path for record in files]) == len(files)

    def test_files_found_unreadable_since_a_time(self, ledger: Ledger) -> None:
        rejected = [
            RejectedFileRecord("/in/a", "unreadable_file", ""),
            RejectedFileRecord("/in/b", "corrupt_deflate", ""),
        ]
        ledger.record_ingest([], [], rejected)
        ledger.record_ingest([], [], [RejectedFileRecord("/in/c.zip!/x/1", "unreadable_file", "")])
        assert ledger.arrivals.unreadable_since(time(0)).keys() == {"/in/a", "/in/c.zip", "/in/c.zip!/x/1"}
        assert ledger.arrivals.unreadable_since("9999") == {}

    @pytest.mark.parametrize("path", ["/in/a", "/in/a.zip", HOSTILE_PATH])
    def test_what_could_not_be_read_is_left_for_an_hour(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, path: str
    ) -> None:
        other = example_arrival("/in/b", changed_at=LONG_AGO)
        ledger.arrivals.record([example_arrival(path, changed_at=LONG_AGO), other])
        name = f"{path}!/x/1" if path.endswith(".zip") else path
        ledger.record_ingest([], [], [RejectedFileRecord(storable_text(name), "unreadable_file")])
        assert ledger.arrivals.settled("9999") == ["1.2"]
        ledger.arrivals.mark_ingested([other])
        assert ledger.arrivals.settled("9999") == []
        assert ledger.arrivals.count_settled("9999") == 0
        with monkeypatch.context() as later:
            later.setattr(arrivals, "RETRY_AFTER", timedelta(0))
            sleep(0.002)
            assert ledger.arrivals.settled("9999") == ["1.2"]
        ledger.arrivals.record([example_arrival(path, changed_at="9998")])
        assert ledger.arrivals.settled("9999") == ["1.2"]

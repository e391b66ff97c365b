"""Stage times and replacements, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.verdict import ResultStatus
from storage.changes import PAGE_CASES, StageTimes
from storage.ledger import Ledger
from storage.records import ResultRecord, case_id
from storage.testing import example_result


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    location = tmp_path / "l.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with Ledger(location) as ledger:
        yield ledger


def made(study: str, fingerprint: str, day: int, status: ResultStatus = ResultStatus.OK) -> ResultRecord:
    return example_result(study, fingerprint=fingerprint, created_at=f"2026-01-{day:02}", status=status)


def fingerprints(ledger: Ledger, **options: object) -> dict[str, tuple[str, str | None]]:
    """Study → fingerprints of its present and the replaced result."""
    found = ledger.changes.replacements("calcium", **options)  # type: ignore[arg-type]
    return {r.current.study_uid: (r.current.fingerprint, r.earlier and r.earlier.fingerprint) for r in found}


def test_a_result_is_paired_with_the_one_it_replaced(ledger: Ledger) -> None:
    for record in (made("1.1", "a", 1), made("1.2", "a", 1), made("1.1", "b", 2), made("1.1", "c", 3)):
        ledger.commit_results([record])
    assert fingerprints(ledger) == {"1.1": ("c", "b"), "1.2": ("a", None)}


def test_a_restored_result_is_paired_with_the_one_that_answered_meanwhile(ledger: Ledger) -> None:
    for record in (made("1.1", "a", 1), made("1.1", "b", 2), made("1.1", "c", 3)):
        ledger.commit_results([record])
    ledger.restore({case_id("calcium", "1.1"): "a"})
    assert fingerprints(ledger) == {"1.1": ("a", "c")}


def test_a_failure_computed_again_is_newer_than_what_came_between(ledger: Ledger) -> None:
    failed = made("1.1", "b", 2, ResultStatus.FAILED)
    for record in (made("1.1", "a", 1), failed, made("1.1", "c", 3), made("1.1", "b", 4)):
        ledger.commit_results([record])
    assert fingerprints(ledger) == {"1.1": ("b", "c")}


def test_both_results_have_their_measurements_and_recipe(ledger: Ledger) -> None:
    ledger.commit_results([made("1.1", "a", 1)])
    ledger.commit_results([made("1.1", "b", 2)])
    (found,) = ledger.changes.replacements("calcium")
    assert found.earlier is not None
    for record, whole in zip((found.earlier, found.current), ledger.history(found.current.case_id), strict=True):
        assert record.measurements == whole.measurements
        for name in ("roles", "policy", "models", "stages", "inputs", "status", "reason", "created_at"):
            assert getattr(record, name) == getattr(whole, name), name


def test_only_results_made_since_a_time(ledger: Ledger) -> None:
    ledger.commit_results([made("1.1", "a", 1), made("1.2", "a", 1), made("1.3", "a", 5)])
    ledger.commit_results([made("1.1", "b", 4), made("1.2", "b", 6)])
    assert fingerprints(ledger, since="2026-01-05") == {"1.2": ("b", "a"), "1.3": ("a", None)}


def test_whether_anything_was_replaced(ledger: Ledger) -> None:
    failed = made("1.2", "a", 1, ResultStatus.FAILED)
    ledger.commit_results([made("1.1", "a", 1), failed, made("1.2", "a", 2)])
    assert not ledger.changes.has_replacements("calcium"), "a failure that was made good is no other result"
    ledger.commit_results([made("1.1", "b", 2)])
    assert ledger.changes.has_replacements("calcium")
    assert not ledger.changes.has_replacements("plaque")


def test_only_of_one_programme(ledger: Ledger) -> None:
    ledger.commit_results([made(f"1.{n}", "a", 1) for n in range(5)])
    other = example_result("1.1", programme="plaque", case_id=case_id("plaque", "1.1"))
    ledger.commit_results([other])
    assert set(fingerprints(ledger)) == {f"1.{n}" for n in range(5)}


@pytest.mark.parametrize("count", [PAGE_CASES - 1, PAGE_CASES, 2 * PAGE_CASES + 1])
def test_every_case_once_whatever_the_pages(ledger: Ledger, count: int) -> None:
    ledger.commit_results([made(f"1.{n}", "a", 1) for n in range(count)])
    every = [r.current.case_id for r in ledger.changes.replacements("calcium")]
    assert every == sorted(case_id("calcium", f"1.{n}") for n in range(count))


def test_times_are_of_the_latest_results_that_stages_made(ledger: Ledger) -> None:
    for n in range(4):
        ledger.commit_results([example_result(f"1.{n}", timings={"measure": float(n)})])
    refused = example_result("1.8", status=ResultStatus.NOT_EVALUABLE, reason="no_ct", timings={}, roles={})
    failed = example_result("1.9", status=ResultStatus.FAILED, timings={"measure": 99.0})
    other = example_result("1.1", programme="plaque", case_id=case_id("plaque", "1.1"), timings={"measure": 50.0})
    ended = example_result("1.5", status=ResultStatus.NOT_EVALUABLE, reason="noisy", timings={"measure": 7.0})
    ledger.commit_results([refused, failed, other, ended])
    times = ledger.changes.stage_times("calcium", 3)
    assert times == [StageTimes({"measure": "1"}, {"measure": seconds}) for seconds in (7.0, 3.0, 2.0)]
    assert ledger.changes.stage_times("lung", 3) == []

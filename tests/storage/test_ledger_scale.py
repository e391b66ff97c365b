"""What a page or a batch costs must not depend on how many studies there are: else a population costs their square."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from storage.ledger import Ledger
from storage.records import ResultRecord, case_id
from storage.testing import example_result, example_series, example_verdict

FEW, MANY, PAGE = 500, 2_500, 100
STEPS_A_LOOK = 10
"""Instructions of SQLite's virtual machine between two looks of the counter."""

MOST_GROWTH = 1.25
"""Deeper trees cost a little; a walk over all rows would cost `MANY` / `FEW` times as much."""


def uid(number: int) -> str:
    return f"1.{number:05}"


class Counted:
    """A ledger of so many studies, each with a series, a verdict and a result; it counts what its database does.

    Attributes
    ----------
    steps
        Instructions of SQLite's virtual machine so far, in tens.
    """

    def __init__(self, path: Path, studies: int) -> None:
        self.studies, self.steps, self.ledger = studies, 0, Ledger(path)
        event.listen(self.ledger._engine, "checkout", self._watch)
        series = [example_series(f"{uid(n)}.1", study_uid=uid(n)) for n in range(studies)]
        verdicts = [example_verdict(record.series_uid, study_uid=record.study_uid) for record in series]
        self.ledger.record_ingest(series, verdicts, [])
        self.ledger.commit_results(result(n) for n in range(studies))

    def _watch(self, connection: Any, *_: Any) -> None:
        connection.set_progress_handler(self._count, STEPS_A_LOOK)

    def _count(self) -> None:
        self.steps += 1


def result(number: int) -> ResultRecord:
    return example_result(uid(number))


FIRST = [uid(n) for n in range(PAGE)]
CASES = [case_id("calcium", study) for study in FIRST]

PAGES: dict[str, Callable[[Ledger, int], object]] = {
    "studies": lambda ledger, _: next(ledger.study_pages(PAGE)),
    "verdicts": lambda ledger, _: ledger.verdicts("ingest", FIRST),
    "fingerprints": lambda ledger, _: ledger.current_fingerprints("calcium", FIRST),
    "earlier fingerprints": lambda ledger, _: ledger.earlier_fingerprints("calcium", FIRST),
    "results": lambda ledger, _: next(ledger.iter_results("calcium", PAGE)),
    "replacements": lambda ledger, _: next(ledger.changes.replacements("calcium")),
    "results of cases": lambda ledger, _: ledger.results_of(CASES),
    "newest result": lambda ledger, _: ledger.lanes.newest_result(),
    "charted results": lambda ledger, n: list(ledger.lanes.pages("calcium", n - PAGE, n, ["Manufacturer"], ["volume"])),
    "commit": lambda ledger, n: ledger.commit_results(result(number) for number in range(n, n + PAGE)),
}


@pytest.fixture(scope="module")
def few_and_many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Counted, ...]]:
    folder = tmp_path_factory.mktemp("ledgers")
    both = tuple(Counted(folder / f"{studies}.sqlite", studies) for studies in (FEW, MANY))
    yield both
    for counted in both:
        counted.ledger.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_costs_the_same_of_few_studies_and_of_many(few_and_many: tuple[Counted, ...], name: str) -> None:
    costs = []
    for counted in few_and_many:
        before = counted.steps
        PAGES[name](counted.ledger, counted.studies)
        costs.append(counted.steps - before)
    few, many = costs
    assert few > 0
    assert many <= MOST_GROWTH * few

"""Who changed category: counts, edges, reasons and numbers against what was put into the ledger."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, PackageLoader

from flows.programmes.calcium import PROGRAMME
from flows.reclassification import (
    CASES_PER_CELL,
    NO_RESULT,
    Reclassification,
    category_of,
    reclassification,
    reclassification_view,
)
from flows.report import number
from ops.agreement import limits_of_agreement
from ops.diseases.calcium.scores import CATEGORIES, category
from ops.verdict import ResultStatus
from storage.ledger import Ledger
from storage.records import Measurement, ResultRecord, case_id
from tests.flows.mean_programme import PROGRAMME as MEAN

OLD, NEW = "1f2e3d" * 10, "9a8b7c" * 10
WHY = "model heart-territories 1f2e3d→9a8b7c"
LABELS = [label for _, label in CATEGORIES]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def scored(
    study: int, total: float, model: str = OLD, day: int = 1, gated: bool = True, **changes: Any
) -> ResultRecord:
    names = ("agatston_total", "category") if gated else ("agatston_equivalent_nongated", "agatston_equivalent_class")
    values = [Measurement(names[0], total, "1"), Measurement(names[1], category(total))]
    return record(study, model, day, **{"status": ResultStatus.OK, "measurements": values, **changes})


def refused(study: int, reason: str, model: str = OLD, day: int = 1, **changes: Any) -> ResultRecord:
    return record(study, model, day, **{"status": ResultStatus.NOT_EVALUABLE, "reason": reason, **changes})


def record(study: int, model: str, day: int, **fields: Any) -> ResultRecord:
    defaults = {
        "roles": {"ct": f"1.2.{study}.1"},
        "inputs": {"ct": f"pixels-{study}"},
        "fingerprint": f"{model}-{day}",
        "models": {"heart-territories": model},
        "created_at": f"2026-01-{day:02}T00:00:00.000+00:00",
    }
    uid = f"1.2.{study}"
    return ResultRecord(case_id("calcium", uid), "calcium", "1", uid, **{**defaults, **fields})


def compare(ledger: Ledger, **options: Any) -> Reclassification:
    return reclassification(ledger, PROGRAMME, **options)


def table(found: Reclassification) -> dict[tuple[str, str], int]:
    return {(cell.earlier, cell.present): cell.n for cell in found.cells}


def test_each_change_of_category_is_counted_with_its_cases_and_reasons(ledger: Ledger) -> None:
    ledger.commit_results([scored(1, 0.0), scored(2, 5.0), scored(3, 90.0), scored(4, 450.0)])
    ledger.commit_results([scored(1, 0.0, NEW, 2), scored(2, 0.0, NEW, 2), scored(3, 120.0, NEW, 2)])
    found = compare(ledger)
    assert table(found) == {
        ("0", "0"): 1,
        ("1-10", "0"): 1,
        ("11-100", "101-400"): 1,
        ("no result", ">400"): 1,
    }
    assert (found.replaced, found.first, found.reasons) == (3, 1, {WHY: 3})
    (down, up) = sorted(found.moved, key=lambda cell: cell.earlier)
    assert (down.cases, down.reasons) == ((case_id("calcium", "1.2.2"),), {WHY: 1})
    assert up.cases == (case_id("calcium", "1.2.3"),)


def test_edges_count_everyone_who_crossed_them(ledger: Ledger) -> None:
    ledger.commit_results([scored(1, 5.0), scored(2, 90.0), scored(3, 450.0), scored(4, 0.0)])
    after = [scored(1, 500.0, NEW, 2), scored(2, 110.0, NEW, 2), scored(3, 3.0, NEW, 2), scored(4, 0.0, NEW, 2)]
    ledger.commit_results(after)
    edges = {(edge.below, edge.above): (edge.up, edge.down) for edge in compare(ledger).edges}
    assert edges == {
        ("0", "1-10"): (0, 0),
        ("1-10", "11-100"): (1, 1),
        ("11-100", "101-400"): (2, 1),
        ("101-400", ">400"): (1, 1),
    }


def test_categories_are_in_clinical_order_and_reasons_come_after_them(ledger: Ledger) -> None:
    scores = {">400": 900.0, "101-400": 200.0, "11-100": 50.0, "1-10": 5.0, "0": 0.0}
    ledger.commit_results([scored(n, scores[label]) for n, label in enumerate(reversed(LABELS), start=1)])
    failed = record(7, OLD, 1, status=ResultStatus.FAILED, reason="failed")
    outside = refused(8, "tin_filter", status=ResultStatus.OUT_OF_MODEL_RANGE)
    ledger.commit_results([failed, outside, refused(9, "noisy"), scored(10, 50.0, gated=False)])
    after = ["not evaluable: noisy", "out of model range: tin_filter", "failed", "no result"]
    assert compare(ledger).categories == (*LABELS, "agatston equivalent 11-100", *after)


def test_what_became_of_an_answer_and_the_other_way(ledger: Ledger) -> None:
    failed = record(3, NEW, 2, status=ResultStatus.FAILED, reason="failed")
    ledger.commit_results([scored(1, 5.0), refused(2, "noisy"), scored(3, 5.0)])
    ledger.commit_results([refused(1, "noisy", NEW, 2), scored(2, 7.0, NEW, 2), failed])
    found = compare(ledger)
    noisy = "not evaluable: noisy"
    assert table(found) == {("1-10", noisy): 1, (noisy, "1-10"): 1, ("1-10", "failed"): 1}
    assert found.edges == ()
    assert found.values == (), "no case has two numbers"


def test_a_scan_that_is_no_longer_taken_for_gated_changed_category(ledger: Ledger) -> None:
    ledger.commit_results([scored(1, 50.0)])
    ledger.commit_results([scored(1, 50.0, NEW, 2, gated=False)])
    found = compare(ledger)
    assert table(found) == {("11-100", "agatston equivalent 11-100"): 1}
    assert found.edges == (), "the two kinds of score have no edge between them"


def test_only_results_since_a_time(ledger: Ledger) -> None:
    ledger.commit_results([scored(1, 0.0), scored(2, 0.0)])
    ledger.commit_results([scored(1, 5.0, NEW, 3)])
    assert table(compare(ledger, since="2026-01-02T00:00:00.000+00:00")) == {("0", "1-10"): 1}


def test_a_change_taken_back_shows_the_way_back(ledger: Ledger) -> None:
    ledger.commit_results([scored(1, 0.0)])
    ledger.commit_results([scored(1, 5.0, NEW, 2)])
    ledger.restore({case_id("calcium", "1.2.1"): f"{OLD}-1"})
    found = compare(ledger)
    assert table(found) == {("1-10", "0"): 1}
    assert found.reasons == {"model heart-territories 9a8b7c→1f2e3d": 1}


def test_numbers_are_compared_as_bland_and_altman_do(ledger: Ledger) -> None:
    rng = random.Random(4)
    before = [round(rng.uniform(0, 500), 3) for _ in range(40)]
    after = [max(0.0, value + rng.gauss(5, 20)) for value in before[:-1]] + before[-1:]
    ledger.commit_results([scored(n, value) for n, value in enumerate(before)])
    ledger.commit_results([scored(n, value, NEW, 2) for n, value in enumerate(after)])
    (value,) = compare(ledger).values
    changes = [b - a for a, b in zip(before, after, strict=True)]
    assert (value.name, value.unit, value.n) == ("agatston_total", "1", 40)
    assert vars(value.limits) == pytest.approx(vars(limits_of_agreement(before, after)))
    assert (value.fell, value.unchanged, value.rose) == (
        sum(change < 0 for change in changes),
        1,
        sum(change > 0 for change in changes),
    )
    assert value.largest_rise == (case_id("calcium", f"1.2.{changes.index(max(changes))}"), max(changes))
    assert value.largest_fall == (case_id("calcium", f"1.2.{changes.index(min(changes))}"), min(changes))


def test_of_many_cases_only_some_are_named(ledger: Ledger) -> None:
    count = CASES_PER_CELL + 5
    ledger.commit_results([scored(n, 0.0) for n in range(count)])
    ledger.commit_results([scored(n, 5.0, NEW, 2) for n in range(count)])
    (cell,) = compare(ledger).cells
    assert (cell.n, len(cell.cases), cell.reasons) == (count, CASES_PER_CELL, {WHY: count})


def test_it_is_plain_json_without_nan(ledger: Ledger) -> None:
    ledger.commit_results([scored(1, 0.0)])
    ledger.commit_results([scored(1, 5.0, NEW, 2)])
    document = json.loads(json.dumps(compare(ledger).to_dict(), allow_nan=False))
    assert (document["moved"], document["replaced"], document["first"]) == (1, 1, 0)
    assert document["values"][0]["limits"] == {"bias": 5.0, "standard_deviation": None, "lower": None, "upper": None}
    assert document["cells"][0]["reasons"] == {WHY: 1}


def test_a_programme_without_categories_has_evaluated_and_not() -> None:
    assert category_of(scored(1, 5.0), MEAN.categories).label == "evaluated"
    assert category_of(None, MEAN.categories) is NO_RESULT


def test_an_empty_ledger_is_an_empty_table(ledger: Ledger) -> None:
    found = compare(ledger)
    assert (found.cells, found.categories, found.replaced) == ((), (), 0)
    assert "0 results of <b>calcium</b>" in render(found)


def render(found: Reclassification) -> str:
    environment = Environment(loader=PackageLoader("flows"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    return environment.get_template("reclassification.html").render(reclassification=reclassification_view(found))


def test_the_section_of_the_report_shows_the_table(ledger: Ledger) -> None:
    ledger.commit_results([scored(1, 0.0), scored(2, 5.0), scored(3, 90.0)])
    ledger.commit_results([scored(1, 0.0, NEW, 2), scored(2, 0.0, NEW, 2), scored(3, 120.0, NEW, 2)])
    page = render(compare(ledger))
    assert '<tr><th>1-10</th><td class="n off">1</td><td class="n "></td></tr>' in page
    assert "<td>11-100 and 101-400</td>" in page
    assert WHY in page
    assert case_id("calcium", "1.2.2") in page
    assert "nan" not in page


def test_the_section_escapes_what_programmes_name(ledger: Ledger) -> None:
    ledger.commit_results([scored(1, 5.0), scored(2, 5.0)])
    ledger.commit_results([refused(1, "<script>", NEW, 2), scored(2, 500.0, NEW, 2)])
    page = render(compare(ledger))
    assert "<script>" not in page
    assert "not evaluable: &lt;script&gt;" in page
    assert "&gt;400" in page


@pytest.mark.slow
def test_memory_does_not_grow_with_the_population(tmp_path: Path) -> None:
    peaks = [peak_bytes(tmp_path / f"{count}.sqlite", count) for count in (500, 4000)]
    # A page of 250 cases takes some 3 MB; all pairs at once would take eight times as much in the second ledger.
    assert peaks[1] < peaks[0] + 1_000_000


def peak_bytes(path: Path, count: int) -> int:
    with Ledger(path) as ledger:
        for model, day in ((OLD, 1), (NEW, 2)):
            ledger.commit_results([scored(n, float(n % 500), model, day) for n in range(count)])
        compare(ledger)
        tracemalloc.start()
        found = compare(ledger)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found.replaced == count
    return peak

"""Reasons of staleness: each change is named, nothing else is, and no reason speaks of a single case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.home import Home
from flows.plan import make_plan
from flows.programmes.programme import Programme
from flows.staleness import reasons
from ops.verdict import ResultStatus
from storage.ledger import Ledger
from storage.records import ResultRecord
from tasks.case import Case, Findings, result_of
from tasks.stage import Outcome
from tests.flows.mean_programme import PROGRAMME, add_study

LOAD, MEASURE, PUBLISH = PROGRAMME.stages
MODELS = {"heart": "1f2e3d" * 10}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "home")


@pytest.fixture
def ledger(home: Home) -> Iterator[Ledger]:
    with home.open_ledger() as ledger:
        yield ledger


def pending(ledger: Ledger, home: Home, programme: Programme = PROGRAMME) -> Case:
    (case,) = make_plan(ledger, programme, home.stores).cases
    return case


def kept(ledger: Ledger, case: Case) -> ResultRecord:
    """The result of a case as the ledger gives it back."""
    findings = Findings(ResultStatus.NOT_EVALUABLE, "too_bright")
    ledger.commit_results([result_of(Outcome(case, findings, None, {}, 1))])
    (record,) = ledger.results()
    return record


def refused(reason: str, fingerprint: str, **changes: Any) -> ResultRecord:
    fields = {"policy": dict(PROGRAMME.policy), **changes}
    return ResultRecord("mean-1", "mean", "1", "1.2", ResultStatus.NOT_EVALUABLE, fingerprint, reason=reason, **fields)


def evaluated(fingerprint: str, **changes: Any) -> ResultRecord:
    return refused("too_bright", fingerprint, **{"roles": {"ct": "1.2.1"}, "inputs": {"ct": "pixels"}, **changes})


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (replace(PROGRAMME, version="2"), ("programme 1→2",)),
        (replace(PROGRAMME, policy={"rounding": "up"}), ("policy rounding none→up",)),
        (replace(PROGRAMME, policy={"rounding": "none", "limit": 3.0}), ("policy limit added",)),
        (replace(PROGRAMME, policy={}), ("policy rounding removed",)),
        (replace(PROGRAMME, stages=(LOAD, replace(MEASURE, version="2"), PUBLISH)), ("stage measure 1→2",)),
        (
            replace(PROGRAMME, stages=(LOAD, replace(MEASURE, parameters={"scale": 2.5}), PUBLISH)),
            ("stage measure scale 1.0→2.5",),
        ),
        (
            replace(PROGRAMME, stages=(LOAD, MEASURE, replace(LOAD, name="draw"), PUBLISH)),
            ("stage draw added",),
        ),
        (replace(PROGRAMME, stages=(LOAD, PUBLISH)), ("stage measure removed",)),
        (replace(PROGRAMME, stages=(LOAD, PUBLISH, MEASURE)), ("stages in another order",)),
        (replace(PROGRAMME, version="2", policy={"rounding": "up"}), ("programme 1→2", "policy rounding none→up")),
    ],
    ids=lambda value: " and ".join(value) if isinstance(value, tuple) else "",
)
def test_a_changed_recipe_is_named(home: Home, ledger: Ledger, changed: Programme, expected: tuple[str, ...]) -> None:
    add_study(home, ledger, 1, age=60)
    record = kept(ledger, pending(ledger, home))
    assert reasons(record, pending(ledger, home, changed)) == expected


def test_an_option_inside_an_option_has_a_dotted_name() -> None:
    then = evaluated("a", policy={"score": {"edges": [1, 2], "rule": "x"}})
    now = evaluated("b", policy={"score": {"edges": [1, 3], "rule": "x"}})
    assert reasons(then, now) == ("policy score.edges [1,2]→[1,3]",)


def test_a_model_is_named_with_the_beginning_of_its_digests() -> None:
    then = evaluated("a", models={"heart": "1f2e3d4c5b", "lung": "ab"})
    now = evaluated("b", models={"heart": "9a8b7c6d5e", "liver": "cd"})
    assert reasons(then, now) == ("model heart 1f2e3d→9a8b7c", "model lung removed", "model liver added")


def test_the_same_recipe_and_study_have_no_reason(home: Home, ledger: Ledger) -> None:
    add_study(home, ledger, 1, age=60)
    case = pending(ledger, home)
    assert reasons(kept(ledger, case), case) == ()


def test_a_late_slice_is_an_input_and_not_a_fact(home: Home, ledger: Ledger) -> None:
    add_study(home, ledger, 1, age=60)
    record = kept(ledger, pending(ledger, home))
    add_study(home, ledger, 1, age=60, late="slice")
    assert reasons(record, pending(ledger, home)) == ("input ct changed",)


def test_facts_are_told_apart_from_whatever_else_changed(home: Home, ledger: Ledger) -> None:
    add_study(home, ledger, 1, age=60)
    record = kept(ledger, pending(ledger, home))
    add_study(home, ledger, 1, age=61)
    assert reasons(record, pending(ledger, home)) == ("header facts changed",)
    add_study(home, ledger, 1, age=61, late="slice")
    both = pending(ledger, home, replace(PROGRAMME, version="2"))
    assert reasons(record, both) == ("programme 1→2", "input ct changed", "header facts changed")


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (evaluated("b", inputs={"ct": "other"}), "input ct changed"),
        (evaluated("b", inputs={"ct": "other"}, roles={"ct": "1.2.9"}), "series chosen for ct changed"),
        (evaluated("b", inputs={"ct": "pixels", "pet": "p"}, roles={"ct": "1.2.1", "pet": "1.2.2"}), "input pet added"),
        (evaluated("b", inputs={}, roles={"pet": "1.2.2"}), "input ct removed"),
        (evaluated("b"), "header facts changed"),
        (refused("kvp_missing", "b"), "evaluable before, refused (kvp_missing) now"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_differs_between_two_results(present: ResultRecord, expected: str) -> None:
    assert reasons(evaluated("a"), present) == (expected,)


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (refused("no_kernel", "b"), "refused (kvp_missing) before, refused (no_kernel) now"),
        (refused("kvp_missing", "b"), "refused (kvp_missing) on other grounds"),
        (evaluated("b"), "refused (kvp_missing) before, evaluable now"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_became_of_a_refused_study(present: ResultRecord, expected: str) -> None:
    assert reasons(refused("kvp_missing", "a"), present) == (expected,)


def test_a_refused_study_that_became_evaluable_says_so_to_the_planner(home: Home, ledger: Ledger) -> None:
    add_study(home, ledger, 6, refused=True)
    (first,) = make_plan(ledger, PROGRAMME, home.stores).refused
    ledger.commit_results([first])
    add_study(home, ledger, 6)
    (record,) = ledger.results()
    assert reasons(record, pending(ledger, home)) == ("refused (no_eligible_series) before, evaluable now",)


def test_no_reason_speaks_of_a_single_case(home: Home, ledger: Ledger) -> None:
    add_study(home, ledger, 1, age=60)
    record = kept(ledger, pending(ledger, home))
    add_study(home, ledger, 1, age=61, late="slice")
    other = evaluated("b", roles={"ct": "1.2.9"}, inputs={"ct": "digest-other"})
    found = [*reasons(record, pending(ledger, home)), *reasons(record, other)]
    assert {"input ct changed", "header facts changed", "series chosen for ct changed"} <= set(found)
    assert not [reason for reason in found if "1.2." in reason or "digest-" in reason]

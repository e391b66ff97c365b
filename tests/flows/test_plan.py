"""The planner and the executor together, on a small programme: what is computed, and what is never computed twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from flows.home import Home
from flows.plan import ATTEMPTS, MissingModelError, Plan, make_plan
from flows.programmes.programme import Programme
from storage.ledger import Ledger
from storage.records import Measurement
from tasks.case import result_of
from tasks.stream import stream
from tests.flows.mean_programme import PROGRAMME, add_study


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "home")


@pytest.fixture
def ledger(home: Home) -> Iterator[Ledger]:
    with home.open_ledger() as ledger:
        yield ledger


def run(client: Client, home: Home, ledger: Ledger, programme: Programme = PROGRAMME) -> Plan:
    plan = make_plan(ledger, programme, home.stores)
    ledger.record_verdicts(plan.verdicts)
    ledger.commit_results(plan.refused)
    ledger.restore(plan.restored)
    commit = lambda lot: ledger.commit_results([result_of(outcome) for outcome in lot])  # noqa: E731
    stream(client, programme.stages, plan.cases, commit)
    return plan


def statuses(ledger: Ledger) -> dict[str, tuple[str, str | None]]:
    return {record.study_uid: (record.status.value, record.reason) for record in ledger.results("mean")}


def test_every_study_gets_exactly_one_result(client: Client, home: Home, ledger: Ledger) -> None:
    for number in range(1, 6):
        add_study(home, ledger, number)
    add_study(home, ledger, 6, refused=True)
    add_study(home, ledger, 7, broken=True)
    plan = run(client, home, ledger)
    assert statuses(ledger) == {
        "1.2.1": ("ok", None),
        "1.2.2": ("ok", None),
        "1.2.3": ("failed", "failed"),
        "1.2.4": ("not_evaluable", "too_bright"),
        "1.2.5": ("ok", None),
        "1.2.6": ("not_evaluable", "no_eligible_series"),
        "1.2.7": ("failed", "accept_failed"),
    }
    assert (len(plan.cases), len(plan.refused), dict(plan.counts)) == (5, 2, {"new": 7})
    assert len(ledger.verdicts("mean")) == 7, "every series has a verdict"


def test_a_result_carries_its_whole_provenance(client: Client, home: Home, ledger: Ledger) -> None:
    case = add_study(home, ledger, 5, age=61)
    run(client, home, ledger)
    result = ledger.result(case)
    assert result is not None
    assert result.measurements == [Measurement("mean", 5.0, "1")]
    assert (result.roles, result.inputs) == ({"ct": "1.2.5.1"}, {"ct": "digest-5-"})
    assert [stage["name"] for stage in result.stages] == ["load", "measure", "publish"]
    assert list(result.timings) == ["load", "measure", "publish"]
    assert (result.policy, result.flags, result.error) == ({"rounding": "none"}, ["tiny"], None)
    (key,) = result.pictures
    assert home.objects.read(key) == b"5.0"


def test_a_failure_is_recorded_with_its_traceback(client: Client, home: Home, ledger: Ledger) -> None:
    case = add_study(home, ledger, 3)
    run(client, home, ledger)
    result = ledger.result(case)
    assert result is not None
    assert result.error is not None
    assert (result.error["class"], result.error["message"]) == ("ValueError", "cannot bear three")
    assert "in measure" in result.error["traceback"]
    assert result.measurements == []


def test_a_second_run_computes_nothing(client: Client, home: Home, ledger: Ledger) -> None:
    for number in (1, 2, 4):
        add_study(home, ledger, number)
    add_study(home, ledger, 6, refused=True)
    run(client, home, ledger)
    before = ledger.results("mean")
    plan = run(client, home, ledger)
    assert (plan.cases, plan.refused, dict(plan.counts)) == ((), (), {"unchanged": 4})
    assert str(plan) == "mean: 0 to compute, 0 refused (4 unchanged)"
    assert ledger.results("mean") == before


def test_only_what_changed_is_computed_again(client: Client, home: Home, ledger: Ledger) -> None:
    for number in (1, 2):
        add_study(home, ledger, number)
    run(client, home, ledger)
    changed = add_study(home, ledger, 2, late="slice")
    new = add_study(home, ledger, 5)
    plan = run(client, home, ledger)
    assert {case.case_id for case in plan.cases} == {changed, new}
    assert dict(plan.counts) == {"unchanged": 1, "stale": 1, "new": 1}
    assert len(ledger.history(changed)) == 2


@pytest.mark.parametrize(
    "changed",
    [
        replace(PROGRAMME, version="2"),
        replace(PROGRAMME, policy={"rounding": "up"}),
        replace(
            PROGRAMME, stages=(PROGRAMME.stages[0], replace(PROGRAMME.stages[1], version="2"), PROGRAMME.stages[2])
        ),
        replace(
            PROGRAMME,
            stages=(PROGRAMME.stages[0], replace(PROGRAMME.stages[1], parameters={"scale": 2.0}), PROGRAMME.stages[2]),
        ),
    ],
    ids=["programme version", "policy", "stage version", "stage parameter"],
)
def test_whatever_a_result_depends_on_makes_it_stale(home: Home, ledger: Ledger, changed: Programme) -> None:
    add_study(home, ledger, 1)
    (before,) = make_plan(ledger, PROGRAMME, home.stores).cases
    (after,) = make_plan(ledger, changed, home.stores).cases
    assert before.case_id == after.case_id
    assert before.fingerprint != after.fingerprint


def test_a_change_that_is_taken_back_costs_nothing(client: Client, home: Home, ledger: Ledger) -> None:
    case = add_study(home, ledger, 1)
    add_study(home, ledger, 6, refused=True)
    run(client, home, ledger)
    first = ledger.results("mean")
    other = replace(PROGRAMME, policy={"rounding": "up"})
    assert dict(run(client, home, ledger, other).counts) == {"stale": 2}
    plan = run(client, home, ledger)
    assert (plan.cases, plan.refused, dict(plan.counts)) == ((), (), {"restored": 2})
    assert ledger.results("mean") == first
    assert len(ledger.history(case)) == 2


def test_a_header_fact_makes_a_result_stale_and_a_place_does_not(home: Home, ledger: Ledger, tmp_path: Path) -> None:
    add_study(home, ledger, 1, age=60)
    (before,) = make_plan(ledger, PROGRAMME, home.stores).cases
    elsewhere = replace(home.stores, objects=Home.at(tmp_path / "other").stores.objects)
    (moved,) = make_plan(ledger, PROGRAMME, elsewhere).cases
    assert moved.fingerprint == before.fingerprint
    add_study(home, ledger, 1, age=61)
    (after,) = make_plan(ledger, PROGRAMME, home.stores).cases
    assert after.fingerprint != before.fingerprint


def test_a_failing_case_is_tried_again_until_it_is_quarantined(client: Client, home: Home, ledger: Ledger) -> None:
    case = add_study(home, ledger, 3)
    add_study(home, ledger, 7, broken=True)
    needs = [sorted(run(client, home, ledger).counts.elements()) for _ in range(4)]
    assert needs == [["new"] * 2, ["retried"] * 2, ["retried"] * 2, ["quarantined"] * 2]
    result = ledger.result(case)
    assert result is not None
    assert result.attempts == 3


def test_quarantined_cases_are_tried_again_when_asked(client: Client, home: Home, ledger: Ledger) -> None:
    add_study(home, ledger, 3)
    for _ in range(ATTEMPTS):
        run(client, home, ledger)
    assert not make_plan(ledger, PROGRAMME, home.stores).cases
    plan = make_plan(ledger, PROGRAMME, home.stores, retry_quarantined=True)
    assert (len(plan.cases), dict(plan.counts)) == (1, {"retried": 1})


def test_an_outage_quarantines_nothing(client: Client, home: Home, ledger: Ledger, tmp_path: Path) -> None:
    case = add_study(home, ledger, 1)
    volumes, away = tmp_path / "home" / "volumes", tmp_path / "unmounted"
    volumes.rename(away)
    volumes.write_text("where the store was")  # reading below a file is an OSError, as on a lost mount
    for _ in range(ATTEMPTS + 1):
        plan = run(client, home, ledger)
        assert len(plan.cases) == 1
    result = ledger.result(case)
    assert result is not None
    assert (result.status.value, result.attempts) == ("failed", 1)
    volumes.unlink()
    away.rename(volumes)
    run(client, home, ledger)
    assert statuses(ledger) == {"1.2.1": ("ok", None)}


def test_a_missing_model_is_an_error_before_anything_runs(home: Home, ledger: Ledger) -> None:
    with pytest.raises(MissingModelError, match="needs the model 'oracle'"):
        make_plan(ledger, replace(PROGRAMME, models=("oracle",)), home.stores)

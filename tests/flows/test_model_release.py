"""A model is released and withdrawn: exactly the results that depend on it go stale, and come back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flows.home import Home
from flows.plan import Plan, make_plan, make_recipe
from flows.programmes.programme import Programme
from flows.reclassification import reclassification
from ops.verdict import ResultStatus
from storage.ledger import Ledger
from storage.models import ModelBundle, list_bundles, load_bundle
from storage.records import Measurement
from storage.releases import release_bundle, withdraw_bundle
from tasks.case import Findings, result_of
from tasks.stage import Outcome
from tests.flows.mean_programme import PROGRAMME, add_study

SHIPPED = load_bundle(list_bundles()[-1])
RELEASED = ModelBundle(SHIPPED.manifest.model_copy(update={"version": "99.0.0"}), SHIPPED.weights)
WHY = f"model heart-territories {SHIPPED.digest[:6]}→{RELEASED.digest[:6]}"


def renamed(name: str, *models: str) -> Programme:
    def accept(series, verdicts, policy):  # type: ignore[no-untyped-def]
        selection = PROGRAMME.accept(series, verdicts, policy)
        return replace(selection, verdicts=[replace(v, programme=name) for v in selection.verdicts])

    return replace(PROGRAMME, name=name, accept=accept, models=models)


WITH_MODEL, WITHOUT = renamed("located", "heart-territories"), renamed("plain")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "home")


@pytest.fixture
def ledger(home: Home) -> Iterator[Ledger]:
    with home.open_ledger() as ledger:
        for number in (1, 2):
            add_study(home, ledger, number)
        yield ledger


def compute(ledger: Ledger, home: Home, programme: Programme, mean: float = 1.0) -> Plan:
    """Plan, and commit an answer for whatever is to be computed."""
    plan = make_plan(ledger, programme, home.stores)
    findings = Findings(ResultStatus.OK, measurements=(Measurement("mean", mean, "1"),))
    ledger.commit_results([result_of(Outcome(case, findings, None, {"load": 1.0}, 1)) for case in plan.cases])
    ledger.restore(plan.restored)
    return plan


def test_a_release_makes_stale_exactly_what_uses_the_model_and_a_withdrawal_restores_it(
    home: Home, ledger: Ledger
) -> None:
    for programme in (WITH_MODEL, WITHOUT):
        assert dict(compute(ledger, home, programme).counts) == {"new": 2}
    before = ledger.results("located")

    release_bundle(RELEASED, home.stores.models)
    changed, untouched = (compute(ledger, home, programme, 3.0) for programme in (WITH_MODEL, WITHOUT))
    assert (dict(changed.counts), dict(changed.reasons)) == ({"stale": 2}, {WHY: 2})
    assert (dict(untouched.counts), dict(untouched.reasons)) == ({"unchanged": 2}, {})
    found = reclassification(ledger, replace(WITH_MODEL, charted={"mean": "linear"}))
    assert (found.replaced, found.reasons) == (2, {WHY: 2})
    assert [(value.name, value.limits.bias) for value in found.values] == [("mean", 2.0)]

    withdraw_bundle(RELEASED.manifest.folder, home.stores.models)
    back = compute(ledger, home, WITH_MODEL)
    assert (dict(back.counts), back.cases) == ({"restored": 2}, ())
    assert ledger.results("located") == before


def test_a_recipe_pins_the_newest_version(home: Home) -> None:
    assert make_recipe(WITH_MODEL, home.stores).models == {"heart-territories": SHIPPED.digest}
    release_bundle(RELEASED, home.stores.models)
    assert make_recipe(WITH_MODEL, home.stores).models == {"heart-territories": RELEASED.digest}
    assert make_recipe(WITHOUT, home.stores).models == {}

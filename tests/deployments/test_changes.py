"""Plan, model release and reclassification through the command, with the real programme and network."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deployments.pidfile import claimed
from storage.models import ModelBundle, list_bundles, load_bundle, write_bundle
from tests.deployments.conftest import Popscan, run_popscan
from tests.deployments.installation import free_ports

SHIPPED = load_bundle(list_bundles()[-1])
NEXT = "heart-territories-99.0.0"


def next_bundle(folder: Path, weights: bytes = SHIPPED.weights) -> Path:
    """The shipped network (or other weights) under a version of the future."""
    changes = {"version": "99.0.0", "sha256": hashlib.sha256(weights).hexdigest()}
    return write_bundle(folder, ModelBundle(SHIPPED.manifest.model_copy(update=changes), weights))


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_empty_home_has_nothing_to_compute_and_no_forecast(popscan: Popscan) -> None:
    (plan,) = document(popscan("plan", "--programme", "calcium", "--json"))["plans"]
    assert (plan["programme"], plan["studies"], plan["to_compute"]) == ("calcium", 0, 0)
    assert (plan["forecast"], plan["cost"]) == (None, None)
    assert "Nothing is to be computed." in popscan("plan").stdout
    found = document(popscan("reclassification", "--programme", "calcium", "--json"))
    assert (found["replaced"], found["cells"]) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--programme", "astrology"], "unknown programme"),
        (["reclassification", "--programme", "astrology"], "unknown programme"),
        (["reclassification", "--programme", "calcium", "--since", "yesterday"], "--since yesterday: not a date"),
        (["models", "release", "/no/such/folder"], "no model bundle at /no/such/folder"),
        (["models", "withdraw", NEXT], "is not among the models released"),
        (["models", "withdraw", SHIPPED.manifest.folder], "is not among the models released"),
    ],
)
def test_what_cannot_be_done_is_said(popscan: Popscan, arguments: list[str], message: str) -> None:
    done = popscan(*arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_model_that_does_not_run_is_not_released(popscan: Popscan, tmp_path: Path) -> None:
    done = popscan("models", "release", next_bundle(tmp_path, b"not a network"))
    assert done.returncode == 1
    assert f"{NEXT} cannot be run" in done.stderr
    assert not (tmp_path / "home" / "models").exists()


def test_released_models_are_listed_verified_and_withdrawn(popscan: Popscan, tmp_path: Path) -> None:
    bundle = next_bundle(tmp_path)
    assert "is released" in popscan("models", "release", bundle).stdout
    listed = popscan("models", "list").stdout
    assert NEXT in listed
    assert SHIPPED.manifest.folder in listed
    assert f"{NEXT}: ok" in popscan("models", "verify").stdout
    (tmp_path / "home" / "models" / NEXT / SHIPPED.manifest.file).write_bytes(b"damaged")
    damaged = popscan("models", "verify")
    assert damaged.returncode == 1
    assert f"{NEXT}: model {NEXT}: {SHIPPED.manifest.file} has sha256" in damaged.stdout
    assert f"{SHIPPED.manifest.folder} is used from now on" in popscan("models", "withdraw", NEXT).stdout
    assert NEXT not in popscan("models", "list").stdout


def test_a_release_is_told_to_the_server_of_whoever_is_up_in_the_home(tmp_path: Path) -> None:
    home, (port,) = tmp_path / "home", free_ports(1)
    home.mkdir()
    with claimed(home):
        done = run_popscan(home, "models", "release", next_bundle(tmp_path), POPSCAN_PREFECT_PORT=str(port))
    assert done.returncode == 0
    assert f"Unable to connect to 'ws://127.0.0.1:{port}/api/events/in'" in done.stderr, "nobody listens there"


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which two simulated participants were screened."""
    folder = tmp_path_factory.mktemp("release")
    simulated = run_popscan(folder / "home", "simulate", folder / "dicom", "--participants", "2", "--seed", "11")
    assert simulated.returncode == 0, simulated.stderr
    screened = run_popscan(folder / "home", "screen", folder / "dicom", "--programme", "calcium", "--json")
    assert screened.returncode == 0, screened.stderr
    return folder / "home"


def plan_of(home: Path, **environment: str) -> dict[str, Any]:
    (plan,) = document(run_popscan(home, "plan", "--programme", "calcium", "--json", **environment))["plans"]
    return plan


def current(home: Path) -> dict[str, dict[str, Any]]:
    rows = document(run_popscan(home, "results", "--json"))["results"]
    return {row["case"]: {"value": row["measurements"], "model": row["models"]} for row in rows}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_release_makes_stale_what_used_the_model_and_withdrawing_it_restores_it(screened: Path) -> None:
    first = current(screened)
    assert plan_of(screened)["counts"] == {"unchanged": 2}

    assert run_popscan(screened, "models", "release", next_bundle(screened.parent)).returncode == 0
    plan = plan_of(screened, POPSCAN_CPU_HOUR_COST="0.5", POPSCAN_GPU_HOUR_COST="4")
    released = load_bundle(screened / "models" / NEXT)
    why = f"model heart-territories {SHIPPED.digest[:6]}→{released.digest[:6]}"
    assert (plan["counts"], plan["to_compute"], plan["stale_because"]) == ({"stale": 2}, 2, {why: 2})
    assert plan["forecast"]["hours"]["gpu"]["expected"] > 0
    assert plan["forecast"]["hours"]["cpu"]["expected"] > 0
    assert plan["cost"]["expected"] > 0
    assert current(screened) == first, "a plan computes nothing"

    done = run_popscan(screened, "screen", "--programme", "calcium", "--json")
    assert document(done)["computed"] == 2
    second = current(screened)
    assert {row["model"]["heart-territories"] for row in second.values()} == {released.digest}
    found = document(run_popscan(screened, "reclassification", "--programme", "calcium", "--json"))
    assert (found["replaced"], found["moved"], found["reasons"]) == (2, 0, {why: 2})
    total = next(value for value in found["values"] if value["name"] == "heart_ml")
    assert (total["n"], total["unchanged"], total["limits"]["bias"]) == (2, 2, 0.0), "the same weights"

    assert run_popscan(screened, "models", "withdraw", NEXT).returncode == 0
    assert plan_of(screened)["counts"] == {"restored": 2}
    assert document(run_popscan(screened, "screen", "--programme", "calcium", "--json"))["computed"] == 0
    assert current(screened) == first

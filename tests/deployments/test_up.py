"""Everything together, as a screening programme has it: what is dropped is screened, and what changes is found."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from storage.models import list_bundles, load_bundle, write_bundle
from storage.records import case_id
from tasks.simulate import simulate_study
from tests.deployments.installation import Installation, installed, seconds_between

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SEED = 5


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three simulated participants: StudyInstanceUID → folder."""
    out = tmp_path_factory.mktemp("cohort")
    return {simulate_study(out, index, SEED)[0]: out / f"participant-{index:04d}" for index in range(3)}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("up") / "home") as installation:
        yield installation


def events(up: Installation, name: str) -> list[dict[str, Any]]:
    found = up.post("/events/filter", filter={"event": {"name": [name]}}, limit=50)
    return sorted(found["events"], key=lambda event: event["occurred"])


def test_from_the_drop_folder_to_results(up: Installation, cohort: dict[str, Path]) -> None:
    dropped = time.time()
    studies = list(cohort)
    for uid in studies[:2]:
        up.drop(cohort[uid], cohort[uid].name)
    up.until(lambda: len(up.results("calcium")) == 2, 300)
    (screened, *_) = up.until(lambda: up.finished("screen calcium", 1), 120)
    assert {record.status.value for record in up.results("calcium").values()} == {"ok"}
    (ingested, *_) = up.finished("ingest", 1) or []
    settled, told = events(up, "popscan.study.settled"), events(up, "popscan.study.ingested")
    steps = {
        "dropped → settled event (quiet time 2 s)": seconds_between(_iso(dropped), settled[0]["occurred"]),
        "settled event → ingest runs": seconds_between(settled[0]["occurred"], ingested["start_time"]),
        "ingest runs → ingested event": seconds_between(ingested["start_time"], told[0]["occurred"]),
        "ingested event → screen runs": seconds_between(told[0]["occurred"], screened["start_time"]),
        "screen runs, first canaries simulated": seconds_between(screened["start_time"], screened["end_time"]),
    }
    print(*(f"{seconds:6.1f} s  {step}" for step, seconds in steps.items()), sep="\n")
    assert ", 0 failed; all results: " in screened["state"]["message"]
    assert {
        key for key in ("progress", "results", "refusals", "highest", "report", "canaries") if not shown(up, key)
    } == set()
    assert shown(up, "progress")["data"] == 100.0
    assert "cases/s" in shown(up, "progress")["description"]
    assert all(row["verdict"] == "as expected" for row in json.loads(shown(up, "canaries")["data"]))


def shown(up: Installation, key: str) -> dict[str, Any]:
    return up.artifact(f"screen-calcium-{key}") or {}


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f"{seconds % 1:.3f}"[1:] + "+00:00"


def test_nothing_in_prefect_names_a_study_or_a_folder(up: Installation, cohort: dict[str, Path]) -> None:
    everything = json.dumps([up.runs(), up.post("/artifacts/filter"), up.post("/events/filter", filter={})])
    logs = json.dumps(up.post("/logs/filter", limit=200))
    for secret in (*cohort, str(up.home.root / "inbox"), "participant-"):
        assert secret not in everything
        assert secret not in logs


def test_the_schedule_is_kept(up: Installation) -> None:
    deployment = up.get("/deployments/name/screen/calcium")
    waiting = up.post(
        "/flow_runs/filter",
        deployments={"id": {"any_": [deployment["id"]]}},
        flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}},
    )
    starts = {run["expected_start_time"][11:16] for run in waiting if run["auto_scheduled"]}
    assert starts == {"02:00"}, "the scheduler dies silently with versions that do not go together"


def test_a_late_slice_makes_exactly_its_case_stale(up: Installation, cohort: dict[str, Path], tmp_path: Path) -> None:
    _, _, uid = cohort
    late = next(path for path in sorted(cohort[uid].rglob("*")) if path.is_file())
    kept = tmp_path / late.name
    shutil.copy(late, kept)
    before = up.results("calcium")
    partial = tmp_path / "partial"
    shutil.copytree(cohort[uid], partial, ignore=lambda _folder, names: [name for name in names if name == late.name])
    up.drop(partial, "late")
    case = case_id("calcium", uid)
    first = up.until(lambda: up.results("calcium").get(case), 120)
    up.until(lambda: not up.runs("Running", "Pending", "AwaitingConcurrencySlot"), 120)
    shutil.copy(kept, up.home.root / "inbox" / "late" / late.name)
    second = up.until(lambda: (now := up.results("calcium")[case]).fingerprint != first.fingerprint and now, 180)
    assert (first.status.value, second.status.value) == ("not_evaluable", "ok")
    assert {other: record for other, record in up.results("calcium").items() if other != case} == before
    with up.home.open_ledger() as ledger:
        assert [record.fingerprint for record in ledger.history(case)] == [first.fingerprint, second.fingerprint]


def test_a_released_model_recomputes_what_used_it(up: Installation, tmp_path: Path) -> None:
    before = up.results("calcium")
    shipped = load_bundle(list_bundles()[-1])
    newer = replace(shipped, manifest=shipped.manifest.model_copy(update={"version": "9.9.9"}))
    released = time.time()
    up.popscan("models", "release", str(write_bundle(tmp_path, newer)))
    up.until(lambda: {r.models["heart-territories"] for r in up.results("calcium").values()} == {newer.digest}, 240)
    summary = "3 results replaced earlier ones, 0 changed category"
    up.until(lambda: (up.artifact("reprocess-calcium-reclassification") or {}).get("data") == summary, 120)
    *_, run = up.until(lambda: up.finished("reprocess calcium", 1), 120)
    print(f"{seconds_between(_iso(released), run['start_time']):6.1f} s  model released → reprocess runs")
    print(f"{seconds_between(run['start_time'], run['end_time']):6.1f} s  reprocess runs")
    with up.home.open_ledger() as ledger:
        for case, record in before.items():
            assert ledger.history(case)[-2] == record, "the earlier result stays readable"
    assert "heart-territories" in up.popscan("reclassification", "--programme", "calcium")


def test_what_events_missed_the_sweep_finds(up: Installation, tmp_path: Path) -> None:
    up.until(lambda: not up.runs("Running", "Pending", "AwaitingConcurrencySlot"), 120)
    uid, _ = simulate_study(tmp_path, 3, SEED)
    up.enable_automations(False)
    try:
        ingests = len(up.finished("ingest", 0) or [])
        up.drop(tmp_path / "participant-0003", "unheard")
        up.until(lambda: len(events(up, "popscan.study.settled")) >= 5, 60)
        time.sleep(10)
        assert len(up.finished("ingest", 0) or []) == ingests, "the event was lost on purpose"
        up.run_deployment("sweep/sweep")
        up.until(lambda: up.finished("ingest", ingests + 1), 120)
        up.run_deployment("sweep/sweep")
        up.until(lambda: case_id("calcium", uid) in up.results("calcium"), 240)
    finally:
        up.enable_automations(True)


def test_it_starts_no_server_but_its_own(up: Installation) -> None:
    assert "temporary server" not in up.log.read_text()


def test_it_stops_in_order_and_leaves_nothing_behind(up: Installation) -> None:
    assert "Everything is down." in up.popscan("down")
    for page in up.pages.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(page.rsplit(":", 1)[1]))) != 0
    deadline = time.monotonic() + 30  # it has let go of its home and still has to end itself
    while (left := processes_of(up)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


def processes_of(up: Installation) -> list[str]:
    """Command lines of the processes that belong to an installation."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("POPSCAN_HOME") == str(up.home.root) and process.pid != os.getpid():
                found.append(" ".join(process.cmdline()))
    return found

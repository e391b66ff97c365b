"""Canaries of the real calcium programme on a Dask cluster: sound ones pass, and what is broken is noticed."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from prefect import flow
from prefect.client.orchestration import get_client

from flows.canary import (
    LAST_RUN,
    MADE,
    CanariesFailedError,
    CanaryCase,
    canary_home,
    canary_rows,
    check_canaries,
    run_canaries,
)
from flows.home import Home
from flows.programmes.calcium import PROGRAMME, accept, score
from flows.programmes.calcium_canaries import CANARIES, LOG_TOLERANCE, judge
from flows.programmes.programme import Programme, Selection
from ops.dicom.assemble import build_volume
from ops.volume import Volume
from storage.records import SeriesRecord, VerdictRecord
from tasks.case import Work
from tasks.infer import locate_heart
from tests.flows.mean_programme import PROGRAMME as MEAN

ONE = replace(CANARIES, participants={"zero": CANARIES.participants["zero"]})


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Home:
    """A home whose canaries have been run once; every test leaves them as they are."""
    home = Home.at(tmp_path_factory.mktemp("canaries"))
    began = time.perf_counter()
    report = run_canaries(client, home, PROGRAMME)
    print(f"\ncanaries made and run in {time.perf_counter() - began:.1f} s: {canary_rows(report)}")
    assert report.passed, canary_rows(report)
    return home


def with_stage(name: str, function: Callable[..., Any], programme: Programme = PROGRAMME) -> Programme:
    """The programme as a broken worker runs it: another function under the same name, version and fingerprint."""
    stages = [replace(stage, function=function) if stage.name == name else stage for stage in programme.stages]
    return replace(programme, stages=tuple(stages))


def run(client: Client, home: Home, programme: Programme = PROGRAMME) -> dict[str, CanaryCase]:
    return {case.name: case for case in run_canaries(client, home, programme).cases}


def scaled(work: Work, factor: float) -> Work:
    done = score(work)
    assert done.findings is not None
    measurements = [
        replace(m, value=m.value * factor) if m.name == "agatston_total" and isinstance(m.value, float) else m
        for m in done.findings.measurements
    ]
    return replace(done, findings=replace(done.findings, measurements=tuple(measurements)))


def doubled(work: Work) -> Work:
    return scaled(work, 2.0)


def drifted(work: Work) -> Work:
    return scaled(work, 1.0002)


def within_rounding(work: Work) -> Work:
    return scaled(work, 1.00005)


def find_nothing(work: Work) -> Work:
    found = locate_heart(work)
    territories = found.labels["territories"]
    empty = replace(territories, voxels=np.zeros_like(territories.voxels))
    return replace(found, labels={"territories": empty}, found={"heart": replace(found.found["heart"], heart_ml=0.0)})


def out_of_order(_work: Work) -> Work:
    raise RuntimeError("no kernel image is available for execution on the device /dev/nvidia0")


@pytest.mark.slow
def test_nothing_of_the_canaries_is_in_the_ledger_or_the_store_of_the_participants(home: Home) -> None:
    assert [path.name for path in home.root.iterdir()] == ["canaries"]
    with home.open_ledger() as ledger:
        assert (ledger.studies(), ledger.results()) == ([], [])
    with canary_home(home, PROGRAMME).open_ledger() as ledger:
        assert len(ledger.studies()) == len(ledger.results("calcium")) == len(CANARIES.participants)
    for path in home.root.glob("ledger.sqlite*"):
        path.unlink()


@pytest.mark.slow
def test_later_runs_compute_afresh_from_the_same_volumes(home: Home, client: Client) -> None:
    def written() -> dict[Path, int]:
        place = canary_home(home, PROGRAMME).root
        return {path: path.stat().st_mtime_ns for kind in ("dicom", "volumes") for path in (place / kind).rglob("*")}

    before, began = written(), time.perf_counter()
    cases = run(client, home)
    print(f"\ncanaries run again in {time.perf_counter() - began:.1f} s")
    assert written() == before
    assert len(before) > 100
    assert {name: case.problem for name, case in cases.items()} == {"zero": None, "mid": None, "high": None}
    assert (cases["zero"].expected, cases["zero"].found) == (0.0, 0.0)
    assert 101 <= cases["mid"].expected <= 400 < cases["high"].expected
    assert all(case.seconds > 0.05 for case in cases.values()), "computed, not looked up"


@pytest.mark.slow
def test_doubled_scores_are_noticed_with_both_values(home: Home, client: Client) -> None:
    cases = run(client, home, with_stage("score", doubled))
    assert cases["zero"].problem is None
    for name, reason in (("mid", "category >400 in place of 101-400"), ("high", "log(1 + score) is off by +0.6")):
        assert re.match(rf"agatston_total expected [\d.]+, found [\d.]+: {re.escape(reason)}", str(cases[name].problem))
    assert all(case.problem is None for case in run(client, home).values()), "what was wrong is no first result"


@pytest.mark.slow
def test_a_model_that_finds_nothing_is_noticed_even_where_there_is_nothing(home: Home, client: Client) -> None:
    cases = run(client, home, with_stage("locate", find_nothing))
    assert [case.found for case in cases.values()] == [None, None, None]
    assert "agatston_total expected 0, found no number: not_evaluable, " in str(cases["zero"].problem)


@pytest.mark.slow
def test_a_stage_that_raises_is_noticed_and_its_message_stays_out_of_prefect(home: Home, client: Client) -> None:
    report = run_canaries(client, home, with_stage("locate", out_of_order))
    assert not report.passed
    rows = canary_rows(report)
    assert {row["found"] for row in rows} == {"none"}
    assert all("found no number: failed with RuntimeError" in row["verdict"] for row in rows)
    assert "nvidia0" not in json.dumps(rows)
    told = json.loads((canary_home(home, PROGRAMME).root / LAST_RUN).read_text())
    assert all("nvidia0" in entry["error"]["traceback"] for entry in told)


@pytest.mark.slow
def test_a_number_that_is_no_longer_what_it_was_is_noticed_although_it_is_near_the_truth(
    home: Home, client: Client
) -> None:
    cases = run(client, home, with_stage("score", drifted))
    assert cases["mid"].found is not None
    first = cases["mid"].found / 1.0002
    assert f"was {first:.6g} at first with the same fingerprint" in str(cases["mid"].problem)
    assert all(case.problem is None for case in run(client, home, with_stage("score", within_rounding)).values())


@pytest.mark.slow
def test_a_decoder_that_is_off_by_one_is_noticed(home: Home, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one(*arguments: Any) -> Volume:
        volume = build_volume(*arguments)
        return replace(volume, voxels=volume.voxels + volume.voxels.dtype.type(1))

    monkeypatch.setattr("tasks.ingest.build_volume", off_by_one)
    assert all(
        "the DICOM of ct decodes to voxels of digest" in str(case.problem) for case in run(client, home).values()
    )


@pytest.mark.slow
def test_canaries_that_the_programme_does_not_accept_are_noticed(home: Home, client: Client) -> None:
    def refuse(series: Sequence[SeriesRecord], verdicts: Sequence[VerdictRecord], policy: Any) -> Selection:
        return Selection(accept(series, verdicts, policy).verdicts, reason="wrong_modality", detail="not CT")

    cases = run(client, home, replace(PROGRAMME, accept=refuse))
    assert all("found no number: not_evaluable, wrong_modality" in str(case.problem) for case in cases.values())


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_flow_shows_the_table_and_fails_without_naming_studies_or_files(home: Home, client: Client) -> None:
    @flow(name="screen-like", validate_parameters=False)
    def checked(programme: Programme) -> None:
        check_canaries(client.scheduler_info()["address"], home, programme)

    checked(PROGRAMME)
    with pytest.raises(CanariesFailedError, match=r"mid: agatston_total expected .*canaries/calcium-2026") as error:
        checked(with_stage("score", doubled))
    with get_client(sync_client=True) as server:
        shown = [artifact for artifact in server.read_artifacts() if artifact.key == "screen-calcium-canaries"]
    assert len(shown) == 2
    newest = max(shown, key=lambda artifact: artifact.created)
    rows = json.loads(str(newest.data))
    assert [row["canary"] for row in rows] == ["zero", "mid", "high"]
    with canary_home(home, PROGRAMME).open_ledger() as ledger:
        hidden = [str(home.root), *ledger.studies()]
    assert not [text for text in hidden if text in f"{newest.data} {error.value}"]


@pytest.mark.slow
def test_a_half_made_set_is_made_anew_and_two_runs_at_once_make_it_once(tmp_path: Path, client: Client) -> None:
    made: list[int] = []

    def simulate(folder: Path, index: int, seed: int) -> tuple[str, Mapping[str, Any]]:
        made.append(index)
        return CANARIES.simulate(folder, index, seed)

    home, programme = Home.at(tmp_path), replace(PROGRAMME, canaries=replace(ONE, simulate=simulate))
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: run_canaries(client, home, programme), range(2)))
    assert all(report.passed for report in reports)
    assert len(made) == 1

    place = canary_home(home, programme).root
    (place / MADE).unlink()
    slices = sorted(path for path in (place / "dicom").rglob("*") if path.is_file())
    for path in slices[: len(slices) // 2]:
        path.unlink()
    assert run_canaries(client, home, programme).passed
    assert len(made) == 2


@pytest.mark.slow
def test_a_canary_whose_slices_were_deleted_is_noticed(tmp_path: Path, client: Client) -> None:
    home, programme = Home.at(tmp_path), replace(PROGRAMME, canaries=ONE)
    assert run_canaries(client, home, programme).passed
    for path in (canary_home(home, programme).root / "dicom").rglob("*"):
        if path.is_file():
            path.unlink()
    (case,) = run_canaries(client, home, programme).cases
    assert "the DICOM of ct decodes to nothing" in str(case.problem)


def test_a_canary_that_left_no_study_is_missing_and_not_passed(tmp_path: Path, client: Client) -> None:
    def simulate(folder: Path, index: int, seed: int) -> tuple[str, Mapping[str, Any]]:
        folder.mkdir(parents=True)
        return "1.2.3", {"agatston": {"total": 7.0}}

    report = run_canaries(client, Home.at(tmp_path), replace(PROGRAMME, canaries=replace(ONE, simulate=simulate)))
    assert not report.passed
    assert "agatston_total expected 7, found no number: its study is not in the canary" in str(report.cases[0].problem)
    assert canary_rows(report)[0]["canary"] == "zero"


def test_a_programme_without_canaries_says_so(tmp_path: Path, client: Client) -> None:
    with pytest.raises(ValueError, match="programme mean declares no canaries"):
        run_canaries(client, Home.at(tmp_path), MEAN)
    check_canaries("tcp://127.0.0.1:1", Home.at(tmp_path), MEAN)
    assert list(tmp_path.iterdir()) == []


def test_volumes_of_canaries_lie_apart_in_the_store_of_the_participants(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home", "postgresql+psycopg://server/ledger", "s3://bucket/prefix/")
    place = canary_home(home, PROGRAMME)
    assert place.stores.volumes.url == "s3://bucket/prefix/canaries/calcium-2026/volumes"
    assert place.ledger_place == str(tmp_path / "home" / "canaries" / "calcium-2026" / "ledger.sqlite")


TRUE = 200.0
HIGHEST = (TRUE + 1) * math.exp(LOG_TOLERANCE) - 1
LOWEST = (TRUE + 1) * math.exp(-LOG_TOLERANCE) - 1


@pytest.mark.parametrize(
    ("expected", "found", "problem"),
    [
        (0.0, 0.0, None),
        (0.0, 0.01, "category 1-10 in place of 0"),
        (5.0, 0.0, "category 0 in place of 1-10"),
        (390.0, 401.0, "category >400 in place of 101-400"),
        (TRUE, HIGHEST - 0.5, None),
        (TRUE, HIGHEST + 0.5, "log(1 + score) is off by +0.50, tolerated is 0.5"),
        (TRUE, LOWEST + 0.5, None),
        (TRUE, LOWEST - 0.5, "log(1 + score) is off by -0.50, tolerated is 0.5"),
        (1000.0, 500.0, "log(1 + score) is off by -0.69, tolerated is 0.5"),
    ],
)
def test_calcium_is_judged_by_category_and_by_the_ratio(expected: float, found: float, problem: str | None) -> None:
    assert judge(expected, found) == problem

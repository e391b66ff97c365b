"""What people see: numbers read off Prefect's pages and the report in a real browser are those of the ledger.

With ``POPSCAN_SCREENSHOTS=docs/screenshots`` in the environment they make the documentation's pictures anew.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from flows.lanes import lane_of
from flows.programmes.calcium import PROGRAMME
from flows.reclassification import reclassification
from ops.verdict import ResultStatus
from storage.models import list_bundles, load_bundle, write_bundle
from storage.records import ResultRecord, case_id
from tasks.simulate import simulate_study
from tests.deployments.browser import Pages, browser_on
from tests.deployments.installation import Installation, installed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SCORED, NON_GATED, FREE, CONTRAST, GAP = (7, 3), (58, 1), (58, 4), (7, 16), (7, 2)
"""(seed, index) of simulated participants: a high score; a non-gated chest with one speck of calcium; none at all; and
two to be refused, for contrast agent and for a missing slice."""

COHORT = (SCORED, (7, 14), NON_GATED, FREE, CONTRAST, GAP)

PATIENCE = 600.0
"""Seconds: twice as long as the sweep takes to make up for a lost event, on a busy machine."""

BUSY = ("Running", "Pending", "AwaitingConcurrencySlot", "Late")

PICTURE = "main img[alt^=calcium]"
"""Not the empty ones by which Prefect's editor separates them."""

WHY_PAUSED = "table replaced on 24 November, phantom scan outstanding"


def least_pixels(count: int) -> str:
    """Policy by which a lesion counts from so many pixels on; 10 are more than the speck has."""
    return json.dumps({"calcium": {"score": {"area_rule": "min_pixels", "min_pixels": count}}})


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("policy") / "policy.json"
    file.write_text("{}")
    return file


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], str]:
    return {}


@pytest.fixture(scope="module")
def up(
    tmp_path_factory: pytest.TempPathFactory, policy: Path, studies: dict[tuple[int, int], str]
) -> Iterator[Installation]:
    """An installation that has screened, paused a lane, and reprocessed for a new policy and a new model."""
    cohort = tmp_path_factory.mktemp("cohort")

    def simulate() -> None:
        for seed, index in COHORT:
            studies[seed, index], _ = simulate_study(cohort / str(seed), index, seed, screening=True)

    with ThreadPoolExecutor(1) as pool:
        simulated = pool.submit(simulate)
        with installed(tmp_path_factory.mktemp("up") / "home", POPSCAN_POLICY=str(policy)) as up:
            simulated.result()
            cohort.rename(up.home.root / "inbox" / "cohort")  # all at once, so that one run screens all
            up.until(lambda: up.finished("screen calcium", 1) and len(up.results("calcium")) == len(COHORT), PATIENCE)
            up.until(lambda: not up.runs(*BUSY), PATIENCE)
            up.popscan("lanes", "pause", lane_id(up, studies[FREE]), "--reason", WHY_PAUSED)
            policy.write_text(least_pixels(10))
            release_model(up, tmp_path_factory.mktemp("model"))
            up.until(lambda: up.finished("reprocess calcium", 1), PATIENCE)
            up.until(lambda: not up.runs(*BUSY), PATIENCE)
            yield up


def lane_id(up: Installation, study_uid: str) -> str:
    with up.home.open_ledger() as ledger:
        (series, *_) = [series for series in ledger.series() if series.study_uid == study_uid and series.volume_url]
    return lane_of("calcium", series.header).lane_id


def release_model(up: Installation, folder: Path) -> None:
    shipped = load_bundle(list_bundles()[-1])
    newer = replace(shipped, manifest=shipped.manifest.model_copy(update={"version": "9.9.9"}))
    up.popscan("models", "release", str(write_bundle(folder, newer)))


@pytest.fixture(scope="module")
def pages(up: Installation) -> Iterator[Pages]:
    with browser_on(up) as pages:
        yield pages


def scores(up: Installation) -> dict[str, float]:
    """Score by case, of all that have one."""
    found = {case: score_of(record) for case, record in up.results("calcium").items()}
    return {case: score for case, score in found.items() if score is not None}


def score_of(record: ResultRecord) -> float | None:
    if record.status is not ResultStatus.OK:
        return None
    return next(float(m.value or 0) for m in record.measurements if m.name in PROGRAMME.severity)


def reasons(up: Installation) -> Counter[str]:
    return Counter(record.reason for record in up.results("calcium").values() if record.reason)


def test_runs_are_named_after_what_they_do_and_say_what_came_of_it(up: Installation, pages: Pages) -> None:
    page = pages.prefect("runs", "screen calcium")
    names = page.get_by_role("link").all_inner_texts()
    for name in (r"screen calcium \d{4}-\d\d-\d\d \d\d:\d\d UTC", r"reprocess calcium \d.*", "ingest what has settled"):
        assert any(re.fullmatch(name, found) for found in names), name
    pages.shoot("runs", 1330)
    page.get_by_role("link", name="screen calcium").last.click()
    page.get_by_role("tab", name="Details").click()
    text = pages.wait_for("State Message").inner_text("main")
    (said,) = re.findall(r"(\d+) computed, (\d+) failed; all results: (\d+) ok, (\d+) not_evaluable", text)
    records = up.results("calcium").values()
    computed = sum(bool(record.timings) for record in records)
    assert tuple(map(int, said)) == (computed, 0, len(scores(up)), sum(reasons(up).values()))
    assert "Completed" in text
    pages.shoot("screen-run", 1250)
    page.get_by_role("tab", name="Task Runs").click()
    pages.wait_for(f"cases 1 to {computed} of {computed}")


def test_progress_says_how_far_and_how_fast(pages: Pages) -> None:
    page = pages.artifact("screen-calcium-progress")
    (said,) = re.findall(r"(\d+) of (\d+) cases, ([\d.]+) cases/s, took 0:\d\d:\d\d", page.inner_text("main"))
    assert said[0] == said[1]
    expect(page.get_by_text("100%").first).to_be_visible()
    pages.shoot("progress", 560)


def test_every_result_is_in_the_table_with_its_score(
    up: Installation, pages: Pages, studies: dict[tuple[int, int], str]
) -> None:
    pages.artifact("screen-calcium-results")
    rows = {row["case"]: row for row in pages.table()}
    records = up.results("calcium")
    assert rows.keys() == records.keys()
    shown = {case: float(row["value"]) for case, row in rows.items() if row["value"]}
    assert shown == pytest.approx(scores(up), abs=0.005)
    for participant, (category, measurement) in {
        SCORED: (">400", "agatston_total"),
        NON_GATED: ("agatston equivalent 0", "agatston_equivalent_nongated"),
        CONTRAST: ("not evaluable: contrast_enhanced", ""),
        GAP: ("not evaluable: missing_slices", ""),
    }.items():
        row = rows[case_id("calcium", studies[participant])]
        assert (row["category"], row["measurement"]) == (category, measurement)
    pages.shoot("results", 640)


def test_refusals_are_counted_by_reason(up: Installation, pages: Pages) -> None:
    page = pages.artifact("screen-calcium-refusals")
    assert {row["reason"]: int(row["cases"]) for row in pages.table()} == reasons(up)
    assert f"{sum(reasons(up).values())} of {len(COHORT)} cases have no number" in page.inner_text("main")
    pages.shoot("refusals", 560)


def test_the_highest_findings_are_pictures_with_their_score(up: Installation, pages: Pages) -> None:
    page = pages.artifact("screen-calcium-highest")
    expected = sorted(((score, case) for case, score in scores(up).items() if score), reverse=True)
    expect(page.locator(PICTURE)).to_have_count(len(expected))
    assert widths(page, PICTURE) == [640] * len(expected)
    text = page.inner_text("main")
    assert re.findall(r"calcium-[0-9a-f]{16}", text) == [case for _, case in expected]
    assert [float(value) for value in re.findall(r"agatston_\w+ ([\d.]+),", text)] == pytest.approx(
        [score for score, _ in expected], abs=0.005
    )
    page.get_by_role("link", name="screen-calcium-highest").first.scroll_into_view_if_needed()
    pages.shoot("highest", 680)


def widths(page: Page, pictures: str) -> list[int]:
    """Widths of pictures as decoded, which are 0 where one is broken."""
    for picture in page.locator(pictures).all():
        picture.scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    return [int(picture.evaluate("picture => picture.naturalWidth")) for picture in page.locator(pictures).all()]


def test_who_changed_category_and_why(up: Installation, pages: Pages) -> None:
    page = pages.artifact("reprocess-calcium-reclassification")
    with up.home.open_ledger() as ledger:
        found = reclassification(ledger, PROGRAMME)
    (cell,) = found.moved
    (row,) = pages.table()
    assert (row["earlier"], row["present"], int(row["cases"])) == (cell.earlier, cell.present, cell.n)
    assert row["which"] == ", ".join(cell.cases)
    assert "score.min_pixels 3→10" in row["why"]
    assert "model heart-territories" in row["why"]
    assert f"{found.replaced} results replaced earlier ones, {cell.n} changed category" in page.inner_text("main")
    pages.shoot("reclassification", 560)


def test_canaries_stand_beside_their_truth(pages: Pages) -> None:
    pages.artifact("screen-calcium-canaries")
    rows = pages.table()
    assert PROGRAMME.canaries is not None
    assert [row["canary"] for row in rows] == list(PROGRAMME.canaries.participants)
    for row in rows:
        assert row["verdict"] == "as expected"
        assert PROGRAMME.canaries.judge(float(row["expected"]), float(row["found"])) is None
    pages.shoot("canaries", 560)


def test_a_paused_lane_says_why(up: Installation, pages: Pages, studies: dict[tuple[int, int], str]) -> None:
    page = pages.artifact("screen-calcium-lanes")
    (paused,) = pages.table()
    with up.home.open_ledger() as ledger:
        lanes = ledger.lanes.all("calcium")
    (lane,) = [lane for lane in lanes if lane.paused_at]
    assert (paused["lane"], paused["why"]) == (lane_id(up, studies[FREE]), WHY_PAUSED) == (lane.lane_id, lane.reason)
    assert paused["scanner, kernel, site"] == f"{lane.scanner}, {lane.kernel}, {lane.site}"
    assert f"1 of {len(lanes)} lanes are paused" in page.inner_text("main")
    pages.shoot("lanes", 560)


def test_the_link_opens_the_report_and_its_numbers_are_those_of_the_ledger(up: Installation, pages: Pages) -> None:
    page = pages.artifact("screen-calcium-report")
    page.get_by_role("link", name="Open the report").evaluate("link => link.removeAttribute('target')")
    page.get_by_role("link", name="Open the report").click()
    expect(page.get_by_role("heading", name="Popscan report")).to_be_visible()
    assert page.url.startswith(up.pages["report"])
    tiles = dict(reversed(tile.split("\n")) for tile in page.locator("#summary + .tiles .tile").all_inner_texts())
    records = up.results("calcium")
    assert (int(tiles["studies ingested"]), int(tiles["evaluated"])) == (len(COHORT), len(scores(up)))
    shown = {
        row.get_attribute("id"): row.locator("td").nth(3).inner_text()
        for row in page.locator("#case-table tbody tr").all()
    }
    assert shown.keys() == records.keys()
    assert {case: float(score) for case, score in shown.items() if score != "—"} == pytest.approx(
        scores(up), rel=5e-3, abs=0.05
    )
    refused = page.locator("#refusals + table tr").all_inner_texts()[1:]
    assert Counter({row.split("\t")[1]: int(row.split("\t")[2]) for row in refused}) == reasons(up)
    assert all(widths(page, "#case-table img"))
    page.locator("#cases").evaluate("heading => heading.scrollIntoView()")
    pages.shoot("report-cases", 1000)
    page.evaluate("scrollTo(0, 0)")
    pages.shoot("report", 1000)


def test_deployments_have_their_schedules_and_automations_their_names(pages: Pages) -> None:
    pages.prefect("deployments", "ingest-settled")
    rows = [" ".join(text.split()) for text in pages.page.locator("table tbody tr").all_inner_texts()]
    for flow, schedule in (
        ("calcium screen", "At 02:00 AM"),
        ("calcium reprocess", ""),
        ("sweep sweep", "1 schedules"),
    ):
        (row,) = [row for row in rows if row.startswith(flow)]
        assert schedule in row
    pages.shoot("deployments", 560)
    pages.prefect("automations", "6 automations")
    for name in ("inbox: a study has settled", "screen calcium: a study was ingested"):
        expect(pages.page.get_by_text(name, exact=True)).to_be_visible()
    pages.shoot("automations", 1670)


def test_a_run_beyond_the_threshold_is_failed_and_says_how_many(up: Installation, pages: Pages, policy: Path) -> None:
    for part in (up.home.root / "volumes").rglob("c/*/*/*"):
        part.write_bytes(b"a disk that has forgotten")
    policy.write_text(least_pixels(11))
    up.run_deployment("reprocess/calcium")
    (run,) = up.until(lambda: up.runs("Failed"), PATIENCE)
    failed = [record for record in up.results("calcium").values() if record.status is ResultStatus.FAILED]
    page = pages.prefect("runs?state=Failed", run["name"])
    page.get_by_role("link", name=run["name"]).first.click()
    page.get_by_role("tab", name="Details").click()
    text = pages.wait_for("State Message").inner_text("main")
    assert f"{len(failed)} of {len(COHORT)} cases failed; `popscan results --programme calcium` says why" in text
    assert "Failed" in text
    assert "Completed" not in text
    pages.shoot("failed-run", 1250)


def test_no_page_of_prefect_names_a_study_or_a_folder(
    up: Installation, pages: Pages, studies: dict[tuple[int, int], str]
) -> None:
    pages.prefect("events", "Event Feed")
    pages.prefect("dashboard", "Flow Runs")
    run = up.runs("Failed")[0]
    pages.prefect(f"runs/flow-run/{run['id']}?tab=Logs", "ScreenFailedError")
    everything = "\n".join(pages.read)
    assert len(studies) == len(COHORT)
    for secret in (*studies.values(), str(up.home.root), "participant-"):
        assert secret not in everything

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.lanes import REFUSALS, chart_new_results, lane_of
from flows.programmes.calcium import PROGRAMME as CALCIUM
from ops.control_charts import BASELINE, Chart, LevelChart, ShareChart
from ops.verdict import ResultStatus
from storage.ledger import Ledger
from storage.records import Measurement, ResultRecord
from storage.testing import example_result, example_series, example_verdict

FORCE = {
    "Manufacturer": "SIEMENS",
    "ManufacturerModelName": "SOMATOM Force",
    "ScannerPseudonym": "8c8958ae",
    "ConvolutionKernel": ["Qr36d", "2"],
    "SitePseudonym": "9ad22a01",
}
REVOLUTION = {
    "Manufacturer": "GE MEDICAL SYSTEMS",
    "ManufacturerModelName": "Revolution CT",
    "ConvolutionKernel": "SOFT",
}
NEW_MODEL = {"models": {"heart-territories": "4567"}}
FORCE_LANE, REVOLUTION_LANE = lane_of("calcium", FORCE).lane_id, lane_of("calcium", REVOLUTION).lane_id


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


class Scanner:
    """Commits studies of one scanner, one number after the other."""

    def __init__(self, ledger: Ledger, header: dict[str, Any] = FORCE) -> None:
        self.ledger, self.header, self.prefix = ledger, header, f"1.{len(header)}"
        self.rng, self.scanned = np.random.default_rng(7), 0

    def scan(self, cases: int, noise: float = 20.0, refused: int = 0, **changes: Any) -> list[ResultRecord]:
        """Refusals first, as the planner commits them."""
        bad = {"status": ResultStatus.NOT_EVALUABLE, "reason": "contrast_enhanced", "roles": {}}
        records = [self._study(**bad, **changes) for _ in range(refused)]
        for value in self.rng.normal(noise, 2.0, cases):
            score = float(self.rng.choice([0.0, self.rng.lognormal(4, 1.5)]))
            numbers = [Measurement("agatston_total", score, "1"), Measurement("noise_hu", float(value), "[hnsf'U]")]
            records.append(self._study(measurements=numbers, **changes))
        self.ledger.commit_results(records)
        return records

    def _study(self, **changes: Any) -> ResultRecord:
        self.scanned += 1
        uid = f"{self.prefix}.{self.scanned}"
        series = example_series(f"{uid}.1", study_uid=uid, header=self.header)
        self.ledger.record_series(series, example_verdict(f"{uid}.1", study_uid=uid))
        return example_result(uid, **changes)


def counted(ledger: Ledger) -> dict[tuple[str, str], int]:
    """(lane id, chart) → values taken in, over all recipes."""
    found: dict[tuple[str, str], int] = {}
    for key, chart in ledger.lanes.charts("calcium").items():
        at = (key.lane_id, key.name)
        found[at] = found.get(at, 0) + chart.count + chart.watched
    return found


def chart(ledger: Ledger, name: str) -> Chart:
    (found,) = (chart for key, chart in ledger.lanes.charts("calcium").items() if key.name == name)
    return found


def share_of(events: int, count: int) -> ShareChart:
    """Chart of refusals that has seen no more than a part of its baseline."""
    return ShareChart(count, events, ewma=events / count)


def computed_again(records: list[ResultRecord], **changes: Any) -> list[ResultRecord]:
    return [replace(record, fingerprint="fingerprint-2", **(NEW_MODEL | changes)) for record in records]


def test_lane_is_programme_scanner_kernel_and_site() -> None:
    lane = lane_of("calcium", FORCE)
    assert (lane.scanner, lane.kernel, lane.site) == ("SIEMENS SOMATOM Force 8c8958ae", "Qr36d/2", "9ad22a01")
    assert lane.lane_id.startswith("calcium-")
    assert len(lane.lane_id) == len("calcium-1f2e3d4c")
    others = [FORCE | {keyword: "other"} for keyword in FORCE]
    assert len({lane.lane_id, lane_of("plaque", FORCE).lane_id, *(lane_of("calcium", h).lane_id for h in others)}) == 7
    assert lane_of("calcium", FORCE | {"KVP": 100.0}) == lane


def test_what_a_header_does_not_state_is_unknown() -> None:
    lane = lane_of("calcium", {"Manufacturer": None})
    assert (lane.scanner, lane.kernel, lane.site) == ("unknown", "unknown", "unknown")


def test_drift_pauses_its_own_lane_and_says_why(ledger: Ledger) -> None:
    force, revolution = Scanner(ledger), Scanner(ledger, REVOLUTION)
    force.scan(BASELINE + 50)
    revolution.scan(BASELINE + 50, noise=30.0)
    assert chart_new_results(ledger, CALCIUM) == []
    force.scan(40, noise=24.0)
    revolution.scan(40, noise=30.0)
    (paused,) = chart_new_results(ledger, CALCIUM)
    assert paused.lane_id == FORCE_LANE
    assert paused.reason.startswith("noise_hu rose: mean of late 2")
    assert ", baseline 19.8 ± 1.8 (" in paused.reason
    assert chart_new_results(ledger, CALCIUM) == [], "told once"
    assert ledger.lanes.get(FORCE_LANE).paused_at is not None


def test_resumed_lane_is_watched_against_the_old_baseline_or_a_new_one(ledger: Ledger) -> None:
    force = Scanner(ledger)
    for rebaseline in (False, True):
        force.scan(BASELINE)
        chart_new_results(ledger, CALCIUM)
        force.scan(40, noise=26.0)
        assert [lane.lane_id for lane in chart_new_results(ledger, CALCIUM)] == [FORCE_LANE]
        ledger.lanes.resume(FORCE_LANE, rebaseline)
        force.scan(40, noise=26.0)
        assert bool(chart_new_results(ledger, CALCIUM)) is not rebaseline
        ledger.lanes.resume(FORCE_LANE, rebaseline=True)


def test_a_paused_lane_is_not_charted(ledger: Ledger) -> None:
    force = Scanner(ledger)
    force.scan(30, refused=3)
    chart_new_results(ledger, CALCIUM)
    ledger.lanes.pause(FORCE_LANE, "tube replaced")
    force.scan(0, refused=50)
    chart_new_results(ledger, CALCIUM)
    ledger.lanes.resume(FORCE_LANE)
    force.scan(5)
    chart_new_results(ledger, CALCIUM)
    assert counted(ledger)[FORCE_LANE, REFUSALS] == 38


def test_many_refusals_pause_and_refusals_that_were_committed_first_do_not(ledger: Ledger) -> None:
    force = Scanner(ledger)
    for _ in range(3):
        force.scan(176, refused=24)
        assert chart_new_results(ledger, CALCIUM) == []
    force.scan(40, refused=60)
    (paused,) = chart_new_results(ledger, CALCIUM)
    assert paused.reason.startswith("refused rose: ")


def test_scores_are_charted_on_their_scale(ledger: Ledger) -> None:
    records = Scanner(ledger).scan(BASELINE)
    chart_new_results(ledger, CALCIUM)
    scores = chart(ledger, "agatston_total")
    noise = chart(ledger, "noise_hu")
    assert isinstance(scores, LevelChart)
    assert isinstance(noise, LevelChart)
    values = np.array([[m.value for m in record.measurements] for record in records], dtype=float)
    assert (scores.mean, scores.sd) == pytest.approx(
        (np.log1p(values[:, 0]).mean(), np.log1p(values[:, 0]).std(ddof=1))
    )
    assert (noise.mean, noise.sd) == pytest.approx((values[:, 1].mean(), values[:, 1].std(ddof=1)))


def test_a_failure_is_one_that_was_not_refused_and_counts_once(ledger: Ledger) -> None:
    force = Scanner(ledger)
    force.scan(10, refused=2)
    failed = [force._study(status=ResultStatus.FAILED) for _ in range(5)]
    for attempts in (1, 2):
        ledger.commit_results([replace(record, attempts=attempts) for record in failed])
        chart_new_results(ledger, CALCIUM)
        assert (chart(ledger, REFUSALS), counted(ledger)[FORCE_LANE, "noise_hu"]) == (share_of(2, 17), 10)
    numbers = [Measurement("noise_hu", 20.0, "[hnsf'U]")]
    succeeded = {"status": ResultStatus.OK, "reason": None, "error": None, "measurements": numbers, "attempts": 3}
    ledger.commit_results([replace(record, **succeeded) for record in failed])
    chart_new_results(ledger, CALCIUM)
    assert (chart(ledger, REFUSALS), counted(ledger)[FORCE_LANE, "noise_hu"]) == (share_of(2, 17), 15)


def test_a_batch_of_failures_does_not_look_like_one_of_refusals(ledger: Ledger) -> None:
    force = Scanner(ledger)
    for _ in range(2):
        force.scan(176, refused=24)
        assert chart_new_results(ledger, CALCIUM) == []
    ledger.commit_results([force._study(status=ResultStatus.FAILED) for _ in range(156)])
    force.scan(20, refused=24)
    assert chart_new_results(ledger, CALCIUM) == []


def test_a_new_model_begins_new_charts_of_measurements(ledger: Ledger) -> None:
    force = Scanner(ledger)
    records = force.scan(BASELINE + 20)
    chart_new_results(ledger, CALCIUM)
    numbers = [Measurement("agatston_total", 5000.0), Measurement("noise_hu", 99.0)]
    ledger.commit_results(computed_again(records, measurements=numbers))
    assert chart_new_results(ledger, CALCIUM) == [], "a change of software is not drift"
    assert len([key for key in ledger.lanes.charts("calcium") if key.name == "noise_hu"]) == 2
    assert counted(ledger)[FORCE_LANE, "noise_hu"] == 2 * (BASELINE + 20)


def test_the_chart_of_refusals_outlives_a_model_and_hears_nothing_of_what_it_computes_again(ledger: Ledger) -> None:
    force = Scanner(ledger)
    records = force.scan(176, refused=24)
    chart_new_results(ledger, CALCIUM)
    before = chart(ledger, REFUSALS)
    ledger.commit_results(computed_again([record for record in records if record.status is ResultStatus.OK]))
    chart_new_results(ledger, CALCIUM)
    assert chart(ledger, REFUSALS) == before
    force.scan(176, refused=24, **NEW_MODEL)
    assert chart_new_results(ledger, CALCIUM) == []
    assert counted(ledger)[FORCE_LANE, REFUSALS] == 400
    force.scan(40, refused=60, **NEW_MODEL)
    assert [lane.lane_id for lane in chart_new_results(ledger, CALCIUM)] == [FORCE_LANE]


@pytest.mark.parametrize("changes", [{"programme_version": "2"}, {"policy": {"connectivity": 4}}])
def test_another_version_or_policy_begins_a_new_chart_of_refusals(ledger: Ledger, changes: dict[str, Any]) -> None:
    force = Scanner(ledger)
    records = force.scan(20, refused=4)
    chart_new_results(ledger, CALCIUM)
    ledger.commit_results(computed_again(records, **changes))
    chart_new_results(ledger, CALCIUM)
    refusals = [chart for key, chart in ledger.lanes.charts("calcium").items() if key.name == REFUSALS]
    assert refusals == [share_of(4, 24)] * 2


def test_each_result_counts_once_when_several_chart_at_once(ledger: Ledger) -> None:
    Scanner(ledger).scan(150)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: chart_new_results(ledger, CALCIUM), range(3)))
    assert set(counted(ledger).values()) == {150}


def test_each_result_counts_once_when_charting_is_killed(ledger: Ledger, tmp_path: Path) -> None:
    force = Scanner(ledger)
    force.scan(300)
    ledger.close()  # a connection must not be shared with a fork
    for milliseconds in (5, 15, 30, 60, 120):
        process = multiprocessing.get_context("fork").Process(target=chart_new_results, args=(ledger, CALCIUM))
        process.start()
        time.sleep(milliseconds / 1000)
        process.kill()
        process.join()
        assert set(counted(ledger).values()) in (set(), {300})
        ledger.close()
    chart_new_results(ledger, CALCIUM)
    assert set(counted(ledger).values()) == {300}

"""What lanes and their control charts must do in every database."""

# ruff: noqa: D102 - a test's name says what it checks

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from sqlalchemy import Connection

from ops.control_charts import BASELINE, Chart, LevelChart, ShareChart
from ops.verdict import ResultStatus
from storage import _schema as db
from storage._engine import open_engine, write
from storage._statements import case_row, upsert, upsert_results
from storage.lanes import PAGE_RESULTS, ChartedResult, ChartKey, Lane
from storage.ledger import Ledger
from storage.records import Measurement
from storage.testing.database import DatabaseConformance
from storage.testing.examples import HOSTILE_TEXT, example_result, example_series, example_verdict

LANE = Lane("calcium-00000001", "calcium", "SIEMENS Force 8c8958ae", "Qr36/2", "9ad22a01")
OTHER = Lane("calcium-00000002", "calcium", "GE Revolution 1a2b3c4d", "STANDARD", "unknown")
PLAQUE = Lane("plaque-00000003", "plaque", LANE.scanner, LANE.kernel, LANE.site)
NOISE, REFUSED = ChartKey(LANE.lane_id, "recipe-1", "noise_hu"), ChartKey(LANE.lane_id, "recipe-1", "refused")


def _charts() -> dict[ChartKey, Chart]:
    level, share = LevelChart(BASELINE, 22.4, 1 / 3, 140, 4.25, 11.0, 0.0), ShareChart(BASELINE, 12, 7, 0.15, 0.5)
    return {NOISE: level, REFUSED: share}


def _record(ledger: Ledger, after: int = 0, upto: int = 1, **changes: Any) -> bool:
    fields: dict[str, Any] = {
        "lanes": [LANE, OTHER],
        "earlier": ledger.lanes.charts("calcium"),
        "charts": _charts(),
        "alarms": {LANE.lane_id: "noise_hu rose"},
    }
    return ledger.lanes.record("calcium", after, upto, **(fields | changes))


def _read_all(ledger: Ledger, after: int = 0, programme: str = "calcium") -> list[ChartedResult]:
    pages = ledger.lanes.pages(
        programme, after, ledger.lanes.newest_result(), ["KVP", "ConvolutionKernel"], ["agatston_total", "category"]
    )
    return [result for page in pages for result in page]


class LanesConformance(DatabaseConformance):
    """Contract of `storage.lanes.Lanes` on one database. Give `ledger_location`: a new, empty one per test."""

    def test_charts_position_and_pauses_come_back(self, ledger: Ledger) -> None:
        assert (ledger.lanes.position("calcium"), ledger.lanes.charts("calcium"), ledger.lanes.all()) == (0, {}, [])
        assert _record(ledger, upto=7)
        assert ledger.lanes.position("calcium") == 7
        assert ledger.lanes.charts("calcium") == _charts()
        other, paused = ledger.lanes.all("calcium")
        assert (other.lane_id, other.paused_at, other.reason) == (OTHER.lane_id, None, "")
        assert (paused.scanner, paused.kernel, paused.site) == (LANE.scanner, LANE.kernel, LANE.site)
        assert paused.paused_at is not None
        assert paused.reason == "noise_hu rose"

    def test_programmes_do_not_mix(self, ledger: Ledger) -> None:
        plaque = {NOISE._replace(lane_id=PLAQUE.lane_id): LevelChart()}
        assert _record(ledger)
        assert ledger.lanes.record("plaque", 0, 5, [PLAQUE], {}, plaque, {})
        assert ledger.lanes.charts("plaque") == plaque
        assert ledger.lanes.charts("calcium") == _charts()
        assert (ledger.lanes.position("calcium"), ledger.lanes.position("plaque")) == (1, 5)
        assert len(ledger.lanes.all()) == 3

    def test_what_others_charted_meanwhile_is_not_charted_again(self, ledger: Ledger) -> None:
        assert _record(ledger, after=0, upto=7)
        assert not _record(ledger, after=0, upto=9, charts={NOISE: LevelChart()}, lanes=[PLAQUE])
        assert ledger.lanes.charts("calcium") == _charts()
        assert (ledger.lanes.position("calcium"), len(ledger.lanes.all())) == (7, 2)

    def test_lane_resumed_meanwhile_is_not_undone(self, ledger: Ledger) -> None:
        assert _record(ledger, after=0, upto=7)
        earlier = ledger.lanes.charts("calcium")
        ledger.lanes.resume(LANE.lane_id)
        assert not _record(ledger, after=7, upto=9, earlier=earlier)
        assert all(lane.paused_at is None for lane in ledger.lanes.all())
        assert _record(ledger, after=7, upto=9)

    def test_failed_transaction_leaves_nothing(self, ledger: Ledger) -> None:
        unknown = {NOISE._replace(lane_id="calcium-unknown"): LevelChart()}
        with pytest.raises(Exception, match=r"(?i)foreign key"):
            _record(ledger, charts=unknown)
        assert (ledger.lanes.position("calcium"), ledger.lanes.all()) == (0, [])

    def test_a_pause_keeps_its_first_reason_until_resumed(self, ledger: Ledger) -> None:
        _record(ledger)
        ledger.lanes.pause(LANE.lane_id, "again")
        ledger.lanes.pause(OTHER.lane_id, HOSTILE_TEXT)
        assert ledger.lanes.get(LANE.lane_id).reason == "noise_hu rose"
        assert "心臓 💙" in ledger.lanes.get(OTHER.lane_id).reason
        since = ledger.lanes.get(LANE.lane_id).paused_at
        assert _record(ledger, after=1, upto=2, alarms={LANE.lane_id: "agatston_total rose"})
        assert (ledger.lanes.get(LANE.lane_id).paused_at, ledger.lanes.get(LANE.lane_id).reason) == (
            since,
            "noise_hu rose",
        )

    def test_resuming_keeps_the_baseline_and_clears_the_rest(self, ledger: Ledger) -> None:
        _record(ledger)
        ledger.lanes.resume(LANE.lane_id)
        assert ledger.lanes.get(LANE.lane_id).paused_at is None
        assert ledger.lanes.get(LANE.lane_id).reason == ""
        assert ledger.lanes.charts("calcium") == {key: chart.cleared() for key, chart in _charts().items()}
        assert ledger.lanes.position("calcium") == 1

    def test_new_baseline_forgets_the_charts_of_this_lane_only(self, ledger: Ledger) -> None:
        of_other = {NOISE._replace(lane_id=OTHER.lane_id): LevelChart(3, 1.0, 2.0)}
        _record(ledger, charts=_charts() | of_other)
        ledger.lanes.resume(LANE.lane_id, rebaseline=True)
        assert ledger.lanes.charts("calcium") == of_other
        assert ledger.lanes.get(LANE.lane_id).paused_at is None

    def test_unknown_lane_is_an_error_that_says_where_to_look(self, ledger: Ledger) -> None:
        for change in (ledger.lanes.resume, lambda lane_id: ledger.lanes.pause(lane_id, "why")):
            with pytest.raises(KeyError, match=r"no lane 'calcium-9'; `popscan lanes list`"):
                change("calcium-9")

    def test_reads_what_charts_need_of_each_result(self, ledger: Ledger) -> None:
        kernel = {"KVP": 120.0, "ConvolutionKernel": ["Qr36", "2"]}
        ledger.record_series(example_series("1.2.1", header=kernel), example_verdict())
        ledger.record_series(example_series("1.2.9", n_instances=99, header={"KVP": 80.0}), example_verdict("1.2.9"))
        texts = [Measurement("agatston_total", 3.5, "1"), Measurement("other", 1.0), Measurement("category", "1-10")]
        ok = example_result("1.2", roles={"ct": "1.2.1"}, measurements=texts)
        ledger.commit_results([ok])
        (read,) = _read_all(ledger)
        assert (read.case_id, read.status, read.numbers) == (ok.case_id, ResultStatus.OK, {"agatston_total": 3.5})
        assert read.header == kernel
        assert read.recipe == {
            "programme_version": "1", "policy": ok.policy, "models": ok.models, "stages": ok.stages
        }  # fmt: skip
        assert _read_all(ledger, after=read.result_id) == []
        assert _read_all(ledger, programme="plaque") == []

    def test_refused_study_is_that_of_its_largest_series(self, ledger: Ledger) -> None:
        for uid, instances, kvp in (("1.2.1", 1, 80.0), ("1.2.2", 300, 120.0), ("1.2.3", 2, None)):
            ledger.record_series(
                example_series(uid, n_instances=instances, header={"KVP": kvp} if kvp else {}), example_verdict(uid)
            )
        refused = {"status": ResultStatus.NOT_EVALUABLE, "reason": "contrast_enhanced", "roles": {}}
        ledger.commit_results([example_result("1.2", **refused), example_result("1.9", **refused)])
        read = {result.case_id: result for result in _read_all(ledger)}
        assert read[example_result("1.2").case_id].header == {"KVP": 120.0, "ConvolutionKernel": None}
        assert read[example_result("1.9").case_id].header == {}

    def test_a_failure_is_read_once_and_its_later_success_again(self, ledger: Ledger) -> None:
        failed = example_result("1.2", status=ResultStatus.FAILED)
        ledger.commit_results([failed])
        (read,) = _read_all(ledger)
        assert (read.case_id, read.status, read.is_counted, read.numbers) == (
            failed.case_id, ResultStatus.FAILED, False, {}
        )  # fmt: skip
        for attempts in (1, 2):  # an outage does not count as an attempt
            ledger.commit_results([example_result("1.2", status=ResultStatus.FAILED, attempts=attempts)])
            assert _read_all(ledger, read.result_id) == []
        ledger.commit_results([example_result("1.2", attempts=3)])
        (later,) = _read_all(ledger, read.result_id)
        assert (later.case_id, later.status, later.is_counted) == (failed.case_id, ResultStatus.OK, True)
        assert later.numbers == {"agatston_total": 0.0}

    @pytest.mark.parametrize(
        ("changes", "is_counted"),
        [
            ({"models": {"heart-territories": "4567"}}, True),
            ({"stages": [{"name": "measure", "version": "2", "parameters": {}}], "inputs": {"ct": "pixels-2"}}, True),
            ({"programme_version": "2"}, False),
            ({"policy": {"connectivity": 4, "minimum_area_mm2": 1.0}}, False),
        ],
    )
    def test_a_case_counts_once_for_version_and_policy(
        self, ledger: Ledger, changes: dict[str, Any], is_counted: bool
    ) -> None:
        ledger.commit_results([example_result("1.2"), example_result("1.3")])
        first = _read_all(ledger)
        assert [result.is_counted for result in first] == [False, False]
        ledger.commit_results([example_result("1.2", fingerprint="fingerprint-2", **changes)])
        (again,) = _read_all(ledger, max(result.result_id for result in first))
        assert again.is_counted is is_counted

    def test_pages_hold_each_result_once_and_mix_early_with_late(self, ledger: Ledger) -> None:
        count = 2 * PAGE_RESULTS + 500
        first = [example_result(f"1.2.{n}", measurements=[Measurement("agatston_total", n)]) for n in range(count)]
        ledger.commit_results(first)
        pages = list(ledger.lanes.pages("calcium", 0, ledger.lanes.newest_result(), [], ["agatston_total"]))
        order = [[result.numbers["agatston_total"] for result in page] for page in pages]
        assert sorted(number for page in order for number in page) == list(range(count))
        assert len(pages) == 3
        assert max(map(len, pages)) <= PAGE_RESULTS
        for page in order:
            middle = count / 2
            early_in_first_half = sum(number < middle for number in page[: len(page) // 2]) / (len(page) // 2)
            assert 0.4 < early_in_first_half < 0.6
            assert 0.4 < sum(number < middle for number in page) / len(page) < 0.6

    def test_a_writer_that_is_not_done_is_not_passed_over(self, ledger: Ledger, ledger_location: str) -> None:
        slow, quick = example_result("1.2"), example_result("1.3")
        begun, engine = threading.Event(), open_engine(ledger_location)

        def slow_commit() -> None:
            def work(connection: Connection) -> None:
                upsert(connection, db.screening_case, [case_row(slow)], ["case_id"])
                upsert_results(connection, [slow])
                begun.set()
                time.sleep(0.5)

            write(engine, work)

        writer = threading.Thread(target=slow_commit)
        writer.start()
        begun.wait(10)
        if engine.dialect.name == "postgresql":  # a SQLite ledger has one writer at a time
            ledger.commit_results([quick])
        upto = ledger.lanes.newest_result()
        seen = {result.case_id for page in ledger.lanes.pages("calcium", 0, upto, [], []) for result in page}
        writer.join()
        engine.dispose()
        late = {result.case_id for result in _read_all(ledger, upto)}
        assert slow.case_id in seen | late

"""What every ledger must do."""

# ruff: noqa: D102 - a test's name says what it checks

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, text

from ops.verdict import ResultStatus, VerdictStatus
from storage._engine import LedgerError, ledger_url
from storage.ledger import Ledger
from storage.records import Measurement, RejectedFileRecord, ResultRecord, SeriesOutline, case_id
from storage.testing.database import DatabaseConformance
from storage.testing.examples import HOSTILE_TEXT, example_result, example_series, example_verdict


class LedgerConformance(DatabaseConformance):
    """Contract of `storage.ledger.Ledger` on one database. Give `ledger_location`: a new, empty one per test."""

    def test_result_comes_back_as_it_went_in(self, ledger: Ledger) -> None:
        failed = example_result("1.3", status=ResultStatus.FAILED, attempts=2)
        refused = example_result("1.4", status=ResultStatus.NOT_EVALUABLE, reason="contrast_enhanced", flags=["metal"])
        records = {record.case_id: record for record in (example_result(), failed, refused)}
        ledger.commit_results(records.values())
        assert {record.case_id: record for record in ledger.results("calcium")} == records
        assert ledger.result(failed.case_id) == failed
        assert ledger.results("plaque") == []
        assert ledger.result("calcium-none") is None

    def test_not_evaluable_is_none_and_zero_is_zero(self, ledger: Ledger) -> None:
        ledger.commit_results([example_result()])
        (record,) = ledger.results()
        assert [item.value for item in record.measurements] == [0.0, None, "0"]
        assert record.measurements[1].reason == "not_calibrated"

    def test_database_itself_refuses_a_value_that_is_not_ok(self, ledger: Ledger, ledger_location: str) -> None:
        ledger.commit_results([example_result()])
        engine = create_engine(ledger_url(ledger_location))
        with engine.connect() as connection, pytest.raises(Exception, match="value_only_when_ok"):
            connection.execute(text("UPDATE measurement SET number = 0 WHERE status = 'not_evaluable'"))
        engine.dispose()

    def test_committing_twice_is_committing_once(self, ledger: Ledger) -> None:
        record = example_result()
        ledger.commit_results([record])
        ledger.commit_results([example_result(created_at="2027"), record])
        assert ledger.results(current_only=False) == [record]

    def test_same_case_twice_in_one_batch(self, ledger: Ledger) -> None:
        failed = example_result(status=ResultStatus.FAILED)
        ledger.commit_results([failed, example_result(), failed])
        assert ledger.results(current_only=False) == [example_result()]

    def test_success_replaces_failure(self, ledger: Ledger) -> None:
        ledger.commit_results([example_result(status=ResultStatus.FAILED, attempts=1)])
        ledger.commit_results([example_result(status=ResultStatus.FAILED, attempts=2)])
        (state,) = ledger.current_fingerprints("calcium").values()
        assert state == ("fingerprint-1", ResultStatus.FAILED, 2)
        ledger.commit_results([example_result(attempts=3)])
        assert ledger.results(current_only=False) == [example_result(attempts=3)]

    def test_failure_never_replaces_an_outcome(self, ledger: Ledger) -> None:
        refused = example_result("1.3", status=ResultStatus.NOT_EVALUABLE, reason="contrast_enhanced")
        ledger.commit_results([example_result(), refused])
        failures = [example_result(uid, status=ResultStatus.FAILED, attempts=2) for uid in ("1.2", "1.3")]
        ledger.commit_results(failures)
        assert {record.status for record in ledger.results()} == {ResultStatus.OK, ResultStatus.NOT_EVALUABLE}

    def test_new_fingerprint_becomes_current_and_the_old_stays_readable(self, ledger: Ledger) -> None:
        old, new = example_result(), example_result(fingerprint="fingerprint-2")
        ledger.commit_results([old])
        ledger.commit_results([new])
        assert ledger.results() == [new]
        assert ledger.history(old.case_id) == [old, new]
        assert ledger.current_fingerprints("calcium")[old.case_id].fingerprint == "fingerprint-2"
        ledger.commit_results([old])  # back to the earlier policy: the result is there already
        assert ledger.results() == [old]
        assert ledger.history(old.case_id) == [old, new]

    def test_an_earlier_result_becomes_current_again(self, ledger: Ledger) -> None:
        old, new = example_result(), example_result(fingerprint="fingerprint-2")
        failed = example_result(fingerprint="fingerprint-3", status=ResultStatus.FAILED)
        for record in (old, failed, new):
            ledger.commit_results([record])
        assert ledger.earlier_fingerprints("calcium") == {(old.case_id, "fingerprint-1")}
        assert ledger.earlier_fingerprints("plaque") == set()
        ledger.restore({old.case_id: "fingerprint-1"})
        assert ledger.results() == [old]
        assert ledger.earlier_fingerprints("calcium") == {(old.case_id, "fingerprint-2")}
        with pytest.raises(KeyError, match="no result with fingerprint unheard-of"):
            ledger.restore({old.case_id: "fingerprint-2", "calcium-unknown": "unheard-of"})
        assert ledger.results() == [old], "nothing of a refused restore is kept"

    def test_a_batch_is_committed_whole_or_not_at_all(self, ledger: Ledger) -> None:
        ledger.commit_results([example_result("1.3")])
        clash = example_result("1.3", case_id="calcium-other-id-for-the-same-study")
        with pytest.raises(Exception, match=r"(?i)unique"):
            ledger.commit_results([example_result("1.4"), clash])
        assert [record.study_uid for record in ledger.results()] == ["1.3"]
        assert len(ledger.current_fingerprints("calcium")) == 1

    @pytest.mark.parametrize("page", [1, 2, 5, 6, 100])
    def test_results_come_page_by_page_in_order_of_case(self, ledger: Ledger, page: int) -> None:
        other = [example_result(f"1.{n}", programme="plaque", case_id=case_id("plaque", f"1.{n}")) for n in range(4)]
        ledger.commit_results([*(example_result(f"1.{n}") for n in range(5)), *other])
        ledger.commit_results([example_result("1.3", fingerprint="fingerprint-2")])
        for programme in (None, "calcium", "plaque"):
            assert list(ledger.iter_results(programme, page)) == ledger.results(programme)
        assert list(ledger.iter_results("none", page)) == []
        assert ledger.first_results("plaque", 3) == ledger.results("plaque")[:3]

    def test_results_are_counted_by_status_and_reason(self, ledger: Ledger) -> None:
        no = {"status": ResultStatus.NOT_EVALUABLE, "reason": "contrast_enhanced"}
        other = example_result("1.1", programme="plaque", case_id=case_id("plaque", "1.1"))
        ledger.commit_results([example_result("1.1"), *(example_result(uid, **no) for uid in ("1.2", "1.3")), other])
        ledger.commit_results([example_result("1.3", fingerprint="fingerprint-2")])
        expected = {(ResultStatus.OK, ""): 2, (ResultStatus.NOT_EVALUABLE, "contrast_enhanced"): 1}
        assert ledger.count_results("calcium") == expected
        assert ledger.count_results() == expected | {(ResultStatus.OK, ""): 3}
        assert ledger.count_results("none") == {}

    def test_highest_results(self, ledger: Ledger) -> None:
        def measured(uid: str, name: str, value: float, **changes: str) -> ResultRecord:
            return example_result(uid, measurements=[Measurement(name, value, "1")], **changes)

        outdated = measured("1.1", "gated", 900.0)
        high, low = measured("1.1", "gated", 70.0, fingerprint="fingerprint-2"), measured("1.2", "gated", 1.0)
        middle, else_measured = measured("1.3", "nongated", 7.0), measured("1.4", "volume", 8000.0)
        text_only = example_result("1.5", measurements=[Measurement("gated", "many")])
        other = measured("1.6", "gated", 9000.0, programme="plaque", case_id=case_id("plaque", "1.6"))
        for batch in ([outdated, low, middle, else_measured, text_only, other], [high]):
            ledger.commit_results(batch)
        names = ("gated", "nongated")
        assert ledger.highest_results("calcium", names, 9) == [high, middle, low]
        assert ledger.highest_results("calcium", names, 2) == [high, middle]
        assert ledger.highest_results("calcium", ("none",), 9) == []

    def test_studies_without_result_are_counted(self, ledger: Ledger) -> None:
        for uid in ("1.2", "1.3", "1.4"):
            ledger.record_series(example_series(f"{uid}.1", study_uid=uid), example_verdict(f"{uid}.1", study_uid=uid))
        ledger.record_series(example_series("1.4.2", study_uid="1.4"), example_verdict("1.4.2", study_uid="1.4"))
        ledger.commit_results([example_result("1.2")])
        assert (ledger.count_studies(), ledger.count_studies_without_result()) == (3, 2)

    def test_empty_batches_are_nothing(self, ledger: Ledger) -> None:
        ledger.commit_results([])
        ledger.record_verdicts([])
        ledger.record_ingest([], [], [])
        assert ledger.results() == []

    def test_series_and_verdicts_come_back(self, ledger: Ledger) -> None:
        refused = example_series("1.2.2", pixel_digest=None, volume_url=None)
        no = example_verdict(
            "1.2.2", status=VerdictStatus.REFUSED, reason="missing_slices", detail="no slice at z = 3 mm"
        )
        rejected = RejectedFileRecord("/in/c.dcm", "not_dicom", "truncated")
        ledger.record_series(example_series(), example_verdict())
        ledger.record_ingest([refused], [no], [rejected])
        assert ledger.series() == [example_series(), refused]
        assert ledger.series("1.9") == []
        assert ledger.series_by_uid("1.2.2") == refused
        assert ledger.series_by_uid("1.9.9") is None
        assert ledger.verdicts("ingest") == [example_verdict(), no]
        assert ledger.verdicts("calcium") == []
        assert ledger.rejected_files() == [rejected]
        assert ledger.studies() == ["1.2"]
        assert ledger.source_digests(["1.2.1", "1.2.2", "1.2.3"]) == {"1.2.1": "source-1", "1.2.2": "source-1"}
        many = (f"1.2.{number}" for number in range(35_000))
        assert ledger.source_digests(many) == ledger.source_digests(["1.2.1", "1.2.2"])
        assert ledger.verdicts(limit=1) == [example_verdict()]
        assert ledger.count_verdicts() == {
            ("ingest", VerdictStatus.ACCEPTED, ""): 1,
            ("ingest", VerdictStatus.REFUSED, "missing_slices"): 1,
        }
        assert ledger.count_rejected_files() == {"not_dicom": 1}
        outline = SeriesOutline("CT", 3, refused.header)
        assert ledger.series_outlines({"1.2.2", "1.9.9"}) == {"1.2.2": outline}
        assert ledger.series_outlines([]) == {}

    def test_ingesting_the_same_again_adds_nothing(self, ledger: Ledger) -> None:
        for _ in range(2):
            ledger.record_ingest([example_series()], [example_verdict()], [RejectedFileRecord("/in/c", "not_dicom")])
        assert (len(ledger.series()), len(ledger.verdicts()), len(ledger.rejected_files())) == (1, 1, 1)
        assert ledger.superseded("1.2.1") == []

    def test_changed_series_is_replaced_and_what_it_was_is_kept(self, ledger: Ledger) -> None:
        ledger.record_series(example_series(), example_verdict())
        changes = {"source_digest": "source-2", "pixel_digest": "pixels-2", "volume_url": "1.2/1.2.1/pixels-2"}
        ledger.record_series(example_series(**changes), example_verdict())
        assert ledger.series() == [example_series(**changes)]
        (earlier,) = ledger.superseded("1.2.1")
        assert (earlier.source_digest, earlier.pixel_digest) == ("source-1", "pixels-1")
        assert earlier.volume_url == example_series().volume_url

    def test_newer_verdict_replaces_the_older_of_its_programme_only(self, ledger: Ledger) -> None:
        ledger.record_series(example_series(), example_verdict())
        ledger.record_verdicts([example_verdict(programme="calcium", status="refused", reason="kvp_missing")])
        ledger.record_verdicts([example_verdict(programme="calcium")])
        assert [verdict.status for verdict in ledger.verdicts()] == [VerdictStatus.ACCEPTED, VerdictStatus.ACCEPTED]
        assert len(ledger.verdicts("ingest")) == 1

    def test_file_that_became_readable_is_no_longer_rejected(self, ledger: Ledger) -> None:
        files = [RejectedFileRecord("/in/a.dcm", "not_dicom"), RejectedFileRecord("/in/z.dcm", "not_dicom")]
        ledger.record_ingest([], [], files)
        ledger.record_series(example_series(), example_verdict())
        assert ledger.rejected_files() == files[1:]

    def test_hostile_text_is_stored(self, ledger: Ledger) -> None:
        ledger.record_ingest(
            [example_series(header={"PatientComments": HOSTILE_TEXT}, sources=(HOSTILE_TEXT,))],
            [example_verdict(detail=HOSTILE_TEXT)],
            [RejectedFileRecord(HOSTILE_TEXT, "not_dicom", HOSTILE_TEXT)],
        )
        error = {"class": "ValueError", "message": HOSTILE_TEXT, "traceback": HOSTILE_TEXT}
        ledger.commit_results([example_result(status=ResultStatus.FAILED, detail=HOSTILE_TEXT, error=error)])
        assert ledger.series()[0].header == {"PatientComments": HOSTILE_TEXT}
        assert "心臓 💙" in ledger.rejected_files()[0].path
        assert ledger.results()[0].error == error

    def test_reopened_ledger_has_everything(self, ledger: Ledger, ledger_location: str) -> None:
        ledger.commit_results([example_result()])
        with Ledger(ledger_location) as again:
            assert again.results() == [example_result()]

    def test_who_waits_is_alone_when_the_other_has_done(self, ledger: Ledger, ledger_location: str) -> None:
        entered = threading.Event()

        def second() -> None:
            with Ledger(ledger_location) as other, other.alone("work") as is_held:
                assert is_held
                entered.set()

        thread = threading.Thread(target=second)
        with ledger.alone("work"):
            thread.start()
            assert not entered.wait(0.5)
            ledger.commit_results([example_result()])
        thread.join(10)
        assert entered.is_set()

    def test_who_does_not_wait_is_told(self, ledger: Ledger, ledger_location: str) -> None:
        with Ledger(ledger_location) as other:
            with ledger.alone("work"):
                with other.alone("work", wait=False) as is_held:
                    assert not is_held
                with other.alone("other work", wait=False) as is_held:
                    assert is_held
            with other.alone("work", wait=False) as is_held:
                assert is_held

    def test_several_can_open_a_new_ledger_at_once(self, ledger_location: str) -> None:
        with ThreadPoolExecutor(4) as pool:
            for opened in pool.map(Ledger, [ledger_location] * 4):
                opened.close()
        with Ledger(ledger_location) as ledger:
            assert ledger.results() == []

    def test_ledger_of_a_newer_version_is_refused(self, ledger: Ledger, ledger_location: str) -> None:
        ledger.close()
        engine = create_engine(ledger_url(ledger_location))
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        engine.dispose()
        with pytest.raises(LedgerError, match=r"schema revision 9999.*newer version; upgrade Popscan"):
            Ledger(ledger_location)

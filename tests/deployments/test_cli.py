"""What the command line promises without any image: help, JSON, exit status, messages."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from ops.verdict import ResultStatus, VerdictStatus
from storage.ledger import Ledger
from storage.records import Measurement, ResultRecord, SeriesRecord, VerdictRecord, case_id
from tests.deployments.conftest import Popscan

COMMANDS = ["demo", "simulate", "ingest", "screen", "results", "verdicts", "explain", "report", "doctor", "models"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with one score, one refusal and one failure."""
    folder = tmp_path / "home"
    folder.mkdir()
    with Ledger(folder / "ledger.sqlite") as ledger:
        for number in (1, 2, 3):
            uid = f"1.2.{number}"
            series = SeriesRecord(
                f"{uid}.1", uid, "CT", "dicom", 40, f"source-{number}", f"pixels-{number}", f"key-{number}"
            )
            ledger.record_series(series, VerdictRecord(series.series_uid, uid, "ingest", VerdictStatus.ACCEPTED))
        ledger.commit_results(results())
    return folder


def results() -> list[ResultRecord]:
    common = {"programme": "calcium", "programme_version": "1", "policy": {"area_rule": ">=1mm2"}}
    scored = ResultRecord(
        case_id=case_id("calcium", "1.2.1"),
        study_uid="1.2.1",
        status=ResultStatus.OK,
        fingerprint="f" * 64,
        roles={"ct": "1.2.1.1"},
        inputs={"ct": "pixels-1"},
        stages=[{"name": "score", "version": "3", "parameters": {}}],
        models={"heart-territories": "abc123"},
        measurements=[
            Measurement("agatston_total", 12.5, "1"),
            Measurement("category", "11-100"),
            Measurement("mass_mg", None, "mg", ResultStatus.NOT_EVALUABLE, "not_calibrated"),
        ],
        pictures=["calcium-1/axial.png"],
        timings={"score": 1.25},
        **common,
    )
    refused = ResultRecord(
        case_id=case_id("calcium", "1.2.2"),
        study_uid="1.2.2",
        status=ResultStatus.NOT_EVALUABLE,
        reason="kvp_missing",
        detail="no KVP in [the] header",
        fingerprint="e" * 64,
        **common,
    )
    failed = ResultRecord(
        case_id=case_id("calcium", "1.2.3"),
        study_uid="1.2.3",
        status=ResultStatus.FAILED,
        reason="failed",
        fingerprint="d" * 64,
        error={"class": "ValueError", "message": "odd", "traceback": "Traceback: odd [voxels]"},
        **common,
    )
    return [scored, refused, failed]


def test_help_names_every_command_and_comes_at_once(popscan: Popscan) -> None:
    popscan("--help")  # once, so that byte code is compiled
    began = processor_seconds()
    done = popscan("--help")
    spent = processor_seconds() - began
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)
    assert spent < 1.0, "about 0.3 s is usual; something heavy is imported for help"


def processor_seconds() -> float:
    """Processor time of finished child processes: what a command costs, however busy the machine is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_results_as_json(popscan: Popscan, home: Path) -> None:
    done = popscan("results", "--json")
    assert done.returncode == 0
    rows = {row["study_uid"]: row for row in json.loads(done.stdout)["results"]}
    scored = rows["1.2.1"]
    assert scored["case"] == case_id("calcium", "1.2.1")
    assert (scored["programme"], scored["status"], scored["reason"]) == ("calcium", "ok", None)
    assert scored["measurements"] == {"agatston_total": 12.5, "category": "11-100"}
    assert scored["measurement_status"] == {"mass_mg": {"status": "not_evaluable", "reason": "not_calibrated"}}
    assert (scored["policy"], scored["fingerprint"]) == ({"area_rule": ">=1mm2"}, "f" * 64)
    assert (rows["1.2.2"]["status"], rows["1.2.2"]["reason"]) == ("not_evaluable", "kvp_missing")
    assert rows["1.2.2"]["measurements"] == {}, "what was refused has no number, least of all 0"
    assert (rows["1.2.3"]["status"], rows["1.2.3"]["reason"]) == ("failed", "failed")


def test_results_for_people(popscan: Popscan, home: Path) -> None:
    shown = popscan("results").stdout
    assert "agatston_total 12.5" in shown
    assert "kvp_missing: no KVP in [the] header" in shown


def test_verdicts_as_json(popscan: Popscan, home: Path) -> None:
    rows = json.loads(popscan("verdicts", "--json").stdout)["verdicts"]
    assert len(rows) == 3
    assert rows[0] == {
        "series_uid": "1.2.1.1",
        "study_uid": "1.2.1",
        "programme": "ingest",
        "status": "accepted",
        "reason": None,
        "detail": "",
    }


@pytest.mark.parametrize("arguments", [["results", "--json"], ["verdicts", "--json"]])
def test_an_empty_home_is_an_empty_list(popscan: Popscan, arguments: list[str]) -> None:
    done = popscan(*arguments)
    assert done.returncode == 0
    assert json.loads(done.stdout) == {arguments[0]: []}


def test_home_may_stand_before_and_after_the_command(popscan: Popscan, home: Path, tmp_path: Path) -> None:
    other = {"POPSCAN_HOME": str(tmp_path / "empty")}
    before = popscan("--home", home, "results", "--json", **other)
    after = popscan("results", "--json", "--home", home, **other)
    assert len(json.loads(before.stdout)["results"]) == 3
    assert after.stdout == before.stdout


def test_explain_shows_everything_behind_a_number(popscan: Popscan, home: Path) -> None:
    done = popscan("explain", case_id("calcium", "1.2.1")[:-4])
    assert done.returncode == 0
    for part in ("1.2.1.1", "pixels-1", "source-1", "score 3", "1.250 s", "abc123", "f" * 64, ">=1mm2", "12.5"):
        assert part in done.stdout, part
    assert str(home / "objects" / "calcium-1" / "axial.png") in done.stdout
    assert "not_evaluable (not_calibrated)" in done.stdout


def test_explain_shows_the_traceback_of_a_failure(popscan: Popscan, home: Path) -> None:
    assert "Traceback: odd [voxels]" in popscan("explain", case_id("calcium", "1.2.3")).stdout


def test_ingest_tells_prefect_nothing(popscan: Popscan, tmp_path: Path) -> None:
    (tmp_path / "Doe^Jane.txt").write_text("not DICOM")
    done = popscan("ingest", tmp_path / "Doe^Jane.txt", "--json", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert json.loads(done.stdout)["not_dicom"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest", "/no/such/folder"], "no such file or folder: /no/such/folder"),
        (["ingest"], "which folder"),
        (["screen", "--programme", "astrology"], "choose one of: calcium"),
        (["screen", "/no/such/folder", "--programme", "calcium"], "no such file or folder"),
        (["results", "--programme", "astrology"], "unknown programme"),
        (["explain", "calcium-0000"], "0 cases begin with"),
        (["explain", "calcium-"], "3 cases begin with"),
        (["report", "--truth", "/no/truth.json"], "no such file: /no/truth.json"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_printed(
    popscan: Popscan, home: Path, arguments: list[str], message: str
) -> None:
    done = popscan(*arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [["screen"], ["nonsense"], ["results", "--nonsense"]])
def test_wrong_usage_is_an_error(popscan: Popscan, arguments: list[str]) -> None:
    done = popscan(*arguments)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr


def test_a_setting_that_cannot_be_used_is_named(popscan: Popscan) -> None:
    done = popscan("results", POPSCAN_WORKERS="many")
    assert done.returncode == 2
    assert "POPSCAN_WORKERS" in done.stderr


def test_a_file_that_is_no_ledger_is_named(popscan: Popscan, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "ledger.sqlite").write_text("this is not a database")
    done = popscan("results")
    assert done.returncode == 1
    assert "ledger.sqlite" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "content", ['{"calcium": {"assumed_kvp": "high"}}', '{"calcum": {"assumed_kvp": 120}}', '{"assumed_kvp": 120}']
)
def test_a_policy_file_that_cannot_be_is_refused_before_any_work(
    popscan: Popscan, tmp_path: Path, content: str
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(content)
    done = popscan("screen", "--programme", "calcium", POPSCAN_POLICY=str(policy))
    assert done.returncode == 2
    assert "assumed_kvp" in done.stderr
    assert "Traceback" not in done.stderr

"""From DICOM files to a score with provenance, through the command alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pydicom
import pytest

from flows.programmes.calcium import PROGRAMME
from tests.deployments.conftest import run_popscan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which three simulated participants were screened; the last lacks a slice, and a file is not DICOM."""
    folder = tmp_path_factory.mktemp("end-to-end")
    simulated = run_popscan(folder / "home", "simulate", folder / "dicom", "--participants", "3", "--seed", "11")
    assert simulated.returncode == 0, simulated.stderr
    (folder / "dicom" / "notes.txt").write_text("not DICOM")
    remove_middle_slice(folder / "dicom" / "participant-0002")
    screened = run_popscan(folder / "home", "screen", folder / "dicom", "--programme", "calcium", "--json")
    assert screened.returncode == 0, screened.stderr
    (folder / "home" / "screened.json").write_text(screened.stdout)
    return folder / "home"


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_screen_prints_one_document_and_leaves_table_and_report(home: Path) -> None:
    summary = json.loads((home / "screened.json").read_text())
    assert (summary["studies"], summary["computed"], summary["failed"]) == (3, 2, 0)
    assert summary["results"] == {"ok": 2, "not_evaluable": 1, "out_of_model_range": 0, "failed": 0}
    assert summary["not_evaluable_by_reason"] == {"missing_slices": 1}
    assert pq.read_table(summary["table"]).num_rows == 3
    assert "research use" in Path(summary["report"]).read_text(encoding="utf-8").lower()


def test_every_study_of_the_truth_has_one_result(home: Path) -> None:
    truth = json.loads((home.parent / "dicom" / "truth.json").read_text())["studies"]
    rows = document(run_popscan(home, "results", "--programme", "calcium", "--json"))["results"]
    assert {row["study_uid"] for row in rows} == set(truth)
    assert len(rows) == len(truth)
    assert all(row["status"] == "ok" or row["reason"] == "missing_slices" for row in rows)
    for row in rows:
        if row["status"] != "ok":
            continue
        values = row["measurements"]
        parts = sum(values[f"agatston_{artery}"] for artery in ("LM", "LAD", "LCX", "RCA"))
        assert values["agatston_total"] == pytest.approx(parts)
        assert row["policy"]
        assert len(row["fingerprint"]) == 64
        assert "mass_mg" not in values, "no calibration phantom in the scan"


def test_every_series_has_a_verdict_of_ingest_and_of_the_programme(home: Path) -> None:
    rows = document(run_popscan(home, "verdicts", "--json"))["verdicts"]
    by_programme: dict[str, set[str]] = {}
    for row in rows:
        by_programme.setdefault(row["programme"], set()).add(row["series_uid"])
    assert set(by_programme) == {"ingest", "calcium"}
    assert by_programme["ingest"] == by_programme["calcium"]


def test_pictures_and_segmentations_are_where_explain_says(home: Path) -> None:
    row = next(row for row in document(run_popscan(home, "results", "--json"))["results"] if row["status"] == "ok")
    told = run_popscan(home, "explain", row["case"]).stdout
    assert row["fingerprint"] in told
    assert row["study_uid"] in told
    assert all(f"{stage.name} {stage.version}" in told for stage in PROGRAMME.stages)
    (picture,) = (home / "objects" / row["case"]).rglob("*.png")
    assert str(picture) in told
    for segmentation in (home / "objects").rglob("*.dcm"):
        assert pydicom.dcmread(segmentation).Modality == "SEG"


def test_the_second_run_computes_nothing_and_changes_nothing(home: Path) -> None:
    before = run_popscan(home, "results", "--json").stdout
    again = document(run_popscan(home, "screen", home.parent / "dicom", "--programme", "calcium", "--json"))
    assert (again["computed"], again["planned"]) == (0, {"unchanged": 3})
    assert run_popscan(home, "results", "--json").stdout == before


def test_report_with_truth_goes_where_it_is_told(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report.html"
    done = run_popscan(home, "report", "--out", out, "--truth", home.parent / "dicom" / "truth.json")
    assert done.stdout.strip() == str(out)
    assert out.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")


def test_doctor_and_models_are_content(home: Path) -> None:
    healthy = run_popscan(home, "doctor")
    assert healthy.returncode == 0, healthy.stdout
    assert "3 studies, 3 results" in healthy.stdout
    assert run_popscan(home, "models", "verify").returncode == 0
    assert "research use" in run_popscan(home, "models", "list").stdout.lower()


def test_a_scan_with_a_slice_missing_has_a_reason_and_no_number(home: Path) -> None:
    rows = document(run_popscan(home, "results", "--json"))["results"]
    (refused,) = [row for row in rows if row["status"] != "ok"]
    assert (refused["status"], refused["reason"], refused["measurements"]) == ("not_evaluable", "missing_slices", {})


def remove_middle_slice(study: Path) -> None:
    """Delete the slice in the middle of the study's image series, whatever its file is called."""
    images = {file: pydicom.dcmread(file) for file in study.rglob("*") if file.is_file()}
    slices = [
        file for file, image in images.items() if "LOCALIZER" not in image.get("ImageType", ()) and "Rows" in image
    ]
    slices.sort(key=lambda file: float(images[file].ImagePositionPatient[2]))
    slices[len(slices) // 2].unlink()

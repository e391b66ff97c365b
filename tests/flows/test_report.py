"""The HTML report: denominators, refusals, agreement, escaping, and its size with thousands of cases."""

from __future__ import annotations

import io
import re
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.report import number, write_report
from flows.report_cases import MAX_CASES, MAX_THUMBNAILS
from ops.verdict import ResultStatus, VerdictStatus
from storage.ledger import Ledger
from storage.objects import ObjectStore
from storage.records import (
    Measurement,
    RejectedFileRecord,
    ResultRecord,
    SeriesRecord,
    VerdictRecord,
    case_id,
)
from storage.urls import Location

HOSTILE = "<script>alert('x')</script>&\"'"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(Location(str(tmp_path / "objects")))


def ingest(ledger: Ledger, *studies: str, header: dict[str, Any] | None = None) -> None:
    series = [
        SeriesRecord(f"{uid}.1", uid, "CT", "dicom", 40, "d", "p", "key", {"PatientAge": "064Y", **(header or {})})
        for uid in studies
    ]
    accepted = [VerdictRecord(s.series_uid, s.study_uid, "ingest", VerdictStatus.ACCEPTED) for s in series]
    ledger.record_ingest(series, accepted, [])


def scored(study: str, total: float, gated: bool = True, **changes: Any) -> ResultRecord:
    prefix = "agatston" if gated else "agatston_equivalent_nongated"
    values = [Measurement(f"{prefix}_total" if gated else prefix, total, "1")]
    values += [Measurement(f"{prefix}_{a}", total if a == "LAD" else 0, "1") for a in ("LM", "LAD", "LCX", "RCA")]
    values += [Measurement("volume_mm3", 0.8 * total, "mm3")]
    fields: dict[str, Any] = {
        "fingerprint": "f" * 64,
        "roles": {"ct": f"{study}.1"},
        "measurements": values,
        "timings": {"load": 0.1, "score": 0.3},
        "policy": {"score": {"area_rule": ">=1mm2"}},
        "models": {"heart-territories": "ab" * 32},
        "stages": [{"name": "score", "version": "1", "parameters": {}}],
    }
    return ResultRecord(case_id("calcium", study), "calcium", "1", study, ResultStatus.OK, **{**fields, **changes})


def refused(
    study: str, reason: str, status: ResultStatus = ResultStatus.NOT_EVALUABLE, detail: str = ""
) -> ResultRecord:
    return ResultRecord(
        case_id("calcium", study), "calcium", "1", study, status, "f" * 64, reason=reason, detail=detail
    )


def page(ledger: Ledger, objects: ObjectStore, tmp_path: Path, truth: dict[str, Any] | None = None) -> str:
    return write_report(ledger, objects, tmp_path / "report.html", truth).read_text(encoding="utf-8")


def tile(html: str, words: str) -> str:
    found = re.search(rf"<b>([^<]*)</b>{re.escape(words)}", html)
    assert found, words
    return found.group(1)


def test_an_empty_ledger_gives_a_page(ledger: Ledger, objects: ObjectStore, tmp_path: Path) -> None:
    html = page(ledger, objects, tmp_path, truth={"studies": {}})
    assert tile(html, "studies ingested") == "0"
    assert "No case has a score." in html
    assert "No evaluated case has a known score." in html
    assert [file.name for file in tmp_path.glob("report*")] == ["report.html"]


def test_denominators_and_refusals_are_counted(ledger: Ledger, objects: ObjectStore, tmp_path: Path) -> None:
    ingest(ledger, "1", "2", "3", "4", "5", "6")
    ledger.record_ingest([], [], [RejectedFileRecord("a.dcm", "truncated")])
    ledger.commit_results(
        [
            scored("1", 120.5, flags=["metal"]),
            refused("2", "kvp_missing"),
            refused("3", "kvp_missing"),
            refused("4", "kvp_out_of_table", ResultStatus.OUT_OF_MODEL_RANGE),
            refused("5", "failed", ResultStatus.FAILED, "ValueError: no"),
        ]
    )
    html = page(ledger, objects, tmp_path)
    expected = {
        "studies ingested": "6",
        "evaluated": "1",
        "not evaluable": "2",
        "out of model range": "1",
        "failed": "1",
        "without a result yet": "1",
    }
    assert {words: tile(html, words) for words in expected} == expected
    assert re.search(r"<td>not evaluable</td><td><code>kvp_missing</code></td><td class=\"n\">2</td>", html)
    assert "1 truncated" in html
    assert "metal × 1" in html
    assert "Agreement with known truth" not in html


def test_a_refused_case_shows_no_number(ledger: Ledger, objects: ObjectStore, tmp_path: Path) -> None:
    ingest(ledger, "2")
    ledger.commit_results([refused("2", "heart_truncated")])
    html = page(ledger, objects, tmp_path)
    row = html[html.index(f'<tr id="{case_id("calcium", "2")}"') :]
    cells = re.findall(r'<td class="n"[^>]*>([^<]*)</td>', row[: row.index("</tr>")])
    assert set(cells) == {"—"}


def test_gated_and_nongated_scores_are_never_mixed(ledger: Ledger, objects: ObjectStore, tmp_path: Path) -> None:
    ingest(ledger, "1", "2")
    ledger.commit_results([scored("1", 50), scored("2", 5000, gated=False)])
    html = page(
        ledger, objects, tmp_path, {"studies": {u: {"agatston": truth(s)} for u, s in (("1", 50), ("2", 4000))}}
    )
    assert "Categories, ECG-gated (n = 1)" in html
    assert "Categories, non-gated, Agatston equivalent (n = 1)" in html
    assert html.count("cases with truth and score") == 2
    assert "non-gated equivalent" in html


def truth(total: float) -> dict[str, float]:
    return {"LM": 0.0, "LAD": total, "LCX": 0.0, "RCA": 0.0, "total": total}


def test_agreement_names_the_worst_cases(ledger: Ledger, objects: ObjectStore, tmp_path: Path) -> None:
    pairs = {"1": (0, 0), "2": (12, 30), "3": (150, 150), "4": (500, 480), "5": (90, 0)}
    ingest(ledger, *pairs)
    ledger.commit_results([scored(uid, measured) for uid, (_, measured) in pairs.items()])
    known = {uid: {"agatston": truth(true)} for uid, (true, _) in pairs.items()}
    html = page(ledger, objects, tmp_path, {"studies": {**known, "99": {"agatston": None}}})
    assert tile(html, "cases with truth and score") == "5"
    assert tile(html, "same category") == "4 / 5"
    assert "Calcified called zero: 1." in html
    worst = html[html.index("Worst disagreements") :]
    assert re.findall(r'href="#([^"]+)"', worst)[:2] == [case_id("calcium", "5"), case_id("calcium", "2")]


def test_text_from_files_is_escaped(ledger: Ledger, objects: ObjectStore, tmp_path: Path) -> None:
    ingest(ledger, "1", header={"SeriesDescription": HOSTILE, "PatientSex": HOSTILE})
    ledger.record_verdicts([VerdictRecord("1.1", "1", "calcium", VerdictStatus.REFUSED, "not_chest", HOSTILE)])
    ledger.commit_results(
        [scored("1", 10, policy={"note": HOSTILE}, flags=[HOSTILE]), refused("2", "failed", detail=HOSTILE)]
    )
    html = page(ledger, objects, tmp_path)
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert") >= 5


def test_pictures_are_inline_and_linked(ledger: Ledger, objects: ObjectStore, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((60, 120, 3), 90, dtype=np.uint8)).save(buffer, format="PNG")
    objects.write("case/picture.png", buffer.getvalue())
    objects.write("case/broken.png", b"no picture")
    ingest(ledger, "1", "2", "3")
    ledger.commit_results(
        [
            scored("1", 10, pictures=["case/picture.png", "case/lesions.dcm"]),
            scored("2", 10, pictures=["case/missing.png"]),
            scored("3", 10, pictures=["case/broken.png"]),
        ]
    )
    html = page(ledger, objects, tmp_path)
    assert html.count("<img ") == html.count("data:image/jpeg;base64,") == 1
    assert 'href="objects/case/picture.png"' in html
    assert 'href="objects/case/lesions.dcm"' in html
    assert not re.search(r'(src|href)="https?://', html)


def test_thousands_of_cases_stay_a_usable_page(ledger: Ledger, objects: ObjectStore, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((60, 120, 3), dtype=np.uint8)).save(buffer, format="PNG")
    objects.write("picture.png", buffer.getvalue())
    studies = [f"1.2.{n}" for n in range(3000)]
    ingest(ledger, *studies)
    ledger.commit_results([scored(uid, n % 1000, pictures=["picture.png"]) for n, uid in enumerate(studies)])
    html = page(ledger, objects, tmp_path)
    assert tile(html, "evaluated") == "3000"
    assert html.count("data:image/jpeg") == MAX_THUMBNAILS
    assert len(html) < 5e6
    assert html.count("<tr id=") == MAX_CASES
    assert "2,000 of 3,000 cases are shown" in html


def test_of_many_cases_the_telling_ones_are_shown(ledger: Ledger, objects: ObjectStore, tmp_path: Path) -> None:
    usual = [scored(f"1.{n}", 5, flags=["metal"] if n < 2100 else []) for n in range(4200)]
    usual += [refused(f"2.{n}", "noise") for n in range(2100)]
    telling = [
        scored("3.1", 9000),
        scored("3.2", 8000, gated=False),
        scored("3.3", 1, flags=["motion", "metal"]),
        refused("3.4", "kvp_missing"),
        refused("3.5", "error", ResultStatus.FAILED),
        scored("3.6", 3),
    ]
    ledger.commit_results([*usual, *telling])
    html = page(ledger, objects, tmp_path, {"studies": {"3.6": {"agatston": truth(3000)}}})
    rows = set(re.findall(r'<tr id="([^"]+)"', html))
    assert len(rows) == MAX_CASES
    assert {record.case_id for record in telling} <= rows
    counted = {"noise": 2100, "kvp_missing": 1, "error": 1}
    assert {r: int(n) for r, n in re.findall(r'<code>(\w+)</code></td><td class="n">(\d+)</td>', html)} == counted
    assert set(re.findall(r'href="#(calcium-[^"]+)"', html)) <= rows, "no link leads to a row that is not there"


def test_five_times_the_results_take_little_more_memory(
    ledger: Ledger, objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.report_cases.MAX_CASES", 200)

    def peak() -> int:
        tracemalloc.start()
        page(ledger, objects, tmp_path)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    page(ledger, objects, tmp_path)  # what is loaded and compiled once is not the results' doing
    peaks = []
    for first, last in ((0, 1000), (1000, 5000)):
        ledger.commit_results([scored(f"1.{n}", n) for n in range(first, last)])
        peaks.append(peak())
    assert peaks[1] < peaks[0] + 1.5e6, "4,000 records are some 25 MB, their floats 0.5 MB"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0, "0"), (12.34, "12.3"), (1234.0, "1,234"), (None, "—"), (float("nan"), "—")]
)
def test_numbers_for_people(value: object, text: str) -> None:
    assert number(value) == text


def test_several_can_write_it_at_once(ledger: Ledger, objects: ObjectStore, tmp_path: Path) -> None:
    out = tmp_path / "reports" / "report.html"
    ledger.commit_results([scored("1.2", 5.0)])
    with ThreadPoolExecutor(4) as pool:
        for written in pool.map(lambda _: write_report(ledger, objects, out), range(12)):
            assert written.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert list(out.parent.iterdir()) == [out]

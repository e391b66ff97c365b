"""One self-contained HTML page about everything that was screened: results, refusals, agreement, provenance."""

from __future__ import annotations

import base64
import io
import json
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from PIL import Image

from flows.charts import bar_chart, log_histogram
from flows.report_agreement import agreement, score_of
from ops.diseases.calcium_scan import age_in_years
from ops.diseases.calcium_scores import ARTERIES, CATEGORIES, category
from ops.verdict import ResultStatus, VerdictStatus
from storage.ledger import Ledger
from storage.objects import ObjectStore
from storage.records import INGEST_PROGRAMME, Measurement, ResultRecord, SeriesRecord, VerdictRecord

MAX_THUMBNAILS = 60
THUMBNAIL_WIDTH = 420
# Rows of the series table; a population has more series than a page should hold, and `popscan verdicts` lists all.
MAX_SERIES_ROWS = 1000
# Cases named under one reason.
MAX_CASES_PER_REASON = 200

STATUS_WORDS = {
    ResultStatus.OK: "evaluated",
    ResultStatus.NOT_EVALUABLE: "not evaluable",
    ResultStatus.OUT_OF_MODEL_RANGE: "out of model range",
    ResultStatus.FAILED: "failed",
}


def write_report(ledger: Ledger, objects: ObjectStore, out: Path, truth: Mapping[str, Any] | None = None) -> Path:
    """Write the report of all current results.

    Parameters
    ----------
    ledger
        Results, verdicts and series.
    objects
        Pictures; one that is missing is left out.
    out
        The file to write; it appears complete or not at all.
    truth
        Known scores (the document of ``truth.json``); adds the section on agreement.

    Returns
    -------
    Path
        ``out``.
    """
    environment = Environment(loader=PackageLoader("flows"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "pretty": _pretty_json}
    page = environment.get_template("report.html").render(view(ledger, objects, out, truth))
    partial = out.with_name(out.name + ".part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(out)
    return out


def view(ledger: Ledger, objects: ObjectStore, out: Path, truth: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything the template shows."""
    records = ledger.results()
    series = {record.series_uid: record for record in ledger.series()}
    verdicts = ledger.verdicts()
    groups = agreement(records, truth) if truth else []
    return {
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": _version(),
        "summary": _summary(ledger, records, verdicts),
        "calcium": _calcium(records, series),
        "agreement": groups,
        "truth_given": truth is not None,
        "refusals": _refusals(records),
        "series_reasons": _series_reasons(verdicts),
        "rejected_files": Counter(file.reason for file in ledger.rejected_files()).most_common(),
        "times": _times(records),
        "cases": _cases(records, groups, objects, out),
        "provenance": _provenance(records),
        "series_rows": _series_rows(verdicts, series),
        "n_series_rows": len(verdicts),
        "max_thumbnails": MAX_THUMBNAILS,
    }


def number(value: object, digits: int = 1) -> str:
    """Format a number for people: at most ``digits`` decimals, an em dash for what is not there."""
    if isinstance(value, str):
        return value
    if not isinstance(value, int | float) or value != value:
        return "—"
    return f"{value:,.{digits}f}".removesuffix("." + "0" * digits)


def _pretty_json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)


def _version() -> str:
    try:
        return version("popscan")
    except PackageNotFoundError:
        return "not installed"


def _summary(ledger: Ledger, records: Sequence[ResultRecord], verdicts: Sequence[VerdictRecord]) -> dict[str, Any]:
    statuses = Counter(record.status for record in records)
    studies = set(ledger.studies())
    ingest = Counter(verdict.status for verdict in verdicts if verdict.programme == INGEST_PROGRAMME)
    return {
        "studies": len(studies),
        "programmes": sorted({record.programme for record in records}),
        "results": [(word, statuses[status]) for status, word in STATUS_WORDS.items()],
        "without_result": len(studies - {record.study_uid for record in records}),
        "series": [(status.value, ingest[status]) for status in VerdictStatus],
        "flags": Counter(flag for record in records for flag in record.flags).most_common(),
    }


def _calcium(records: Sequence[ResultRecord], series: Mapping[str, SeriesRecord]) -> dict[str, Any]:
    scored = [(record, score) for record in records if (score := score_of(record)) is not None]
    gated = [(record, score[0]) for record, score in scored if score[1]]
    nongated = [score[0] for _, score in scored if not score[1]]
    charts = []
    for name, scores in (("ECG-gated", [score for _, score in gated]), ("non-gated, Agatston equivalent", nongated)):
        if scores:
            counts = Counter(category(score) for score in scores)
            bars = [(label, counts[label]) for _, label in CATEGORIES]
            charts += [
                bar_chart(bars, f"Categories, {name} (n = {len(scores)})", "Agatston category"),
                log_histogram(scores, f"Scores, {name} (n = {len(scores)})", "Agatston score, logarithmic bins"),
            ]
    return {"charts": charts, "arteries": _arteries(records), "groups": _groups(gated, series), "n_gated": len(gated)}


def _arteries(records: Sequence[ResultRecord]) -> list[dict[str, Any]]:
    rows = []
    for artery in ARTERIES.values():
        scores = [score[0] for record in records if (score := score_of(record, artery)) is not None]
        positive = sorted(score for score in scores if score > 0)
        rows.append(
            {
                "artery": artery,
                "n": len(scores),
                "calcified": len(positive),
                "median": statistics.median(positive) if positive else None,
                "highest": positive[-1] if positive else None,
            }
        )
    return rows


def _groups(gated: Sequence[tuple[ResultRecord, float]], series: Mapping[str, SeriesRecord]) -> list[dict[str, Any]]:
    """Gated scores by sex and decade of age, as far as the headers tell."""
    by_group: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record, score in gated:
        source = series.get(record.roles.get("ct", ""))
        header = source.header if source else {}
        age = age_in_years(header)
        decade = "unknown" if age is None else f"{int(age // 10 * 10)}–{int(age // 10 * 10 + 9)}"
        by_group[str(header.get("PatientSex") or "unknown"), decade].append(score)
    return [
        {
            "sex": sex,
            "age": decade,
            "n": len(scores),
            "zero": sum(score == 0 for score in scores),
            "median": statistics.median(scores),
            "high": sum(score > 400 for score in scores),
        }
        for (sex, decade), scores in sorted(by_group.items())
    ]


def _refusals(records: Sequence[ResultRecord]) -> list[dict[str, Any]]:
    """Every result without a score, by status and reason, most frequent first."""
    by_reason: dict[tuple[str, str], list[ResultRecord]] = defaultdict(list)
    for record in records:
        if record.status is not ResultStatus.OK:
            by_reason[STATUS_WORDS[record.status], record.reason or ""].append(record)
    ordered = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"status": status, "reason": reason, "n": len(found), "cases": found[:MAX_CASES_PER_REASON]}
        for (status, reason), found in ordered
    ]


def _series_reasons(verdicts: Sequence[VerdictRecord]) -> list[tuple[str, str, str, int]]:
    counts = Counter((v.programme, v.status.value, v.reason) for v in verdicts if v.reason)
    return [(*key, n) for key, n in counts.most_common()]


def _series_rows(verdicts: Sequence[VerdictRecord], series: Mapping[str, SeriesRecord]) -> list[dict[str, Any]]:
    rows = []
    for verdict in sorted(verdicts, key=lambda v: (v.study_uid, v.series_uid, v.programme))[:MAX_SERIES_ROWS]:
        source = series.get(verdict.series_uid)
        header = source.header if source else {}
        about = {"modality": source.modality, "instances": source.n_instances} if source else {}
        rows.append({"verdict": verdict, "description": header.get("SeriesDescription", ""), **about})
    return rows


def _times(records: Sequence[ResultRecord]) -> list[dict[str, Any]]:
    """Seconds per stage: median, 95th percentile and highest."""
    by_stage: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for stage, seconds in record.timings.items():
            by_stage[stage].append(seconds)
        if record.timings:
            by_stage["whole case"].append(sum(record.timings.values()))
    return [
        {
            "stage": stage,
            "n": len(seconds),
            "median": statistics.median(seconds),
            "p95": sorted(seconds)[min(len(seconds) - 1, round(0.95 * (len(seconds) - 1)))],
            "highest": max(seconds),
        }
        for stage, seconds in by_stage.items()
    ]


def _cases(
    records: Sequence[ResultRecord], groups: Sequence[Mapping[str, Any]], objects: ObjectStore, out: Path
) -> list[dict[str, Any]]:
    """One row per case; pictures for the worst disagreements first, then the flagged, then the highest scores."""
    worst = [pair.record.case_id for group in groups for pair in group["worst"]]
    rank = {case: n for n, case in enumerate(dict.fromkeys(worst))}
    scores = {record.case_id: score for record in records if (score := score_of(record)) is not None}

    def order(record: ResultRecord) -> tuple[float, bool, float]:
        score = scores.get(record.case_id)
        return (rank.get(record.case_id, len(rank)), not record.flags, -score[0] if score else 1.0)

    pictured = [record for record in sorted(records, key=order) if _pictures(record)][:MAX_THUMBNAILS]
    shown = {record.case_id: _thumbnail(objects, _pictures(record)[0]) for record in pictured}
    return [
        {
            "record": record,
            "score": scores.get(record.case_id),
            "values": {m.name: _value(m) for m in record.measurements},
            "thumbnail": shown.get(record.case_id),
            "pictures": [(key.rsplit("/", 1)[-1], _link(objects, key, out)) for key in record.pictures],
            "seconds": sum(record.timings.values()) if record.timings else None,
        }
        for record in records
    ]


def _value(measurement: Measurement) -> object:
    return measurement.value if measurement.status is ResultStatus.OK else None


def _pictures(record: ResultRecord) -> list[str]:
    return [key for key in record.pictures if key.endswith(".png")]


def _thumbnail(objects: ObjectStore, key: str) -> str | None:
    """Picture as a small data URI; None when it is not there or not readable."""
    try:
        image = Image.open(io.BytesIO(objects.read(key))).convert("RGB")
    except (KeyError, OSError):
        return None
    height = max(1, round(image.height * THUMBNAIL_WIDTH / image.width))
    buffer = io.BytesIO()
    image.resize((THUMBNAIL_WIDTH, height), Image.Resampling.BOX).save(buffer, format="JPEG", quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _link(objects: ObjectStore, key: str, out: Path) -> str:
    """Address of an object: relative where both are on this disk, so that a moved home keeps working."""
    url = objects.location.child(key).url
    if "://" in url and not url.startswith("file://"):
        return url
    return Path(os.path.relpath(url.removeprefix("file://"), out.parent)).as_posix()


def _provenance(records: Sequence[ResultRecord]) -> list[dict[str, Any]]:
    """Distinct recipes behind the results: programme, policy, models, stages, and how many cases each made."""
    recipes: dict[str, dict[str, Any]] = {}
    for record in records:
        recipe = {
            "programme": f"{record.programme} {record.programme_version}",
            "policy": record.policy,
            "models": record.models,
            "stages": record.stages,
        }
        entry = recipes.setdefault(json.dumps(recipe, sort_keys=True), {**recipe, "n": 0})
        entry["n"] += 1
    return sorted(recipes.values(), key=lambda recipe: -recipe["n"])

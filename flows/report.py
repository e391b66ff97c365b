"""One self-contained HTML page about everything that was screened: results, refusals, agreement, provenance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from flows.programmes import load_programme, programme_names
from flows.reclassification import reclassification, reclassification_view
from flows.report_agreement import Agreement, score_of, values_of
from flows.report_cases import MAX_THUMBNAILS, CaseChoice, case_rows
from flows.report_figures import STATUS_WORDS, Figures
from ops.verdict import VerdictStatus
from storage.ledger import Ledger
from storage.objects import ObjectStore
from storage.records import INGEST_PROGRAMME, ResultRecord, SeriesOutline
from storage.urls import Location

# Rows of the series table; a population has more series than a page should hold, and `popscan verdicts` lists all.
MAX_SERIES_ROWS = 1000

# Results that are looked at together, with the headers of their series.
_LOT = 500


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
    Location(str(out)).write_bytes(page.encode())
    return out


def view(ledger: Ledger, objects: ObjectStore, out: Path, truth: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything the template shows; of the results, counts and floats and the chosen cases stay in memory."""
    figures, agreement, choice = Figures(), Agreement(truth or {}), CaseChoice()
    for record, header in _with_headers(ledger):
        values = values_of(record)
        score = score_of(values)
        figures.add(record, values, header)
        agreement.add(record, values)
        choice.add(record, score[0] if score else None)
    groups = agreement.groups()
    worst = [pair.case_id for group in groups for pair in group["worst"]]
    chosen = choice.chosen(worst)
    verdicts = ledger.count_verdicts()
    return {
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": _version(),
        "summary": _summary(ledger, figures, verdicts),
        "calcium": figures.scores.view(),
        "agreement": groups,
        "truth_given": truth is not None,
        "reclassifications": _reclassifications(ledger),
        "refusals": figures.refusals.view(),
        "series_reasons": [(*key, n) for key, n in verdicts.most_common() if key[2]],
        "rejected_files": ledger.count_rejected_files().most_common(),
        "times": figures.times.view(),
        "cases": case_rows(ledger, chosen, worst, objects, out),
        "shown": set(chosen),
        "n_cases": choice.total,
        "provenance": figures.provenance.view(),
        "series_rows": _series_rows(ledger),
        "n_series_rows": verdicts.total(),
        "max_thumbnails": MAX_THUMBNAILS,
    }


def _reclassifications(ledger: Ledger) -> list[dict[str, Any]]:
    """List the changes of category of every programme whose results have replaced earlier ones."""
    names = [name for name in programme_names() if ledger.changes.has_replacements(name)]
    return [reclassification_view(reclassification(ledger, load_programme(name))) for name in names]


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


def _with_headers(ledger: Ledger) -> Iterator[tuple[ResultRecord, Mapping[str, Any]]]:
    """Yield every current result, and the header of its CT series; empty where there is none."""
    records = ledger.iter_results()
    nothing = SeriesOutline("", 0, {})
    while lot := list(islice(records, _LOT)):
        outlines = ledger.series_outlines({record.roles["ct"] for record in lot if "ct" in record.roles})
        for record in lot:
            yield record, outlines.get(record.roles.get("ct", ""), nothing).header


def _summary(
    ledger: Ledger, figures: Figures, verdicts: Mapping[tuple[str, VerdictStatus, str], int]
) -> dict[str, Any]:
    ingest = dict.fromkeys(VerdictStatus, 0)
    for (programme, status, _), n in verdicts.items():
        if programme == INGEST_PROGRAMME:
            ingest[status] += n
    return {
        "studies": ledger.count_studies(),
        "programmes": sorted(figures.programmes),
        "results": [(word, figures.statuses[status]) for status, word in STATUS_WORDS.items()],
        "without_result": ledger.count_studies_without_result(),
        "series": [(status.value, n) for status, n in ingest.items()],
        "flags": figures.flags.most_common(),
    }


def _series_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Return the first verdicts, by study and series, and what their series are."""
    verdicts = ledger.verdicts(limit=MAX_SERIES_ROWS)
    outlines = ledger.series_outlines({verdict.series_uid for verdict in verdicts})
    rows = []
    for verdict in verdicts:
        found = outlines.get(verdict.series_uid)
        about = {"modality": found.modality, "instances": found.n_instances} if found else {}
        rows.append(
            {"verdict": verdict, "description": found.header.get("SeriesDescription", "") if found else "", **about}
        )
    return rows

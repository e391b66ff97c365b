"""What the commands print for people, and the JSON rows they print for programs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deployments.doctor import Check
from flows.home import Home
from flows.reclassification import Reclassification, ValueChange
from ops.verdict import ResultStatus
from storage.lanes import LaneRecord
from storage.models import ModelBundle
from storage.records import Measurement, ResultRecord, SeriesRecord, VerdictRecord

SHOWN_RESULTS = 100
"""Rows printed for people after a run; `popscan results` prints all."""

DIGEST_DIGITS = 16
"""Digits of a digest that people are shown; JSON has them all."""


def result_row(record: ResultRecord) -> dict[str, Any]:
    """Return one result as `popscan results --json` prints it; only an ok measurement is under ``measurements``."""
    ok = [m for m in record.measurements if m.status is ResultStatus.OK]
    other = [m for m in record.measurements if m.status is not ResultStatus.OK]
    return {
        "case": record.case_id,
        "study_uid": record.study_uid,
        "programme": record.programme,
        "programme_version": record.programme_version,
        "series": record.roles,
        "status": record.status.value,
        "reason": record.reason or None,
        "detail": record.detail,
        "measurements": {m.name: m.value for m in ok},
        "units": {m.name: m.unit for m in record.measurements},
        "measurement_status": {m.name: {"status": m.status.value, "reason": m.reason} for m in other},
        "flags": record.flags,
        "policy": record.policy,
        "models": record.models,
        "pictures": record.pictures,
        "fingerprint": record.fingerprint,
    }


def verdict_row(verdict: VerdictRecord) -> dict[str, Any]:
    """Return one verdict as `popscan verdicts --json` prints it."""
    return {
        "series_uid": verdict.series_uid,
        "study_uid": verdict.study_uid,
        "programme": verdict.programme,
        "status": verdict.status.value,
        "reason": verdict.reason or None,
        "detail": verdict.detail,
    }


def print_ingest(counts: Mapping[str, Any]) -> None:
    """Print what ingest counted."""
    series = counts["series"]
    console = _console()
    console.print(
        f"{counts['files']} files: {counts['instances']} DICOM instances in {counts['studies']} studies, "
        f"{counts['not_dicom']} not DICOM, {counts['rejected_files']} unreadable"
    )
    console.print(
        f"series: {series['accepted']} accepted, {series['repaired']} repaired, {series['refused']} refused, "
        f"{series['unchanged']} already there"
    )
    for kind in ("repaired", "refused"):
        for reason, count in series[f"{kind}_by_reason"].items():
            console.print(f"  {kind} {count}: {reason}")


def print_run(summary: Mapping[str, Any]) -> None:
    """Print what a run found to do, why, and what it did."""
    console = _console()
    planned = ", ".join(f"{count} {need}" for need, count in summary["planned"].items())
    console.print(f"{summary['studies']} studies ({planned or 'none'}): {summary['computed']} computed")
    for reason, count in summary["stale_because"].items():
        console.print(f"  stale {count}: {escape(reason)}")
    if summary["lanes_paused"]:
        console.print(f"{summary['lanes_paused']} lanes have paused themselves; `popscan lanes list` says why")


def print_screen(summary: Mapping[str, Any], records: Sequence[ResultRecord]) -> None:
    """Print what a run did, its results, and where the report is."""
    console = _console()
    print_run(summary)
    if summary["quarantined"]:
        again = f"popscan screen --programme {summary['programme']} --retry-quarantined"
        console.print(f"Quarantined cases failed in three runs and are left alone; to try them again: {again}")
    print_results(records[:SHOWN_RESULTS])
    if len(records) > SHOWN_RESULTS:
        console.print(f"… and {len(records) - SHOWN_RESULTS} more: popscan results")
    console.print(f"Report: {summary['report']}")


def print_agreement(truth: Mapping[str, Any], records: Sequence[ResultRecord]) -> None:
    """Print true and measured Agatston scores side by side, and how often the risk category agrees."""
    from ops.diseases.calcium.scores import category

    table = Table("case", "true", "measured", "category", "agrees", "remark", box=None)
    agreed = []
    for record in records:
        known, values = truth[record.study_uid], {m.name: m.value for m in record.measurements if m.value is not None}
        measured = values.get("agatston_total", values.get("agatston_equivalent_nongated"))
        expected = known.get("agatston", {}).get("total")
        if record.status is not ResultStatus.OK or expected is None or not isinstance(measured, float):
            remark = f"expected {known['expected_reason']}" if expected is None else "expected a score"
            table.add_row(
                record.case_id,
                _score(expected),
                _score(measured),
                record.status.value,
                "",
                escape(f"{record.reason}; {remark}"),
            )
            continue
        agreed.append(category(expected) == category(measured))
        remark = "" if "agatston_total" in values else "not gated"
        table.add_row(
            record.case_id,
            _score(expected),
            _score(measured),
            category(measured),
            "yes" if agreed[-1] else "no",
            remark,
        )
    console = _console()
    console.print(table)
    console.print(f"Risk category agrees with the truth in {sum(agreed)} of {len(agreed)} scored participants.")


def _score(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else "–"


def print_results(records: Sequence[ResultRecord]) -> None:
    """Print one line per result: the measurements that have a value, or the reason why there is none."""
    table = Table("case", "status", "result", "flags", box=None)
    for record in records:
        answer = (
            escape(_headline(record))
            if record.status is ResultStatus.OK
            else escape(f"{record.reason}: {record.detail}")
        )
        table.add_row(record.case_id, record.status.value, answer, ", ".join(record.flags))
    _console().print(table)


def print_verdicts(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per series and programme."""
    table = Table("series", "programme", "verdict", "reason", "detail", box=None)
    for row in rows:
        table.add_row(row["series_uid"], row["programme"], row["status"], row["reason"] or "", escape(row["detail"]))
    _console().print(table)


def print_explanation(
    record: ResultRecord, series: Sequence[SeriesRecord | None], history: Sequence[ResultRecord], home: Home
) -> None:
    """Print everything behind one result."""
    console = _console()
    console.rule(record.case_id, align="left")
    outcome = record.status.value + (f" ({record.reason}: {record.detail})" if record.reason else "")
    _print_pairs(
        "Result",
        {
            "study": record.study_uid,
            "status": outcome,
            "computed": record.created_at,
            "attempts": record.attempts,
            "fingerprint": record.fingerprint,
            "flags": ", ".join(record.flags) or "none",
        },
    )
    _print_pairs("Measurements", {m.name: _value(m) for m in record.measurements})
    for (role, uid), found in zip(record.roles.items(), series, strict=True):
        _print_pairs(f"Input {role}", {"series": uid, "pixel digest": record.inputs.get(role, ""), **_series(found)})
    _print_pairs("Stages", {_stage_name(stage): _seconds(record, stage["name"]) for stage in record.stages})
    _print_pairs("Models", record.models)
    _print_pairs("Policy", record.policy)
    _print_pairs("Pictures", {key.rsplit("/", 1)[-1]: home.stores.objects.child(key).url for key in record.pictures})
    if record.error:
        _print_pairs("Error", {"class": record.error["class"], "message": record.error["message"]})
        console.print(escape(record.error["traceback"]))
    if len(history) > 1:
        _print_pairs(
            "Earlier results", {old.created_at: f"{old.status.value}, {old.fingerprint}" for old in history[:-1]}
        )


def print_lanes(lanes: Sequence[LaneRecord]) -> None:
    """Print one line per lane: who it is and whether it runs."""
    table = Table("lane", "scanner", "kernel", "site", "state", "since", "why", box=None)
    for lane in lanes:
        state = "[yellow]paused[/]" if lane.paused_at else "runs"
        table.add_row(
            lane.lane_id,
            *map(escape, (lane.scanner, lane.kernel, lane.site)),
            state,
            lane.paused_at or "",
            escape(lane.reason),
        )
    _console().print(table)


def print_checks(checks: Sequence[Check]) -> None:
    """Print what doctor found."""
    table = Table("", "check", "found", box=None)
    for check in checks:
        table.add_row("[green]ok[/]" if check.ok else "[red]bad[/]", check.name, escape(check.found))
    _console().print(table)


def print_models(bundles: Sequence[tuple[str, ModelBundle]]) -> None:
    """Print each model, given with where it is, with its use and measured quality."""
    console = _console()
    for place, bundle in bundles:
        manifest = bundle.manifest
        console.rule(manifest.folder, align="left")
        measured = {f"{q.metric} ({q.data}, n={q.n})": f"{q.value:g}" for q in manifest.quality}
        _print_pairs(
            "",
            {
                "digest": bundle.digest,
                "from": place,
                "runtime": manifest.runtime,
                "size": f"{len(bundle.weights) / 1e6:.1f} MB",
                "licence": manifest.licence,
                "intended use": manifest.intended_use.statement,
                **measured,
            },
        )


def _print_pairs(title: str, pairs: Mapping[str, Any]) -> None:
    if not pairs:
        return
    table = Table(title, "", box=None, show_header=bool(title), title_justify="left")
    for name, value in pairs.items():
        table.add_row("  " + escape(str(name)), escape(str(value)))
    _console().print(table)


def _headline(record: ResultRecord) -> str:
    """Totals and classes; the rest is under `popscan explain`."""
    shown = ("agatston_total", "agatston_equivalent_nongated", "category", "agatston_equivalent_class", "cac_drs")
    values = {m.name: m for m in record.measurements if m.status is ResultStatus.OK}
    found = [values[name] for name in shown if name in values] or list(values.values())[:3]
    return ", ".join(f"{m.name} {m.value:.4g}" if isinstance(m.value, float) else f"{m.name} {m.value}" for m in found)


def _value(measurement: Measurement) -> str:
    if measurement.status is not ResultStatus.OK:
        return f"{measurement.status.value} ({measurement.reason})"
    number = f"{measurement.value:.6g}" if isinstance(measurement.value, float) else str(measurement.value)
    return number if measurement.unit in ("", "1") else f"{number} {measurement.unit}"


def _series(series: SeriesRecord | None) -> dict[str, Any]:
    if series is None:
        return {}
    return {
        "instances": series.n_instances,
        "source digest": series.source_digest,
        "UIDs": series.uid_source,
        "volume": series.volume_url,
    }


def _stage_name(stage: Mapping[str, Any]) -> str:
    parameters = ", ".join(f"{name}={value}" for name, value in stage["parameters"].items())
    return f"{stage['name']} {stage['version']}" + (f" ({parameters})" if parameters else "")


def _seconds(record: ResultRecord, stage: str) -> str:
    return f"{record.timings[stage]:.3f} s" if stage in record.timings else "not run"


def _console() -> Console:
    """Return a console on standard output; wide where that is a pipe, so that nothing is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=int(os.environ.get("COLUMNS", "240")))


def print_plan(summary: Mapping[str, Any]) -> None:
    """Print what a run of one programme would do, why, and what it is expected to take."""
    console, count = _console(), summary["to_compute"]
    counted = ", ".join(f"{n} {need}" for need, n in summary["counts"].items())
    console.rule(summary["programme"], align="left")
    console.print(f"{summary['studies']} studies ({counted or 'none'})")
    for reason, n in summary["stale_because"].items():
        console.print(f"  stale {n}: {escape(reason)}")
    if not count:
        console.print("Nothing is to be computed.")
    elif summary["forecast"] is None:
        console.print(f"{count} to compute; how long that takes is unknown: there are no past results to go by.")
    else:
        _print_forecast(console, count, summary["forecast"], summary["cost"])


def _print_forecast(console: Console, count: int, forecast: Mapping[str, Any], cost: Mapping[str, Any] | None) -> None:
    hours = " and ".join(
        f"{_range(estimate)} {placement.upper()}-hours"
        for placement, estimate in forecast["hours"].items()
        if estimate["expected"] > 0
    )
    console.print(f"{count} to compute: {hours}, going by {forecast['history']} past results")
    if forecast["unmeasured"]:
        console.print(f"  and whatever these new stages take: {', '.join(forecast['unmeasured'])}")
    if cost is None:
        console.print("  no cost is stated: POPSCAN_GPU_HOUR_COST and POPSCAN_CPU_HOUR_COST are not both set")
    else:
        console.print(f"  cost {_range(cost)}")


def _range(estimate: Mapping[str, float | None]) -> str:
    """Format an estimate with its 95 % interval, if there is one."""
    text = f"{estimate['expected']:.3g}"
    return text if estimate["low"] is None else f"{text} ({estimate['low']:.3g}–{estimate['high']:.3g})"


def print_reclassification(found: Reclassification) -> None:
    """Print earlier against present categories, the edges crossed, who crossed them, and why."""
    console, moved = _console(), sum(cell.n for cell in found.moved)
    since = f" since {found.since}" if found.since else ""
    console.print(
        f"{found.replaced} results of {found.programme} replaced an earlier one{since}: {moved} changed category"
    )
    counts = {(cell.earlier, cell.present): cell.n for cell in found.cells}
    columns = [label for label in found.categories if any(present == label for _, present in counts)]
    table = Table("earlier \\ present", *map(escape, columns), box=None)
    for row in found.categories:
        if any(earlier == row for earlier, _ in counts):
            table.add_row(escape(row), *(str(counts.get((row, column), "")) for column in columns))
    console.print(table)
    for edge in found.edges:
        if edge.up or edge.down:
            console.print(f"between {edge.below} and {edge.above}: {edge.up} upwards, {edge.down} downwards")
    for reason, n in found.reasons.items():
        console.print(f"replaced {n}: {escape(reason)}")
    for cell in found.moved:
        more = f" … and {cell.n - len(cell.cases)} more" if cell.n > len(cell.cases) else ""
        console.print(escape(f"{cell.earlier} → {cell.present}: {', '.join(cell.cases)}{more}"))
    _print_values(console, found.values)


def _print_values(console: Console, values: Sequence[ValueChange]) -> None:
    table = Table("measurement", "cases", "fell", "unchanged", "rose", "bias", "95 % limits", box=None)
    for value in values:
        # One case has no spread, and so no limits.
        limits = f"{value.limits.lower:.3g} … {value.limits.upper:.3g}" if value.n > 1 else "–"
        counts = (value.n, value.fell, value.unchanged, value.rose)
        table.add_row(value.name, *map(str, counts), f"{value.limits.bias:.3g}", limits)
    if values:
        console.print(table)

"""The numbers of the report, gathered one result at a time: of a result only counts and some floats stay in memory."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from flows.charts import bar_chart, log_histogram
from flows.report_agreement import Values, score_of
from ops.diseases.calcium.scan import age_in_years
from ops.diseases.calcium.scores import ARTERIES, CATEGORIES, category
from ops.verdict import ResultStatus
from storage.records import ResultRecord

# Cases named under one reason.
MAX_CASES_PER_REASON = 200

STATUS_WORDS = {
    ResultStatus.OK: "evaluated",
    ResultStatus.NOT_EVALUABLE: "not evaluable",
    ResultStatus.OUT_OF_MODEL_RANGE: "out of model range",
    ResultStatus.FAILED: "failed",
}


def _floats() -> array[float]:
    return array("d")  # eight bytes a number, where a list needs 32


class Scores:
    """Calcium scores: their distribution, by artery, by sex and decade of age."""

    def __init__(self) -> None:
        self._by_gating: dict[bool, array[float]] = defaultdict(_floats)
        self._by_group: dict[tuple[str, str], array[float]] = defaultdict(_floats)
        self._by_artery: dict[str, array[float]] = defaultdict(_floats)

    def add(self, values: Values, header: Mapping[str, Any]) -> None:
        """Take in a result's values, and as much as is known of the header of its series."""
        for artery in ARTERIES.values():
            if found := score_of(values, artery):
                self._by_artery[artery].append(found[0])
        if found := score_of(values):
            score, gated = found
            self._by_gating[gated].append(score)
            if gated:
                self._by_group[_sex_and_decade(header)].append(score)

    def view(self) -> dict[str, Any]:
        """Return what the template shows."""
        charts = []
        for gated, name in ((True, "ECG-gated"), (False, "non-gated, Agatston equivalent")):
            if scores := self._by_gating[gated]:
                counts = Counter(category(score) for score in scores)
                bars = [(label, counts[label]) for _, label in CATEGORIES]
                charts += [
                    bar_chart(bars, f"Categories, {name} (n = {len(scores)})", "Agatston category"),
                    log_histogram(scores, f"Scores, {name} (n = {len(scores)})", "Agatston score, logarithmic bins"),
                ]
        arteries = [_artery_row(artery, np.asarray(self._by_artery[artery])) for artery in ARTERIES.values()]
        groups = [_group_row(group, np.asarray(scores)) for group, scores in sorted(self._by_group.items())]
        return {"charts": charts, "arteries": arteries, "groups": groups}


def _sex_and_decade(header: Mapping[str, Any]) -> tuple[str, str]:
    age = age_in_years(header)
    decade = "unknown" if age is None else f"{int(age // 10 * 10)}–{int(age // 10 * 10 + 9)}"
    return str(header.get("PatientSex") or "unknown"), decade


def _artery_row(artery: str, scores: np.ndarray) -> dict[str, Any]:
    positive = scores[scores > 0]
    return {
        "artery": artery,
        "n": len(scores),
        "calcified": len(positive),
        "median": float(np.median(positive)) if len(positive) else None,
        "highest": float(positive.max()) if len(positive) else None,
    }


def _group_row(group: tuple[str, str], scores: np.ndarray) -> dict[str, Any]:
    sex, age = group
    return {
        "sex": sex,
        "age": age,
        "n": len(scores),
        "zero": int((scores == 0).sum()),
        "median": float(np.median(scores)),
        "high": int((scores > 400).sum()),
    }


class Refusals:
    """Results without a number, by status and reason, and the first cases of each."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._cases: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)

    def add(self, record: ResultRecord) -> None:
        """Take in a result."""
        if record.status is ResultStatus.OK:
            return
        key = STATUS_WORDS[record.status], record.reason or ""
        self._counts[key] += 1
        if self._counts[key] <= MAX_CASES_PER_REASON:
            self._cases[key].append({"case_id": record.case_id, "detail": record.detail})

    def view(self) -> list[dict[str, Any]]:
        """Return what the template shows, most frequent first."""
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return [{"status": key[0], "reason": key[1], "n": n, "cases": self._cases[key]} for key, n in ordered]


class Times:
    """Seconds per stage."""

    def __init__(self) -> None:
        self._by_stage: dict[str, array[float]] = defaultdict(_floats)

    def add(self, timings: Mapping[str, float]) -> None:
        """Take in a result's seconds by stage."""
        for stage, seconds in timings.items():
            self._by_stage[stage].append(seconds)
        if timings:
            self._by_stage["whole case"].append(sum(timings.values()))

    def view(self) -> list[dict[str, Any]]:
        """Median, 95th percentile and highest."""
        return [_time_row(stage, np.sort(np.asarray(seconds))) for stage, seconds in self._by_stage.items()]


def _time_row(stage: str, seconds: np.ndarray) -> dict[str, Any]:
    last = len(seconds) - 1
    return {
        "stage": stage,
        "n": len(seconds),
        "median": float(np.median(seconds)),
        "p95": float(seconds[min(last, round(0.95 * last))]),
        "highest": float(seconds[last]),
    }


class Provenance:
    """Distinct recipes behind the results: programme, policy, models, stages, and how many cases each made."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, record: ResultRecord) -> None:
        """Take in a result."""
        recipe = {
            "programme": f"{record.programme} {record.programme_version}",
            "policy": record.policy,
            "models": record.models,
            "stages": record.stages,
        }
        self._counts[json.dumps(recipe, sort_keys=True)] += 1

    def view(self) -> list[dict[str, Any]]:
        """Return what the template shows, most cases first."""
        return [{**json.loads(recipe), "n": n} for recipe, n in self._counts.most_common()]


class Figures:
    """Everything that is counted over the results."""

    def __init__(self) -> None:
        self.statuses: Counter[ResultStatus] = Counter()
        self.flags: Counter[str] = Counter()
        self.programmes: set[str] = set()
        self.scores, self.refusals, self.times, self.provenance = Scores(), Refusals(), Times(), Provenance()

    def add(self, record: ResultRecord, values: Values, header: Mapping[str, Any]) -> None:
        """Take in a result, its values, and as much as is known of the header of its series."""
        self.statuses[record.status] += 1
        self.flags.update(record.flags)
        self.programmes.add(record.programme)
        self.scores.add(values, header)
        self.refusals.add(record)
        self.times.add(record.timings)
        self.provenance.add(record)

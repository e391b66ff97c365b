"""Measured scores against known truth, for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.charts import bland_altman, scatter
from ops.agreement import confusion, icc_agreement, limits_of_agreement, weighted_kappa
from ops.diseases.calcium_scores import ARTERIES, CATEGORIES, category
from ops.verdict import ResultStatus
from storage.records import ResultRecord

LABELS = [label for _, label in CATEGORIES]
GATED_TOTAL, NONGATED_TOTAL = "agatston_total", "agatston_equivalent_nongated"
WORST = 10


def score_of(record: ResultRecord, artery: str = "") -> tuple[float, bool] | None:
    """Agatston score of a result and whether it is of a gated scan; None where there is no score."""
    values = {m.name: m.value for m in record.measurements if m.status is ResultStatus.OK}
    for total, gated in ((GATED_TOTAL, True), (NONGATED_TOTAL, False)):
        name = f"{total.removesuffix('_total')}_{artery}" if artery else total
        if isinstance(value := values.get(name), int | float):
            return float(value), gated
    return None


@dataclass(frozen=True)
class Pair:
    """True and measured score of one case."""

    record: ResultRecord
    gated: bool
    true: float
    measured: float

    @property
    def difference(self) -> float:
        """Measured minus true."""
        return self.measured - self.true

    @property
    def surprise(self) -> float:
        """Difference on the scale log(1 + score), where categories are about equally wide."""
        return abs(math.log1p(self.measured) - math.log1p(self.true))


def agreement(records: Sequence[ResultRecord], truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Describe agreement for the template, gated and non-gated scans apart.

    Parameters
    ----------
    records
        Results, scored or not.
    truth
        ``{"studies": {study_uid: {"agatston": {"LM": …, "total": …}}}}``; a study without ``agatston`` has no truth.
    """
    known = {uid: entry["agatston"] for uid, entry in truth.get("studies", {}).items() if entry.get("agatston")}
    groups = []
    for gated, name in ((True, "ECG-gated scans"), (False, "Non-gated scans (Agatston equivalent)")):
        pairs = _pairs(records, known, gated)
        if pairs:
            groups.append({"name": name, **_describe(pairs), "arteries": _arteries(records, known, gated)})
    return groups


def _pairs(records: Sequence[ResultRecord], known: Mapping[str, Any], gated: bool, artery: str = "") -> list[Pair]:
    pairs = []
    for record in records:
        score = score_of(record, artery)
        if score is not None and score[1] is gated and record.study_uid in known:
            pairs.append(Pair(record, gated, float(known[record.study_uid][artery or "total"]), score[0]))
    return pairs


def _describe(pairs: Sequence[Pair]) -> dict[str, Any]:
    true, measured = [pair.true for pair in pairs], [pair.measured for pair in pairs]
    limits = limits_of_agreement(true, measured)
    counts = confusion([category(t) for t in true], [category(m) for m in measured], LABELS)
    logs = icc_agreement([math.log1p(t) for t in true], [math.log1p(m) for m in measured])
    points = [((pair.true + pair.measured) / 2, pair.difference) for pair in pairs]
    return {
        "n": len(pairs),
        "icc": icc_agreement(true, measured),
        "icc_log": logs,
        "limits": limits,
        "kappa": weighted_kappa(counts),
        "same_category": int(counts.trace()),
        "confusion": counts.tolist(),
        "labels": LABELS,
        "zero_called_calcified": sum(t == 0 and m > 0 for t, m in zip(true, measured, strict=True)),
        "calcified_called_zero": sum(t > 0 and m == 0 for t, m in zip(true, measured, strict=True)),
        "worst": sorted(pairs, key=lambda pair: -pair.surprise)[:WORST],
        "scatter": scatter(list(zip(true, measured, strict=True)), "Measured against true score", "true", "measured"),
        "bland_altman": bland_altman(points, [limits.lower, limits.bias, limits.upper], "Bland–Altman"),
    }


def _arteries(records: Sequence[ResultRecord], known: Mapping[str, Any], gated: bool) -> list[dict[str, Any]]:
    rows = []
    for artery in ARTERIES.values():
        pairs = _pairs(records, known, gated, artery)
        true, measured = [pair.true for pair in pairs], [pair.measured for pair in pairs]
        limits = limits_of_agreement(true, measured)
        rows.append({"artery": artery, "n": len(pairs), "icc": icc_agreement(true, measured), "limits": limits})
    return rows

"""Measured scores against known truth, for the report."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.charts import bland_altman, scatter
from ops.agreement import icc_agreement, limits_of_agreement
from ops.diseases.calcium.scores import ARTERIES, CATEGORIES, category
from ops.metrics.classification import cohen_kappa, confusion
from ops.verdict import ResultStatus
from storage.records import ResultRecord

LABELS = [label for _, label in CATEGORIES]
GATED_TOTAL, NONGATED_TOTAL = "agatston_total", "agatston_equivalent_nongated"
WORST = 10

# Points drawn in one chart: more hide each other, and make a page that no browser likes.
MAX_DOTS = 2000

Values = Mapping[str, float | str]


def values_of(record: ResultRecord) -> Values:
    """Name → value of the measurements of a result that may be used."""
    return {m.name: m.value for m in record.measurements if m.status is ResultStatus.OK and m.value is not None}


def score_of(values: Values, artery: str = "") -> tuple[float, bool] | None:
    """Agatston score among a result's values and whether it is of a gated scan; None where there is no score."""
    for total, gated in ((GATED_TOTAL, True), (NONGATED_TOTAL, False)):
        name = f"{total.removesuffix('_total')}_{artery}" if artery else total
        if isinstance(value := values.get(name), int | float):
            return float(value), gated
    return None


@dataclass(frozen=True, slots=True)
class Pair:
    """True and measured score of one case."""

    case_id: str
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


class Agreement:
    """Collects pairs of scores, gated and non-gated scans apart; as many as there are studies with truth.

    Parameters
    ----------
    truth
        ``{"studies": {study_uid: {"agatston": {"LM": …, "total": …}}}}``; a study without ``agatston`` has no truth.
    """

    def __init__(self, truth: Mapping[str, Any]) -> None:
        self._known = {uid: entry.get("agatston") for uid, entry in truth.get("studies", {}).items()}
        self._pairs: dict[tuple[bool, str], list[Pair]] = defaultdict(list)

    def add(self, record: ResultRecord, values: Values) -> None:
        """Take in a result, scored or not, and its `values_of`."""
        known = self._known.get(record.study_uid)
        if not known:
            return
        for artery in ("", *ARTERIES.values()):
            if score := score_of(values, artery):
                measured, gated = score
                self._pairs[gated, artery].append(Pair(record.case_id, float(known[artery or "total"]), measured))

    def groups(self) -> list[dict[str, Any]]:
        """Describe agreement for the template."""
        names = {True: "ECG-gated scans", False: "Non-gated scans (Agatston equivalent)"}
        return [
            {"name": name, **_describe(pairs), "arteries": [self._artery(gated, one) for one in ARTERIES.values()]}
            for gated, name in names.items()
            if (pairs := self._pairs[gated, ""])
        ]

    def _artery(self, gated: bool, artery: str) -> dict[str, Any]:
        pairs = self._pairs[gated, artery]
        true, measured = [pair.true for pair in pairs], [pair.measured for pair in pairs]
        limits = limits_of_agreement(true, measured)
        return {"artery": artery, "n": len(pairs), "icc": icc_agreement(true, measured), "limits": limits}


def _describe(pairs: Sequence[Pair]) -> dict[str, Any]:
    true, measured = [pair.true for pair in pairs], [pair.measured for pair in pairs]
    limits = limits_of_agreement(true, measured)
    counts = confusion([category(t) for t in true], [category(m) for m in measured], LABELS)
    logs = icc_agreement([math.log1p(t) for t in true], [math.log1p(m) for m in measured])
    step = math.ceil(len(pairs) / MAX_DOTS)
    drawn, which = pairs[::step], f" (1 case in {step} drawn)" if step > 1 else ""
    points = [((pair.true + pair.measured) / 2, pair.difference) for pair in drawn]
    scores = [(pair.true, pair.measured) for pair in drawn]
    return {
        "n": len(pairs),
        "icc": icc_agreement(true, measured),
        "icc_log": logs,
        "limits": limits,
        "kappa": cohen_kappa(counts, "linear"),
        "same_category": int(counts.trace()),
        "confusion": counts.tolist(),
        "labels": LABELS,
        "zero_called_calcified": sum(t == 0 and m > 0 for t, m in zip(true, measured, strict=True)),
        "calcified_called_zero": sum(t > 0 and m == 0 for t, m in zip(true, measured, strict=True)),
        "worst": sorted(pairs, key=lambda pair: -pair.surprise)[:WORST],
        "scatter": scatter(scores, f"Measured against true score{which}", "true", "measured"),
        "bland_altman": bland_altman(points, [limits.lower, limits.bias, limits.upper], f"Bland–Altman{which}"),
    }

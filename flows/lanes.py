"""Lanes: results of one scanner, kernel and site are charted together, and a lane out of control pauses itself.

A scanner that was serviced, a kernel that was replaced or a site that changed its protocol shifts numbers without any
error. Every programme × scanner × kernel × site has control charts of its measurements and of its refusals; a chart out
of control pauses the lane: its new studies wait until a person has looked (``popscan lanes list``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from flows.programmes.programme import Programme
from ops.control_charts import Chart, LevelChart, ShareChart
from ops.verdict import ResultStatus
from storage.lanes import ChartedResult, ChartKey, Lane, LaneRecord, Lanes
from storage.ledger import Ledger
from storage.records import canonical_json

# Keywords of a de-identified header that tell a lane.
LANE_KEYWORDS = ("Manufacturer", "ManufacturerModelName", "ScannerPseudonym", "ConvolutionKernel", "SitePseudonym")

UNKNOWN = "unknown"

# Name of the chart of refusals, beside those of a programme's measurements.
REFUSALS = "refused"

# What a refusal depends on (`tasks.case.Recipe.refusal_fingerprint`).
_REFUSAL_RECIPE = ("programme_version", "policy")

# 64 bits: recipes are few, and only have to differ within one lane.
_RECIPE_DIGITS = 16


def lane_of(programme_name: str, header: Mapping[str, Any]) -> Lane:
    """Lane of a series.

    Parameters
    ----------
    programme_name
        A lane belongs to one programme.
    header
        De-identified header of the series; what it does not state is ``unknown``.
    """
    scanner = " ".join(filter(None, (_text(header, keyword) for keyword in LANE_KEYWORDS[:3])))
    kernel, site = _text(header, "ConvolutionKernel"), _text(header, "SitePseudonym")
    parts = (scanner or UNKNOWN, kernel or UNKNOWN, site or UNKNOWN)
    digest = hashlib.sha256(canonical_json([programme_name, *parts]).encode()).hexdigest()
    return Lane(f"{programme_name}-{digest[:8]}", programme_name, *parts)


def _text(header: Mapping[str, Any], keyword: str) -> str:
    """Value of a keyword; several values (a kernel and its strength) are joined by the slash."""
    value = header.get(keyword)
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "")


def chart_new_results(ledger: Ledger, programme: Programme) -> list[LaneRecord]:
    """Chart what was committed since the last time, and pause the lanes that are out of control.

    Call it when a batch is over whose refusals are those of the studies beside its cases: refusals are committed before
    the cases that have to be computed, and half a batch looks like a batch of refusals. However often it is called, and
    wherever it is interrupted, each result counts once. Memory does not grow with the number of results.

    Measurements of a new version, policy, model or stage begin new charts, so a change of software is not drift; what
    failed has none. Refusals are charted by version and policy, and each case once for both, by its first outcome: of a
    new model only the evaluable cases are computed again, and a chart of those would know no refusals. A case that
    failed is one that was not refused: without it, an outage of ours would look like many refusals.

    Parameters
    ----------
    ledger
        Where results and charts are.
    programme
        Says what is charted.

    Returns
    -------
    list of storage.lanes.LaneRecord
        Lanes that run no longer, with the reason.
    """
    before = _paused(ledger.lanes, programme.name)
    while not _Sweep(ledger.lanes, programme).run():
        pass  # another process charted them, or a lane was resumed meanwhile: look again
    return [record for lane_id, record in _paused(ledger.lanes, programme.name).items() if lane_id not in before]


def _paused(lanes: Lanes, programme: str) -> dict[str, LaneRecord]:
    return {record.lane_id: record for record in lanes.all(programme) if record.paused_at is not None}


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """Digest of what may change numbers, or refusals, without any drift."""
    return hashlib.sha256(canonical_json(recipe).encode()).hexdigest()[:_RECIPE_DIGITS]


class _Sweep:
    """One pass over the results after a programme's position; only lanes and charts are kept in memory."""

    def __init__(self, lanes: Lanes, programme: Programme) -> None:
        self._lanes, self._programme = lanes, programme
        self._after = lanes.position(programme.name)
        self._earlier = lanes.charts(programme.name)
        self._paused = set(_paused(lanes, programme.name))
        self._changed: dict[ChartKey, Chart] = {}
        self._met: dict[str, Lane] = {}
        self._alarms: dict[str, str] = {}

    def run(self) -> bool:
        """Chart everything and store it; False when somebody else was faster, and nothing is stored."""
        name, upto = self._programme.name, self._lanes.newest_result()
        if upto <= self._after:
            return True
        for page in self._lanes.pages(name, self._after, upto, LANE_KEYWORDS, list(self._programme.charted)):
            for result in page:
                self._chart(result)
        return self._lanes.record(
            name, self._after, upto, self._met.values(), self._earlier, self._changed, self._alarms
        )

    def _chart(self, result: ChartedResult) -> None:
        lane = lane_of(self._programme.name, result.header)
        self._met[lane.lane_id] = lane
        if lane.lane_id in self._paused:
            return  # its refusals still come in, and without the cases that wait they say nothing
        if not result.is_counted:
            grounds = recipe_digest({name: result.recipe[name] for name in _REFUSAL_RECIPE})
            is_refused = result.status not in (ResultStatus.OK, ResultStatus.FAILED)
            self._add(ChartKey(lane.lane_id, grounds, REFUSALS), ShareChart(), REFUSALS, is_refused)
        recipe = recipe_digest(result.recipe)
        for name, value in result.numbers.items():
            key = ChartKey(lane.lane_id, recipe, name)
            if self._programme.charted[name] == "log1p":
                self._add(key, LevelChart(), f"log(1 + {name})", math.log1p(value))
            else:
                self._add(key, LevelChart(), name, value)

    def _add(self, key: ChartKey, fresh: Chart, shown: str, value: float) -> None:
        chart = (self._changed.get(key) or self._earlier.get(key) or fresh).update(value)
        self._changed[key] = chart
        if (alarm := chart.alarm(shown)) and key.lane_id not in self._alarms:
            self._alarms[key.lane_id] = alarm

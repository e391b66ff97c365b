"""What a run shows in Prefect: progress with its pace, results, refusals, pictures, and links.

Nothing here names a person or a study: cases go by their ids. That Prefect's server does not answer is no reason to
stop computing: what could not be shown is a warning.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

from PIL import Image
from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.programmes.programme import Programme
from flows.reclassification import Reclassification, category_of
from ops.verdict import ResultStatus
from storage.lanes import LaneRecord
from storage.objects import ObjectStore
from storage.records import ResultRecord

RESULT_ROWS = 500
"""Rows of the results artifact; Prefect keeps artifacts in its database, and the Parquet table has all of them."""

LANE_ROWS = 100
"""Paused lanes in the artifact; ``popscan lanes list`` prints all."""

PICTURES = 6
PICTURE_WIDTH = 640
"""Pictures of the highest findings, and their width in pixels: some 60 KB each, inside the artifact."""

PROGRESS_SECONDS = 2.0
"""Shortest time between two updates of the progress artifact: each is a request to Prefect's server."""

Listener = Callable[[int, int], None]
"""``listener(done, total)``, called in the coordinating process after every commit."""

LISTENER: ContextVar[Listener | None] = ContextVar("progress_listener", default=None)
"""Who else wants to know of progress, such as the bar of the command line: Prefect would show a parameter."""


class Progress:
    """How far a flow run is: one progress artifact for all its batches, and the listener."""

    def __init__(self, programme: str, total: int) -> None:
        self.total, self._done = total, 0
        self._artifact: Any = None
        self.start()
        if total:
            self._artifact = attempt(create_progress_artifact, 0.0, key=f"screen-{programme}-progress")

    def start(self) -> None:
        """Start the clock: what came before, such as canaries, is not the pace of the cases."""
        self._began = self._updated = time.monotonic()

    def advance(self, cases: int) -> None:
        """Count finished cases."""
        self._done += cases
        self.total = max(self.total, self._done)  # studies that arrived since the count are done too
        if listener := LISTENER.get():
            listener(self._done, self.total)
        if time.monotonic() - self._updated > PROGRESS_SECONDS or self._done == self.total:
            self._updated = time.monotonic()
            if self._artifact is not None:
                text = pace(self._done, self.total, self._updated - self._began)
                attempt(update_progress_artifact, self._artifact, self._done / self.total * 100, description=text)


def pace(done: int, total: int, seconds: float) -> str:
    """Say how far it is, how fast, and when it will be ready at this pace, e.g. ``25 of 100 cases, 2.5 cases/s …``."""
    rate = done / seconds if seconds > 0 else 0.0
    text = f"{done:,} of {total:,} cases, {rate:.3g} cases/s"
    if done == total:
        return f"{text}, took {timedelta(seconds=round(seconds))}"
    if not rate:
        return text
    left = timedelta(seconds=round((total - done) / rate))
    return f"{text}, ready in {left} ({datetime.now(UTC) + left:%Y-%m-%d %H:%M} UTC)"


def show_results(programme: Programme, records: Sequence[ResultRecord], total: int) -> None:
    """Table of the first results of ``total``."""
    attempt(
        create_table_artifact,
        [_row(programme, record) for record in records],
        key=f"screen-{programme.name}-results",
        description=f"{len(records):,} of {total:,} current results, in order of case",
    )


def show_refusals(programme: str, reasons: Sequence[tuple[str, int]], total: int) -> None:
    """Table of cases without a number, by reason, out of ``total`` with a result."""
    lines = ["| reason | cases |", "|---|---:|", *(f"| {reason} | {count} |" for reason, count in reasons)]
    attempt(
        create_markdown_artifact,
        "\n".join(lines),
        key=f"screen-{programme}-refusals",
        description=f"{sum(count for _, count in reasons):,} of {total:,} cases have no number",
    )


def show_pictures(programme: Programme, records: Sequence[ResultRecord], objects: ObjectStore) -> None:
    """Pictures of the highest findings that are not zero, as small JPEGs inside the artifact."""
    parts = []
    for record in records:
        row = _row(programme, record)
        if row["value"] and (picture := _picture(record, objects)):
            parts.append("### {case}\n\n{measurement} {value}, {category}\n\n![{case}]".format(**row) + f"({picture})")
    if parts:
        attempt(
            create_markdown_artifact,
            "\n\n".join(parts),
            key=f"screen-{programme.name}-highest",
            description=f"The {len(parts)} highest findings",
        )


def show_lanes(programme: str, lanes: Sequence[LaneRecord]) -> None:
    """Table of the lanes that are paused, since when, and why."""
    paused = [lane for lane in lanes if lane.paused_at]
    lines = [
        "| lane | paused since | why | scanner, kernel, site |",
        "|---|---|---|---|",
        *map(_lane_line, paused[:LANE_ROWS]),
    ]
    attempt(
        create_markdown_artifact,
        "\n".join(lines) if paused else "All lanes run.",
        key=f"screen-{programme}-lanes",
        description=f"{len(paused):,} of {len(lanes):,} lanes are paused and hold their studies",
    )


def show_reclassification(programme: str, found: Reclassification) -> None:
    """Who changed category when results were replaced, and why."""
    lines = ["| earlier | present | cases | why | which |", "|---|---|---:|---|---|"]
    for cell in found.moved:
        why = ", ".join(f"{reason} × {count}" for reason, count in cell.reasons.items())
        more = f" and {cell.n - len(cell.cases)} more" if cell.n > len(cell.cases) else ""
        lines.append(f"| {cell.earlier} | {cell.present} | {cell.n} | {why} | {', '.join(cell.cases)}{more} |")
    moved = sum(cell.n for cell in found.moved)
    summary = f"{found.replaced} results replaced earlier ones, {moved} changed category"
    attempt(
        create_markdown_artifact,
        "\n".join([summary, "", *lines]) if moved else summary,
        key=f"reprocess-{programme}-reclassification",
        description=summary,
    )


def show_link(key: str, address: str) -> None:
    """Link to the report, under the key of an artifact."""
    attempt(
        create_link_artifact,
        link=address,
        key=key,
        link_text="Open the report",
        description="Report on all current results",
    )


def attempt(make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Create or update an artifact; None and a warning when Prefect does not take it."""
    try:
        return make(*arguments, **options)
    except Exception as error:  # whatever the client raises: results are in the ledger, this is only their picture
        get_run_logger().warning("Prefect did not take an artifact: %s: %s", type(error).__name__, error)
        return None


def _row(programme: Programme, record: ResultRecord) -> dict[str, Any]:
    """Return the same columns for every result: Prefect shows those of the first row only."""
    values = {m.name: m.value for m in record.measurements if m.status is ResultStatus.OK}
    name = next((name for name in programme.severity if name in values), "")
    value = values.get(name)
    return {
        "case": record.case_id,
        "value": round(value, 2) if isinstance(value, float) else "",
        "category": category_of(record, programme.categories).label,
        "measurement": name,
    }


def _lane_line(lane: LaneRecord) -> str:
    """One row of a Markdown table; what people and scanners write may hold its separator."""
    since = (lane.paused_at or "")[:16].replace("T", " ")
    where = f"{lane.scanner}, {lane.kernel}, {lane.site}"
    cells = (lane.lane_id, f"{since} UTC", lane.reason, where)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _picture(record: ResultRecord, objects: ObjectStore) -> str | None:
    """First picture of a result as a data URI; None when it has none that can be read."""
    key = next((key for key in record.pictures if key.endswith(".png")), None)
    if key is None:
        return None
    try:
        image = Image.open(io.BytesIO(objects.read(key))).convert("RGB")
    except (KeyError, OSError):
        return None
    image.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()

"""The flow ``ingest``: one Prefect run around `tasks.ingest.ingest_paths`, with the counts as an artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact

from flows.home import Home
from tasks.ingest import ingest_paths


@flow(name="ingest", validate_parameters=False)
def ingest(paths: list[str], home: str, ledger_url: str | None = None, store_url: str | None = None) -> dict[str, Any]:
    """Ingest files, folders and zip archives into a home.

    Parameters
    ----------
    paths
        What to ingest.
    home, ledger_url, store_url
        Where everything lies, see :class:`flows.home.Home`.

    Returns
    -------
    dict
        `tasks.ingest.IngestCounts` as JSON.
    """
    place = Home.at(home, ledger_url, store_url)
    with place.open_ledger() as ledger:
        counts = ingest_paths(paths, ledger, place.volumes).to_dict()
    get_run_logger().info("%d files, %d studies, series: %s", counts["files"], counts["studies"], counts["series"])
    rows = [{"outcome": outcome, "count": count} for outcome, count in _rows(counts)]
    create_table_artifact(table=rows, key="ingest", description="What this run of ingest met and did")
    return counts


def _rows(counts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    for name, value in counts.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value

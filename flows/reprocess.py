"""The flow ``reprocess``: what went stale, and only that; then who changed category, and why."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.plan import REPROCESSED
from flows.screen import Canaries, compute, run_name


@flow(name="reprocess", flow_run_name=run_name)
def reprocess(programme: str, canaries: Canaries = "never") -> State[dict[str, Any]]:
    """Compute stale results of one programme anew; as `flows.screen.compute`, which see.

    The earlier results stay readable beside the new ones (`popscan explain`, `popscan reclassification`).
    """
    return compute(programme, REPROCESSED, canaries=canaries)

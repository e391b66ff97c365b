"""Events by which Popscan tells Prefect what happened, so that automations react at once.

An event makes things happen sooner and nothing more (design §5): one that cannot be sent is a warning, and the sweep
finds the work in the ledger. Handlers are idempotent, so an event may come twice. Nothing here names a person: a study
goes by a digest of its UID.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping
from typing import Any

from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

STUDY_SETTLED = "popscan.study.settled"
STUDY_INGESTED = "popscan.study.ingested"
MODEL_RELEASED = "popscan.model.released"
CASE_STALE = "popscan.case.stale"
LANE_PAUSED = "popscan.lane.paused"

EVENTS_PER_BATCH = 200
"""Events about single studies that are sent at a time; one more says how many others there are. Prefect's server keeps
10,000 events in its queue and drops what comes beyond that (measured)."""

STUDY_DIGITS = 16
"""Of the digest that stands for a study: as many as in `storage.records.case_id`."""

logger = logging.getLogger("popscan.events")


def emit_study_settled(units: Collection[str]) -> None:
    """Say that nothing has changed in these units of arrivals for the quiet time (see `storage.arrivals`)."""
    _emit_studies(STUDY_SETTLED, units)


def emit_study_ingested(studies: Collection[str]) -> None:
    """Say that these studies, given by their UIDs, were ingested and can be screened."""
    _emit_studies(STUDY_INGESTED, studies)


def emit_model_released(name: str, version: str, digest: str) -> None:
    """Say that a model can be used from now on, or is used again."""
    _emit(MODEL_RELEASED, f"popscan.model.{name}", {"name": name, "version": version, "digest": digest})


def emit_case_stale(programme: str, count: int, reasons: Mapping[str, int]) -> None:
    """Say how many results of a programme are stale, and how many for which reason."""
    payload = {"programme": programme, "count": count, "reasons": dict(reasons)}
    _emit(CASE_STALE, f"popscan.programme.{programme}", payload)


def emit_lane_paused(lane_id: str, reason: str) -> None:
    """Say that a lane is out of control and was paused."""
    _emit(LANE_PAUSED, f"popscan.lane.{lane_id}", {"lane": lane_id, "reason": reason})


def study_digest(study_uid: str) -> str:
    """Return what stands for a study in Prefect."""
    return hashlib.sha256(study_uid.encode("utf-8", "surrogateescape")).hexdigest()[:STUDY_DIGITS]


def _emit_studies(event: str, studies: Collection[str]) -> None:
    named = sorted(map(study_digest, studies))
    for digest in named[:EVENTS_PER_BATCH]:
        _emit(event, f"popscan.study.{digest}", {"studies": 1})
    if others := len(named[EVENTS_PER_BATCH:]):
        _emit(event, "popscan.study.others", {"studies": others})


def _emit(event: str, resource: str, payload: dict[str, Any]) -> None:
    """Hand an event to Prefect's background thread; nothing where no server is configured (Prefect would start one)."""
    if not PREFECT_API_URL.value():
        return
    try:
        sent = emit_event(event, {"prefect.resource.id": resource}, payload=payload)
    except Exception as error:  # whatever the client raises
        logger.warning("event %s was not sent: %s: %s", event, type(error).__name__, error)
        return
    if sent is None:
        logger.warning("event %s was not sent: Prefect's client did not take it", event)

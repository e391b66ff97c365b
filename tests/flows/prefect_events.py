"""Events as the Prefect server has them; they arrive there some moments after they were sent."""

from __future__ import annotations

import time
from typing import Any

from prefect.client.orchestration import get_client

ARRIVE_SECONDS = 20.0


def events_of(name: str, resource: str, least: int = 1) -> list[dict[str, Any]]:
    """Events of this name about a resource, waited for until there are ``least``."""
    wanted = {"filter": {"event": {"name": [name]}, "resource": {"id": [resource]}}, "limit": 50}
    deadline = time.monotonic() + ARRIVE_SECONDS
    with get_client(sync_client=True) as client:
        while True:
            found: list[dict[str, Any]] = client.request("POST", "/events/filter", json=wanted).json()["events"]
            if len(found) >= least or time.monotonic() > deadline:
                return found
            time.sleep(0.2)

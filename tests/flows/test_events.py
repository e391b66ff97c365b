"""Events on a real server, without one, and with one that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from flows import events
from tests.flows.prefect_events import events_of


def digest(text: str) -> str:
    return f"popscan.study.{events.study_digest(text)}"


@pytest.mark.usefixtures("prefect_server")
def test_every_event_arrives_with_what_automations_need() -> None:
    own = uuid.uuid4().hex
    events.emit_study_settled([own])
    events.emit_model_released(own, "1.2.0", "abc")
    events.emit_case_stale(own, 3, {"model heart 1→2": 2, "input ct changed": 1})
    events.emit_lane_paused(own, "refusals above the limit")
    found = {
        name: events_of(name, resource)[0]["payload"]
        for name, resource in (
            (events.STUDY_SETTLED, digest(own)),
            (events.MODEL_RELEASED, f"popscan.model.{own}"),
            (events.CASE_STALE, f"popscan.programme.{own}"),
            (events.LANE_PAUSED, f"popscan.lane.{own}"),
        )
    }
    assert found == {
        "popscan.study.settled": {"studies": 1},
        "popscan.model.released": {"name": own, "version": "1.2.0", "digest": "abc"},
        "popscan.case.stale": {
            "programme": own,
            "count": 3,
            "reasons": {"model heart 1→2": 2, "input ct changed": 1},
        },
        "popscan.lane.paused": {"lane": own, "reason": "refusals above the limit"},
    }
    assert own not in json.dumps(events_of(events.STUDY_SETTLED, digest(own)))


@pytest.mark.usefixtures("prefect_server")
def test_more_studies_than_a_batch_may_send_become_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "EVENTS_PER_BATCH", 3)
    names = sorted((uuid.uuid4().hex for _ in range(8)), key=events.study_digest)
    events.emit_study_ingested(names)
    (others,) = events_of(events.STUDY_INGESTED, "popscan.study.others")
    assert others["payload"] == {"studies": 5}
    assert [len(events_of(events.STUDY_INGESTED, digest(name))) for name in names[:3]] == [1, 1, 1]


def emit_elsewhere(**environment: str) -> subprocess.CompletedProcess[str]:
    """Send an event from a process of its own, whose Prefect has these settings only."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    code = "from flows.events import emit_study_settled; emit_study_settled(['1.2.3']); print('went on')"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**ours, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_without_a_server_nothing_is_sent_and_none_is_started(tmp_path: Path) -> None:
    done = emit_elsewhere(PREFECT_HOME=str(tmp_path))
    assert (done.stdout, done.stderr) == ("went on\n", "")
    assert not list(tmp_path.glob("*.db"))


def test_a_server_that_is_away_is_no_error(tmp_path: Path) -> None:
    done = emit_elsewhere(PREFECT_HOME=str(tmp_path), PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.stdout == "went on\n"
    assert "1.2.3" not in done.stderr

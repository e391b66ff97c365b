from __future__ import annotations

import threading
import time

import pytest

from ops.spans import recorded, span


def test_spans_add_up_by_step() -> None:
    with recorded() as seconds:
        for _ in range(3):
            with span("nap"):
                time.sleep(0.01)
        with span("other"):
            pass
    assert set(seconds) == {"nap", "other"}
    assert seconds["nap"] >= 0.03 > seconds["other"]


def test_a_failing_step_counts_and_ends_the_recording() -> None:
    with pytest.raises(ValueError, match="broken"), recorded() as seconds, span("step"):
        raise ValueError("broken")
    assert set(seconds) == {"step"}
    with span("after"):
        pass
    assert set(seconds) == {"step"}


def test_recordings_do_not_mix() -> None:
    with recorded() as outer, span("a"):
        with recorded() as inner, span("b"):
            pass
        other = threading.Thread(target=_in_another_thread)
        other.start()
        other.join()
    assert (set(outer), set(inner)) == ({"a"}, {"b"})


def _in_another_thread() -> None:
    with span("elsewhere"):
        pass

"""Compare what was computed with what a reference case expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Case = dict[str, Any]
Check = Callable[[Case], None]


def check(case: Case, computed: Any) -> None:
    """Compare with the case's own expectation and tolerance, through nested lists and dictionaries."""
    assert computed == _approximately(case["expected"], case["tolerance"])


def _approximately(expected: Any, tolerance: dict[str, Any]) -> Any:
    if isinstance(expected, dict):
        return {key: _approximately(value, tolerance) for key, value in expected.items()}
    if isinstance(expected, list):
        return [_approximately(value, tolerance) for value in expected]
    if isinstance(expected, str):
        return expected
    kind = "rel" if tolerance["kind"] == "relative" else "abs"
    return pytest.approx(expected, **{kind: tolerance["value"]})

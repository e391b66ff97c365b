from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.verdict import ResultStatus, VerdictStatus
from storage.records import (
    Measurement,
    RejectedFileRecord,
    canonical_json,
    case_id,
    storable_text,
)
from storage.testing import example_result, example_series, example_verdict

OK, NOT_EVALUABLE, FAILED = ResultStatus.OK, ResultStatus.NOT_EVALUABLE, ResultStatus.FAILED


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (float("nan"), OK),
        (float("inf"), OK),
        (None, OK),
        (True, OK),
        (0.0, NOT_EVALUABLE),
        (1.5, ResultStatus.OUT_OF_MODEL_RANGE),
        ("text", FAILED),
    ],
)
def test_measurement_has_a_value_exactly_when_ok(value: Any, status: ResultStatus) -> None:
    with pytest.raises(ValueError, match="agatston_total"):
        Measurement("agatston_total", value, "1", status)


@pytest.mark.parametrize("number", [3, 3.0, np.float32(3), np.int64(3)])
def test_numbers_become_plain_floats(number: Any) -> None:
    measurement = Measurement("lesion_count", number, "1")
    assert type(measurement.value) is float
    assert measurement.value == 3.0


def test_status_may_come_as_text() -> None:
    assert Measurement("a", None, "1", "not_evaluable").status is NOT_EVALUABLE  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nonsense"):
        Measurement("a", None, "1", "nonsense")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measurements": []}, "at least one ok measurement"),
        ({"measurements": [Measurement("a", None, "1", NOT_EVALUABLE)]}, "at least one ok measurement"),
        ({"measurements": [Measurement("a", 1.0), Measurement("a", 2.0)]}, "names must differ"),
        ({"status": NOT_EVALUABLE, "reason": None}, "needs a reason code"),
        ({"status": FAILED, "measurements": [Measurement("a", 1.0)]}, "carries no measurements"),
        ({"fingerprint": ""}, "fingerprint must not be empty"),
        ({"attempts": 0}, "attempts counts from 1"),
        ({"policy": {"threshold": float("nan")}}, "policy must be plain JSON"),
        ({"timings": {"read": np.float32(1)}}, "timings must be plain JSON"),
    ],
)
def test_a_result_that_says_too_little_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        example_result(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_digest": None}, "either both given or both None"),
        ({"uid_source": "guessed"}, "'guessed'"),
        ({"series_uid": ""}, "series_uid must not be empty"),
        ({"header": {"KVP": float("nan")}}, "header must be plain JSON"),
        ({"header": {"KVP": object()}}, "header must be plain JSON"),
    ],
)
def test_an_inconsistent_series_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        example_series(**changes)


def test_a_verdict_that_is_not_plain_acceptance_needs_a_reason() -> None:
    assert example_verdict().status is VerdictStatus.ACCEPTED
    with pytest.raises(ValueError, match="a repaired verdict needs a reason code"):
        example_verdict(status="repaired")


def test_file_names_that_are_not_text_can_be_recorded() -> None:
    name = b"/in/scan-\xe9.dcm".decode("utf-8", "surrogateescape")
    assert RejectedFileRecord(name, "decode_failed").path == r"/in/scan-\udce9.dcm"
    assert storable_text("a\0b") == r"a\x00b"


def test_canonical_json_is_one_text_per_value() -> None:
    expected = r'{"a":["\u00e9"],"b":1}'
    assert canonical_json({"b": 1, "a": ["é"]}) == canonical_json({"a": ("é",), "b": 1}) == expected
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_case_id_names_programme_and_study() -> None:
    ids = {case_id(*names) for names in [("calcium", "1.2.3"), ("calcium", "1.2.4"), ("plaque", "1.2.3")]}
    assert len(ids) == 3
    assert case_id("calcium", "1.2.3") in ids
    assert case_id("calcium", "1.2.3").startswith("calcium-")

from __future__ import annotations

import io
import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.measure.errors import NotEvaluableError, OutOfModelRangeError
from ops.measure.record import MeasurementRecord, parquet_schema
from ops.measure.value import MeasuredValue
from ops.verdict import ResultStatus

codes = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
measured = st.builds(MeasuredValue, codes, numbers | texts, texts)
missing = st.builds(
    MeasuredValue.missing, codes, codes, texts, st.sampled_from([s for s in ResultStatus if s is not ResultStatus.OK])
)
plain = st.recursive(st.none() | st.booleans() | numbers | texts, lambda inner: st.lists(inner, max_size=3))


@st.composite
def records(draw: st.DrawFn) -> MeasurementRecord:
    status = draw(st.sampled_from(ResultStatus))
    values = draw(st.lists(measured | missing, max_size=5, unique_by=lambda item: item.name))
    return MeasurementRecord(
        algorithm=draw(codes),
        version=draw(texts.filter(bool)),
        status=status,
        reason="" if status is ResultStatus.OK else draw(codes),
        detail=draw(texts),
        measurements=tuple(values),
        flags=tuple(draw(st.lists(codes, max_size=3))),
        policy=draw(st.dictionaries(texts, plain, max_size=3)),
        inputs=tuple(draw(st.lists(texts, max_size=2))),
    )


@settings(deadline=None)
@given(records())
def test_json_loses_nothing(record: MeasurementRecord) -> None:
    assert MeasurementRecord.from_json(record.to_json()) == record


@settings(deadline=None)
@given(st.lists(records(), max_size=3))
def test_parquet_loses_nothing(written: list[MeasurementRecord]) -> None:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([record.to_row() for record in written], parquet_schema()), file)
    assert [MeasurementRecord.from_row(row) for row in pq.read_table(file).to_pylist()] == written


def test_values_are_read_by_name() -> None:
    record = MeasurementRecord(
        "liver", "1", measurements=(MeasuredValue("volume", 1500.0, "mL"), MeasuredValue.missing("spleen", "removed"))
    )
    assert record["volume"] == 1500.0
    assert record["spleen"] is None
    assert record.measurement("spleen").reason == "removed"
    with pytest.raises(KeyError, match="no measurement 'kidney'"):
        record["kidney"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotEvaluableError("empty_mask", "nothing there"), ResultStatus.NOT_EVALUABLE),
        (OutOfModelRangeError("age_out_of_range", "too old"), ResultStatus.OUT_OF_MODEL_RANGE),
    ],
)
def test_a_refusal_keeps_status_reason_and_policy(error: NotEvaluableError, status: ResultStatus) -> None:
    record = MeasurementRecord.refused("liver", "1", error, policy={"n": 8})
    assert (record.status, record.reason, record.detail) == (status, error.reason, str(error))
    assert record.policy == {"n": 8}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"algorithm": "Liver"}, "snake_case"),
        ({"version": ""}, "version"),
        ({"reason": "why"}, "does not go with"),
        ({"status": ResultStatus.NOT_EVALUABLE}, "does not go with"),
        ({"flags": ("Not a code",)}, "not a snake_case code"),
        ({"measurements": (MeasuredValue("a", 1.0), MeasuredValue("a", 2.0))}, "twice"),
        ({"measurements": (MeasuredValue("a", math.nan),)}, "a is nan"),
        ({"measurements": (MeasuredValue("a", math.inf),)}, "a is inf"),
        ({"policy": {"x": math.nan}}, "not JSON compliant"),
    ],
)
def test_what_is_no_record_is_an_error_where_it_is_made(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeasurementRecord(**{"algorithm": "liver", "version": "1", **fields})

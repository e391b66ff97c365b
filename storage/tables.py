"""Results as one Parquet table: a row per result, a typed column per measurement, nothing lost."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from storage.records import RESULT_JSON_FIELDS, Measurement, ResultRecord, canonical_json
from storage.urls import Location

# After a measurement's name: the columns that say whether and why its value may (not) be used.
STATUS_SUFFIX = "__status"
REASON_SUFFIX = "__reason"

_CODE = pa.dictionary(pa.int32(), pa.string())
_TEXT_FIELDS = ("case_id", "study_uid", "fingerprint", "detail", "created_at")
_CODE_FIELDS = ("programme", "programme_version", "status", "reason")

_Column = tuple[pa.Field, pa.Array]


def write_results_table(records: Sequence[ResultRecord], location: Location) -> None:
    """Write ``records`` as Parquet (zstd) to ``location``, atomically.

    Columns are the record's own fields (policy, models, stages … as JSON text), then for every measurement
    name its value (double or string; null when it has none), ``<name>__status`` and ``<name>__reason``. A null
    status means the result has no such measurement. The unit is in the field's metadata under ``unit``.

    Raises
    ------
    ValueError
        One measurement name comes with two units, or with numbers here and text there.
    """
    columns = [*_own_columns(records), *_measurement_columns(records)]
    table = pa.Table.from_arrays([array for _, array in columns], schema=pa.schema([field for field, _ in columns]))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    location.write_bytes(sink.getvalue().to_pybytes())


def _own_columns(records: Sequence[ResultRecord]) -> list[_Column]:
    columns = [_column(name, [getattr(r, name) for r in records], pa.string()) for name in _TEXT_FIELDS]
    columns += [_column(name, [_plain(getattr(r, name)) for r in records], _CODE) for name in _CODE_FIELDS]
    columns.append(_column("attempts", [r.attempts for r in records], pa.int32()))
    columns += [_column(name, [_json(getattr(r, name)) for r in records], pa.string()) for name in RESULT_JSON_FIELDS]
    return columns


def _measurement_columns(records: Sequence[ResultRecord]) -> list[_Column]:
    by_name = [{item.name: item for item in record.measurements} for record in records]
    names = dict.fromkeys(name for row in by_name for name in row)  # in order of first appearance
    return [column for name in names for column in _one_measurement(name, [row.get(name) for row in by_name])]


def _one_measurement(name: str, items: list[Measurement | None]) -> list[_Column]:
    units = {item.unit for item in items if item is not None}
    if len(units) > 1:
        raise ValueError(f"measurement {name!r} comes with several units: {sorted(units)}")
    kinds = {type(item.value) for item in items if item is not None and item.value is not None}
    if len(kinds) > 1:
        raise ValueError(f"measurement {name!r} is a number in one result and text in another")
    dtype = pa.string() if kinds == {str} else pa.float64()
    return [
        _column(name, [item and item.value for item in items], dtype, {"unit": units.pop()}),
        _column(name + STATUS_SUFFIX, [item and item.status.value for item in items], _CODE),
        _column(name + REASON_SUFFIX, [item and item.reason for item in items], _CODE),
    ]


def _column(name: str, values: list[object], dtype: pa.DataType, metadata: dict[str, str] | None = None) -> _Column:
    return pa.field(name, dtype, metadata=metadata), pa.array(values, type=dtype)


def _plain(value: object) -> str | None:
    return None if value is None else str(value)


def _json(value: object) -> str | None:
    return None if value is None else canonical_json(value)

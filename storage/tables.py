"""Results as one Parquet table: a row per result, a typed column per measurement, nothing lost."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from storage.records import RESULT_JSON_FIELDS, Measurement, ResultRecord, canonical_json
from storage.urls import Location

# After a measurement's name: the columns that say whether and why its value may (not) be used.
STATUS_SUFFIX = "__status"
REASON_SUFFIX = "__reason"

# Rows of a row group, and results held in memory at a time.
GROUP_ROWS = 2000

_CODE = pa.dictionary(pa.int32(), pa.string())
_TEXT_FIELDS = ("case_id", "study_uid", "fingerprint", "detail", "created_at")
_CODE_FIELDS = ("programme", "programme_version", "status", "reason")

_Column = tuple[pa.Field, pa.Array]


@dataclass
class _Observed:
    """What was seen so far under one measurement name."""

    units: set[str] = field(default_factory=set)
    kinds: set[type] = field(default_factory=set)

    def add(self, item: Measurement) -> None:
        self.units.add(item.unit)
        if item.value is not None:
            self.kinds.add(type(item.value))

    def field(self, name: str, without_value: pa.DataType) -> pa.Field:
        """Field of the values; ``without_value`` is its type as long as no result had a value."""
        if len(self.units) > 1:
            raise ValueError(f"measurement {name!r} comes with several units: {sorted(self.units)}")
        if len(self.kinds) > 1:
            raise ValueError(f"measurement {name!r} is a number in one result and text in another")
        dtype = {str: pa.string(), float: pa.float64()}[next(iter(self.kinds))] if self.kinds else without_value
        return pa.field(name, dtype, metadata={"unit": next(iter(self.units))})


def write_results_table(records: Iterable[ResultRecord], location: Location) -> None:
    """Write ``records`` as Parquet (zstd) to ``location``, atomically and in constant memory.

    Columns are the record's own fields (policy, models, stages … as JSON text), then for every measurement
    name its value (double or string; null when it has none), ``<name>__status`` and ``<name>__reason``. A null
    status means the result has no such measurement. The unit is in the field's metadata under ``unit``.

    Raises
    ------
    ValueError
        One measurement name comes with two units, or with numbers here and text there.
    """
    # Parquet wants the columns before the first row, and they are known after the last: groups wait in a file.
    with tempfile.TemporaryFile(prefix="popscan-") as waiting:
        schema, groups = _put_aside(records, waiting)
        waiting.seek(0)
        with location.writing() as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for _ in range(groups):
                group = pa.ipc.open_stream(waiting).read_all()
                writer.write_table(pa.concat_tables([schema.empty_table(), group], promote_options="permissive"))


def _put_aside(records: Iterable[ResultRecord], waiting: IO[bytes]) -> tuple[pa.Schema, int]:
    """Write groups, each with the columns known by then; return the columns of all, and how many groups there are."""
    observed: dict[str, _Observed] = {}  # in order of first appearance
    options, groups = pa.ipc.IpcWriteOptions(compression="zstd"), 0
    for group in _groups(iter(records)):
        table = _table([*_own_columns(group), *_measurement_columns(group, observed, pa.null())])
        with pa.ipc.new_stream(waiting, table.schema, options=options) as stream:
            stream.write_table(table)
        groups += 1
    return _table([*_own_columns([]), *_measurement_columns([], observed, pa.float64())]).schema, groups


def _groups(records: Iterator[ResultRecord]) -> Iterator[list[ResultRecord]]:
    while group := list(islice(records, GROUP_ROWS)):
        yield group


def _table(columns: Sequence[_Column]) -> pa.Table:
    return pa.Table.from_arrays([array for _, array in columns], schema=pa.schema([field for field, _ in columns]))


def _own_columns(records: Sequence[ResultRecord]) -> list[_Column]:
    columns = [_column(name, [getattr(r, name) for r in records], pa.string()) for name in _TEXT_FIELDS]
    columns += [_column(name, [_plain(getattr(r, name)) for r in records], _CODE) for name in _CODE_FIELDS]
    columns.append(_column("attempts", [r.attempts for r in records], pa.int32()))
    columns += [_column(name, [_json(getattr(r, name)) for r in records], pa.string()) for name in RESULT_JSON_FIELDS]
    return columns


def _measurement_columns(
    records: Sequence[ResultRecord], observed: dict[str, _Observed], without_value: pa.DataType
) -> list[_Column]:
    for record in records:
        for item in record.measurements:
            observed.setdefault(item.name, _Observed()).add(item)
    by_name = [{item.name: item for item in record.measurements} for record in records]
    fields = [seen.field(name, without_value) for name, seen in observed.items()]
    return [column for one in fields for column in _one_measurement(one, [row.get(one.name) for row in by_name])]


def _one_measurement(values: pa.Field, items: list[Measurement | None]) -> list[_Column]:
    return [
        (values, pa.array([item and item.value for item in items], type=values.type)),
        _column(values.name + STATUS_SUFFIX, [item and item.status.value for item in items], _CODE),
        _column(values.name + REASON_SUFFIX, [item and item.reason for item in items], _CODE),
    ]


def _column(name: str, values: list[object], dtype: pa.DataType) -> _Column:
    return pa.field(name, dtype), pa.array(values, type=dtype)


def _plain(value: object) -> str | None:
    return None if value is None else str(value)


def _json(value: object) -> str | None:
    return None if value is None else canonical_json(value)

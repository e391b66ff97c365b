from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ops.verdict import ResultStatus
from storage.records import RESULT_JSON_FIELDS, Measurement, ResultRecord
from storage.tables import write_results_table
from storage.testing import example_result
from storage.urls import Location


def rebuild(row: dict[str, object], names: list[str]) -> ResultRecord:
    """Make the record again from what the table holds."""
    fields = {name: value for name, value in row.items() if name.split("__")[0] not in names}
    fields.update({name: json.loads(str(row[name])) for name in RESULT_JSON_FIELDS if row[name] is not None})
    measurements = [
        Measurement(name, row[name], "", ResultStatus(row[f"{name}__status"]), str(row[f"{name}__reason"]))  # type: ignore[arg-type]
        for name in names
        if row[f"{name}__status"] is not None
    ]
    return ResultRecord(**fields, measurements=measurements)  # type: ignore[arg-type]


def results() -> list[ResultRecord]:
    missing = Measurement("mass_mg", None, "mg", ResultStatus.NOT_EVALUABLE, "not_calibrated")
    measured = Measurement("mass_mg", 17.25, "mg")
    return [
        example_result("1.2.1", measurements=[Measurement("agatston_total", 0.0, "1"), missing]),
        example_result("1.2.2", measurements=[Measurement("agatston_total", 101.5, "1"), measured]),
        example_result(
            "1.2.3", measurements=[Measurement("agatston_total", 0.1 + 0.2, "1"), Measurement("category", "1–10")]
        ),
        example_result("1.2.4", status=ResultStatus.NOT_EVALUABLE, reason="contrast_enhanced", measurements=[]),
        example_result("1.2.5", status=ResultStatus.FAILED, reason="error", error={"class": "OSError", "message": "é"}),
    ]


@pytest.mark.parametrize("place", ["local", "memory", "s3"])
def test_nothing_is_lost(tmp_path: Path, place: str, request: pytest.FixtureRequest) -> None:
    folder = {"local": str(tmp_path / "tables"), "memory": "memory://tables"}
    parent = request.getfixturevalue("s3_location") if place == "s3" else Location(folder[place])
    location = parent.child("results.parquet")
    write_results_table(results(), location)
    table = pq.read_table(io.BytesIO(location.read_bytes()))
    names = ["agatston_total", "mass_mg", "category"]
    units = {name: table.schema.field(name).metadata[b"unit"].decode() for name in names}
    assert units == {"agatston_total": "1", "mass_mg": "mg", "category": ""}
    without_units = [
        ResultRecord(**{**vars(r), "measurements": [Measurement(**{**vars(m), "unit": ""}) for m in r.measurements]})
        for r in results()
    ]
    assert [rebuild(row, names) for row in table.to_pylist()] == without_units


def test_zero_and_not_evaluable_and_absent_stay_three_things(tmp_path: Path) -> None:
    location = Location(str(tmp_path / "results.parquet"))
    write_results_table(results(), location)
    rows = pq.read_table(location.path).to_pylist()
    assert [row["agatston_total"] for row in rows] == [0.0, 101.5, 0.1 + 0.2, None, None]
    assert [row["mass_mg"] for row in rows] == [None, 17.25, None, None, None]
    assert [row["mass_mg__status"] for row in rows] == ["not_evaluable", "ok", None, None, None]
    assert rows[0]["mass_mg__reason"] == "not_calibrated"


def test_column_types_do_not_depend_on_the_first_row(tmp_path: Path) -> None:
    location = Location(str(tmp_path / "results.parquet"))
    write_results_table(results(), location)
    schema = pq.read_schema(location.path)
    assert [str(schema.field(name).type) for name in ("mass_mg", "category")] == ["double", "string"]


def test_many_groups_are_the_table_that_one_group_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = (Location(str(tmp_path / name)) for name in ("whole.parquet", "parts.parquet"))
    late = [Measurement("only_at_the_end", 3.5, "mm"), Measurement("mass_mg", 1.0, "mg")]
    unmeasured = [Measurement("never", None, "mm", ResultStatus.NOT_EVALUABLE, "no_reference")]
    records = [*results(), example_result("1.2.6", measurements=late), *results()[::-1]]
    records.append(example_result("1.2.7", status=ResultStatus.NOT_EVALUABLE, reason="noise", measurements=unmeasured))
    write_results_table(records, whole)
    monkeypatch.setattr("storage.tables.GROUP_ROWS", 2)
    write_results_table(iter(records), parts)
    assert (pq.ParquetFile(whole.path).num_row_groups, pq.ParquetFile(parts.path).num_row_groups) == (1, 6)
    expected, found = pq.read_table(whole.path), pq.read_table(parts.path)
    assert found.schema.equals(expected.schema, check_metadata=True)
    assert found.to_pylist() == expected.to_pylist()


def test_twenty_groups_take_the_memory_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.tables.GROUP_ROWS", 200)

    def peak(groups: int) -> int:
        records = (example_result(f"1.2.{n}", policy={"long": f"{n:04000}"}) for n in range(groups * 200))
        tracemalloc.start()
        write_results_table(records, Location(str(tmp_path / "results.parquet")))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(20) < peak(2) + 1e6, "the other 18 groups are 14 MB of policy alone"


def test_no_results_make_an_empty_table(tmp_path: Path) -> None:
    location = Location(str(tmp_path / "results.parquet"))
    write_results_table([], location)
    assert pq.read_table(location.path).num_rows == 0


@pytest.mark.parametrize(
    ("second", "message"),
    [(Measurement("length", 1.0, "cm"), "several units"), (Measurement("length", "long", "mm"), "text in another")],
)
@pytest.mark.parametrize("group_rows", [1, 2])
def test_what_a_column_cannot_hold_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: Measurement, message: str, group_rows: int
) -> None:
    monkeypatch.setattr("storage.tables.GROUP_ROWS", group_rows)
    records = [example_result("1.2.1", measurements=[Measurement("length", 1.0, "mm")])]
    records.append(example_result("1.2.2", measurements=[second]))
    with pytest.raises(ValueError, match=message):
        write_results_table(records, Location(str(tmp_path / "results.parquet")))
    assert not (tmp_path / "results.parquet").exists()

"""Ledger speed: 10,000 results of 12 measurements, against a plain executemany of the same rows in the same run.

``pytest tests/benchmarks/test_ledger.py --benchmark-enable`` prints the table.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.ledger import Ledger
from storage.records import RESULT_JSON_FIELDS, Measurement, ResultRecord
from storage.testing import example_result

RESULTS, MEASUREMENTS, BATCH = 10_000, 12, 250

# The ledger upserts, checks constraints, validates and commits durably 40 times; the plain script does none of it.
MOST_TIMES_PLAIN = 12.0


@pytest.fixture(scope="module")
def results() -> list[ResultRecord]:
    stages = [{"name": f"stage{i}", "version": "1", "parameters": {"spacing": [3, 2, 2]}} for i in range(4)]
    return [
        example_result(
            f"1.2.{i}",
            stages=stages,
            measurements=[Measurement(f"agatston_{k}", i + k / 7, "1") for k in range(MEASUREMENTS)],
        )
        for i in range(RESULTS)
    ]


def commit(ledger: Ledger, results: list[ResultRecord]) -> None:
    for start in range(0, len(results), BATCH):
        ledger.commit_results(results[start : start + BATCH])


def plain_executemany(path: Path, results: list[ResultRecord]) -> None:
    """The least that could be done: two tables without constraints, one transaction."""
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE result (id INTEGER PRIMARY KEY, case_id TEXT, fingerprint TEXT, status TEXT, rest TEXT)"
    )
    connection.execute("CREATE TABLE measurement (result_id INTEGER, name TEXT, value REAL, unit TEXT, status TEXT)")
    rows = (
        (
            i,
            r.case_id,
            r.fingerprint,
            r.status.value,
            json.dumps({name: getattr(r, name) for name in RESULT_JSON_FIELDS}),
        )
        for i, r in enumerate(results)
    )
    connection.executemany("INSERT INTO result VALUES (?, ?, ?, ?, ?)", rows)
    items = ((i, m.name, m.value, m.unit, m.status.value) for i, r in enumerate(results) for m in r.measurements)
    connection.executemany("INSERT INTO measurement VALUES (?, ?, ?, ?, ?)", items)
    connection.commit()
    connection.close()


def seconds(function: Callable[..., None], *arguments: Any) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


@pytest.mark.benchmark(group="ledger, 10,000 results")
def test_commit_in_batches(benchmark: Any, tmp_path: Path, results: list[ResultRecord]) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        benchmark.pedantic(commit, args=(ledger, results), rounds=1)
        assert len(ledger.current_fingerprints("calcium")) == RESULTS


@pytest.mark.benchmark(group="ledger, 10,000 results")
def test_commit_what_is_there_already(benchmark: Any, tmp_path: Path, results: list[ResultRecord]) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        commit(ledger, results)
        benchmark.pedantic(commit, args=(ledger, results), rounds=1)
        assert len(ledger.current_fingerprints("calcium")) == RESULTS


@pytest.mark.benchmark(group="ledger, 10,000 results")
def test_read_back(benchmark: Any, tmp_path: Path, results: list[ResultRecord]) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        commit(ledger, results)
        found = benchmark.pedantic(ledger.results, args=("calcium",), rounds=1)
    assert sorted(found, key=lambda r: r.case_id) == sorted(results, key=lambda r: r.case_id)


@pytest.mark.benchmark(group="ledger on PostgreSQL, 2,000 results")
def test_commit_on_postgresql(benchmark: Any, postgres_url: str, results: list[ResultRecord]) -> None:
    with Ledger(postgres_url) as ledger:
        benchmark.pedantic(commit, args=(ledger, results[:2000]), rounds=1)
        assert len(ledger.current_fingerprints("calcium")) == 2000


def test_commit_against_plain_executemany(tmp_path: Path, results: list[ResultRecord]) -> None:
    plain = seconds(plain_executemany, tmp_path / "plain.sqlite", results)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ours = seconds(commit, ledger, results)
    print(f"{RESULTS} results: plain executemany {plain:.2f} s, ledger in batches of {BATCH} {ours:.2f} s")
    assert ours < MOST_TIMES_PLAIN * plain

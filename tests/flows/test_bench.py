from __future__ import annotations

from pathlib import Path

import pytest
from distributed import Client, Scheduler, SpecCluster, Worker

from flows.bench import Bench, NothingToBenchError, gpu_utilisation, measure
from flows.settings import Settings
from tasks.simulate import simulate_study


@pytest.fixture(scope="module")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dicom")
    for index in range(2):
        simulate_study(folder, index, 1)
    return folder


def test_where_the_time_goes(dicom: Path, tmp_path: Path) -> None:
    found = measure([dicom], "calcium", Settings(cluster="threads", workers=2), tmp_path)
    assert (found.cases, found.failed) == (2, 0)
    assert {"read headers", "decode", "write volumes", "commit"} <= set(found.ingest_steps)
    assert 2 * sum(found.ingest_steps.values()) <= found.ingest_seconds
    assert list(found.stages) == ["load", "locate", "score", "draw", "publish", "commit"]
    assert all(seconds > 0 for seconds in found.stages.values())
    assert found.alone["locate: resample"] + found.alone["locate: infer"] < found.alone["locate"]
    assert found.cases_per_hour == pytest.approx(3600 * 2 / (found.ingest_seconds + found.compute_seconds))
    assert found.to_dict()["cases_per_hour"] == found.cases_per_hour
    assert list(found.busy) == ["threads"]
    assert 0 < found.busy["threads"] <= 1


def test_cost() -> None:
    found = Bench("calcium", 10, 0, "here", 4.0, 6.0, {}, {}, {}, {})
    assert found.cases_per_hour == 3600
    assert found.cost_per_thousand(3.6) == pytest.approx(1.0)


def test_nothing_to_compute_is_said(tmp_path: Path) -> None:
    (tmp_path / "dicom").mkdir()
    with pytest.raises(NothingToBenchError, match="none of the studies"):
        measure([tmp_path / "dicom"], "calcium", Settings(), tmp_path / "home")


def test_a_case_that_fails_is_counted_and_ends_nothing(
    dicom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("tasks.infer.resident", broken)
    found = measure([dicom], "calcium", Settings(cluster="threads", workers=2), tmp_path)
    assert (found.cases, found.failed) == (2, 2)
    assert "locate" in found.alone
    assert "score" not in found.alone


def test_gpus_are_asked_how_busy_they_are() -> None:
    """NVML is faked, Dask's way from it is not."""
    plain = {"dashboard_address": None, "nthreads": 1}
    card = {"resources": {"GPU": 3}, "metrics": {"gpu": lambda _worker: {"utilization": 93, "memory-used": 1}}}
    workers = {"cpu": {"cls": Worker, "options": plain}, "gpu": {"cls": Worker, "options": {**plain, **card}}}
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": None}}
    with SpecCluster(workers=workers, scheduler=scheduler) as cluster, Client(cluster) as client:
        assert gpu_utilisation(client) == [0.93]

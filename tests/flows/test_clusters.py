"""Clusters made on this machine; GPUs are faked as names in ``CUDA_VISIBLE_DEVICES``, processes and Dask are real."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import dask
import pytest
from distributed import Client
from pydantic import ValidationError

from flows.clusters import NoGpuError, gpu_cluster, scheduler_address, visible_gpus
from flows.settings import CASES_PER_GPU, DASK_CONFIG, THREADS_PER_GPU, Settings
from tasks.stage import Outcome, Stage
from tasks.stream import stream


def where(value: int) -> dict[str, Any]:
    return {"case": value, "cpu": os.environ["CUDA_VISIBLE_DEVICES"]}


def on_gpu(value: dict[str, Any]) -> dict[str, Any]:
    began = time.time()
    time.sleep(0.05)
    times = (began, time.time())
    return {**value, "gpu": os.environ["CUDA_VISIBLE_DEVICES"], "pid": os.getpid(), "times": times}


def killed_once(value: int, flag: str) -> int:
    """Kill the worker process at the first call ever."""
    with open(flag, "a+", encoding="utf-8") as file:
        file.seek(0)
        if not file.read():
            file.write("killed")
            file.flush()
            os._exit(9)
    return value


def memory_limits(dask_worker: Any) -> tuple[Any, ...]:
    manager = dask_worker.memory_manager
    return str(manager.memory_target_fraction), str(manager.memory_spill_fraction), manager.memory_limit


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers with a GPU, by name, and one without."""
    with dask.config.set(DASK_CONFIG), gpu_cluster(["0", "GPU-8f3a"], 1) as cluster, Client(cluster) as client:
        client.wait_for_workers(3, timeout=60)
        yield client


def collected(client: Client, stages: list[Stage], n: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    stream(client, stages, range(n), outcomes.extend)
    return outcomes


def test_stages_run_on_the_workers_they_need(client: Client) -> None:
    found = [o.value for o in collected(client, [Stage("where", "1", where), Stage("gpu", "1", on_gpu, "gpu")], 24)]
    assert {value["gpu"] for value in found} == {"0", "GPU-8f3a"}
    assert "" in {value["cpu"] for value in found}
    for pid in {value["pid"] for value in found}:
        times = [value["times"] for value in found if value["pid"] == pid]
        at_once = [sum(began <= moment < end for began, end in times) for moment, _ in times]
        assert 1 < max(at_once) <= CASES_PER_GPU


def test_a_gpu_worker_has_threads_for_the_cases_around(client: Client) -> None:
    assert sorted(client.nthreads().values()) == [1, THREADS_PER_GPU, THREADS_PER_GPU]


def test_a_gpu_worker_that_dies_comes_back_with_its_gpu(client: Client, tmp_path: Any) -> None:
    killing = Stage("kill", "1", killed_once, "gpu", {"flag": str(tmp_path / "flag")})
    (outcome,) = collected(client, [killing], 1)
    assert (outcome.failure, outcome.attempts) == (None, 2)
    client.wait_for_workers(3, timeout=60)
    found = [o.value["gpu"] for o in collected(client, [Stage("w", "1", where), Stage("g", "1", on_gpu, "gpu")], 16)]
    assert set(found) == {"0", "GPU-8f3a"}


def test_memory_limits_are_set_on_purpose(client: Client) -> None:
    limits = client.run(memory_limits)
    assert {(target, spill) for target, spill, _ in limits.values()} == {("False", "False")}
    assert all(limit for *_, limit in limits.values())


@pytest.mark.parametrize(("cluster", "workers"), [("threads", 1), ("processes", 2)])
def test_clusters_here(cluster: str, workers: int) -> None:
    with (
        scheduler_address(Settings(cluster=cluster, workers=2)) as address,
        Client(address, set_as_default=False) as client,
    ):
        client.wait_for_workers(workers, timeout=60)
        assert len(client.nthreads()) == workers
        assert sum(client.nthreads().values()) == 2
        assert sorted(o.value for o in collected(client, [Stage("abs", "1", abs)], 3)) == [0, 1, 2]


def test_an_address_is_used_as_it_is() -> None:
    with scheduler_address(Settings(cluster="tcp://head:8786")) as address:
        assert address == "tcp://head:8786"


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(NoGpuError, match="finds no GPU here"), scheduler_address(Settings(cluster="gpus")):
        pass


@pytest.mark.parametrize(("named", "gpus"), [(None, ["0", "1"]), ("2,3", ["2", "3"]), ("GPU-8f3a,GPU-91", None)])
def test_gpus_as_the_environment_names_them(
    monkeypatch: pytest.MonkeyPatch, named: str | None, gpus: list[str] | None
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == (gpus or ["GPU-8f3a", "GPU-91"])


@pytest.mark.parametrize("cluster", ["thread", "cuda", "head:8786", ""])
def test_a_cluster_that_is_none_is_refused(cluster: str) -> None:
    with pytest.raises(ValidationError, match="cluster"):
        Settings(cluster=cluster)

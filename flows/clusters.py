"""Clusters: a Dask scheduler's address, from settings or made here for as long as it is needed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import dask
from distributed import LocalCluster, Nanny, Scheduler, SpecCluster

from flows.settings import CASES_PER_GPU, DASK_CONFIG, THREADS_PER_GPU, Settings, available_cores
from tasks.stream import GPU_RESOURCE

LOCAL_HTTP = "127.0.0.1:0"
"""Dask always serves its status over HTTP: on this machine only, on any free port."""

CLOSE_SECONDS = 20
"""An orderly close takes a second or two; what takes this long does not come."""


class NoGpuError(RuntimeError):
    """A cluster with GPUs was asked for, on a machine where none can be used."""


@contextmanager
def scheduler_address(settings: Settings) -> Iterator[str]:
    """Give the address of the scheduler to use, and close what was started for it afterwards.

    ``POPSCAN_CLUSTER`` is that address, or says what to make here: ``threads``, one per core in this process;
    ``processes``, one per core under a nanny that replaces one that dies; ``gpus``, one process per GPU, which owns it,
    and one per remaining core.

    Raises
    ------
    NoGpuError
        ``gpus`` where there is none.
    """
    if settings.scheduler:
        yield settings.scheduler
        return
    cores = settings.workers or available_cores()
    with dask.config.set(DASK_CONFIG):
        if settings.cluster == "gpus":
            gpus = visible_gpus()
            made = gpu_cluster(gpus, max(0, cores - THREADS_PER_GPU * len(gpus)))
        elif settings.cluster == "processes":
            made = local_cluster(cores, 1, processes=True)
        else:
            made = local_cluster(1, cores, processes=False)
        with made as cluster:
            yield cluster.scheduler_address


@contextmanager
def local_cluster(n_workers: int, threads_per_worker: int, processes: bool) -> Iterator[Any]:
    """Start a Dask cluster on this machine, and close it even where Dask's own close would wait for ever.

    That happens when a worker died shortly before: its nanny is still busy replacing it and does not answer.
    """
    make: Any = LocalCluster  # Dask's own annotations are partial
    cluster = make(
        n_workers=n_workers, threads_per_worker=threads_per_worker, processes=processes, dashboard_address=LOCAL_HTTP
    )
    with _closed(cluster):
        yield cluster


@contextmanager
def gpu_cluster(gpus: Sequence[str], cpu_workers: int) -> Iterator[Any]:
    """Start worker processes that own a GPU each, and others beside them that see none.

    Not dask-cuda's ``LocalCUDACluster``: that knows one kind of worker only, and names no resource for its GPU.

    Parameters
    ----------
    gpus
        What ``CUDA_VISIBLE_DEVICES`` is to be for each GPU worker: an index or a UUID.
    cpu_workers
        Processes of one thread without a GPU.
    """
    cpu = {"nthreads": 1, "env": {"CUDA_VISIBLE_DEVICES": ""}, "dashboard_address": LOCAL_HTTP}
    gpu = {"nthreads": THREADS_PER_GPU, "resources": {GPU_RESOURCE: CASES_PER_GPU}, "dashboard_address": LOCAL_HTTP}
    workers = {f"cpu-{n}": {"cls": Nanny, "options": cpu} for n in range(cpu_workers)}
    for name in gpus:
        options = {**gpu, "env": {"CUDA_VISIBLE_DEVICES": name}}
        workers[f"gpu-{name}"] = {"cls": Nanny, "options": options}
    make: Any = SpecCluster
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": LOCAL_HTTP, "host": "127.0.0.1"}}
    cluster = make(workers=workers, scheduler=scheduler)
    with _closed(cluster):
        yield cluster


@contextmanager
def _closed(cluster: Any) -> Iterator[None]:
    try:
        yield
    finally:
        pids = [nanny.pid for nanny in cluster.workers.values() if getattr(nanny, "pid", None)]
        try:
            cluster.close(timeout=CLOSE_SECONDS)
        except TimeoutError:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def visible_gpus() -> list[str]:
    """Names of the GPUs this process may use, as ``CUDA_VISIBLE_DEVICES`` spells them.

    Raises
    ------
    NoGpuError
        There is none.
    """
    import torch  # takes seconds, and most clusters have no use for it

    count = torch.cuda.device_count()
    if not count:
        raise NoGpuError(
            f"POPSCAN_CLUSTER=gpus, but torch {torch.__version__} finds no GPU here (CUDA_VISIBLE_DEVICES is "
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}); set it to processes or threads to use the CPU"
        )
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(index) for index in range(count)]

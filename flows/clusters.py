"""Clusters: a Dask scheduler's address, from settings or made here for as long as it is needed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import dask
from distributed import LocalCluster

from flows.settings import Settings, available_cores

LOCAL_HTTP = "127.0.0.1:0"
"""Dask always serves its status over HTTP: on this machine only, on any free port."""

CLOSE_SECONDS = 20
"""An orderly close takes a second or two; what takes this long does not come."""


@contextmanager
def scheduler_address(settings: Settings) -> Iterator[str]:
    """Give the address of the scheduler to use, and close what was started for it afterwards.

    Without ``POPSCAN_SCHEDULER`` a cluster is made here: one thread per core in this process, or, with
    ``POPSCAN_PROCESSES``, one process of one thread per core under a nanny that replaces it when it dies.
    """
    if settings.scheduler:
        yield settings.scheduler
        return
    workers = settings.workers or available_cores()
    # The first death of a worker already hands its cases back: the executor finds out which of them is to blame.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        local_cluster(
            workers if settings.processes else 1, 1 if settings.processes else workers, settings.processes
        ) as c,
    ):
        yield c.scheduler_address


@contextmanager
def local_cluster(n_workers: int, threads_per_worker: int, processes: bool) -> Iterator[Any]:
    """Start a Dask cluster on this machine, and close it even where Dask's own close would wait for ever.

    That happens when a worker died shortly before: its nanny is still busy replacing it and does not answer.
    """
    make: Any = LocalCluster  # Dask's own annotations are partial
    cluster = make(
        n_workers=n_workers, threads_per_worker=threads_per_worker, processes=processes, dashboard_address=LOCAL_HTTP
    )
    try:
        yield cluster
    finally:
        pids = [nanny.pid for nanny in cluster.workers.values() if getattr(nanny, "pid", None)]
        try:
            cluster.close(timeout=CLOSE_SECONDS)
        except TimeoutError:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

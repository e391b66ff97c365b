"""The processes of `popscan up`: what each is started with. Nothing here starts anything.

Prefect reads its environment when it is imported, so nothing that imports it may be imported here.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from deployments.deploy import POOLS
from deployments.prefect_server import PREFECT_ENVIRONMENT
from flows.settings import CASES_PER_GPU, DASK_CONFIG, HEARTBEAT_SECONDS, THREADS_PER_GPU, Settings, available_cores
from tasks.stream import GPU_RESOURCE

LOOPBACK = "127.0.0.1"

PREFECT_TUNING = {
    # One database write per task run and event makes the recorder drop records in bursts.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    # Seconds from event to running code, and from a free slot to the next run: the defaults are 10 and 30.
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
    "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": "60",
    # Runs, their logs and artifacts go after a month: the ledger is the record, and a sweep every five minutes adds up.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(30 * 24 * 3600),
    # A server that restarts is away for some ten seconds; a run should not die of that.
    "PREFECT_CLIENT_MAX_RETRIES": "10",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500,502,503,504",
}


PREFECT_SETTINGS = {
    **PREFECT_ENVIRONMENT,
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    **PREFECT_TUNING,
}
"""Settings of Prefect where it keeps running, here or on Kubernetes."""


@dataclass(frozen=True)
class Service:
    """One process.

    Attributes
    ----------
    name
        Also of its log file.
    command
        Program and arguments.
    port
        The port it listens on, which must be free before it starts; None when it listens on none.
    """

    name: str
    command: tuple[str, ...]
    port: int | None = None


def prefect_url(settings: Settings) -> str:
    """Address of Prefect's API."""
    return f"http://{LOOPBACK}:{settings.prefect_port}/api"


def scheduler_url(settings: Settings) -> str:
    """Address of the Dask scheduler: one that is there already, or ours."""
    return settings.scheduler or f"tcp://{LOOPBACK}:{settings.scheduler_port}"


def addresses(settings: Settings) -> dict[str, str]:
    """Where a person looks, by what is seen there."""
    found = {
        "Prefect": f"http://{LOOPBACK}:{settings.prefect_port}",
        "Reports": f"http://{LOOPBACK}:{settings.report_port}/reports/report.html",
        "Drop folder": str(settings.inbox_folder),
        "Dask scheduler": scheduler_url(settings),
    }
    if settings.scheduler is None:
        found["Dask dashboard"] = f"http://{LOOPBACK}:{settings.dashboard_port}/status"
    return found


def environment(settings: Settings) -> dict[str, str]:
    """Environment that all processes share; what the user has set stays, with paths that hold in every folder."""
    home = settings.open_home().root
    ours = {
        "POPSCAN_HOME": str(home),
        "POPSCAN_INBOX": str(settings.inbox_folder),
        "POPSCAN_CLUSTER": scheduler_url(settings),
        "POPSCAN_REPORT_URL": settings.report_url or f"http://{LOOPBACK}:{settings.report_port}/reports",
        "PREFECT_API_URL": prefect_url(settings),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_UI_API_URL": prefect_url(settings),  # else the browser is told port 4200
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{LOOPBACK}:{settings.prefect_port}",  # else any page may post
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),  # by which the sweep tells the dead
        **{f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": str(v) for name, v in DASK_CONFIG.items()},
    }
    ours |= {f"POPSCAN_{name.upper()}": place for name, place in settings.absolute_places().items()}
    if settings.prefect_database:
        ours["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = settings.prefect_database
    return {**PREFECT_SETTINGS, **os.environ, **ours}


def services(settings: Settings) -> list[Service]:
    """All processes, in the order they start; the first is Prefect's server, which the others need."""
    return [
        Service(
            "prefect-server",
            _python("deployments.prefect_server", settings.prefect_port, os.getpid()),
            settings.prefect_port,
        ),
        *([] if settings.scheduler else _dask(settings)),
        *(
            Service(f"worker-{pool}", _python("prefect", "worker", "start", "--pool", pool, "--name", pool))
            for pool in POOLS
        ),
        Service("watch", _python("deployments.watch")),
        Service("reports", _python("deployments.report_server", settings.report_port), settings.report_port),
    ]


def _dask(settings: Settings) -> list[Service]:
    scheduler = ("--host", LOOPBACK, "--port", settings.scheduler_port)
    dashboard = ("--dashboard-address", f"{LOOPBACK}:{settings.dashboard_port}")
    return [
        Service(
            "dask-scheduler", _python("distributed.cli.dask_scheduler", *scheduler, *dashboard), settings.scheduler_port
        ),
        *_dask_workers(settings),
    ]


def _dask_workers(settings: Settings) -> list[Service]:
    """One process per GPU, and one per remaining core; a nanny replaces one that dies."""
    cores, found = settings.workers or available_cores(), []
    here = ("--host", LOOPBACK, "--no-dashboard")
    if gpus := _gpu_count():
        threads = ("--nthreads", THREADS_PER_GPU, "--resources", gpu_resource(), "--host", LOOPBACK)
        found.append(Service("dask-gpu-workers", _python("dask", "cuda", "worker", scheduler_url(settings), *threads)))
        cores -= THREADS_PER_GPU * gpus
    if cores > 0:
        many = ("--nworkers", cores, "--nthreads", 1, *here)
        command = _python("distributed.cli.dask_worker", scheduler_url(settings), *many)
        found.append(Service("dask-workers", command))
    return found


def gpu_resource() -> str:
    """Dask resource of a worker with a GPU, as its command line has it."""
    return f"{GPU_RESOURCE}={CASES_PER_GPU}"


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def _python(module: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *map(str, arguments))

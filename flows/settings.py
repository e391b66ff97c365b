"""Settings: environment variables with the prefix ``POPSCAN_``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url

from flows.home import Home
from flows.programmes import programme_names
from storage.urls import Location
from tasks.stage import Placement

HEARTBEAT_SECONDS = 30
"""How often a flow run tells Prefect that it is alive."""


CASES_PER_GPU = 3
"""Cases at once on a card, and so its worker's Dask resource: their windows share batches, and while one is computed
the next travels there and is resampled."""

THREADS_PER_GPU = CASES_PER_GPU + 1
"""The last one reads and writes for the cases before and after."""

DASK_CONFIG: dict[str, Any] = {
    # The first death of a worker already hands its cases back: the executor finds out which of them is to blame.
    "distributed.scheduler.allowed-failures": 0,
    # A case's volumes are needed again within seconds. Writing them to disk costs more than holding new cases back.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.85,
    "distributed.worker.memory.terminate": 0.95,
    # So long after each death of a worker, Dask gives its nanny up for good if no worker is there at that very moment:
    # the default of 15 s has been met by a second death. A nanny that starts another is what is wanted.
    "distributed.deploy.lost-worker-timeout": "365 days",
}
"""Dask's own settings wherever Popscan starts schedulers and workers; a worker's limit is its share of the machine."""


class Settings(BaseSettings):
    """How Popscan runs on this machine; every field is ``POPSCAN_<FIELD>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="POPSCAN_", extra="ignore")

    home: Path = Field(
        default=Path("~/.popscan"), description="Folder of ledger, volumes, pictures, tables and reports."
    )
    ledger: str | None = Field(
        default=None, description="Ledger database, postgresql+psycopg://…; default SQLite in the home."
    )
    store: str | None = Field(default=None, description="Volumes and pictures elsewhere, e.g. s3://bucket/prefix.")
    cluster: str = Field(
        default="threads",
        pattern=r"^(threads|processes|gpus|[a-z]+://.+)$",
        description="Where cases are computed: threads, processes or gpus here, or a Dask scheduler's address.",
    )
    workers: int | None = Field(
        default=None, ge=1, description="Cases computed side by side here; default one per core."
    )
    window: int | None = Field(default=None, ge=1, description="Most cases in flight; default from the cluster's size.")
    batch_size: int = Field(default=500, ge=1, description="Cases per Prefect task run.")
    policy: Path | None = Field(
        default=None, description='JSON file of programme options, e.g. {"calcium": {"assumed_kvp": 120}}.'
    )
    failure_threshold: float = Field(default=0.1, ge=0, le=1, description="Fraction of failed cases that fails a run.")
    inbox: Path | None = Field(default=None, description="Watched folder; default inbox in the home.")
    quiet_seconds: float = Field(
        default=60.0, ge=0, description="A study is ingested when none of its files has changed for so long."
    )
    watch_seconds: float = Field(default=5.0, gt=0, description="Time between two looks into the watched folder.")
    launch_seconds: float = Field(
        default=120.0,
        gt=0,
        description="A run that a worker took and whose process has not begun after so long is given up by the sweep.",
    )
    gpu_hour_cost: float | None = Field(
        default=None, ge=0, description="Cost of an hour of a GPU, in any currency; without it no cost is stated."
    )
    cpu_hour_cost: float | None = Field(
        default=None, ge=0, description="Cost of an hour of a core, in the same currency; without it no cost is stated."
    )
    report_url: str | None = Field(
        default=None, description="Address under which the home's reports are served, for links in Prefect."
    )
    screen_cron: str = Field(default="0 2 * * *", description="When every programme is screened, as a cron line.")
    timezone: str = Field(default="UTC", description="Time zone of the cron line, e.g. Europe/Zurich.")
    prefect_port: int = Field(default=4200, description="Port of Prefect's server and pages under `popscan up`.")
    prefect_database: str | None = Field(
        default=None, description="Prefect's own database, postgresql+asyncpg://…; default SQLite in the home."
    )
    scheduler_port: int = Field(default=8786, description="Port of the Dask scheduler under `popscan up`.")
    dashboard_port: int = Field(default=8787, description="Port of the Dask dashboard under `popscan up`.")
    report_port: int = Field(default=4280, description="Port at which `popscan up` serves the reports.")

    def options(self, programme: str) -> dict[str, Any]:
        """Options of a programme from the policy file; empty without one.

        Raises
        ------
        ValueError
            The file is not a JSON object of objects by programme.
        FileNotFoundError
            There is no such file.
        """
        if self.policy is None:
            return {}
        document = json.loads(self.policy.read_text(encoding="utf-8"))
        options = document.get(programme, {}) if isinstance(document, dict) else None
        if not isinstance(options, dict) or not set(document) <= set(programme_names()):
            raise ValueError(
                f"{self.policy} must hold an object per programme ({', '.join(programme_names())}), "
                'e.g. {"calcium": {"assumed_kvp": 120}}'
            )
        return options

    @property
    def scheduler(self) -> str | None:
        """Address of a Dask scheduler that is there already; None where a cluster is made here."""
        return self.cluster if "://" in self.cluster else None

    @property
    def inbox_folder(self) -> Path:
        """The watched folder."""
        return (self.inbox or self.home / "inbox").expanduser().absolute()

    @property
    def hour_costs(self) -> dict[Placement, float | None]:
        """Cost of an hour by what a stage needs; None where none is given."""
        return {"gpu": self.gpu_hour_cost, "cpu": self.cpu_hour_cost}

    def address_of(self, report: Path) -> str:
        """Address of a report for people: where it is served, else where the file is."""
        return f"{self.report_url.rstrip('/')}/{report.name}" if self.report_url else report.as_uri()

    def absolute_places(self) -> dict[str, str]:
        """Ledger, store and policy file, as far as they are set, as paths and addresses that hold in every folder."""
        places = {}
        if self.ledger is not None:
            url = make_url(self.ledger)
            if url.get_backend_name() == "sqlite" and url.database:
                url = url.set(database=str(Path(url.database).expanduser().absolute()))
            places["ledger"] = url.render_as_string(hide_password=False)
        if self.store is not None:
            places["store"] = Location(self.store).url
        if self.policy is not None:
            places["policy"] = str(self.policy.expanduser().absolute())
        return places

    def open_home(self) -> Home:
        """Home as these settings describe it; its folder is made when it is not there."""
        return Home.at(self.home, self.ledger, self.store)


def available_cores() -> int:
    """Cores this process may use (fewer than the machine has under taskset or a cpuset)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

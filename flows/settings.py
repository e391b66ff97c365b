"""Settings: environment variables with the prefix ``POPSCAN_``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from flows.home import Home
from flows.programmes import PROGRAMMES


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
    scheduler: str | None = Field(
        default=None, description="Address of a Dask scheduler; default a cluster in this process."
    )
    workers: int | None = Field(
        default=None, ge=1, description="Cases computed side by side here; default one per core."
    )
    processes: bool = Field(
        default=False, description="Local workers as processes, which survive a crash of one of them."
    )
    window: int | None = Field(default=None, ge=1, description="Most cases in flight; default from the cluster's size.")
    batch_size: int = Field(default=500, ge=1, description="Cases per Prefect task run.")
    policy: Path | None = Field(
        default=None, description='JSON file of programme options, e.g. {"calcium": {"assumed_kvp": 120}}.'
    )
    failure_threshold: float = Field(default=0.1, ge=0, le=1, description="Fraction of failed cases that fails a run.")

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
        if not isinstance(options, dict) or not set(document) <= set(PROGRAMMES):
            raise ValueError(
                f"{self.policy} must hold an object per programme ({', '.join(PROGRAMMES)}), "
                'e.g. {"calcium": {"assumed_kvp": 120}}'
            )
        return options

    def open_home(self) -> Home:
        """Home as these settings describe it; its folder is made when it is not there."""
        return Home.at(self.home, self.ledger, self.store)


def available_cores() -> int:
    """Cores this process may use (fewer than the machine has under taskset or a cpuset)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Tell a Prefect server what to run: work pools, and deployments with their schedules and triggers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

import flows
from flows.programmes import programme_names
from flows.settings import Settings

PREFECT_YAML = Path(__file__).with_name("prefect.yaml")

PATTERN = "calcium"
"""The programme whose deployments are the pattern for programmes that are not named in the file."""

POOLS = {"popscan-ingest": 4, "popscan-cpu": 4, "popscan-gpu": 2}
"""Work pools, and how many flow runs each takes side by side. Cases run on Dask: a flow run here only directs them."""


class DeployError(RuntimeError):
    """Prefect did not take the deployments."""


def deploy(settings: Settings) -> None:
    """Make or update everything on the server that ``PREFECT_API_URL`` names; nothing that is there already is doubled.

    Raises
    ------
    DeployError
        ``prefect deploy`` failed; the message is what it printed.
    """
    _make_pools()
    with TemporaryDirectory() as folder:
        file = Path(folder) / PREFECT_YAML.name
        file.write_text(for_programmes(PREFECT_YAML.read_text(encoding="utf-8"), programme_names()), encoding="utf-8")
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        ran = subprocess.run(command, env=variables(settings), cwd=folder, capture_output=True, text=True, check=False)
    if ran.returncode or "Skipping" in ran.stdout:
        raise DeployError(f"`{' '.join(command[2:])}` failed:\n{ran.stdout}{ran.stderr}")


def for_programmes(document: str, programmes: Sequence[str]) -> str:
    """Repeat the deployments of the programme ``calcium`` for every other programme that has none of its own."""
    config = yaml.safe_load(document)
    deployments = config["deployments"]
    has = {deployment.get("parameters", {}).get("programme") for deployment in deployments}
    pattern = [deployment for deployment in deployments if deployment.get("parameters", {}).get("programme") == PATTERN]
    for programme in programmes:
        if programme not in has:
            deployments += json.loads(json.dumps(pattern).replace(PATTERN, programme))
    repeated: str = yaml.safe_dump(config, sort_keys=False)
    return repeated


def variables(settings: Settings) -> dict[str, str]:
    """Environment in which ``prefect.yaml`` is read: settings as strings, and where the code lies."""
    return {
        **os.environ,
        "POPSCAN_CODE": str(Path(str(flows.__file__)).resolve().parents[1]),
        "POPSCAN_SCREEN_CRON": settings.screen_cron,
        "POPSCAN_TIMEZONE": settings.timezone,
    }


def _make_pools() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        for name, limit in POOLS.items():
            try:
                client.read_work_pool(name)
            except ObjectNotFound:
                # With its template from the start: workers that all write it get in each other's way.
                template = ProcessWorker.get_default_base_job_template()
                pool = WorkPoolCreate(name=name, type="process", base_job_template=template, concurrency_limit=limit)
                client.create_work_pool(pool)
            else:
                client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))

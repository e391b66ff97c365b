"""The commands and variables of the manifests, run as the pods would run them, on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from storage.urls import Location
from tests.deployments.conftest import REPOSITORY, Popscan
from tests.deployments.manifest_checks import operator_makes, workloads
from tests.deployments.test_manifests import LEAST, find, manifests

PROGRAMS = Path(sys.executable).parent
WAIT_SECONDS = 90

WRITE = "import sys; from storage.urls import Location; Location(sys.argv[1]).child('a').write_bytes(b'1')"


@contextmanager
def running(container: Mapping[str, Any], more: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a container's command, its variables filled in, without the variables of this process that could help it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "POPSCAN", "DASK"))}
    own = {variable["name"]: variable["value"] for variable in container.get("env", []) if "value" in variable}
    everything = {**clean, **own, **environment}
    words = [*container["command"], *container.get("args", []), *more]
    filled = [re.sub(r"\$\((\w+)\)", lambda match: everything[match[1]], word) for word in words]
    process = subprocess.Popen([PROGRAMS / filled[0], *filled[1:]], env=everything, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:  # not what is tested here
            process.kill()
            process.wait()


def answer(url: str, process: subprocess.Popen[bytes]) -> bytes:
    """Body of the first good answer."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                body: bytes = response.read()
                return body
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def free_ports() -> tuple[int, int]:
    """Two ports that are free on this machine."""
    with socket.socket() as first, socket.socket() as second:
        for probing in (first, second):
            probing.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def probe(container: Mapping[str, Any], name: str, port: int) -> str:
    path: str = container[name]["httpGet"]["path"]
    return f"http://127.0.0.1:{port}{path}"


def test_dask_scheduler_and_worker_find_each_other_and_answer_the_operator() -> None:
    made = {workload.name: workload.pod["containers"][0] for workload in workloads(operator_makes(manifests(LEAST)))}
    scheduler, worker = made["popscan-scheduler"], made["popscan-default-worker-0a1b2c"]
    port, dashboard = free_ports()
    here = ["--host", "127.0.0.1", "--port", str(port), "--dashboard-address", f"127.0.0.1:{dashboard}"]
    address = f"tcp://127.0.0.1:{port}"
    with running(scheduler, here) as process:
        answer(probe(scheduler, "livenessProbe", dashboard), process)
        target = json.loads(answer(f"http://127.0.0.1:{dashboard}/api/v1/adaptive_target", process))
        assert target == {"workers": 0}
        with (
            running(worker, ["--host", "127.0.0.1", "--no-dashboard"], DASK_SCHEDULER_ADDRESS=address),
            Client(address) as client,
        ):
            client.wait_for_workers(1, timeout=WAIT_SECONDS)
            (found,) = client.scheduler_info(n_workers=-1)["workers"].values()
            # The operator retires workers by this name.
            assert (found["name"], found["nthreads"]) == ("popscan-default-worker-0a1b2c", 4)
            config = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures)
            assert config == 0


@pytest.mark.slow
def test_prefect_server_worker_and_deploy_job_start_as_the_pods_start_them(tmp_path: Path) -> None:
    rendered = manifests([*LEAST, "prefect.ui_api_url=https://prefect.example/api"])
    containers = {workload.name: workload.pod["containers"][0] for workload in workloads(rendered)}
    server, worker = containers["popscan-prefect"], containers["popscan-gpu"]
    (deploy,) = (container for name, container in containers.items() if name.startswith("popscan-deploy"))
    # The folder that pods can write to is /tmp.
    variables = {
        map_name: {
            k: v.replace("/tmp", str(tmp_path)) for k, v in find(rendered, "ConfigMap", map_name)["data"].items()
        }
        for map_name in ("popscan-prefect", "popscan-settings")
    }
    port, health = free_ports()
    api = f"http://127.0.0.1:{port}/api"
    here = {
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path}/prefect.db",
    }
    with running(server, [], **(variables["popscan-prefect"] | here)) as process:
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            answer(probe(server, name, port), process)
        assert json.loads(answer(f"http://127.0.0.1:{port}/ui-settings", process))["api_url"] == (
            "https://prefect.example/api"
        )
        assert (tmp_path / "prefect-ui").is_dir()
        here = {
            "PREFECT_API_URL": api,
            "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
            "PREFECT_WORKER_WEBSERVER_PORT": str(health),
        }
        with running(worker, [], **(variables["popscan-settings"] | here)) as process:
            answer(probe(worker, "livenessProbe", health), process)
            assert json.loads(answer(f"{api}/work_pools/popscan-gpu", process))["type"] == "process"
        home = {"POPSCAN_HOME": str(tmp_path / "home")}
        with running(deploy, [], **(variables["popscan-settings"] | here | home)) as process:
            assert process.wait(timeout=WAIT_SECONDS) == 0
        assert not (tmp_path / "home").exists(), "the Job has no home mounted"


def test_the_store_is_reached_by_the_variables_alone(s3_server: Location) -> None:
    options = s3_server.storage_options
    endpoint = options["client_kwargs"]["endpoint_url"]
    rendered = manifests(["image=a", f"store={s3_server.url}/by-variables", f"s3.endpoint={endpoint}"])
    settings = find(rendered, "ConfigMap", "popscan-settings")["data"]
    secret = {"AWS_ACCESS_KEY_ID": options["key"], "AWS_SECRET_ACCESS_KEY": options["secret"]}
    write = [sys.executable, "-c", WRITE, settings["POPSCAN_STORE"]]
    subprocess.run(write, check=True, cwd=REPOSITORY, env={**os.environ, **settings, **secret}, timeout=120)
    assert s3_server.child("by-variables", "a").read_bytes() == b"1"


def test_our_own_commands_exist(popscan: Popscan) -> None:
    containers = [container for workload in workloads(manifests(LEAST)) for container in workload.pod["containers"]]
    commands = [container["command"] for container in containers if "command" in container]
    modules = [command[2] for command in commands if command[:2] == ["python", "-m"]]
    ours = [command[1] for command in commands if command[0] == "popscan"]
    assert modules == ["deployments.watch"]
    assert importlib.util.find_spec(modules[0])
    assert ours == ["deploy"]
    assert popscan(*ours, "--help").returncode == 0

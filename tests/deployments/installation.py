"""`popscan up` in a process of its own, on free ports, with everything real: Prefect, Dask, the watch, the workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.home import Home

REPOSITORY = Path(__file__).parents[2]

UP = [sys.executable, "-c", "from deployments.cli import main; main()"]

START_SECONDS = 240.0

PLUGIN = """\
[popscan.programmes]
pulse = tests.deployments.pulse_programme:PROGRAMME
"""


class Installation:
    """An installation that is up.

    Attributes
    ----------
    home
        Its home.
    api_url
        Of its Prefect server.
    """

    def __init__(self, root: Path, **settings: str) -> None:
        ports = dict(zip(("prefect", "scheduler", "dashboard", "report"), free_ports(4), strict=True))
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("POPSCAN_", "PREFECT_"))}
        self.environment = {
            **ours,
            "POPSCAN_HOME": str(root),
            "POPSCAN_QUIET_SECONDS": "2",
            "POPSCAN_WATCH_SECONDS": "0.5",
            "POPSCAN_WORKERS": "2",
            **{f"POPSCAN_{name.upper()}_PORT": str(port) for name, port in ports.items()},
            **settings,
        }
        self.api_url = f"http://127.0.0.1:{ports['prefect']}/api"
        self.pages = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        self.home = Home.at(root, self.environment.get("POPSCAN_LEDGER"))
        self.log = root / "up.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it says that everything is up."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*UP, "up"], env=self.environment, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT
            )
        self.until(lambda: "Everything is up" in self.log.read_text(), START_SECONDS)

    def stop(self) -> None:
        """Ask it to stop, as Ctrl-C does, and wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(90)

    def popscan(self, *arguments: str) -> str:
        """Run a command of `popscan` in this installation; its standard output."""
        environment = {**self.environment, "COLUMNS": "240"}
        ran = subprocess.run(
            [*UP, *arguments], env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def drop(self, folder: Path, name: str) -> None:
        """Copy a folder into the watched folder, with the times of its files, as rsync does."""
        shutil.copytree(folder, self.home.root / "inbox" / name, dirs_exist_ok=True)

    def until(self, is_so: Callable[[], Any], seconds: float) -> Any:
        """Wait until something is so and return it."""
        deadline = time.monotonic() + seconds
        while not (found := self._try(is_so)):
            assert self._is_running(), self._what_happened()
            assert time.monotonic() < deadline, self._what_happened()
            time.sleep(0.2)
        return found

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @staticmethod
    def _try(is_so: Callable[[], Any]) -> Any:
        with suppress(OSError):  # a server that is not there yet, or was killed
            return is_so()
        return None

    def _what_happened(self) -> str:
        logs = [f"== {log.name}\n{log.read_text()[-1500:]}" for log in sorted((self.home.root / "logs").glob("*.log"))]
        return "\n".join(["it did not come about", self.log.read_text()[-2000:], *logs])

    def post(self, path: str, **body: Any) -> Any:
        """Ask Prefect's API."""
        return self.request("POST", path, body)

    def request(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """Send a request to Prefect's API; its answer, None when empty."""
        request = urllib.request.Request(
            self.api_url + path, json.dumps(body).encode(), {"content-type": "application/json"}, method=method
        )
        for patience in range(10, -1, -1):
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    text = answer.read()
            except urllib.error.HTTPError as error:
                if error.code != 503 or not patience:  # a busy SQLite, says Prefect's server
                    raise
                time.sleep(0.5)
            else:
                return json.loads(text) if text else None
        return None

    def runs(self, *states: str) -> list[dict[str, Any]]:
        """Flow runs in these states, oldest first; all that are not merely scheduled when none is given."""
        found = self.post("/flow_runs/filter", limit=200, sort="EXPECTED_START_TIME_ASC")
        return [
            run for run in found if run["state_name"] in states or (not states and run["state_type"] != "SCHEDULED")
        ]

    def finished(self, flow: str, count: int) -> list[dict[str, Any]] | None:
        """Flow runs whose name begins with ``flow`` once ``count`` of them have completed."""
        found = [run for run in self.runs("Completed") if run["name"].startswith(flow)]
        return found if len(found) >= count else None

    def artifact(self, key: str) -> dict[str, Any] | None:
        """Newest artifact of a key."""
        found = self.post("/artifacts/latest/filter", artifacts={"key": {"any_": [key]}})
        return found[0] if found else None

    def run_deployment(self, name: str) -> None:
        """Create a run of a deployment now."""
        deployment = self.get(f"/deployments/name/{name}")
        self.post(f"/deployments/{deployment['id']}/create_flow_run")

    def get(self, path: str) -> Any:
        """Read from Prefect's API."""
        with urllib.request.urlopen(self.api_url + path, timeout=20) as answer:
            return json.load(answer)

    def enable_automations(self, enabled: bool) -> None:
        """Switch all automations on or off; off, every event is lost."""
        for automation in self.post("/automations/filter"):
            self.request("PATCH", f"/automations/{automation['id']}", {"enabled": enabled})

    def results(self, programme: str) -> dict[str, Any]:
        """Present results by case."""
        with self.home.open_ledger() as ledger:
            return {record.case_id: record for record in ledger.results(programme)}


@contextmanager
def installed(root: Path, **settings: str) -> Iterator[Installation]:
    """An installation that is up for as long as the block."""
    installation = Installation(root, **settings)
    try:
        installation.start()
        yield installation
    finally:
        installation.stop()


def with_pulse(folder: Path) -> dict[str, str]:
    """Environment in which the programme ``pulse`` is installed, as a site installs its own."""
    found = folder / "pulse-1.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: pulse\nVersion: 1\n")
    (found / "entry_points.txt").write_text(PLUGIN)
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])}


def seconds_between(earlier: str, later: str) -> float:
    """Seconds between two times as Prefect writes them."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports

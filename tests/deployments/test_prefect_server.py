"""The temporary Prefect server: it answers, and it never outlives the command that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from deployments.prefect_server import PREFECT_ENVIRONMENT, prefect_server
from tests.deployments.conftest import REPOSITORY

HOLD = """
import sys, time
from pathlib import Path
from deployments.prefect_server import prefect_server
with prefect_server(Path(sys.argv[1])) as wait:
    wait()
    import os
    print(os.environ["PREFECT_API_URL"], flush=True)
    time.sleep(300)
"""


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_it_leaves_with_a_command_that_is_killed(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        url = command.stdout.readline().strip()
        assert answers(url)
        command.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while answers(url):
        assert time.monotonic() < deadline, "the server is still there"
        time.sleep(0.5)


def test_it_leaves_when_the_command_was_gone_before_it_had_started(tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path)}
    gone = "1000000000"  # no process has this number: Linux counts to 4194304 at most
    command = [sys.executable, "-m", "deployments.prefect_server", "0", gone]
    assert subprocess.run(command, env=environment, cwd=REPOSITORY, timeout=60, check=False).returncode == 0


def test_a_configured_server_is_used_and_none_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PREFECT_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    with prefect_server(tmp_path / "home") as wait:
        wait()
        assert os.environ["PREFECT_API_URL"] == "http://prefect.example/api"
    assert os.environ["PREFECT_API_URL"] == "http://prefect.example/api"

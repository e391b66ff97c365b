"""A Prefect server for the length of one command, where none is configured.

Prefect would start one itself, but only when the first flow runs, and it would outlive a killed command. This one
starts at once, while DICOM is still being ingested (a cold start takes some 20 s), and leaves with its parent.
"""

from __future__ import annotations

import gc
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PREFECT_ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
}
"""Settings of Prefect unless the environment says otherwise: no telemetry, nothing on the console but errors."""

EPHEMERAL = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
"""What Prefect itself sets for a temporary server: no user interface, no services for schedules."""

API_URL = "PREFECT_API_URL"
START_SECONDS = 180.0
GARBAGE_SECONDS, FULL_EVERY = 2.0, 15
"""How often garbage is collected, and how often thoroughly."""

PARENT_SECONDS = 2.0
"""How often the server looks whether the command that started it is still there."""


class ServerError(RuntimeError):
    """Prefect's server did not start."""


@contextmanager
def prefect_server(home: Path) -> Iterator[Callable[[], None]]:
    """Start a server with its files in ``home/prefect``, unless ``PREFECT_API_URL`` names one.

    Yields
    ------
    callable
        Waits until the server answers and makes it the one that flows report to. Call it before Prefect is imported.

    Raises
    ------
    ServerError
        By the callable: the server did not start.
    """
    os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
    for name, value in PREFECT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if API_URL in os.environ:
        yield lambda: None
        return
    port = _free_port()
    command = [sys.executable, "-m", "deployments.prefect_server", str(port), str(os.getpid())]
    process = subprocess.Popen(command, env={**os.environ, **EPHEMERAL}, stdin=subprocess.DEVNULL)
    try:
        yield lambda: _use(process, f"http://127.0.0.1:{port}/api")
    finally:
        os.environ.pop(API_URL, None)
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _use(process: subprocess.Popen[bytes], url: str) -> None:
    def check() -> None:
        if process.poll() is not None:
            raise ServerError("Prefect's server ended as it started; `popscan doctor` checks its versions")

    wait_for_server(url, check)
    os.environ[API_URL] = url


def wait_for_server(url: str, meanwhile: Callable[[], None]) -> None:
    """Wait until the API at ``url`` answers, calling ``meanwhile`` ten times a second.

    Raises
    ------
    ServerError
        It has not answered within `START_SECONDS`.
    """
    deadline = time.monotonic() + START_SECONDS
    while not _answers(f"{url}/health"):
        meanwhile()
        if time.monotonic() > deadline:
            raise ServerError(f"Prefect's server at {url} does not answer; `popscan doctor` checks its versions")
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def serve(port: int, parent: int) -> None:
    """Serve Prefect's API on this machine until the process ``parent``, which started this one, is gone."""
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    collect_garbage_aside()
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(), host="127.0.0.1", port=port, log_level="error")


def collect_garbage_aside() -> None:
    """Collect this process's garbage in a thread of its own, never in the event loop's.

    Among the garbage are SQLite statements, and freeing one waits for the connection it belongs to. Should that
    connection be waiting for the database's write lock, whose holder waits for the event loop, and should the
    collector have struck in the event loop's thread, then the server stands still until SQLite's 60 s are over: seen
    with Prefect 3.8.8 in most runs under load.
    """
    gc.disable()
    threading.Thread(target=_collect_garbage, daemon=True).start()


def _collect_garbage() -> None:
    for turn in itertools.count():
        time.sleep(GARBAGE_SECONDS)
        gc.collect(2 if turn % FULL_EVERY == 0 else 1)


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))

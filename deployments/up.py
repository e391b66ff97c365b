"""`popscan up`: start everything on this machine, keep it running, and stop it in order."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

import psutil

from deployments.deploy import deploy
from deployments.pidfile import claimed, owner
from deployments.prefect_server import wait_for_server
from deployments.services import LOOPBACK, Service, environment, prefect_url, services
from flows.settings import Settings

LOGS = "logs"

LOG_BYTES = 10_000_000
"""Size beyond which a log is put aside when its process starts; one older log is kept."""

STOP_SECONDS = 20.0
"""An orderly end takes some seconds, a Prefect worker with runs in hand the longest."""

LEAST_WAIT_SECONDS, MOST_WAIT_SECONDS = 0.5, 30.0
"""Before a process that ended is started again; doubled each time, until it has stayed for a while."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Linux, prctl(2): the signal a process gets when its parent dies; becoming the parent of orphaned descendants."""


class UpError(RuntimeError):
    """It cannot be started, or is not running; the message says why and what to do."""


def up(settings: Settings, on_ready: Callable[[], None]) -> None:
    """Run all services until SIGINT or SIGTERM, then stop them.

    Parameters
    ----------
    settings
        Ports, folders, databases.
    on_ready
        Called once everything has been started and deployed.

    Raises
    ------
    UpError
        Popscan is up already in this home, or a port is taken.
    """
    home = settings.open_home().root
    with claimed(home) as is_ours:
        if not is_ours:
            raise UpError(f"Popscan is up already in {home} (process {owner(home)}); `popscan down` stops it")
        wanted = services(settings)
        _check_free(wanted)
        os.environ.update(environment(settings))
        settings.inbox_folder.mkdir(parents=True, exist_ok=True)
        (home / LOGS).mkdir(exist_ok=True)
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        with Supervisor(home / LOGS) as supervisor:
            _start(wanted, settings, supervisor)
            if not supervisor.is_asked_to_stop:
                on_ready()
            supervisor.run()


def _start(wanted: Sequence[Service], settings: Settings, supervisor: Supervisor) -> None:
    server, *others = wanted
    supervisor.start(server)
    wait_for_server(prefect_url(settings), supervisor.keep_running)
    deploy(settings)
    for service in others:
        supervisor.start(service)


def down(settings: Settings) -> None:
    """Stop what `up` has started from another terminal, and wait until it has ended.

    Raises
    ------
    UpError
        Nothing is running in this home, or it does not end.
    """
    home = settings.open_home().root
    pid = owner(home)
    if pid is None:
        raise UpError(f"nothing is up in {home}")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 3 * STOP_SECONDS
    while owner(home) == pid:
        if time.monotonic() > deadline:
            raise UpError(f"process {pid} does not end; see {home / LOGS}")
        time.sleep(0.1)


def _check_free(wanted: Sequence[Service]) -> None:
    for service in wanted:
        if service.port is not None and _is_taken(service.port):
            raise UpError(
                f"port {service.port} for {service.name} is taken by another program; choose others by "
                "POPSCAN_PREFECT_PORT, POPSCAN_SCHEDULER_PORT, POPSCAN_DASHBOARD_PORT, POPSCAN_REPORT_PORT"
            )


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


class Supervisor:
    """Child processes that are started again when they end, until they are told to stop."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: dict[str, _Child] = {}
        self._handlers: dict[int, Any] = {}
        self.is_asked_to_stop = False

    def __enter__(self) -> Self:
        self._handlers = {sign: signal.signal(sign, self._ask_to_stop) for sign in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop()
        for sign, handler in self._handlers.items():
            signal.signal(sign, handler)

    def start(self, service: Service) -> None:
        """Start one and keep it running from now on."""
        self._children[service.name] = _Child(service, self._logs / f"{service.name}.log")

    def run(self) -> None:
        """Keep all running until SIGINT or SIGTERM."""
        while not self.is_asked_to_stop:
            self.keep_running()
            time.sleep(0.2)

    def keep_running(self) -> None:
        """Start those again that have ended and waited long enough."""
        self._reap_orphans()
        for child in self._children.values():
            child.keep_running()

    def _stop(self) -> None:
        """Stop all, side by side, and the first started last: what the others report to has to hear of their end."""
        first, others = list(self._children.values())[:1], list(self._children.values())[1:]
        for children in (others, first):
            deadline = time.monotonic() + STOP_SECONDS
            for child in children:
                child.ask_to_stop()
            for child in children:
                child.wait_or_kill(deadline)
        self._children.clear()
        _kill_descendants()

    def _reap_orphans(self) -> None:
        """Take note of the end of flow runs whose worker has ended before them."""
        ours = {child.pid for child in self._children.values()}
        for process in psutil.Process().children():
            if process.pid not in ours and process.status() == psutil.STATUS_ZOMBIE:
                with suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)

    def _ask_to_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.is_asked_to_stop = True


class _Child:
    """One process of a service, started again with growing waits."""

    def __init__(self, service: Service, log: Path) -> None:
        self._service, self._log = service, log
        self._wait = LEAST_WAIT_SECONDS
        self._ended: float | None = None
        self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def keep_running(self) -> None:
        now = time.monotonic()
        if self._process.poll() is None:
            if now - self._began > 2 * MOST_WAIT_SECONDS:
                self._wait = LEAST_WAIT_SECONDS
            return
        if self._ended is None:
            self._ended = now
            print(
                f"{self._service.name} ended with status {self._process.returncode}; see {self._log}", file=sys.stderr
            )
        if now - self._ended >= self._wait:
            self._wait = min(2 * self._wait, MOST_WAIT_SECONDS)
            self._ended = None
            self._start()

    def ask_to_stop(self) -> None:
        # One signal and then patience: a Prefect worker that gets a second one kills itself.
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait_or_kill(self, deadline: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.1, deadline - time.monotonic()))
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._began = time.monotonic()
        _keep_one_older(self._log)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._service.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is ours to pass on, once and in order
                preexec_fn=_end_with_parent,
            )


def _keep_one_older(log: Path) -> None:
    """Begin a new log where the present one has grown large."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))


def _end_with_parent() -> None:
    """Have the system end this process when the supervisor is killed."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _kill_descendants() -> None:
    """Kill what is left: flow runs are in sessions of their own, and become ours when their worker has ended."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait(STOP_SECONDS)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)

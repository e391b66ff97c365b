"""Kill processes of an installation at random points of a run, and compare the ledger with that of a quiet run.

``python -m tests.deployments.chaos 20`` runs twenty seeds, by turns on SQLite and PostgreSQL, and prints each.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from storage.records import ResultRecord
from tests.deployments.installation import Installation, installed, with_pulse
from tests.deployments.pulse_programme import LOG, SECONDS, add_studies
from tests.servers import Postgres

CASES = 300
CASE_SECONDS = 0.1
BATCH = "60"

VICTIMS = {
    "flow": "prefect.engine",
    "dask worker": "multiprocessing.spawn",
    "dask scheduler": "dask_scheduler",
    "prefect server": "deployments.prefect_server",
    "prefect worker": "popscan-gpu",
}
"""What is killed, and what its command line has."""

SPAN_SECONDS = 25.0
"""Every victim dies once within this time from the first result on; the quiet run takes about as long."""

DATABASE_AWAY_SECONDS = 2.0

LedgerContent = dict[str, tuple[Any, ...]]


def quiet_run(folder: Path) -> LedgerContent:
    """Ledger of a run that nobody disturbs."""
    with _prepared(folder, None) as up:
        up.run_deployment("screen/pulse")
        up.until(lambda: len(up.results("pulse")) == CASES, 180)
        return content(up)


def disturbed_run(folder: Path, seed: int, postgres: Postgres | None) -> tuple[LedgerContent, list[str]]:
    """Ledger of a run in which everything is killed once, when and in the order the seed says; and what died."""
    rng = random.Random(seed)
    names = [*VICTIMS, *(["database"] if postgres else [])]
    rng.shuffle(names)
    moments = sorted(rng.uniform(0, SPAN_SECONDS) for _ in names)
    died: list[str] = []
    with _prepared(folder, postgres and _Database(postgres, f"seed{seed}")) as up:
        up.run_deployment("screen/pulse")
        up.until(lambda: up.results("pulse"), 120)
        began, pending, swept = time.monotonic(), list(zip(moments, names, strict=True)), 0.0

        def is_done() -> bool:
            nonlocal swept
            if pending and time.monotonic() - began > pending[0][0]:
                _, name = pending.pop(0)
                died.append(f"{name}{'' if _kill(up, name, postgres) else ' (not there)'}")
            # What the schedule does every five minutes, a little sooner; a server that is away is asked again.
            if time.monotonic() - swept > 10:
                swept = time.monotonic()
                up.run_deployment("sweep/sweep")
            return not pending and len(up.results("pulse")) == CASES

        up.until(is_done, 600)
        up.until(lambda: not up.runs("Running", "Pending"), 240)
        return content(up), died


def content(up: Installation) -> LedgerContent:
    """Everything about results that must not depend on what happened on the way."""
    with up.home.open_ledger() as ledger:
        records = ledger.results("pulse", current_only=False)
        found: LedgerContent = {record.case_id: _what_matters(record) for record in records}
        assert len(found) == len(records), "a case has two results of one fingerprint"
        found |= {f"verdict on {v.series_uid}": tuple(vars(v).values()) for v in ledger.verdicts("pulse")}
    return found


def _what_matters(record: ResultRecord) -> tuple[Any, ...]:
    told = {name: value for name, value in vars(record).items() if name not in ("timings", "created_at")}
    return tuple(repr(value) for value in told.values())


class _Database:
    """Ledger and Prefect in one PostgreSQL, each in a database of its own."""

    def __init__(self, postgres: Postgres, name: str) -> None:
        for suffix in ("ledger", "prefect"):
            postgres.create(f"{name}-{suffix}")
        self.settings = {
            "POPSCAN_LEDGER": postgres.url(f"{name}-ledger"),
            "POPSCAN_PREFECT_DATABASE": postgres.url(f"{name}-prefect", "asyncpg"),
        }


@contextmanager
def _prepared(folder: Path, database: _Database | None) -> Iterator[Installation]:
    settings = {
        **with_pulse(folder / "plugin"),
        SECONDS: str(CASE_SECONDS),
        LOG: str(folder / "pulse.log"),
        "POPSCAN_BATCH_SIZE": BATCH,
        **(database.settings if database else {}),
    }
    with installed(folder / "home", **settings) as up:
        with up.home.open_ledger() as ledger:
            add_studies(ledger, CASES)
        yield up


def _kill(up: Installation, name: str, postgres: Postgres | None) -> bool:
    """Kill one process of a kind; False when there is none just now."""
    if name == "database" and postgres is not None:
        postgres.kill()
        time.sleep(DATABASE_AWAY_SECONDS)
        postgres.start()
        return True
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_ours = process.environ().get("POPSCAN_HOME") == str(up.home.root)
            if is_ours and VICTIMS[name] in " ".join(process.cmdline()):
                process.kill()
                return True
    return False


def twenty(count: int, say: Callable[[str], None] = print) -> int:
    """Run so many seeds; how many of them came out different."""
    different = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        expected = quiet_run(root / "quiet")
        (root / "pg").mkdir()
        root.chmod(0o755)
        postgres = Postgres(root / "pg")
        postgres.start()
        for seed in range(count):
            began = time.monotonic()
            found, died = disturbed_run(root / f"seed-{seed}", seed, postgres if seed % 2 else None)
            executed = len((root / f"seed-{seed}" / "pulse.log").read_text().split())
            same = found == expected
            different += not same
            say(
                f"seed {seed:2} {'PostgreSQL' if seed % 2 else 'SQLite':<10} {'same' if same else 'DIFFERENT':<9} "
                f"{time.monotonic() - began:5.0f} s  {executed} computed  killed: {', '.join(died)}"
            )
        postgres.stop()
    return different


if __name__ == "__main__":
    sys.exit(twenty(int(sys.argv[1])))

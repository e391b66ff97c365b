"""What the commands do: open home and cluster, show progress on standard error, run the flows."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from deployments.prefect_server import prefect_server
from flows.settings import Settings, available_cores
from storage.records import ResultRecord

OnProgress = Callable[[int, int], None]
"""``on_progress(done, total)``."""


class BusyError(RuntimeError):
    """Another run does the same just now."""


def simulate(
    out: Path, participants: int, seed: int, screening: bool = False, programme: str = "calcium"
) -> dict[str, Any]:
    """Write a simulated cohort, participants side by side on all cores, and return its truth."""
    from tasks.simulate import simulate_study, write_truth

    studies: dict[str, Any] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(available_cores(), mp_context=context) as pool, _progress("Simulating") as on_progress:
        jobs = [pool.submit(simulate_study, out, index, seed, screening, programme) for index in range(participants)]
        for done, job in enumerate(as_completed(jobs), start=1):
            uid, truth = job.result()
            studies[uid] = truth
            on_progress(done, participants)
    return write_truth(out, studies)


def demo(settings: Settings, participants: int, seed: int) -> tuple[dict[str, Any], list[ResultRecord], Path]:
    """Simulate, ingest, screen and report; the truth, the results of the simulated studies, and the report."""
    root = settings.open_home().root
    out = root / "simulated" / f"{participants}-{seed}"
    truth_file = out / "truth.json"
    with prefect_server(root) as wait_for_server:
        if not truth_file.is_file():
            simulate(out, participants, seed, screening=True)
        ingest(settings, [out])
        wait_for_server()
        screen("calcium")
    written = report(settings, None, truth_file)
    truth: dict[str, Any] = json.loads(truth_file.read_text(encoding="utf-8"))["studies"]
    with settings.open_home().open_ledger() as ledger:
        return truth, [record for record in ledger.results("calcium") if record.study_uid in truth], written


def ingest(settings: Settings, paths: Sequence[Path]) -> dict[str, Any]:
    """Ingest ``paths`` into the home and return the counts.

    Never as a Prefect flow: it would show the paths to everybody, and starting a server takes longer than most ingests.
    """
    from tasks.ingest import ingest_paths

    home = settings.open_home()
    with home.open_ledger() as ledger, _progress("Ingesting") as on_progress:
        return ingest_paths(list(paths), ledger, home.volumes, on_progress=on_progress).to_dict()


def screen(programme: str, retry_quarantined: bool = False) -> dict[str, Any]:
    """Run the flow ``screen`` and return its summary; needs a Prefect server."""
    from flows.screen import screen as screen_flow

    return _run("Screening", screen_flow, programme, retry_quarantined)


def reprocess(programme: str) -> dict[str, Any]:
    """Run the flow ``reprocess`` and return its summary; needs a Prefect server."""
    from flows.reprocess import reprocess as reprocess_flow

    return _run("Reprocessing", reprocess_flow, programme)


def _run(title: str, flow: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Run a flow here, with a bar, and return its result."""
    from prefect.exceptions import CancelledRun

    from flows.artifacts import LISTENER

    with _progress(title) as listener:
        token = LISTENER.set(listener)
        try:
            summary: dict[str, Any] = flow(*arguments)
        except CancelledRun as error:
            raise BusyError(str(error)) from None
        finally:
            LISTENER.reset(token)
    return summary


def report(settings: Settings, out: Path | None, truth: Path | None) -> Path:
    """Write the report and return where it is."""
    from flows.report import write_report

    home = settings.open_home()
    target = (out or home.report).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(truth.read_text()) if truth else None
    with home.open_ledger() as ledger:
        write_report(ledger, home.objects, target, known)
    return target


@contextmanager
def _progress(title: str) -> Iterator[OnProgress]:
    """Show a bar on standard error where that is a terminal."""
    columns = (SpinnerColumn(), TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        job = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(job, completed=done, total=total)

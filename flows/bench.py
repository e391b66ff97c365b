"""How fast the whole path is here, from DICOM on disk to committed results, and where its time goes.

Everything is real but Prefect, which adds a few milliseconds a case: files are ingested into a home of its own, cases
stream over the cluster of the settings, results are committed to a ledger. Ingest runs first and by itself; in
production the two overlap.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from distributed import Client

from flows.clusters import scheduler_address
from flows.home import Home
from flows.plan import plan_pages
from flows.programmes import load_programme
from flows.programmes.programme import Programme
from flows.settings import Settings
from ops.spans import recorded, span
from storage.ledger import Ledger
from tasks.case import Case, result_of
from tasks.ingest import ingest_paths
from tasks.stage import Hop, Item, Outcome, run_hop
from tasks.stream import Tally, stream

ALONE = 4
"""Cases that are also computed one after the other in this process, where steps within a stage can be told apart."""


@dataclass(frozen=True)
class Bench:
    """What a bench found.

    Attributes
    ----------
    programme
        Its name.
    cases, failed
        Cases computed, and how many of them failed; a failed one may have been fast.
    machine
        Processor, workers and threads.
    ingest_seconds, compute_seconds
        Wall time of all cases.
    ingest_steps
        Step → seconds a case, of the wall time of ingest.
    stages
        Stage → seconds a case on the cluster, as long as its thread was at it, beside others.
    alone
        Stage, and ``stage: step`` within it → seconds a case, with nothing beside it.
    """

    programme: str
    cases: int
    failed: int
    machine: str
    ingest_seconds: float
    compute_seconds: float
    ingest_steps: Mapping[str, float]
    stages: Mapping[str, float]
    alone: Mapping[str, float]

    @property
    def cases_per_hour(self) -> float:
        """Ingest and computing one after the other."""
        return 3600 * self.cases / (self.ingest_seconds + self.compute_seconds)

    def cost_per_thousand(self, hour_cost: float) -> float:
        """Cost of a thousand cases where this machine costs ``hour_cost`` an hour."""
        return 1000 / self.cases_per_hour * hour_cost

    def to_dict(self) -> dict[str, Any]:
        """Return everything as one JSON-able document."""
        return {**vars(self), "cases_per_hour": self.cases_per_hour}


class NothingToBenchError(ValueError):
    """None of the studies can be computed under the programme."""


def measure(dicom: Sequence[Path], programme: str, settings: Settings, folder: Path) -> Bench:
    """Ingest and compute studies once, and measure it.

    Parameters
    ----------
    dicom
        Folders, files or zips.
    programme
        Name of the programme.
    settings
        For the cluster and the programme's options; home, ledger and store are not touched.
    folder
        Empty folder for a home of its own.

    Raises
    ------
    NothingToBenchError
        Not one of the studies is accepted.
    """
    home, declared = Home.at(folder), load_programme(programme).with_policy(settings.options(programme))
    with home.open_ledger() as ledger:
        began = time.perf_counter()
        with recorded() as ingest_steps:
            ingest_paths(dicom, ledger, home.volumes)
        ingest_seconds = time.perf_counter() - began
        cases = tuple(case for page in plan_pages(ledger, declared, home.stores) for case in page.cases)
        if not cases:
            raise NothingToBenchError(f"none of the studies in {', '.join(map(str, dicom))} is accepted by {programme}")
        outcomes: list[Outcome] = []
        machine, tally, compute_seconds, commit_seconds = _compute(cases, declared, ledger, settings, outcomes)
    stages = {stage.name: fmean(o.timings.get(stage.name, 0.0) for o in outcomes) for stage in declared.stages}
    return Bench(
        programme=programme,
        cases=len(cases),
        failed=tally.failed,
        machine=machine,
        ingest_seconds=ingest_seconds,
        compute_seconds=compute_seconds,
        ingest_steps={name: seconds / len(cases) for name, seconds in ingest_steps.items()},
        stages={**stages, "commit": commit_seconds / len(cases)},
        alone=_alone(cases[:ALONE], declared),
    )


def _compute(
    cases: tuple[Case, ...], programme: Programme, ledger: Ledger, settings: Settings, outcomes: list[Outcome]
) -> tuple[str, Tally, float, float]:
    """Stream the cases over the cluster; the machine, the tally, and seconds in all and in commits."""
    connection: Any = Client  # Dask's own annotations are partial

    def commit(lot: list[Outcome]) -> None:
        outcomes.extend(lot)
        with span("commit"):
            ledger.commit_results([result_of(outcome) for outcome in lot])

    with scheduler_address(settings) as address, connection(address, set_as_default=False) as client:
        client.wait_for_workers(1)
        stream(client, programme.stages, cases[:1], lambda lot: None)  # models load once, and are not of a case
        began = time.perf_counter()
        with recorded() as steps:
            tally = stream(client, programme.stages, cases, commit, window=settings.window)
        seconds = time.perf_counter() - began
        threads = client.nthreads()
    machine = f"{platform.processor() or platform.machine()}, {len(threads)} workers, {sum(threads.values())} threads"
    return machine, tally, seconds, steps.get("commit", 0.0)


def _alone(cases: Sequence[Case], programme: Programme) -> dict[str, float]:
    """Seconds a case by stage and by step within each stage, one case after the other in this process."""
    totals: dict[str, float] = {}
    for case in cases:
        items, found = [Item(case)], {}
        for stage in programme.stages:
            with recorded() as steps:
                items = run_hop(Hop((stage,), stage.needs), items)
            if stage.name in items[0].timings:
                found[stage.name] = items[0].timings[stage.name]
            found |= {f"{stage.name}: {step}": seconds for step, seconds in steps.items()}
        for name, seconds in found.items():
            totals[name] = totals.get(name, 0.0) + seconds / len(cases)
    return totals

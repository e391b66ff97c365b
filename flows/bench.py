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
from tasks.infer import keep_resident
from tasks.ingest import ingest_paths
from tasks.stage import Hop, Item, Outcome, run_hop
from tasks.stream import GPU_RESOURCE, Tally, has_gpu_worker, stream

ALONE = 4
"""Cases that are also computed one after the other on one worker, where steps within a stage can be told apart."""


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
    busy
        Share of the computing time in which ``threads`` of workers were in a stage, waiting for the card included, and
        ``GPU``s (where there are any) had a kernel at work.
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
    busy: Mapping[str, float]

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
        run = _compute(cases, declared, ledger, settings, outcomes)
    stages = {stage.name: fmean(o.timings.get(stage.name, 0.0) for o in outcomes) for stage in declared.stages}
    return Bench(
        programme=programme,
        cases=len(cases),
        failed=run.tally.failed,
        machine=f"{platform.processor() or platform.machine()}, {run.workers} workers, {run.threads} threads",
        ingest_seconds=ingest_seconds,
        compute_seconds=run.seconds,
        ingest_steps={name: seconds / len(cases) for name, seconds in ingest_steps.items()},
        stages={**stages, "commit": run.commit_seconds / len(cases)},
        alone=run.alone,
        busy=_busy(run, outcomes),
    )


@dataclass(frozen=True)
class _Run:
    """The computing part of a bench."""

    tally: Tally
    workers: int
    threads: int
    seconds: float
    commit_seconds: float
    gpu_samples: Sequence[float]
    alone: Mapping[str, float]


def _compute(
    cases: tuple[Case, ...], programme: Programme, ledger: Ledger, settings: Settings, outcomes: list[Outcome]
) -> _Run:
    """Stream the cases over the cluster; looks at its GPUs with every commit, which is every two seconds or more."""
    connection: Any = Client  # Dask's own annotations are partial
    samples: list[float] = []

    def commit(lot: list[Outcome]) -> None:
        outcomes.extend(lot)
        samples.extend(gpu_utilisation(client))
        with span("commit"):
            ledger.commit_results([result_of(outcome) for outcome in lot])

    with scheduler_address(settings) as address, connection(address, set_as_default=False) as client:
        client.wait_for_workers(1)
        keep_resident(client, cases[0].recipe.models, cases[0].stores.models)  # models load once: not of a case
        threads = client.nthreads()
        stream(client, programme.stages, cases[: sum(threads.values())], lambda lot: None)  # nor are first imports
        began = time.perf_counter()
        with recorded() as steps:
            tally = stream(client, programme.stages, cases, commit, window=settings.window)
        seconds = time.perf_counter() - began
        resources = {GPU_RESOURCE: 1} if has_gpu_worker(client) else None
        alone = client.submit(_alone, cases[:ALONE], programme, resources=resources).result()
    return _Run(tally, len(threads), sum(threads.values()), seconds, steps.get("commit", 0.0), samples, alone)


def gpu_utilisation(client: Client) -> list[float]:
    """Share of the last moment in which each GPU of a cluster had a kernel at work (NVML, as Dask's workers report)."""
    connection: Any = client
    workers = connection.scheduler_info(n_workers=-1)["workers"].values()
    metrics = [worker["metrics"] for worker in workers if worker["resources"].get(GPU_RESOURCE)]
    told = [metric.get("gpu", {}).get("utilization") for metric in metrics]
    return [percent / 100 for percent in told if percent is not None]  # a card in parts (MIG) tells None


def _busy(run: _Run, outcomes: Sequence[Outcome]) -> dict[str, float]:
    in_stages = sum(sum(outcome.timings.values()) for outcome in outcomes)
    busy = {"threads": in_stages / (run.threads * run.seconds)}
    return busy | ({"GPU": fmean(run.gpu_samples)} if run.gpu_samples else {})


def _alone(cases: Sequence[Case], programme: Programme) -> dict[str, float]:
    """Seconds a case by stage and by step within each stage, one case after the other; runs on a worker."""
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

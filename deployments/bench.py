"""``popscan bench``: simulate, measure, print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from deployments.app import Json, UsageError, check_programme, load_settings, print_json

if TYPE_CHECKING:
    from flows.bench import Bench


def bench(
    *paths: Path,
    programme: str = "calcium",
    participants: int = 8,
    seed: int = 1,
    hour_cost: Annotated[float | None, Parameter(negative=())] = None,
    json: Json = False,
) -> None:
    """Measure the whole path here: where the time goes, cases an hour, cost per thousand.

    Nothing of the home is touched, and nothing is kept. The cluster is that of the settings (POPSCAN_CLUSTER).

    Parameters
    ----------
    paths
        DICOM to measure with; simulated participants by default.
    programme
        Name of the programme.
    participants
        How many are simulated.
    seed
        Same seed, same participants.
    hour_cost
        Cost of an hour of this machine, in any currency.
    """
    from deployments import run
    from flows.bench import NothingToBenchError, measure

    settings = load_settings()
    check_programme(programme, settings)
    with TemporaryDirectory(prefix="popscan-bench-") as folder:
        dicom = list(paths)
        if not dicom:
            dicom = [Path(folder) / "dicom"]
            run.simulate(dicom[0], participants, seed, programme=programme)
        try:
            found = measure(dicom, programme, settings, Path(folder) / "home")
        except (NothingToBenchError, FileNotFoundError) as error:
            raise UsageError(str(error)) from error
    document = found.to_dict()
    if hour_cost is not None:
        document["cost_per_thousand"] = found.cost_per_thousand(hour_cost)
    print_json(document) if json else _print(found, hour_cost)


def _print(found: Bench, hour_cost: float | None) -> None:
    console = Console()
    console.print(f"{found.programme}: {found.cases} cases, {found.failed} failed; {found.machine}")
    _print_steps(console, "ingest", found.ingest_steps, found.ingest_seconds / found.cases)
    _print_steps(console, "on the cluster", found.stages, None)
    _print_steps(console, "alone", found.alone, None)
    console.print("Busy: " + ", ".join(f"{what} {share:.0%}" for what, share in found.busy.items()))
    console.print(
        f"Wall time a case: {found.ingest_seconds / found.cases:.3f} s ingest + "
        f"{found.compute_seconds / found.cases:.3f} s computing = {found.cases_per_hour:,.0f} cases an hour"
    )
    if hour_cost is not None:
        console.print(f"A thousand cases cost {found.cost_per_thousand(hour_cost):,.2f} at {hour_cost:g} an hour")


def _print_steps(console: Console, title: str, steps: Mapping[str, float], wall: float | None) -> None:
    """Print seconds a case of each step; with the ``wall`` time they are of, also what none of them accounts for."""
    rows = dict(steps)
    if wall is not None:
        rows["else"] = max(0.0, wall - sum(steps.values()))
    whole = sum(seconds for name, seconds in rows.items() if ": " not in name) or 1.0
    table = Table(title, "s a case", "share", box=None)
    for name, seconds in rows.items():
        inner = ": " in name
        table.add_row(f"  {name.partition(': ')[2]}" if inner else name, f"{seconds:.4f}", f"{seconds / whole:.1%}")
    console.print(table)

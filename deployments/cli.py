"""The command ``popscan``. What a command needs is imported when it runs, so that help appears at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from deployments import bench, changes, operate
from deployments.app import Json, UsageError, app, check_programme, load_settings, print_json

if TYPE_CHECKING:
    from flows.settings import Settings
    from storage.records import ResultRecord

app.command(bench.bench)
app.command(changes.models)
app.command(operate.lanes)

OUR_PACKAGES = ("deployments", "flows", "tasks", "storage", "ops")
"""Errors defined here say what to do; any other is a defect and shows its traceback."""

DEMO_SEED = 172
"""Twelve participants with a bit of everything: scores in several categories, one chest CT, three refusals."""


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    home: Annotated[Path | None, Parameter(help="Folder of store, ledger and reports; also POPSCAN_HOME.")] = None,
) -> None:
    if home is not None:
        os.environ["POPSCAN_HOME"] = str(home)
    app(tokens)


def main() -> None:
    """Run the command line; ends the process with status 0, 1 (could not), 2 (wrong usage) or 130 (interrupted)."""
    try:
        app.meta()
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted; what was finished is kept, run again to go on", 130))
    except UsageError as error:
        sys.exit(_complain(str(error), 2))
    except Exception as error:
        if not _is_expected(error) or "POPSCAN_DEBUG" in os.environ:
            raise
        sys.exit(_complain(str(error), 1))


def _complain(message: str, status: int) -> int:
    print(f"popscan: {message}", file=sys.stderr)
    return status


def _is_expected(error: Exception) -> bool:
    """Tell whether a message is enough for a person: our own error classes and files that cannot be read or written."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in OUR_PACKAGES


@app.command
def demo(*, participants: int = 12, seed: int = DEMO_SEED) -> None:
    """Simulate participants, ingest and screen them, and compare with the known truth.

    Parameters
    ----------
    participants
        How many.
    seed
        Same seed, same participants.
    """
    from deployments import console, run

    truth, records, written = run.demo(load_settings(), participants, seed)
    console.print_agreement(truth, records)
    print(f"Report: {written}")


@app.command
def simulate(out: Path, /, *, programme: str = "calcium", participants: int, seed: int) -> None:
    """Write simulated participants as DICOM folders, with the truth in truth.json.

    Parameters
    ----------
    out
        Folder to write.
    programme
        What they are screened for: aneurysm, calcium, cardiac, coronary, echo, fibrosis, fracture, haemorrhage,
        liver_lesion or stroke.
    participants
        How many.
    seed
        Same seed, same participants.
    """
    from deployments import run
    from tasks.simulate import PROGRAMMES

    if programme not in PROGRAMMES:
        raise UsageError(f"nothing is simulated for {programme!r}; known: {', '.join(sorted(PROGRAMMES))}")
    run.simulate(out, participants, seed, programme=programme)


@app.command
def ingest(*paths: Path, json: Json = False) -> None:
    """Read DICOM folders, files and zips into the store.

    Parameters
    ----------
    paths
        Folders, files or zips; anything in them that is not DICOM is counted and left.
    """
    from deployments import console, run

    counts = run.ingest(load_settings(), _existing(paths))
    print_json(counts) if json else console.print_ingest(counts)


@app.command
def screen(*paths: Path, programme: str, retry_quarantined: bool = False, json: Json = False) -> None:
    """Compute what is missing or stale under one programme; ingests the given paths first.

    Parameters
    ----------
    paths
        DICOM to ingest first.
    programme
        Name of the programme, e.g. calcium.
    retry_quarantined
        Also try cases again that failed in three runs and are left alone since.
    """
    from deployments import console, run
    from deployments.prefect_server import prefect_server

    settings, existing = load_settings(), _existing(paths) if paths else []
    check_programme(programme, settings)
    with prefect_server(settings.open_home().root) as wait_for_server:
        if existing:
            counts = run.ingest(settings, existing)
            if not json:
                console.print_ingest(counts)
        wait_for_server()
        summary = run.screen(programme, retry_quarantined)
    print_json(summary) if json else console.print_screen(summary, _results(settings, programme))


@app.command
def results(*, programme: str | None = None, json: Json = False) -> None:
    """Print the current result of every study.

    Parameters
    ----------
    programme
        Only those of one programme.
    """
    from deployments import console

    if programme:
        check_programme(programme, load_settings())
    records = _results(load_settings(), programme)
    print_json({"results": [console.result_row(record) for record in records]}) if json else console.print_results(
        records
    )


@app.command
def verdicts(*, json: Json = False) -> None:
    """Print one row per series and programme, with the reason code."""
    from deployments import console

    with load_settings().open_home().open_ledger() as ledger:
        rows = [console.verdict_row(verdict) for verdict in ledger.verdicts()]
    print_json({"verdicts": rows}) if json else console.print_verdicts(rows)


@app.command
def explain(case: str, /) -> None:
    """Print every input, stage, version, digest, time and picture behind one result.

    Parameters
    ----------
    case
        Case id, or enough of its beginning to be unique.
    """
    from deployments import console

    settings = load_settings()
    with settings.open_home().open_ledger() as ledger:
        found = [record for record in ledger.results() if record.case_id.startswith(case)]
        if len(found) != 1:
            hint = ", ".join(record.case_id for record in found[:5]) or "`popscan results` lists them"
            raise UsageError(f"{len(found)} cases begin with {case!r}: {hint}")
        series = [ledger.series_by_uid(uid) for uid in found[0].roles.values()]
        console.print_explanation(found[0], series, ledger.history(found[0].case_id), settings.open_home())


@app.command
def report(*, out: Path | None = None, truth: Path | None = None) -> None:
    """Write the HTML report of all current results and print where it is.

    Parameters
    ----------
    out
        File to write; by default in the home.
    truth
        A truth.json of `popscan simulate`, to compare with.
    """
    from deployments import run

    if truth is not None and not truth.is_file():
        raise UsageError(f"no such file: {truth}")
    print(run.report(load_settings(), out, truth))


@app.command
def doctor() -> None:
    """Check this machine: versions, cores, disk, models, ledger, decoders, cluster, settings."""
    from deployments import console
    from deployments.doctor import examine

    checks = examine(load_settings())
    console.print_checks(checks)
    if not all(check.ok for check in checks):
        sys.exit(1)


@app.command
def manifests(
    *,
    values: Path | None = None,
    assignments: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = (),
    out: Path | None = None,
    describe: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Render the Kubernetes manifests for one place; docs/deploying.md says how they are applied.

    Parameters
    ----------
    values
        YAML file of what this place decides for itself.
    assignments
        Single values on top, e.g. --set dask.maximum=20.
    out
        Folder to write one file per part; by default everything is printed.
    describe
        Print every value with its default instead.
    """
    from deployments.manifests import render, requirements, to_yaml, write
    from deployments.values import ValuesError, describe_values, load_values

    if describe:
        for key, default, meaning in describe_values():
            print(f"{key:<38}{default:<27}{meaning}")
        return
    try:
        chosen = load_values(values, assignments)
    except (ValuesError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    rendered = render(chosen)
    if out is None:
        print(to_yaml([manifest for part in rendered.values() for manifest in part]), end="")
    else:
        write(rendered, out)
    for secret, keys in requirements(chosen).items():
        print(f"popscan: must be there first: Secret {secret} with {', '.join(keys)}", file=sys.stderr)


def _existing(paths: tuple[Path, ...]) -> list[Path]:
    if not paths:
        raise UsageError("which folder, file or zip? e.g. popscan ingest /archive/2026")
    for path in paths:
        if not path.exists():
            raise UsageError(f"no such file or folder: {path}")
    return list(paths)


def _results(settings: Settings, programme: str | None) -> list[ResultRecord]:
    with settings.open_home().open_ledger() as ledger:
        return ledger.results(programme)

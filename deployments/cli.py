"""The command ``popscan``. What a command needs is imported when it runs, so that help appears at once."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from flows.settings import Settings
    from storage.records import ResultRecord

app = App(
    name="popscan",
    help="Population-scale imaging screening: DICOM in, measurements with provenance out. Research use only.",
)
models = App(name="models", help="Models that ship with Popscan.")
app.command(models)

OUR_PACKAGES = ("deployments", "flows", "tasks", "storage", "ops")
"""Errors defined here say what to do; any other is a defect and shows its traceback."""

DEMO_SEED = 172
"""Twelve participants with a bit of everything: scores in several categories, one chest CT, three refusals."""

Json = Annotated[bool, Parameter(name="--json", negative=())]
"""Print one JSON document on standard output and nothing else there."""


class UsageError(Exception):
    """The command cannot do what it was asked; the message says what to do instead."""


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

    truth, records, written = run.demo(_settings(), participants, seed)
    console.print_agreement(truth, records)
    print(f"Report: {written}")


@app.command
def simulate(out: Path, /, *, participants: int, seed: int) -> None:
    """Write simulated participants as DICOM folders, with the truth in truth.json.

    Parameters
    ----------
    out
        Folder to write.
    participants
        How many.
    seed
        Same seed, same participants.
    """
    from deployments import run

    run.simulate(out, participants, seed)


@app.command
def ingest(*paths: Path, json: Json = False) -> None:
    """Read DICOM folders, files and zips into the store.

    Parameters
    ----------
    paths
        Folders, files or zips; anything in them that is not DICOM is counted and left.
    """
    from deployments import console, run

    counts = run.ingest(_settings(), _existing(paths))
    _print_json(counts) if json else console.print_ingest(counts)


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

    settings, existing = _settings(), _existing(paths) if paths else []
    _check_programme(programme, settings)
    with prefect_server(settings.open_home().root) as wait_for_server:
        if existing:
            counts = run.ingest(settings, existing)
            if not json:
                console.print_ingest(counts)
        wait_for_server()
        summary = run.screen(settings, programme, retry_quarantined)
    _print_json(summary) if json else console.print_screen(summary, _results(settings, programme))


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
        _check_programme(programme, _settings())
    records = _results(_settings(), programme)
    _print_json({"results": [console.result_row(record) for record in records]}) if json else console.print_results(
        records
    )


@app.command
def verdicts(*, json: Json = False) -> None:
    """Print one row per series and programme, with the reason code."""
    from deployments import console

    with _settings().open_home().open_ledger() as ledger:
        rows = [console.verdict_row(verdict) for verdict in ledger.verdicts()]
    _print_json({"verdicts": rows}) if json else console.print_verdicts(rows)


@app.command
def explain(case: str, /) -> None:
    """Print every input, stage, version, digest, time and picture behind one result.

    Parameters
    ----------
    case
        Case id, or enough of its beginning to be unique.
    """
    from deployments import console

    settings = _settings()
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
    print(run.report(_settings(), out, truth))


@app.command
def doctor() -> None:
    """Check this machine: versions, cores, disk, models, ledger, decoders, cluster, settings."""
    from deployments import console
    from deployments.doctor import examine

    checks = examine(_settings())
    console.print_checks(checks)
    if not all(check.ok for check in checks):
        sys.exit(1)


@models.command(name="list")
def list_models() -> None:
    """Print the models that ship, what they are for and how good they are."""
    from deployments import console
    from storage.models import list_bundles, load_bundle

    console.print_models([load_bundle(folder) for folder in list_bundles()])


@models.command
def verify() -> None:
    """Verify the weights of every model against its manifest."""
    from storage.models import verify_bundles

    checks = verify_bundles()
    for check in checks:
        print(f"{check.folder}: {check.problem or f'ok, digest {check.digest}'}")
    if not checks or any(check.problem for check in checks):
        sys.exit(_complain("models are missing or damaged; install Popscan again", 1))


def _settings() -> Settings:
    from pydantic import ValidationError

    from flows.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(f"POPSCAN_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise UsageError(f"a setting cannot be used: {problems}") from error


def _check_programme(name: str, settings: Settings) -> None:
    from flows.programmes import load_programme

    try:
        load_programme(name).with_policy(settings.options(name))
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error


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


def _print_json(document: dict[str, Any]) -> None:
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    print()

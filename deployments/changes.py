"""Commands of `popscan` about what changes results: plan, reclassification, models."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from cyclopts import App

from deployments.app import Json, UsageError, app, check_programme, load_settings, print_json

models = App(name="models", help="Models that ship with Popscan, and those released to this installation since.")


@app.command
def plan(*, programme: str | None = None, json: Json = False) -> None:
    """Say what is new or stale, why, and what computing it takes; nothing is computed.

    Parameters
    ----------
    programme
        Only of this one; by default of all.
    """
    from deployments import console
    from flows.forecast import HISTORY, summarise
    from flows.plan import overview
    from flows.programmes import load_programme, programme_names

    settings = load_settings()
    home, rates = settings.open_home(), settings.hour_costs
    summaries = []
    with home.open_ledger() as ledger:
        for name in [programme] if programme else programme_names():
            check_programme(name, settings)
            declared = load_programme(name).with_policy(settings.options(name))
            found = overview(ledger, declared, home.stores)
            summaries.append(summarise(found, declared, ledger.changes.stage_times(name, HISTORY), rates))
    if json:
        print_json({"plans": summaries})
        return
    for summary in summaries:
        console.print_plan(summary)


@app.command
def reclassification(*, programme: str, since: str | None = None, json: Json = False) -> None:
    """Compare current results with those they replaced: who changed category, and why.

    Parameters
    ----------
    programme
        Name of the programme, e.g. calcium.
    since
        Only results made since then, e.g. 2026-03-01 or 2026-03-01T12:00+01:00; UTC where no offset is given.
    """
    from deployments import console
    from flows.programmes import load_programme
    from flows.reclassification import reclassification as compare

    settings = load_settings()
    check_programme(programme, settings)
    with settings.open_home().open_ledger() as ledger:
        found = compare(ledger, load_programme(programme), _time(since) if since else None)
    print_json(found.to_dict()) if json else console.print_reclassification(found)


def _time(text: str) -> str:
    from storage.records import utc_time

    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--since {text}: not a date or time as of ISO 8601, e.g. 2026-03-01") from error
    return utc_time(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


@models.command(name="list")
def list_models() -> None:
    """Print all models, what they are for and how good they are. Of each the newest version is used."""
    from deployments import console
    from storage.models import load_bundle
    from storage.releases import installed_bundles

    folders = installed_bundles(load_settings().open_home().stores.models)
    console.print_models([(folder.url, load_bundle(folder)) for folder in folders])


@models.command
def verify() -> None:
    """Verify the weights of every model against its manifest."""
    from storage.releases import verify_installed

    checks = verify_installed(load_settings().open_home().stores.models)
    for check in checks:
        print(f"{check.folder}: {check.problem or f'ok, digest {check.digest}'}")
    if not checks or any(check.problem for check in checks):
        print("popscan: models are missing or damaged; install Popscan or release them again", file=sys.stderr)
        sys.exit(1)


@models.command
def release(folder: Path, /) -> None:
    """Add a model to this installation: results of the version before become stale. `popscan plan` counts them.

    Parameters
    ----------
    folder
        A bundle: manifest.json and weights. Both are checked, and the model is run once.
    """
    store = load_settings().open_home().stores.models  # before Prefect is imported, which reads its server's address
    from flows.events import emit_model_released
    from storage.models import load_bundle
    from storage.releases import release_bundle
    from tasks.infer import check_runs

    bundle = load_bundle(folder)
    check_runs(bundle)
    release_bundle(bundle, store)
    manifest = bundle.manifest
    emit_model_released(manifest.name, manifest.version, bundle.digest)
    print(f"{manifest.folder} is released, digest {bundle.digest}; `popscan plan` says which results it makes stale.")


@models.command
def withdraw(name_version: str, /) -> None:
    """Take a released model out of use: results of the version before it answer again.

    Parameters
    ----------
    name_version
        Its name and version, e.g. heart-territories-1.2.0.
    """
    store = load_settings().open_home().stores.models  # before Prefect is imported, which reads its server's address
    from flows.events import emit_model_released
    from storage.releases import load_newest, withdraw_bundle

    name = withdraw_bundle(name_version, store)
    newest = load_newest(name, store)
    if newest:
        emit_model_released(name, newest.manifest.version, newest.digest)
    print(f"{name_version} is withdrawn; {newest.manifest.folder if newest else 'no version'} is used from now on.")

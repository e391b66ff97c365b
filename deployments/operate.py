"""Commands of `popscan` that operate an installation: up, down, deploy, reprocess, lanes."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from deployments.app import Json, UsageError, app, check_programme, load_settings, print_json

lanes = App(name="lanes", help="Scanner × kernel × site: which are in control, and which have paused themselves.")


@app.command
def up() -> None:
    """Start Prefect, Dask, schedules and the watched folder on this machine; Ctrl-C or `popscan down` stops them."""
    from deployments import up as supervisor
    from deployments.services import addresses

    settings = load_settings()

    def on_ready() -> None:
        for name, address in addresses(settings).items():
            print(f"{name + ':':<16}{address}", flush=True)
        print("Everything is up. Ctrl-C or `popscan down` stops it.", flush=True)

    print("Starting; the first time takes a minute ...", flush=True)
    supervisor.up(settings, on_ready)


@app.command
def down() -> None:
    """Stop what `popscan up` has started."""
    from deployments import up as supervisor

    supervisor.down(load_settings())
    print("Everything is down.")


@app.command
def deploy() -> None:
    """Tell the Prefect server at PREFECT_API_URL what to run and when; `popscan up` does this by itself."""
    import os

    from deployments.deploy import deploy as apply

    settings = load_settings()  # names the server of a `popscan up` in the same home
    if "PREFECT_API_URL" not in os.environ:
        raise UsageError("which server? set PREFECT_API_URL, e.g. http://prefect.example/api")
    apply(settings)
    print("Deployed. `prefect deployment ls` lists the deployments.")


@app.command
def reprocess(*, programme: str, json: Json = False) -> None:
    """Compute stale results anew, and say who changed category; `popscan plan` says beforehand what that takes.

    Parameters
    ----------
    programme
        Name of the programme, e.g. calcium.
    """
    from deployments import console, run
    from deployments.prefect_server import prefect_server

    settings = load_settings()
    check_programme(programme, settings)
    with prefect_server(settings.open_home().root) as wait_for_server:
        wait_for_server()
        summary = run.reprocess(programme)
    print_json(summary) if json else console.print_run(summary)


@lanes.command(name="list")
def list_lanes(*, json: Json = False) -> None:
    """Print all lanes, and why some are paused."""
    from deployments import console

    with load_settings().open_home().open_ledger() as ledger:
        records = ledger.lanes.all()
    print_json({"lanes": [vars(record) for record in records]}) if json else console.print_lanes(records)


@lanes.command
def pause(lane: str, /, *, reason: str) -> None:
    """Hold the studies of a lane from now on.

    Parameters
    ----------
    lane
        Its id, as `popscan lanes list` prints it.
    reason
        For whoever looks at it later.
    """
    with load_settings().open_home().open_ledger() as ledger:
        ledger.lanes.pause(lane, reason)
    print(f"{lane} is paused.")


@lanes.command
def resume(
    lane: str,
    /,
    *,
    new_baseline: Annotated[bool, Parameter(help="Judge by the coming results, not by the old ones.")] = False,
) -> None:
    """Let a lane run again; what was held is computed by the next run.

    Parameters
    ----------
    lane
        Its id, as `popscan lanes list` prints it.
    """
    with load_settings().open_home().open_ledger() as ledger:
        ledger.lanes.resume(lane, rebaseline=new_baseline)
    print(f"{lane} runs again.")

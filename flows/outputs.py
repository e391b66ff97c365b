"""What a run leaves behind for people: the Parquet table and the HTML report; and the flow that renews them."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import artifacts
from flows.home import Home
from flows.report import write_report
from flows.settings import Settings
from storage.ledger import Ledger
from storage.tables import write_results_table


def write_outputs(home: Home, ledger: Ledger) -> None:
    """Write the Parquet table and the report of all current results."""
    write_results_table(ledger.iter_results(), home.table)
    home.report.parent.mkdir(parents=True, exist_ok=True)
    write_report(ledger, home.objects, home.report)


@flow(name="report", flow_run_name="report")
def report() -> State[str]:
    """Write table and report anew; the result is the report's address."""
    settings = Settings()
    home = settings.open_home()
    with home.open_ledger() as ledger:
        write_outputs(home, ledger)
    address = settings.address_of(home.report)
    artifacts.show_link("report", address)
    return Completed(message=address, data=address)

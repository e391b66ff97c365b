"""``python -m deployments.watch``: look into the watched folder for ever, and say what has settled.

It only records what arrives and sends events; flows ingest it. Ledger, Prefect's server and the folder may go away and
come back. Nothing that is logged names a file or a study.
"""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import DBAPIError

from flows.events import emit_study_settled
from flows.settings import Settings
from storage._engine import LedgerError
from storage.ledger import Ledger
from storage.records import utc_time
from tasks.arrivals import Seen, Watch

logger = logging.getLogger("popscan.watch")


class Watcher:
    """The watched folder: its looks, and up to when settled studies were announced."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._watch = Watch(settings.inbox_folder)
        self._announced = ""

    def look(self) -> tuple[Seen, list[str]]:
        """Look once; return what was seen and the units that have settled since the last look."""
        with self._settings.open_home().open_ledger() as ledger:
            return self._watch.look(ledger), self._announce(ledger)

    def _announce(self, ledger: Ledger) -> list[str]:
        before = utc_time(datetime.now(UTC) - timedelta(seconds=self._settings.quiet_seconds))
        units = ledger.arrivals.settled(before, self._watch.folder, since=self._announced)
        emit_study_settled(units)
        self._announced = before
        return units


def watch(settings: Settings) -> None:
    """Look every ``settings.watch_seconds`` until the process is interrupted."""
    watcher, outage = Watcher(settings), ""
    while True:
        earlier = outage
        try:
            seen, units = watcher.look()
        except (OSError, LedgerError, DBAPIError) as error:
            outage = _described(error)
            if outage != earlier:
                logger.warning("cannot look, will go on trying: %s", outage)
        else:
            outage = ""
            if earlier:
                logger.info("can look again")
            _report(seen, units)
        time.sleep(settings.watch_seconds)


def _described(error: Exception) -> str:
    """Say what is away, without the statement and the paths that a database error would show."""
    if isinstance(error, DBAPIError):
        return f"ledger: {str(error.orig).splitlines()[0]}"
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"


def _report(seen: Seen, units: list[str]) -> None:
    if seen.new or seen.changed or seen.gone or units:
        counts = ", ".join(f"{count} {name}" for name, count in asdict(seen).items())
        logger.info("files: %s; %d studies or other units have settled", counts, len(units))
    if seen.lost:
        logger.warning("%d files vanished before they were ingested", seen.lost)


def main() -> None:
    """Watch the folder that the settings name until SIGINT or SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = Settings()
    # Both end it in the same way; a shell may have started it with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    logger.info("watching %s", settings.inbox_folder)
    try:
        watch(settings)
    except KeyboardInterrupt:
        logger.info("stopped")


if __name__ == "__main__":
    main()

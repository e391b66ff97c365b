"""Kill everything once in mid-run: the ledger comes out as if nothing had happened. Twenty seeds: `chaos.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deployments.chaos import disturbed_run, quiet_run
from tests.servers import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_killed_at_random_and_the_same_ledger(postgres_server: Postgres, tmp_path: Path) -> None:
    found, died = disturbed_run(tmp_path / "disturbed", 1, postgres_server)
    assert found == quiet_run(tmp_path / "quiet")
    assert {"database", "dask scheduler", "prefect server", "flow"} <= set(died)

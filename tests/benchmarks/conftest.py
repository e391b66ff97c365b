"""Servers are started on first use by the benchmarks that ask for them."""

from __future__ import annotations

import pytest

from tests.servers import postgres_server, postgres_url, s3_location, s3_server

__all__ = ["measuring", "postgres_server", "postgres_url", "s3_location", "s3_server"]


@pytest.fixture(scope="session")
def measuring(request: pytest.FixtureRequest) -> bool:
    """True with ``--benchmark-enable``: at full size; else a benchmark is an ordinary test, on something smaller."""
    return bool(request.config.getoption("benchmark_enable"))

"""Small Dask clusters for the executor's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from distributed import Client, LocalCluster

from flows.clusters import local_cluster


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two threads in this process."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def process_client() -> Iterator[Client]:
    """Two worker processes of one thread under nannies, which replace a worker that dies."""
    with local_cluster(2, 1, processes=True) as cluster, Client(cluster) as client:
        yield client

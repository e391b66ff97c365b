"""Servers are started on first use by the benchmarks that ask for them."""

from tests.servers import postgres_server, postgres_url, s3_location, s3_server

__all__ = ["postgres_server", "postgres_url", "s3_location", "s3_server"]

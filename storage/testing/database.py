"""What the suites of the ledger, its arrivals and its lanes start from: one new database per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage.ledger import Ledger


class DatabaseConformance:
    """Base of the suites that need a database. Give `ledger_location`: a new, empty one per test."""

    @pytest.fixture
    def ledger_location(self) -> str:
        """Database URL or path. Subclasses give it."""
        raise NotImplementedError

    @pytest.fixture
    def ledger(self, ledger_location: str) -> Iterator[Ledger]:
        """Open the ledger under test."""
        with Ledger(ledger_location) as ledger:
            yield ledger

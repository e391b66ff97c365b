from __future__ import annotations

from pathlib import Path

import pytest

from storage.testing import ArrivalsConformance


class TestSQLite(ArrivalsConformance):
    @pytest.fixture
    def ledger_location(self, tmp_path: Path) -> str:
        return str(tmp_path / "home" / "ledger.sqlite")


class TestPostgreSQL(ArrivalsConformance):
    @pytest.fixture
    def ledger_location(self, postgres_url: str) -> str:
        return postgres_url

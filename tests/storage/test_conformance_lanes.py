from __future__ import annotations

from pathlib import Path

import pytest

from storage.testing import LanesConformance


class TestSQLite(LanesConformance):
    @pytest.fixture
    def ledger_location(self, tmp_path: Path) -> str:
        return str(tmp_path / "home" / "ledger.sqlite")


class TestPostgreSQL(LanesConformance):
    @pytest.fixture
    def ledger_location(self, postgres_url: str) -> str:
        return postgres_url

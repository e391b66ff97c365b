from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from storage.testing import ObjectStoreConformance
from storage.urls import Location


class TestLocal(ObjectStoreConformance):
    @pytest.fixture
    def location(self, tmp_path: Path) -> Location:
        return Location(str(tmp_path / "objects"))


class TestMemory(ObjectStoreConformance):
    @pytest.fixture
    def location(self) -> Location:
        return Location(f"memory://{uuid.uuid4().hex}")


class TestS3(ObjectStoreConformance):
    @pytest.fixture
    def location(self, s3_location: Location) -> Location:
        return s3_location

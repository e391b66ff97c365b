from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from storage.testing import VolumeStoreConformance
from storage.urls import Location


class TestLocal(VolumeStoreConformance):
    @pytest.fixture
    def location(self, tmp_path: Path) -> Location:
        return Location(str(tmp_path / "volumes"))


class TestMemory(VolumeStoreConformance):
    @pytest.fixture
    def location(self) -> Location:
        return Location(f"memory://{uuid.uuid4().hex}")


class TestS3(VolumeStoreConformance):
    @pytest.fixture
    def location(self, s3_location: Location) -> Location:
        return s3_location

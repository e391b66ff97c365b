"""What every object store must do."""

# ruff: noqa: D102 - a test's name says what it checks

from __future__ import annotations

import pickle

import numpy as np
import pytest

from storage.objects import ObjectStore
from storage.urls import Location


class ObjectStoreConformance:
    """Contract of `storage.objects.ObjectStore` on one file system. Give `location`: an empty one per test."""

    @pytest.fixture
    def location(self) -> Location:
        """Where the store lies. Subclasses give it."""
        raise NotImplementedError

    @pytest.fixture
    def objects(self, location: Location) -> ObjectStore:
        """Open the store under test."""
        return ObjectStore(location)

    @pytest.mark.parametrize("size", [0, 1, 6 << 20], ids=["empty", "byte", "6MiB"])
    def test_bytes_come_back(self, objects: ObjectStore, size: int) -> None:
        data = np.random.default_rng(size).bytes(size)
        objects.write("case/axial.png", data)
        assert objects.read("case/axial.png") == data

    def test_writing_again_replaces(self, objects: ObjectStore) -> None:
        objects.write("a", b"long first")
        objects.write("a", b"2nd")
        assert objects.read("a") == b"2nd"

    def test_keys_exist_and_go(self, objects: ObjectStore) -> None:
        assert objects.keys() == []
        for key in ("b/2", "a", "b/é 1"):
            objects.write(key, b"x")
        assert objects.keys() == ["a", "b/2", "b/é 1"]
        assert objects.exists("b/2")
        objects.delete("b/2")
        objects.delete("b/2")
        assert not objects.exists("b/2")
        assert objects.keys() == ["a", "b/é 1"]

    def test_absent_object_is_a_key_error(self, objects: ObjectStore) -> None:
        assert not objects.exists("nothing")
        with pytest.raises(KeyError, match="nothing"):
            objects.read("nothing")

    @pytest.mark.parametrize("key", ["", "../up", "a//b", "a/./b"])
    def test_key_cannot_leave_the_store(self, objects: ObjectStore, key: str) -> None:
        with pytest.raises(ValueError, match="component"):
            objects.write(key, b"x")

    def test_another_process_sees_it(self, objects: ObjectStore) -> None:
        assert not objects.exists("late")
        other: ObjectStore = pickle.loads(pickle.dumps(objects))
        other.write("late", b"x")
        assert objects.exists("late")
        assert objects.keys() == ["late"]

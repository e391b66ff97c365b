"""What every volume store must do."""

# ruff: noqa: D102 - a test's name says what it checks

from __future__ import annotations

import pickle

import numpy as np
import pytest

from ops.volume import Grid, Volume
from storage.testing.examples import example_volume
from storage.urls import Location
from storage.volumes import ROOT_METADATA, VolumeStore


class VolumeStoreConformance:
    """Contract of `storage.volumes.VolumeStore` on one file system. Give `location`: an empty one per test."""

    @pytest.fixture
    def location(self) -> Location:
        """Where the store lies. Subclasses give it."""
        raise NotImplementedError

    @pytest.fixture
    def volumes(self, location: Location) -> VolumeStore:
        """Open the store under test."""
        return VolumeStore(location)

    @pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "float32"])
    def test_volume_comes_back_exactly(self, volumes: VolumeStore, dtype: str) -> None:
        volume = example_volume(dtype=dtype)
        header = {"Modality": "CT", "KVP": 120.0, "SOPInstanceUIDs": ["1.2.3", "1.2.4"]}
        volumes.write("study/series/digest", volume, header)
        stored = volumes.open("study/series/digest")
        back = stored.read()
        np.testing.assert_array_equal(back.voxels, volume.voxels)
        np.testing.assert_array_equal(back.grid.affine, volume.grid.affine)
        assert back.voxels.dtype == stored.dtype == np.dtype(dtype)
        assert (back.units, back.slope, back.intercept) == ("HU", 1.5, -1024.0)
        assert stored.header == header

    @pytest.mark.parametrize(
        ("start", "stop"),
        [
            ((0, 0, 0), (1, 1, 1)),
            ((39, 69, 65), (40, 70, 66)),
            ((30, 10, 60), (35, 66, 66)),
            ((17, 0, 0), (18, 70, 66)),
        ],
    )
    def test_region_is_that_part_of_the_whole(
        self, volumes: VolumeStore, start: tuple[int, int, int], stop: tuple[int, int, int]
    ) -> None:
        volume = example_volume()
        volumes.write("a", volume, {})
        region, expected = volumes.open("a").read(start, stop), volume.crop(start, stop)
        np.testing.assert_array_equal(region.voxels, expected.voxels)
        assert region.grid.matches(expected.grid, tolerance_mm=1e-9)

    def test_region_outside_is_refused(self, volumes: VolumeStore) -> None:
        volumes.write("a", example_volume((4, 5, 6)), {})
        with pytest.raises(ValueError, match="does not lie inside"):
            volumes.open("a").read((0, 0, 0), (5, 5, 6))

    def test_more_than_one_shard(self, volumes: VolumeStore) -> None:
        volume = example_volume((100, 6, 5))
        volumes.write("a", volume, {})
        np.testing.assert_array_equal(volumes.open("a").read().voxels, volume.voxels)

    def test_zeros_are_data(self, volumes: VolumeStore) -> None:
        zeros = Volume(np.zeros((3, 4, 5), np.int16), Grid.from_spacing((3, 4, 5), (1, 1, 1)))
        volumes.write("a", zeros, {})
        assert not volumes.open("a").read().voxels.any()

    def test_absent_volume_is_a_key_error(self, volumes: VolumeStore) -> None:
        assert volumes.keys() == []
        assert not volumes.exists("nothing")
        with pytest.raises(KeyError, match="nothing"):
            volumes.open("nothing")

    def test_half_written_volume_is_absent_and_can_be_written_again(self, volumes: VolumeStore) -> None:
        volumes.write("a/b", example_volume((4, 5, 6)), {})
        volumes.location.child("a/b", ROOT_METADATA).delete()
        assert not volumes.exists("a/b")
        assert volumes.keys() == []
        with pytest.raises(KeyError):
            volumes.open("a/b")
        volumes.write("a/b", example_volume((4, 5, 6)), {})
        np.testing.assert_array_equal(volumes.open("a/b").read().voxels, example_volume((4, 5, 6)).voxels)

    def test_header_that_is_not_json_leaves_nothing_behind(self, volumes: VolumeStore) -> None:
        with pytest.raises(TypeError):
            volumes.write("a", example_volume((4, 5, 6)), {"bad": object()})
        assert not volumes.exists("a")

    def test_writing_again_replaces(self, volumes: VolumeStore) -> None:
        volumes.write("a", example_volume((9, 5, 6)), {"n": 1})
        volumes.write("a", example_volume((4, 5, 6)), {"n": 2})
        assert volumes.open("a").grid.shape == (4, 5, 6)
        assert volumes.open("a").header == {"n": 2}

    def test_keys_and_delete(self, volumes: VolumeStore) -> None:
        for key in ("s/2/x", "s/1/x"):
            volumes.write(key, example_volume((2, 3, 4)), {})
        assert volumes.keys() == ["s/1/x", "s/2/x"]
        volumes.delete("s/1/x")
        volumes.delete("s/1/x")
        assert volumes.keys() == ["s/2/x"]
        assert volumes.location.list()
        volumes.delete("s/2/x")
        assert volumes.location.list() == []

    def test_missing_shard_is_an_error_not_zeros(self, volumes: VolumeStore) -> None:
        volumes.write("a", example_volume((4, 5, 6)), {})
        volumes.location.child("a", self._shard(volumes)).delete()
        with pytest.raises(FileNotFoundError, match="missing"):
            volumes.open("a").read()

    def test_damaged_shard_is_an_error(self, volumes: VolumeStore) -> None:
        volumes.write("a", example_volume((4, 5, 6)), {})
        shard = volumes.location.child("a", self._shard(volumes))
        data = bytearray(shard.read_bytes())
        data[len(data) // 3] ^= 0xFF
        shard.write_bytes(bytes(data))
        with pytest.raises(ValueError, match=r"(?i)checksum|crc"):
            volumes.open("a").read()

    def test_another_process_sees_it(self, volumes: VolumeStore) -> None:
        assert not volumes.exists("late")
        other: VolumeStore = pickle.loads(pickle.dumps(volumes))
        other.write("late", example_volume((2, 3, 4)), {})
        assert volumes.exists("late")
        stored = pickle.loads(pickle.dumps(volumes.open("late")))
        np.testing.assert_array_equal(stored.read().voxels, example_volume((2, 3, 4)).voxels)

    @pytest.mark.parametrize("key", ["", "../up", "a//b"])
    def test_key_cannot_leave_the_store(self, volumes: VolumeStore, key: str) -> None:
        with pytest.raises(ValueError, match="component"):
            volumes.write(key, example_volume((2, 3, 4)), {})

    @staticmethod
    def _shard(volumes: VolumeStore) -> str:
        (name,) = [name for name in volumes.location.child("a").list() if not name.endswith("zarr.json")]
        return name

"""What the conformance suite cannot see from outside: files, metadata, damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from ops.volume import Grid, Volume
from storage.urls import Location
from storage.volumes import VolumeStore


@pytest.fixture
def store(tmp_path: Path) -> VolumeStore:
    return VolumeStore(Location(str(tmp_path)))


def volume(shape: tuple[int, int, int] = (40, 70, 66), seed: int = 0) -> Volume:
    rng = np.random.default_rng(seed)
    affine = np.array([[0.1, 0, 0.7, -120.0], [0, 0.5, 0, 33.0], [2.5, 0, 0, -800.0], [0, 0, 0, 1]])
    return Volume(rng.integers(-1000, 2000, shape).astype(np.int16), Grid(shape, affine), "HU", 1.0, -1024.0)


def test_any_zarr_reader_opens_it(store: VolumeStore, tmp_path: Path) -> None:
    written = volume()
    store.write("study/series/abc", written, {"Modality": "CT"})
    group = zarr.open_group(tmp_path / "study/series/abc", mode="r")
    np.testing.assert_array_equal(group["0"][...], written.voxels)  # type: ignore[index]
    assert group["0"].metadata.dimension_names == ("z", "y", "x")  # type: ignore[union-attr]


def test_metadata_obey_ome_zarr_0_5(store: VolumeStore, tmp_path: Path) -> None:
    """The rules of https://ngff.openmicroscopy.org/0.5/#multiscale-md that apply to a 3-D image of one level."""
    written = volume()
    store.write("v", written, {})
    root = json.loads((tmp_path / "v/zarr.json").read_text())
    assert (root["zarr_format"], root["node_type"]) == (3, "group")
    ome = root["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (multiscale,) = ome["multiscales"]
    axes = multiscale["axes"]
    assert len({axis["name"] for axis in axes}) == len(axes) == 3
    assert all(axis["type"] == "space" and axis["unit"] == "millimeter" for axis in axes)
    (dataset,) = multiscale["datasets"]
    array = json.loads((tmp_path / "v" / dataset["path"] / "zarr.json").read_text())
    assert array["node_type"] == "array"
    assert len(array["shape"]) == len(axes)
    assert array["dimension_names"] == [axis["name"] for axis in axes]
    scale, translation = dataset["coordinateTransformations"]
    assert (scale["type"], translation["type"]) == ("scale", "translation")
    np.testing.assert_allclose(scale["scale"], written.grid.spacing)
    np.testing.assert_allclose(translation["translation"], [-800.0, 33.0, -120.0])


def test_shards_are_checksummed_and_few(store: VolumeStore, tmp_path: Path) -> None:
    store.write("v", volume((100, 128, 128)), {})
    array = json.loads((tmp_path / "v/0/zarr.json").read_text())
    (sharding,) = array["codecs"]
    names = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    assert names == ["bytes", "blosc", "crc32c"]
    assert "crc32c" in [codec["name"] for codec in sharding["configuration"]["index_codecs"]]
    assert sum(path.is_file() for path in (tmp_path / "v/0/c").rglob("*")) == 2


def test_an_aborted_write_leaves_no_volume_and_the_next_write_succeeds(
    store: VolumeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = volume()

    original, written = Location.write_bytes, []

    def interrupted(location: Location, data: bytes) -> None:
        written.append(location)
        if len(written) > 1:
            raise KeyboardInterrupt
        original(location, data)

    with monkeypatch.context() as patched:
        patched.setattr(Location, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.write("v", good, {})
    assert any((tmp_path / "v").rglob("*"))
    assert not store.exists("v")
    assert store.keys() == []
    with pytest.raises(KeyError, match="no complete volume"):
        store.open("v")
    store.write("v", good, {})
    np.testing.assert_array_equal(store.open("v").read().voxels, good.voxels)


def test_while_it_is_written_over_it_does_not_exist(store: VolumeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("v", volume(), {})
    seen: list[bool] = []
    original = Location.write_bytes

    def watch(location: Location, data: bytes) -> None:
        seen.append(store.exists("v"))
        original(location, data)

    monkeypatch.setattr(Location, "write_bytes", watch)
    store.write("v", volume(seed=1), {})
    assert seen
    assert not any(seen)
    assert store.exists("v")


def test_a_smaller_volume_under_the_same_key_replaces_a_larger_one(store: VolumeStore) -> None:
    store.write("v", volume((200, 70, 66)), {})
    small = volume((30, 20, 10), seed=2)
    store.write("v", small, {})
    np.testing.assert_array_equal(store.open("v").read().voxels, small.voxels)


def test_a_lost_shard_is_an_error_not_zeros(store: VolumeStore, tmp_path: Path) -> None:
    store.write("v", volume((100, 70, 66)), {})
    (tmp_path / "v/0/c/1/0/0").unlink()
    stored = store.open("v")
    stored.read((0, 0, 0), (96, 70, 66))
    with pytest.raises(FileNotFoundError, match="ingest it again"):
        stored.read()


@pytest.mark.parametrize("place", [200, -10])
def test_a_flipped_bit_is_an_error(store: VolumeStore, tmp_path: Path, place: int) -> None:
    store.write("v", volume(), {})
    shard = tmp_path / "v/0/c/0/0/0"
    damaged = bytearray(shard.read_bytes())
    damaged[place] ^= 4
    shard.write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match=r"checksum|crc32c"):
        store.open("v").read()


def test_a_region_reads_its_chunks_only(store: VolumeStore, tmp_path: Path) -> None:
    written = volume((64, 128, 128))
    store.write("v", written, {})
    shard = tmp_path / "v/0/c/0/0/0"
    damaged = bytearray(shard.read_bytes())
    damaged[100] ^= 4  # in the first chunk
    shard.write_bytes(bytes(damaged))
    region = store.open("v").read((32, 64, 64), (64, 128, 128))
    np.testing.assert_array_equal(region.voxels, written.voxels[32:, 64:, 64:])


def test_header_and_geometry_come_back(store: VolumeStore) -> None:
    written = volume()
    header = {"KVP": 120.0, "ImageType": ["ORIGINAL", "PRIMARY"], "SeriesDescription": "Größe"}
    store.write("v", written, header)
    stored = store.open("v")
    assert stored.header == header
    assert (stored.units, stored.slope, stored.intercept, stored.dtype) == ("HU", 1.0, -1024.0, np.int16)
    assert stored.grid.matches(written.grid, 0.0)


def test_delete_removes_half_written_remains_too(store: VolumeStore, tmp_path: Path) -> None:
    store.write("a/b", volume(), {})
    (tmp_path / "a/b/zarr.json").unlink()
    store.delete("a/b")
    assert not (tmp_path / "a/b").exists()

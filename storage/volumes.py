"""Volumes at rest: sharded OME-Zarr 0.5, stored integers with their rescale, complete or absent.

One volume is one key, a small Zarr v3 hierarchy that any OME-Zarr reader opens::

    <key>/zarr.json      group: OME multiscales and our ``popscan`` block; written last, so it is the commit mark
    <key>/0/zarr.json    array metadata
    <key>/0/c/…          shards of 96×512×512 voxels, each read by chunk of 32×64×64

A reader that finds no root metadata finds no volume. Keys name their content (they carry the pixel digest), so
two writers of one key write the same bytes, and what an aborted write left behind is simply written over.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import FsspecStore, LocalStore

from ops.volume import Grid, Volume
from storage.shards import COMPRESSOR, LEVEL, encode_shards
from storage.urls import Location

# Chunks are what a region read fetches; shards are what a store holds as objects, so that a CT is a handful of
# them on S3 and still readable by region.
CHUNK_SHAPE = (32, 64, 64)
SHARD_SHAPE = (96, 512, 512)
OME_VERSION = "0.5"
ROOT_METADATA = "zarr.json"
# Objects of one volume sent at a time: an object store answers slowly, not one after the other.
WRITE_THREADS = 4
ARRAY_NAME = "0"

Index = tuple[int, int, int]


@dataclass(frozen=True)
class StoredVolume:
    """A volume in the store: its description is in memory, its voxels are fetched by :meth:`read`.

    Attributes
    ----------
    location
        Where the volume lies.
    grid
        Shape and LPS affine (mm).
    units, slope, intercept
        As in :class:`ops.volume.Volume`.
    header
        De-identified DICOM attributes, keyword → value.
    """

    location: Location
    grid: Grid
    units: str
    slope: float
    intercept: float
    header: dict[str, Any]

    @cached_property
    def _array(self) -> zarr.Array[Any]:
        return zarr.open_array(_zarr_store(self.location.child(ARRAY_NAME), read_only=True), mode="r")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored voxels."""
        return np.dtype(self._array.dtype)

    def read(self, start: Index | None = None, stop: Index | None = None) -> Volume:
        """Read the half-open index box ``[start, stop)`` ``(z, y, x)``; all of it when not given.

        Only the chunks that the box touches are fetched and decompressed.

        Raises
        ------
        ValueError
            The box does not lie inside the grid, or a checksum does not match.
        FileNotFoundError
            A shard is missing: Zarr itself would silently return zeros.
        """
        start = start or (0, 0, 0)
        stop = stop or self.grid.shape
        grid = self.grid.crop(start, stop)
        self._require_shards(start, stop)
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        voxels = np.asarray(self._array[box])
        return Volume(voxels, grid, self.units, self.slope, self.intercept)

    def _require_shards(self, start: Index, stop: Index) -> None:
        ranges = [range(a // n, -(-b // n)) for a, b, n in zip(start, stop, _shard_shape(self.grid.shape), strict=True)]
        for k in ranges[0]:
            for j in ranges[1]:
                for i in ranges[2]:
                    shard = _shard(self.location, k, j, i)
                    if not shard.fs.exists(shard.path):
                        raise FileNotFoundError(f"shard {shard.url} is missing: delete this volume and ingest it again")


class VolumeStore:
    """Volumes by key below one location.

    Parameters
    ----------
    location
        Folder, ``memory://…`` or ``s3://bucket/prefix``.
    """

    def __init__(self, location: Location) -> None:
        self.location = location

    def write(self, key: str, volume: Volume, header: dict[str, Any]) -> None:
        """Store ``volume`` and its de-identified ``header`` under ``key``: complete, or not there at all.

        Parameters
        ----------
        key
            ``/``-separated name without ``.`` or ``..`` components.
        volume
            Voxels keep their dtype; slope, intercept, units and affine go to the metadata.
        header
            JSON-able attributes.
        """
        place = self.location.child(key)
        root = json.dumps(_root_metadata(key, volume, header)).encode()
        place.child(ROOT_METADATA).delete()
        place.child(ARRAY_NAME, ROOT_METADATA).write_bytes(_array_metadata(volume))
        with ThreadPoolExecutor(WRITE_THREADS) as pool:
            shards = encode_shards(volume.voxels, CHUNK_SHAPE, _shard_shape(volume.grid.shape))
            written = [pool.submit(_shard(place, *index).write_bytes, data) for index, data in shards]
            for one in written:
                one.result()
        place.child(ROOT_METADATA).write_bytes(root)

    def open(self, key: str) -> StoredVolume:
        """Open the volume under ``key``.

        Raises
        ------
        KeyError
            No complete volume has this key.
        """
        place = self.location.child(key)
        try:
            attributes = json.loads(place.child(ROOT_METADATA).read_bytes())["attributes"]
        except FileNotFoundError:
            raise KeyError(f"no complete volume {key!r} in {self.location.url}") from None
        own = attributes["popscan"]
        return StoredVolume(
            location=place,
            grid=Grid(tuple(own["shape"]), np.array(own["affine"])),
            units=own["units"],
            slope=own["slope"],
            intercept=own["intercept"],
            header=own["header"],
        )

    def exists(self, key: str) -> bool:
        """Tell whether a complete volume has this key."""
        return self.location.child(key, ROOT_METADATA).exists()

    def keys(self) -> list[str]:
        """List the keys of all complete volumes, sorted."""
        suffixes = ("/" + ROOT_METADATA, f"/{ARRAY_NAME}/{ROOT_METADATA}")
        names = [name for name in self.location.list() if name.endswith(suffixes[0])]
        arrays = {name for name in names if name.endswith(suffixes[1])}
        return sorted(name.removesuffix(suffixes[0]) for name in names if name not in arrays)

    def delete(self, key: str) -> None:
        """Remove a volume, complete or half-written; root metadata first, so that no reader sees half of it."""
        self.location.child(key, ROOT_METADATA).delete()
        self.location.child(key).delete()


def _shard_shape(shape: Index) -> Index:
    """Shrink shards to the smallest whole number of chunks that covers a small volume."""
    covering = [-(-n // chunk) * chunk for n, chunk in zip(shape, CHUNK_SHAPE, strict=True)]
    z, y, x = (min(full, shard) for full, shard in zip(covering, SHARD_SHAPE, strict=True))
    return z, y, x


def _zarr_store(location: Location, read_only: bool = False) -> Store:
    if location.is_local:
        return LocalStore(location.path, read_only=read_only)
    return FsspecStore.from_url(location.url, storage_options=dict(location.storage_options), read_only=read_only)


def _shard(place: Location, k: int, j: int, i: int) -> Location:
    return place.child(ARRAY_NAME, "c", str(k), str(j), str(i))


def _array_metadata(volume: Volume) -> bytes:
    """Metadata of the array as Zarr writes them, by way of a dict."""
    written: dict[str, Buffer] = {}
    zarr.create_array(
        written,
        shape=volume.grid.shape,
        dtype=volume.voxels.dtype,
        chunks=CHUNK_SHAPE,
        shards=_shard_shape(volume.grid.shape),
        compressors=[BloscCodec(cname=COMPRESSOR, clevel=LEVEL, shuffle="shuffle"), Crc32cCodec()],
        dimension_names=("z", "y", "x"),
    )
    return bytes(written[ROOT_METADATA].to_bytes())


def _root_metadata(key: str, volume: Volume, header: dict[str, Any]) -> dict[str, Any]:
    attributes = {
        "ome": {"version": OME_VERSION, "multiscales": [_multiscale(key, volume.grid)]},
        "popscan": {
            "shape": volume.grid.shape,
            "affine": volume.grid.affine.tolist(),
            "affine_convention": "(k, j, i, 1) of a voxel centre to patient LPS millimetres",
            "units": volume.units,
            "slope": volume.slope,
            "intercept": volume.intercept,
            "header": header,
        },
    }
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _multiscale(name: str, grid: Grid) -> dict[str, Any]:
    """OME-Zarr 0.5 multiscale of one level. It can only say scale and shift; our affine also says the rotation."""
    x, y, z = grid.origin.tolist()
    return {
        "name": name,
        "axes": [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"],
        "datasets": [
            {
                "path": ARRAY_NAME,
                "coordinateTransformations": [
                    {"type": "scale", "scale": list(grid.spacing)},
                    {"type": "translation", "translation": [z, y, x]},
                ],
            }
        ],
    }

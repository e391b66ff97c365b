"""Shards made here are read by Zarr, whatever the shape and type."""

from __future__ import annotations

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec

from storage.shards import encode_shards

CHUNK, SHARD = (2, 3, 4), (4, 6, 8)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 13), st.integers(1, 17)),
    dtype=st.sampled_from(["u1", "i2", "u2", "i4", "f4", ">i2"]),
    seed=st.integers(0, 99),
)
def test_zarr_reads_them(shape: tuple[int, int, int], dtype: str, seed: int) -> None:
    voxels = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    store: dict[str, object] = {}
    array = zarr.create_array(
        store,
        shape=shape,
        dtype=np.dtype(dtype).newbyteorder("<"),
        chunks=CHUNK,
        shards=SHARD,
        compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"), Crc32cCodec()],
    )
    for index, data in encode_shards(voxels, CHUNK, SHARD):
        store["c/" + "/".join(map(str, index))] = zarr.core.buffer.cpu.Buffer.from_bytes(data)
    np.testing.assert_array_equal(array[...], voxels)


def test_bytes_do_not_depend_on_memory_order() -> None:
    voxels = np.random.default_rng(0).integers(0, 999, (5, 7, 9)).astype(np.int16)
    plain = dict(encode_shards(voxels, CHUNK, SHARD))
    assert dict(encode_shards(np.asfortranarray(voxels), CHUNK, SHARD)) == plain

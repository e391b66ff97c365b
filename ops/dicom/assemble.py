"""Series + assessment → Volume: every slice decoded straight into its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from ops.dicom.decode import Pixels, decode_frames
from ops.dicom.encoding import Encoding
from ops.dicom.geometry import Assessment
from ops.dicom.series import SeriesHeaders
from ops.volume import Volume

# The decoders release the interpreter lock; more than two threads wait for each other in the Python around them.
DECODE_THREADS = 2


def build_volume(
    series: SeriesHeaders, assessment: Assessment, fetch: Callable[[str], bytes], threads: int = DECODE_THREADS
) -> Volume:
    """Decode a series into one array ``(z, y, x)``.

    Parameters
    ----------
    series
        Headers.
    assessment
        Not refused; of the same series.
    fetch
        Bytes of an instance by its source name. Called once per instance, from ``threads`` threads; only
        as many files are held at a time.
    threads
        Decoding threads.

    Raises
    ------
    DecodeError
        Pixel data of an instance cannot be decoded. No volume is better than one with a hole.
    ValueError
        The assessment is a refusal.
    """
    grid, encoding = assessment.grid, assessment.encoding
    if grid is None or encoding is None:
        raise ValueError(f"series {series.series_uid} was refused ({assessment.verdict.reason}): nothing to build")
    voxels = np.empty(grid.shape, encoding.dtype)
    places: dict[int, dict[int, int]] = defaultdict(dict)
    for z, (instance, frame) in enumerate(assessment.order):
        places[instance][frame] = z

    def fill(instance: int) -> None:
        header = series.instances[instance]
        frames = decode_frames(fetch(header.source), header)
        for number, pixels in enumerate(frames):
            z = places[instance][number]
            _place(voxels[z], pixels, encoding, z)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fill, places):
            pass
    return Volume(voxels, grid, assessment.units, encoding.slope, encoding.intercept)


def pixel_digest(volume: Volume) -> str:
    """blake3 of voxels, dtype, shape, affine, units and rescale: equal digest, equal volume in every respect."""
    digest = blake3(max_threads=blake3.AUTO)
    described = (volume.voxels.dtype.str, volume.grid.shape, volume.units, volume.slope, volume.intercept)
    digest.update(repr(described).encode())
    digest.update(volume.grid.affine.tobytes())
    digest.update(np.ascontiguousarray(volume.voxels).data.cast("B"))
    return digest.hexdigest()


def _place(target: npt.NDArray[Any], pixels: Pixels, encoding: Encoding, z: int) -> None:
    if not encoding.adjustments:
        np.copyto(target, pixels, casting="unsafe")
        return
    factor, offset = encoding.adjustments[z]
    # float64 holds every 32-bit integer, so the lossless case stays lossless.
    np.copyto(target, pixels * factor + offset, casting="unsafe")

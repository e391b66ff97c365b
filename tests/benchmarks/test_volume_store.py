"""Writing and reading one volume against ``numpy.save`` in the same run.

As an ordinary test it runs on a few slices; ``--benchmark-enable -s`` takes 300×512×512 and prints medians.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ops.volume import Grid, Volume
from storage.urls import Location
from storage.volumes import VolumeStore
from tests.benchmarks.test_series_to_volume import body_like, median_seconds

ROUNDS = 5
BOX = ((100, 200, 200), (196, 296, 296))


@pytest.mark.parametrize("place", ["local", "memory"])
def test_store(request: pytest.FixtureRequest, tmp_path: Path, place: str) -> None:
    measuring = bool(request.config.getoption("benchmark_enable"))
    voxels = body_like(300 if measuring else 10)
    volume = Volume(voxels, Grid.from_spacing(voxels.shape, (1.0, 0.7, 0.7)))
    store = VolumeStore(Location(str(tmp_path / "store") if place == "local" else f"memory://{tmp_path.name}"))
    store.write("v", volume, {})
    np.testing.assert_array_equal(store.open("v").read().voxels, voxels)
    if not measuring:
        return
    plain = tmp_path / "plain.npy"
    megabytes = voxels.nbytes / 1e6
    seconds = {
        "write": median_seconds(lambda _: store.write("v", volume, {}), ROUNDS),
        "numpy.save": median_seconds(lambda _: np.save(plain, voxels), ROUNDS),
        "read": median_seconds(lambda _: store.open("v").read(), ROUNDS),
        "numpy.load": median_seconds(lambda _: np.load(plain), ROUNDS),
        "read 96³": median_seconds(lambda _: store.open("v").read(*BOX), ROUNDS),
    }
    print(f"\n{place}: " + ", ".join(f"{what} {taken * 1e3:.0f} ms" for what, taken in seconds.items()))
    if place == "local":
        stored = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file())
        print(f"{megabytes:.0f} MB in {stored / 1e6:.0f} MB")
    assert seconds["read 96³"] < seconds["read"]

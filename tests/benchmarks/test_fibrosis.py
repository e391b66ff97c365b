"""Liver and spleen volumes, attenuation and surface of a 512 × 512 × 300 CT against plain scikit-image and SciPy."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import regionprops

from ops.diseases.fibrosis.measurement import measure
from ops.measure.record import MeasurementRecord
from ops.phantoms.liver.abdomen import Body, UpperAbdomen, label_map, paint
from ops.phantoms.liver.shape import Liver, Spleen
from ops.volume import Grid, Volume
from tests.benchmarks.timing import best_of

SHAPE = (300, 512, 512)
SPACING = (0.8, 0.75, 0.75)
# What is promised for one scan on two cores of an ordinary server.
PROMISED_SECONDS = 3.0


@pytest.fixture(scope="module")
def scan() -> tuple[Volume, Volume]:
    """Labels and CT of a nodular liver and a spleen in fat."""
    spleen = Spleen.of_volume(300.0, (100.0, 40.0, 30.0))
    abdomen = UpperAbdomen(Liver(0.87, 1.1, 0.4, 10.0), spleen, 110.0, 120.0, "portal_venous", 20.0, 2)
    grid = Grid.from_spacing(SHAPE, SPACING, (-200.0, -190.0, -120.0))
    everywhere = np.full(3, 500.0)
    fat = Body(lambda p: np.float32(-1000) + 0 * (p[0] + p[1] + p[2]), -104.0, -everywhere, everywhere)
    organs = [Body(organ.distance, hu, *organ.bounds()) for organ, hu in ((spleen, 120.0), (abdomen.liver, 110.0))]
    hu = paint([fat, *organs], grid).astype(np.int16)
    noise = np.random.default_rng(5).normal(0, 12, (10, *SHAPE[1:])).astype(np.int16)
    return label_map(abdomen, grid), Volume(hu + np.tile(noise, (SHAPE[0] // 10, 1, 1)), grid)


def plain(labels: Volume, ct: Volume) -> dict[str, float]:
    """Volumes by regionprops, and the median HU 5 mm inside by a distance transform; no nodularity."""
    volumes = {r.label: r.area * labels.grid.voxel_volume / 1000 for r in regionprops(labels.voxels)}
    mask = (labels.voxels > 0) & (labels.voxels < 9)
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    inside = ndimage.distance_transform_edt(mask[box], sampling=labels.grid.spacing) > 5
    segments = [volumes[number] for number in range(1, 9)]
    return {
        "liver_volume": sum(segments),
        "lsvr": sum(segments[:3]) / sum(segments[3:]),
        "spleen_volume": volumes[9],
        "liver_attenuation": float(np.median(ct.voxels[box][inside])),
    }


def test_same_values_in_less_time_than_promised(scan: tuple[Volume, Volume]) -> None:
    record, seconds = best_of(3, lambda: measure(scan[0], "CT", scan[1]))
    expected, plain_seconds = best_of(1, lambda: plain(*scan))
    print(f"\nliver of {SHAPE}: {seconds:.2f} s with nodularity; plain volumes and attenuation: {plain_seconds:.2f} s")
    for name in ("liver_volume", "lsvr", "spleen_volume"):
        assert record[name] == pytest.approx(expected[name], rel=1e-9)
    assert record["liver_attenuation"] == pytest.approx(expected["liver_attenuation"], abs=1.0)
    assert isinstance(record["liver_surface_nodularity"], float)
    # A shared runner may be several times slower than promised; the ratio may not.
    assert seconds < plain_seconds
    assert seconds < PROMISED_SECONDS * float(os.environ.get("POPSCAN_BENCHMARK_SLACK", "4"))


def test_benchmark_ours(benchmark: Callable[..., MeasurementRecord], scan: tuple[Volume, Volume]) -> None:
    assert benchmark(measure, scan[0], "CT", scan[1]).reason == ""

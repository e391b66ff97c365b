"""Sizing an aneurysm on a full-size CT angiogram, against trimesh and scikit-image used straightforwardly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import trimesh
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.spatial.distance import pdist
from skimage.measure import marching_cubes

from ops.diseases.aneurysm.measurement import measure
from ops.volume import Grid, Volume
from tests.ops.diseases.aneurysm.sacs import side_wall_labels

SHAPE, SPACING = (300, 512, 512), (0.5, 0.4, 0.4)


@pytest.fixture(scope="module")
def labels() -> Volume:
    """A 6 mm sac on its vessel in the middle of a 512 × 512 × 300 scan."""
    small = side_wall_labels(SPACING)
    voxels = np.zeros(SHAPE, dtype=np.uint8)
    place = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(SHAPE, small.voxels.shape, strict=True))
    voxels[place] = small.voxels
    return Volume(voxels, Grid.from_spacing(SHAPE, SPACING), "label")


def straightforward(labels: Volume) -> dict[str, Any]:
    """Largest diameter, area, volume and hull of the whole label map's sac, without a neck."""
    vertices, faces, _, _ = marching_cubes((labels.voxels == 2).astype(np.float32), 0.5, spacing=labels.grid.spacing)
    mesh = trimesh.Trimesh(vertices, faces)
    trimesh.smoothing.filter_humphrey(mesh)
    hull = mesh.convex_hull
    return {"diameter": pdist(hull.vertices).max(), "area": mesh.area, "volume": mesh.volume, "hull": hull.volume}


@pytest.mark.benchmark(group="aneurysm sizing, 300 × 512 × 512")
def test_popscan(benchmark: BenchmarkFixture, labels: Volume) -> None:
    assert benchmark(measure, labels)["diameter_3d"] == pytest.approx(6, rel=0.07)


@pytest.mark.benchmark(group="aneurysm sizing, 300 × 512 × 512")
def test_straightforward(benchmark: BenchmarkFixture, labels: Volume) -> None:
    assert benchmark(straightforward, labels)["diameter"] == pytest.approx(6, rel=0.07)

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ops.phantoms.chest.thorax import thorax
from ops.phantoms.heart.coronary_tree import (
    WALL_OFFSET,
    Attenuation,
    Plaque,
    Vessel,
    angiogram,
    lumen_labels,
    paint_vessel,
    sample_study,
    sample_vessel,
    scan_vessel,
    study_truth,
    tube_distance,
    wall_labels,
)
from ops.phantoms.labels import ARTERY_LABELS
from ops.phantoms.participant import sample_participant
from ops.volume import Grid, Volume


def straight(*plaques: Plaque) -> Vessel:
    points = np.stack([np.zeros(81), np.zeros(81), np.linspace(0, 40, 81)], axis=1)
    return Vessel("LAD", points, np.full(81, 2.0), plaques)


def painted(vessel: Vessel, spacing: tuple[float, float, float]) -> tuple[np.ndarray, Volume]:
    shape = tuple(int(n / step) for n, step in zip((50, 14, 14), spacing, strict=True))
    grid = Grid.from_spacing((shape[0], shape[1], shape[2]), spacing, (-7.0, -7.0, -5.0))
    hu = np.full(shape, -90, dtype=np.float32)
    labels = np.zeros(shape, dtype=np.uint8)
    paint_vessel(hu, labels, grid, vessel, Attenuation())
    return hu, Volume(labels, grid, units="label")


@pytest.mark.parametrize("kind", ["calcified", "non_calcified", "mixed"])
@pytest.mark.parametrize("spacing", [(0.25, 0.25, 0.25), (0.5, 0.2, 0.3)])
def test_painted_volumes_are_those_of_the_closed_form(kind: str, spacing: tuple[float, float, float]) -> None:
    vessel = straight(Plaque(20, 16, 0.5, 1.3, 0.7, 0.4, kind))  # type: ignore[arg-type]
    hu, labels = painted(vessel, spacing)
    voxel = labels.grid.voxel_volume
    assert (labels.voxels > WALL_OFFSET).sum() * voxel == pytest.approx(vessel.plaque_volume(), rel=0.03)
    if kind == "mixed":
        # Halfway between calcium and the fibrous tissue around it.
        assert (hu > (900 + 180) / 2).sum() * voxel == pytest.approx(vessel.calcium_volume(), rel=0.1)
    inside = labels.voxels > WALL_OFFSET
    edge = (hu < 40) & inside & (hu > -20)
    assert edge.sum() * voxel >= 0.6 * vessel.core_volume("lipid")


def test_plaque_volume_of_a_concentric_lesion() -> None:
    """π r² ∫ ((1 + g w)² − (1 − s w)²) ds over a raised cosine w, whose mean is 1/2 and whose square's is 3/8."""
    growth, stenosis, length = np.sqrt(1.3) - 1, 0.5, 16.0
    expected = np.pi * 4 * length * ((growth + stenosis) + 3 / 8 * (growth**2 - stenosis**2))
    vessel = straight(Plaque(20, length, stenosis, 1.3, 0.0, 0.0, "mixed"))
    assert vessel.plaque_volume() == pytest.approx(expected, rel=0.01)
    assert vessel.plaque_volume(("calcified",)) == 0
    assert vessel.lumen_radii.min() == pytest.approx(1.0)
    assert vessel.outer_radii.max() ** 2 / 4 == pytest.approx(1.3)


def test_the_lumen_stays_within_the_wall_and_cores_within_the_plaque() -> None:
    for seed in range(10):
        vessel = sample_vessel(np.random.default_rng(seed), n_plaques=3)
        room = vessel.outer_radii - vessel.lumen_radii
        shift = np.linalg.norm(vessel.lumen_points - vessel.points, axis=1)
        assert (shift <= room + 1e-9).all()
        for core in vessel.cores():
            to_wall = np.linalg.norm(core.points[:, None] - vessel.points, axis=2)
            nearest = to_wall.argmin(axis=1)
            assert (to_wall.min(axis=1) + core.radius <= vessel.outer_radii[nearest] + 0.05).all()
            to_lumen = np.linalg.norm(core.points[:, None] - vessel.lumen_points, axis=2).min(axis=1)
            assert (to_lumen >= core.radius + vessel.lumen_radii[nearest] - 0.15).all()


def test_tube_distance_on_an_oblique_grid() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn * 0.5
    affine[:3, 3] = turn @ [-5, -5, -5]
    grid = Grid((24, 24, 24), affine)
    points = np.array([[-2.0, 0, 0], [0, 0, 0], [2.0, 0, 0]])
    box, distance = tube_distance(grid, points, 1.5, 2.0)
    index = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), axis=-1)
    at = grid.index_to_patient(index)
    exact = np.linalg.norm(at - np.clip(at, [-2, 0, 0], [2, 0, 0]), axis=-1) - 1.5
    near = exact < 2.0
    assert distance[near] == pytest.approx(exact[near], abs=1e-4)
    assert (distance[~near] >= 2.0 - 1e-4).all()


def test_scan_of_a_vessel() -> None:
    vessel = sample_vessel(np.random.default_rng(4), "RCA")
    image, labels = scan_vessel(vessel, Attenuation(), (0.6, 0.5, 0.5), np.random.default_rng(0))
    lumen, wall = lumen_labels(labels).voxels == 4, wall_labels(labels).voxels == 4
    assert (wall | lumen).sum() == wall.sum()
    assert image.voxels.dtype == np.int16
    assert np.median(image.voxels[lumen]) == pytest.approx(400, abs=45)
    assert np.median(image.voxels) < 120


def test_angiogram_of_a_chest() -> None:
    rng = np.random.default_rng(11)
    chest = thorax(sample_participant(rng))
    scan = angiogram(chest, rng, increment=3.0)
    present = set(np.unique(lumen_labels(scan.labels).voxels)) - {0}
    assert present == set(ARTERY_LABELS.values())
    lumen = np.median(scan.volume.voxels[lumen_labels(scan.labels).voxels == ARTERY_LABELS["LM"]])
    assert lumen == pytest.approx(scan.tissue.lumen, rel=0.15)
    truth = study_truth(scan.vessels, scan.tissue)
    assert {vessel.name for vessel in scan.vessels} == {"LAD", "LCX", "RCA"}
    assert truth["lesions_RCA"] == len(scan.vessels[-1].plaques)
    assert truth["lesions_LM"] + truth["lesions_LAD"] == len(scan.vessels[0].plaques)


def test_left_main_lesions_count_for_the_left_main() -> None:
    vessel = replace(straight(Plaque(6, 8, 0.55, 1.1, 0.5, 0.0, "mixed")), left_main=10.0)
    truth = study_truth([vessel], Attenuation())
    assert truth["diameter_stenosis_LM"] == pytest.approx(55)
    assert truth["diameter_stenosis_LAD"] == 0


@pytest.mark.slow
def test_study_is_a_full_size_scan() -> None:
    study = sample_study(np.random.default_rng(1))
    (series,) = study.series
    volume = series.stacks[0].volume  # type: ignore[union-attr]
    assert volume.grid.shape[1:] == (512, 512)
    assert volume.grid.spacing[0] == 0.5
    assert study.labels["ct"].grid.matches(volume.grid)
    assert study.truth["plaque_volume_LAD"] >= 0

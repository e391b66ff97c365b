from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ops.phantoms.chest.agatston import agatston
from ops.phantoms.chest.calcification import Deposit, coronary_calcium, other_calcium, target_score
from ops.phantoms.chest.hounsfield import calcium_hu
from ops.phantoms.chest.protocol import Protocol, chest_protocol, gated_protocol
from ops.phantoms.chest.scan import KERNELS, add_deposits, occupancy, scan_grid, simulate_scan
from ops.phantoms.chest.thorax import Thorax, label_map, thorax
from ops.phantoms.labels import ARTERIES, ARTERY_LABELS, TERRITORY_LABELS
from ops.phantoms.noise import correlated_noise, kernel_blur
from ops.phantoms.participant import sample_participant
from ops.volume import Grid

AT_REST = np.zeros((1, 3))


def ball(radius: float, centre: tuple[float, float, float] = (0.3, -0.2, 0.7), density: float = 400.0) -> Deposit:
    points = np.array([centre, centre, centre], dtype=np.float64)
    return Deposit("LAD", points, np.full(3, radius), density)


def small_grid(protocol: Protocol) -> Grid:
    pixel = protocol.pixel
    return Grid.from_spacing(
        (11, 40, 40), (protocol.increment, pixel, pixel), (-20 * pixel, -20 * pixel, -5 * protocol.increment)
    )


@pytest.mark.parametrize("radius", [0.5, 1.0, 3.0])
def test_volume_and_mass_of_a_ball(radius: float) -> None:
    exact = 4 / 3 * np.pi * radius**3
    assert ball(radius).volume == pytest.approx(exact, rel=0.02)
    assert ball(radius).mass == pytest.approx(exact * 0.4, rel=0.02)


@pytest.mark.parametrize(("thickness", "increment"), [(3.0, 3.0), (3.0, 1.5), (2.5, 2.5), (1.0, 1.0), (5.0, 5.0)])
def test_partial_volume_keeps_the_volume(thickness: float, increment: float) -> None:
    protocol = Protocol("SIEMENS", thickness=thickness, increment=increment)
    grid = small_grid(protocol)
    share = occupancy(ball(2.0), grid, protocol, AT_REST)
    assert share is not None
    assert share[1].max() <= 1.0 + 1e-6
    assert share[1].sum() * grid.voxel_volume == pytest.approx(ball(2.0).volume, rel=0.03)


def test_a_full_voxel_has_the_hu_of_its_density() -> None:
    protocol = Protocol("SIEMENS")
    grid = small_grid(protocol)
    hu = np.full(grid.shape, 40, dtype=np.float32)
    add_deposits(hu, grid, [ball(5.0)], protocol, AT_REST)
    assert hu.max() == pytest.approx(40 + 400 / 0.8)
    assert calcium_hu(400, 80) / calcium_hu(400, 120) == pytest.approx(177 / 130)


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_blur_and_motion_conserve_mass(kernel: str) -> None:
    protocol = Protocol("SIEMENS", kernel=kernel)
    grid = small_grid(protocol)
    hu = np.zeros(grid.shape, dtype=np.float32)
    add_deposits(hu, grid, [ball(1.5)], protocol, np.array([[-1.0, 0.5, 0.0], [0, 0, 0], [1.0, -0.5, 0.0]]))
    blurred = kernel_blur(hu, grid.spacing[2], *KERNELS[kernel][:2])
    mass = blurred.sum() * grid.voxel_volume * 0.8 / 1000
    assert blurred.max() < 0.95 * hu.max() or kernel == "sharp"
    assert mass == pytest.approx(ball(1.5).mass, rel=0.03)


def test_deposits_outside_the_field_are_ignored() -> None:
    protocol = Protocol("SIEMENS")
    assert occupancy(ball(1.0, (500.0, 0.0, 0.0)), small_grid(protocol), protocol, AT_REST) is None


def test_noise_is_unit_correlated_and_reproducible() -> None:
    first = correlated_noise((4, 128, 128), 0.4, 2.0, 1.0, np.random.default_rng(3))
    second = correlated_noise((4, 128, 128), 0.4, 2.0, 1.0, np.random.default_rng(3))
    np.testing.assert_array_equal(first, second)
    assert first.std() == pytest.approx(1.0, abs=1e-3)
    neighbour = float((first[:, :, 1:] * first[:, :, :-1]).mean())
    assert 0.5 < neighbour < 0.98
    assert abs(float((first[1:] * first[:-1]).mean())) < 0.1
    overlapping = correlated_noise((8, 64, 64), 0.4, 2.0, 2.0, np.random.default_rng(3))
    assert float((overlapping[1:] * overlapping[:-1]).mean()) > 0.2


def test_agatston_takes_the_peak_of_each_slice_and_drops_specks() -> None:
    hu = np.full((3, 10, 10), 40.0)
    labels = np.full(hu.shape, ARTERY_LABELS["LAD"], dtype=np.uint8)
    hu[0, 2:4, 2:4] = 150  # 4 px = 1 mm²: weight 1
    hu[1, 2:4, 2:4] = 400  # weight 4
    hu[2, 0, 0] = 900  # 0.25 mm²: below the smallest lesion
    hu[2, 6, 6] = hu[2, 7, 7] = hu[2, 8, 8] = hu[2, 9, 9] = 130  # touches by corners only: one lesion
    scores = agatston(hu, labels, (3.0, 0.5, 0.5))
    assert scores["LAD"] == pytest.approx(1 * 1 + 1 * 4 + 1 * 1)
    assert agatston(hu, labels, (1.5, 0.5, 0.5))["total"] == pytest.approx(scores["total"] / 2)
    assert agatston(hu, labels, (3.0, 0.5, 0.5), kvp=80)["total"] == pytest.approx(1 * 2)


@pytest.fixture(scope="module")
def calcified(chest: Thorax) -> list[Deposit]:
    return coronary_calcium(chest, np.random.default_rng(1), 300.0)


def test_lesions_lie_in_their_territories_and_apart(chest: Thorax, calcified: list[Deposit]) -> None:
    grid = Grid.from_spacing((90, 80, 90), (2, 2, 2), (-80, -90, -90))
    labels = label_map(chest, grid)
    right = [
        labels[
            tuple(
                np.clip(np.round(grid.patient_to_index(d.points.mean(axis=0))).astype(int), 0, np.array(grid.shape) - 1)
            )
        ]
        == TERRITORY_LABELS[d.site]
        for d in calcified
    ]
    assert np.mean(right) > 0.85
    for i, first in enumerate(calcified):
        for second in calcified[:i]:
            gap = np.linalg.norm(first.points[:, None] - second.points[None], axis=2)
            assert (gap > first.radii[:, None] + second.radii[None]).all()


@pytest.fixture(scope="module")
def quick() -> Protocol:
    return Protocol("SIEMENS", matrix=256, fov=180.0, noise=12.0)


def test_scan_scores_coronary_calcium_only(chest: Thorax, quick: Protocol, calcified: list[Deposit]) -> None:
    scan = simulate_scan(chest, quick, np.random.default_rng(2), calcified)
    assert scan.volume.voxels.dtype == np.int16
    assert scan.truth.agatston is not None
    assert 100 < scan.truth.agatston["total"] < 900
    assert scan.truth.volume_mm3["total"] == pytest.approx(sum(d.volume for d in calcified))
    assert scan.truth.mass_mg["LAD"] == pytest.approx(sum(d.mass for d in calcified if d.site == "LAD"))
    noise = scan.volume.voxels.astype(float) - scan.noise_free.voxels
    middle = noise[:, 96:160, 96:160]
    assert middle.std() == pytest.approx(12.0, rel=0.25)
    heart_blood = scan.noise_free.voxels[scan.noise_free.grid.shape[0] // 2, 118:138, 118:138]
    assert 20 < np.median(heart_blood) < 70
    # The same calcium elsewhere scores nothing.
    elsewhere = [replace(d, site="aortic arch") for d in calcified]
    other = simulate_scan(chest, quick, np.random.default_rng(2), (), elsewhere)
    assert other.truth.agatston == dict.fromkeys((*ARTERIES, "total"), 0.0)
    assert not other.artery_labels.any()


def test_scan_is_reproducible_and_thin_slices_agree_with_thick_ones(chest: Thorax) -> None:
    protocol = Protocol("Philips", matrix=64, fov=96.0, noise=5.0)
    grid = Grid.from_spacing((8, 64, 64), (3.0, 1.5, 1.5), (-25.0, -45.0, -10.0))
    first, second = (simulate_scan(chest, protocol, np.random.default_rng(5), grid=grid) for _ in range(2))
    np.testing.assert_array_equal(first.volume.voxels, second.volume.voxels)
    thin = replace(protocol, thickness=1.0, increment=1.0)
    fine = Grid.from_spacing((24, 64, 64), (1.0, 1.5, 1.5), (-25.0, -45.0, -11.0))
    scan = simulate_scan(chest, thin, np.random.default_rng(5), grid=fine)
    slabs = scan.noise_free.voxels.reshape(8, 3, 64, 64).mean(axis=1)
    difference = np.abs(slabs - first.noise_free.voxels)
    assert np.median(difference) < 5  # HU; lung texture differs, organs do not


def test_contrast_and_unknown_voltage_have_no_agatston_truth(chest: Thorax, calcified: list[Deposit]) -> None:
    grid = Grid.from_spacing((6, 64, 64), (3.0, 1.5, 1.5), (-25.0, -45.0, -10.0))
    for protocol in (
        Protocol("SIEMENS", matrix=64, fov=96.0, contrast=True),
        Protocol("SIEMENS", matrix=64, fov=96.0, kvp=110),
    ):
        assert simulate_scan(chest, protocol, np.random.default_rng(0), calcified, grid=grid).truth.agatston is None


def test_burden_rises_with_percentile_age_and_is_often_zero() -> None:
    people = [sample_participant(np.random.default_rng([9, i])) for i in range(300)]
    scores = np.array([target_score(p) for p in people])
    assert 0.25 < (scores == 0).mean() < 0.65
    for low, high in ((0, 10), (10, 100), (100, 400), (400, np.inf)):
        assert ((scores > low) & (scores <= high)).any()
    person = replace(people[0], sex="M", age=70, calcium_percentile=0.5)
    assert target_score(person) == pytest.approx(145, rel=0.01)  # MESA Table 2, SPEC §1.4
    assert target_score(replace(person, sex="F")) == pytest.approx(13, rel=0.01)


@pytest.mark.parametrize("person", range(3))
def test_nodes_and_granulomas_lie_outside_the_heart(person: int) -> None:
    chest = thorax(sample_participant(np.random.default_rng(person)))
    grid = Grid.from_spacing((130, 90, 120), (3, 3, 3), (-180, -130, -190))
    in_heart = ~np.isin(label_map(chest, grid), [TERRITORY_LABELS[name] for name in ("background", "aorta", "bone")])
    found = 0
    for seed in range(60):
        for deposit in other_calcium(chest, [], np.random.default_rng(seed)):
            if deposit.site in ("lymph node", "lung granuloma"):
                found += 1
                assert not in_heart[tuple(np.round(grid.patient_to_index(deposit.points)).astype(int).T)].any()
    assert found >= 20


def test_other_calcium_keeps_away_from_coronary_calcium(chest: Thorax, calcified: list[Deposit]) -> None:
    old = replace(chest, participant=replace(chest.participant, age=85))
    sites = set()
    for seed in range(12):
        for deposit in other_calcium(old, calcified, np.random.default_rng(seed)):
            sites.add(deposit.site)
            assert all(np.linalg.norm(deposit.points[:, None] - c.points[None], axis=2).min() > 2 for c in calcified)
    assert {"aortic valve", "mitral annulus", "aortic arch", "descending aorta"} <= sites
    assert not sites & set(ARTERIES)


def test_protocols_cover_the_heart_or_the_chest(chest: Thorax) -> None:
    rng = np.random.default_rng(0)
    low, high = chest.deformation.to_patient(np.stack(chest.heart.bounds()))
    for protocol in [gated_protocol(rng) for _ in range(5)] + [chest_protocol(rng) for _ in range(5)]:
        grid = scan_grid(chest, protocol, rng)
        top = grid.index_to_patient((grid.shape[0] - 1, 0, 0))[2]
        assert grid.origin[2] < low[2]
        assert top > high[2] - protocol.increment
        assert grid.origin[0] < low[0]
        assert grid.origin[0] + protocol.fov > high[0]

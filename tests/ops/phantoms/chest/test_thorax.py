from __future__ import annotations

import numpy as np
import pytest

from ops.phantoms.chest.thorax import Thorax, label_map, maps, thorax, tissue_map
from ops.phantoms.labels import ARTERIES, TERRITORY_LABELS, Tissue
from ops.phantoms.participant import sample_participant
from ops.volume import Grid


def centre_of(mask: np.ndarray, grid: Grid) -> np.ndarray:
    return np.asarray(grid.index_to_patient(np.argwhere(mask).mean(axis=0)))


def test_same_participant_same_chest(chest: Thorax, chest_grid: Grid) -> None:
    again = thorax(chest.participant)
    for first, second in zip(maps(chest, chest_grid), maps(again, chest_grid), strict=True):
        np.testing.assert_array_equal(first, second)


def test_organs_lie_where_a_supine_patient_has_them(chest: Thorax, chest_grid: Grid) -> None:
    labels, tissue = maps(chest, chest_grid)
    where = {
        t: centre_of(tissue == t, chest_grid) for t in (Tissue.LIVER, Tissue.STOMACH, Tissue.BLOOD_LV, Tissue.BLOOD_RV)
    }
    heart = centre_of(labels == TERRITORY_LABELS["heart"], chest_grid)
    assert where[Tissue.LIVER][0] < 0 < where[Tissue.STOMACH][0]  # +x is the patient's left
    assert where[Tissue.LIVER][2] < heart[2]
    assert where[Tissue.BLOOD_LV][0] > where[Tissue.BLOOD_RV][0]
    assert where[Tissue.BLOOD_RV][1] < where[Tissue.BLOOD_LV][1]  # the right ventricle lies in front: -y
    assert centre_of(tissue == Tissue.SPINAL_CORD, chest_grid)[1] > heart[1] + 40
    gas, fluid = (centre_of(tissue == t, chest_grid)[1] for t in (Tissue.STOMACH_GAS, Tissue.STOMACH))
    assert gas < fluid


def test_territories_follow_the_anatomy(chest: Thorax, chest_grid: Grid) -> None:
    labels = label_map(chest, chest_grid)
    assert set(np.unique(labels)) == set(TERRITORY_LABELS.values())
    centre = {name: centre_of(labels == TERRITORY_LABELS[name], chest_grid) for name in ("LAD", "LCX", "RCA", "heart")}
    assert centre["LAD"][1] < centre["heart"][1] < centre["LCX"][1]
    assert centre["RCA"][0] < centre["heart"][0] < centre["LCX"][0]


@pytest.mark.parametrize("seed", range(6))
def test_arteries_run_on_the_heart_not_through_it(seed: int) -> None:
    person = thorax(sample_participant(np.random.default_rng(seed)))
    names = {b.name for b in person.branches}
    assert {"LM", "LAD", "LCX", "RCA", "PDA"} <= names
    assert {b.artery for b in person.branches} == set(ARTERIES)
    for branch in person.branches:
        template = branch.points + person.deformation.displacement(branch.points)
        height = person.heart.surface(tuple(template.T.astype(np.float32)))
        assert height.min() > -5.0, branch.name
        assert np.median(height) < 9.0, branch.name
        assert 5.0 < np.linalg.norm(np.diff(branch.points, axis=0), axis=1).sum() < 250.0


@pytest.mark.parametrize("seed", [0, 1])
def test_size_of_the_heart_follows_the_participant(seed: int) -> None:
    person = sample_participant(np.random.default_rng(seed))
    grid = Grid.from_spacing((70, 70, 70), (3, 3, 3), (-85, -105, -105))
    chest = thorax(person)
    measured = np.isin(label_map(chest, grid), [1, 2, 3, 4, 5, 7]).sum() * 27 / 1000
    assert measured == pytest.approx(person.heart_volume, rel=0.4)


def test_any_grid_shows_the_same_chest(chest: Thorax) -> None:
    up = Grid.from_spacing((20, 30, 30), (6, 6, 6), (-80, -90, -60))
    affine = np.array(up.affine)
    affine[:3, 0] *= -1
    affine[:3, 3] += up.affine[:3, 0] * 19
    down = Grid(up.shape, affine)
    np.testing.assert_array_equal(tissue_map(chest, up), tissue_map(chest, down)[::-1])


def test_grid_away_from_the_chest_is_empty_and_oblique_is_refused(chest: Thorax) -> None:
    far = Grid.from_spacing((4, 8, 8), (3, 3, 3), (900, 900, 0))
    assert not label_map(chest, far).any()
    affine = np.eye(4)[:, [2, 1, 0, 3]]
    affine[0, 1] = 0.2
    with pytest.raises(ValueError, match="axis-aligned"):
        tissue_map(chest, Grid((4, 4, 4), affine))

"""The image-only search on simulated heads, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ops.diseases.haemorrhage.detection import Detection, DetectionPolicy, find_haemorrhage
from ops.diseases.haemorrhage.head_ct import intracranial_cavity, symmetry_plane
from ops.measure.errors import NotEvaluableError
from ops.phantoms.head.anatomy import Head, head_grid, sample_head
from ops.phantoms.head.bleeds import Bleed, Extradural, HeadScan, Intraparenchymal, simulate_head_ct
from ops.phantoms.participant import sample_participant
from ops.volume import Grid, Volume

SPACING = (5.0, 0.9, 0.9)
CLOT = Intraparenchymal(np.array([[30.0, -5.0, 12.0]]), np.array([[14.0, 18.0, 12.0]]))
LENS = Extradural("R", 10.0, 25.0, 34.0, 18.0)


@pytest.fixture(scope="module")
def head() -> Head:
    rng = np.random.default_rng(11)
    return sample_head(sample_participant(rng), rng)


def scan(head: Head, *bleeds: Bleed) -> HeadScan:
    return simulate_head_ct(head, bleeds, head_grid(head, SPACING, 256), np.random.default_rng(0))


@pytest.fixture(scope="module")
def healthy(head: Head) -> Volume:
    return scan(head).ct


@pytest.fixture(scope="module")
def bleeding(head: Head) -> HeadScan:
    return scan(head, CLOT, LENS)


@pytest.fixture(scope="module")
def found(bleeding: HeadScan) -> Detection:
    return find_haemorrhage(bleeding.ct)


def test_hardly_anything_in_healthy_heads() -> None:
    """Falx, tentorium, sinuses, calcified pineal gland and the skull's sloping floor are not blood."""
    n = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        found = find_haemorrhage(scan(sample_head(sample_participant(rng), rng)).ct)
        n += len(found.candidates)
        assert 1000 < found.cavity_ml < 1800
    assert n <= 1


def test_finds_two_haematomas(bleeding: HeadScan, found: Detection) -> None:
    names = ["EDH", "SDH", "SAH", "IPH", "IVH"]
    hit = set()
    for candidate in found.candidates:
        voxels = bleeding.labels.voxels[found.labels.voxels == candidate.label]
        if np.mean(voxels > 0) < 0.5:
            continue
        name = names[int(np.bincount(voxels).argmax()) - 1]
        hit.add(name)
        assert candidate.volume_ml == pytest.approx(bleeding.volumes_ml[name], rel=0.3)
        assert candidate.mean_hu == pytest.approx(66, abs=6)
        assert 10 < candidate.thickness_mm < 28
    assert hit == {"EDH", "IPH"}
    assert len(found.candidates) <= 3


def test_candidates_lie_where_the_labels_do(found: Detection) -> None:
    for candidate in found.candidates:
        centre = found.labels.grid.index_to_patient(np.argwhere(found.labels.voxels == candidate.label).mean(axis=0))
        assert np.linalg.norm(centre - candidate.centre) < 3
        count = np.count_nonzero(found.labels.voxels == candidate.label)
        assert candidate.volume_ml == pytest.approx(count * found.labels.grid.voxel_volume / 1000)


def test_orientation_does_not_matter(bleeding: HeadScan, found: Detection) -> None:
    """Feet first and mirrored storage: the same candidates at the same places of the patient."""
    ct = bleeding.ct
    nz, ny, nx = ct.grid.shape
    affine = ct.grid.affine.copy()
    affine[:3, 3] = ct.grid.index_to_patient((nz - 1, ny - 1, nx - 1))
    affine[:3, :3] *= -1
    again = find_haemorrhage(replace(ct, voxels=ct.voxels[::-1, ::-1, ::-1], grid=Grid(ct.grid.shape, affine)))
    assert len(again.candidates) == len(found.candidates)
    for one, other in zip(again.candidates, found.candidates, strict=True):
        assert one.volume_ml == pytest.approx(other.volume_ml, rel=0.1)
        assert np.linalg.norm(np.subtract(one.centre, other.centre)) < 3


def test_calcification_is_not_blood(healthy: Volume, head: Head) -> None:
    k, j, i = np.rint(healthy.grid.patient_to_index(head.to_patient((30, -5, 12)))).astype(int)
    voxels = healthy.voxels.copy()
    for hu, n in ((68, 1), (180, 0)):
        voxels[k - 1 : k + 2, j - 8 : j + 9, i - 8 : i + 9] = hu
        assert len(find_haemorrhage(replace(healthy, voxels=voxels)).candidates) == n


def test_policy_moves_the_threshold(bleeding: HeadScan) -> None:
    assert len(find_haemorrhage(bleeding.ct, policy=DetectionPolicy(min_volume_ml=1000.0)).candidates) == 0


def test_symmetry_plane_ignores_a_mass(bleeding: HeadScan, head: Head) -> None:
    cavity = intracranial_cavity(bleeding.ct)
    plane = symmetry_plane(cavity)
    for point in ((0, -40, 25), (0, 0, 25), (0, 40, 25)):
        k, j, i = cavity.grid.patient_to_index(head.to_patient(point))
        assert plane @ (1, j, k) == pytest.approx(i, abs=2.5)


def _bad(ct: Volume) -> dict[str, tuple[Volume, str, str]]:
    hole = ct.voxels.astype(np.float32)
    hole[5, 5, 5] = np.nan
    sheared = ct.grid.affine.copy()
    sheared[1, 0] += 2
    return {
        "modality": (ct, "MR", "wrong_modality"),
        "units": (replace(ct, units="a.u."), "CT", "wrong_units"),
        "nan": (replace(ct, voxels=hole), "CT", "not_finite"),
        "tilt": (replace(ct, grid=Grid(ct.grid.shape, sheared)), "CT", "gantry_tilt"),
        "air": (replace(ct, voxels=np.full_like(ct.voxels, -1000)), "CT", "no_intracranial_cavity"),
        "one slice": (ct.crop((20, 0, 0), (21, *ct.grid.shape[1:])), "CT", "no_intracranial_cavity"),
        "coronal": (replace(ct, grid=Grid(ct.grid.shape, ct.grid.affine[:, [1, 0, 2, 3]])), "CT", "not_axial"),
    }


@pytest.mark.parametrize("kind", ["modality", "units", "nan", "tilt", "air", "one slice", "coronal"])
def test_refuses(healthy: Volume, kind: str) -> None:
    ct, modality, reason = _bad(healthy)[kind]
    with pytest.raises(NotEvaluableError) as error:
        find_haemorrhage(ct, modality)
    assert error.value.reason == reason

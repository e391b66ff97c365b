from __future__ import annotations

import numpy as np
import pytest

from ops.phantoms.lattice import centred_grid
from ops.phantoms.liver import abdomen as phantom
from ops.phantoms.liver.abdomen import (
    Body,
    UpperAbdomen,
    bodies,
    label_map,
    paint,
    sample_abdomen,
    sample_study,
    scan_grid,
)
from ops.phantoms.liver.shape import Liver, Spleen, fit_liver, select, true_volumes
from ops.phantoms.participant import sample_participant
from ops.volume import Grid

FAR = np.full(3, 400.0)


@pytest.fixture(scope="module")
def abdomen() -> UpperAbdomen:
    rng = np.random.default_rng(7)
    return sample_abdomen(sample_participant(rng), rng, stage=2)


def test_volumes_do_not_depend_on_the_lattice(abdomen: UpperAbdomen) -> None:
    coarse = true_volumes(abdomen.liver, abdomen.spleen, 2.0)
    fine = true_volumes(abdomen.liver, abdomen.spleen, 1.5)
    assert coarse == {name: pytest.approx(volume, abs=0.5) for name, volume in fine.items()}
    assert sum(coarse.values()) == pytest.approx(sum(fine.values()), rel=5e-4)


@pytest.mark.parametrize(("volume", "lsvr"), [(1500.0, 0.25), (1100.0, 0.6)])
def test_fitted_liver_has_the_size_and_ratio_asked_for(volume: float, lsvr: float) -> None:
    volumes = true_volumes(fit_liver(volume, lsvr), Spleen.of_volume(250.0, (100.0, 40.0, 30.0)), 2.0)
    spleen = volumes.pop("spleen")
    segments = list(volumes.values())
    assert sum(segments) == pytest.approx(volume, rel=0.01)
    assert sum(segments[:3]) / sum(segments[3:]) == pytest.approx(lsvr, rel=0.05)
    assert spleen == pytest.approx(250.0, rel=0.02)
    assert min(segments) > 10


def test_surface_deviates_by_two_over_pi_of_its_amplitude_in_the_axial_plane() -> None:
    smooth, nodular = Liver(0.9), Liver(0.9, amplitude_mm=0.5, period_mm=9.0)
    x = np.linspace(-90, -10, 3000, dtype=np.float32)
    z = np.full_like(x, 20)
    low, high = np.full_like(x, -110), np.full_like(x, -30)
    edges = []
    for liver in (smooth, nodular):
        a, b = low.copy(), high.copy()
        for _ in range(30):
            middle = (a + b) / 2
            inside = liver.distance((x, middle, z)) < 0
            a, b = np.where(inside, a, middle), np.where(inside, middle, b)
        edges.append((a + b) / 2)
    slope = np.gradient(edges[0], x)
    across = (edges[1] - edges[0]) / np.hypot(1, slope)
    assert 10 * np.abs(across).mean() == pytest.approx(nodular.nodularity, rel=0.03)
    assert nodular.nodularity == pytest.approx(20 * 0.5 / np.pi)


def test_labels_agree_with_the_true_volumes(abdomen: UpperAbdomen) -> None:
    low, high = np.minimum(abdomen.liver.bounds()[0], abdomen.spleen.bounds()[0]), abdomen.spleen.bounds()[1]
    high = np.maximum(high, abdomen.liver.bounds()[1])
    grid = centred_grid((low + high) / 2, high - low, (3.0, 1.9, 1.9))
    counts = np.bincount(label_map(abdomen, grid).voxels.ravel(), minlength=10)[1:] * grid.voxel_volume / 1000
    truth = abdomen.truth(2.0)
    assert counts[:8].sum() == pytest.approx(truth["liver_volume"], rel=5e-3)
    assert counts[:3].sum() / counts[3:8].sum() == pytest.approx(truth["lsvr"], rel=0.02)
    assert counts[8] == pytest.approx(truth["spleen_volume"], rel=0.01)


def test_grids_of_any_orientation_show_the_same(abdomen: UpperAbdomen) -> None:
    grid = centred_grid((-40, 0, 10), (120, 90, 60), (1.2, 1.2, 1.2))
    turned = Grid(tuple(np.array(grid.shape)[[2, 0, 1]]), grid.affine[:, [2, 0, 1, 3]])
    things = bodies(abdomen)
    np.testing.assert_allclose(paint(things, turned), paint(things, grid).transpose(2, 0, 1), atol=0.1)
    labels = label_map(abdomen, grid).voxels.transpose(2, 0, 1)
    assert (label_map(abdomen, turned).voxels == labels).mean() > 0.9999


def test_thick_slices_are_means_of_thin_ones() -> None:
    def plane(p: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        return np.asarray(p[2] - np.float32(0.3) + 0 * (p[0] + p[1]), dtype=np.float32)

    grid = centred_grid((0, 0, 0), (8, 8, 15), (5.0, 1.0, 1.0))
    hu = paint([Body(plane, 100.0, -FAR, FAR)], grid)[:, 2, 2]
    # Slices end at -2.5 and 2.5: 0.56 of the middle one lies below 0.3.
    np.testing.assert_allclose(hu, [100, -1000 + 0.56 * 1100, -1000], atol=20)


def test_lesions_find_room_and_are_painted(abdomen: UpperAbdomen) -> None:
    radii = (8.0, 6.0, 12.0)
    centres = abdomen.free_positions(radii, np.random.default_rng(1))
    assert centres.shape == (3, 3)
    for centre, radius in zip(centres, radii, strict=True):
        p = tuple(np.array([c], dtype=np.float32) for c in centre)
        assert abdomen.liver.distance(p)[0] < -radius
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1)
    assert apart[0, 1] > 14
    assert apart[0, 2] > 20

    def sphere(p: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        d = [axis - np.float32(c) for axis, c in zip(p, centres[0], strict=True)]
        return np.asarray(np.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2) - 8, dtype=np.float32)

    lesion = Body(sphere, 30.0, centres[0] - 8, centres[0] + 8)
    grid = centred_grid(centres[0], (30, 30, 30), (2.0, 2.0, 2.0))
    with_lesion = paint([*bodies(abdomen), lesion], grid)
    darker = paint(bodies(abdomen), grid) - with_lesion
    volume = darker.sum() / (abdomen.liver_hu - 30) * grid.voxel_volume
    assert volume == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.03)
    with pytest.raises(ValueError, match="no room"):
        abdomen.free_positions([90.0], np.random.default_rng(1))


def test_stages_differ_as_published() -> None:
    rng = np.random.default_rng(3)
    person = sample_participant(rng)
    early, late = ([sample_abdomen(person, rng, stage) for _ in range(4)] for stage in (0, 4))
    assert np.mean([a.liver.left for a in late]) > 1.3 * np.mean([a.liver.left for a in early])
    assert np.mean([a.spleen.scale for a in late]) > 1.2 * np.mean([a.spleen.scale for a in early])
    assert np.mean([a.liver.nodularity for a in late]) > np.mean([a.liver.nodularity for a in early])


def test_study_has_an_image_its_labels_and_its_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom, "scan_grid", lambda abdomen, _: scan_grid(abdomen, 10.0, 96))
    study = sample_study(np.random.default_rng(4))
    (series,) = study.series
    ct, labels = series.stacks[0].volume, study.labels["ct"]
    assert (series.modality, series.encoding, ct.voxels.dtype) == ("CT", "classic", np.dtype(np.int16))
    assert ("ContrastBolusAgent" in series.attributes) == (study.truth["phase"] == "portal_venous")
    assert labels.grid.matches(ct.grid)
    assert set(np.unique(labels.voxels)) == set(range(10))
    for label, name in ((labels.voxels == 9, "spleen"), ((labels.voxels > 0) & (labels.voxels < 9), "liver")):
        assert np.median(ct.voxels[label]) == pytest.approx(study.truth[f"{name}_attenuation"], abs=6)
    # Air around, lung at the top, fat between the organs.
    assert ct.voxels[0, 0, 0] < -900
    assert (ct.voxels[-1] < -700).mean() > (ct.voxels[0] < -700).mean()


def test_select_takes_points_that_broadcast() -> None:
    x, y, z = np.arange(3.0)[None, None, :], np.arange(2.0)[None, :, None], np.arange(2.0)[:, None, None]
    where = np.zeros((2, 2, 3), dtype=bool)
    where[1, 0, 2] = True
    assert [float(axis[0]) for axis in select((x, y, z), where)] == [2.0, 0.0, 1.0]

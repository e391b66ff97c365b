from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from ops.diseases.aneurysm.measurement import measure
from ops.phantoms.head.anatomy import sample_head
from ops.phantoms.head.cerebral_arteries import SITES, sample_circle, sample_sites
from ops.phantoms.head.circle_of_willis import simulate_cta, simulate_tof, slab_grid
from ops.phantoms.head.saccular_aneurysm import SaccularAneurysm
from ops.phantoms.lattice import centred_grid
from ops.phantoms.participant import sample_participant
from ops.phantoms.sdf import rotation


def ball(radius: float, cut: float) -> SaccularAneurysm:
    turn = rotation(20, -30, 10)
    return SaccularAneurysm(np.array([1.0, 2, 3]), turn[2], turn, (radius, radius, radius), cut)


@pytest.mark.parametrize("cut", [0.0, 0.4, 0.8])
def test_truth_of_a_ball_is_the_closed_form(cut: float) -> None:
    """Cap of radius R and height h = R (1 + cut) (SPEC §3.3)."""
    truth, height = ball(4.0, cut).truth(), 4 * (1 + cut)
    assert truth["height"] == pytest.approx(height, rel=1e-3)
    assert truth["neck_diameter_mean_radius"] == pytest.approx(2 * math.sqrt(height * (8 - height)), rel=1e-3)
    assert truth["volume"] == pytest.approx(math.pi * height**2 * (12 - height) / 3, rel=1e-3)
    assert truth["surface_area"] == pytest.approx(8 * math.pi * height, rel=1e-3)
    assert truth["diameter_section"] == pytest.approx(8, rel=1e-3)
    assert truth["undulation_index"] == pytest.approx(0, abs=1e-9)


def test_voxels_of_a_sac_have_its_volume() -> None:
    sac = ball(4.0, 0.4)
    grid = centred_grid(sac.centre, (12, 12, 12), (0.2, 0.2, 0.2))
    points = grid.index_to_patient(np.moveaxis(np.indices(grid.shape), 0, -1)).astype(np.float32)
    inside = sac.distance((points[..., 0], points[..., 1], points[..., 2])) < 0
    assert inside.sum() * grid.voxel_volume == pytest.approx(sac.truth()["volume"], rel=0.01)


@pytest.mark.parametrize("site", range(len(SITES)))
def test_every_site_bears_a_sac_on_one_connected_tree(site: int) -> None:
    rng = np.random.default_rng(site)
    head = sample_head(sample_participant(rng), rng, max_tilt=5)
    circle = sample_circle(head, rng, [SITES[site]])
    assert circle.aneurysms
    grid = slab_grid(head, (1.0, 0.8, 0.8), 256)
    labels = circle.labels(grid, circle.distance(grid)).voxels
    assert set(np.unique(labels)) == {0, 1, 2}
    pieces, _ = ndimage.label(labels > 0, structure=np.ones((3, 3, 3)))
    touching = pieces[ndimage.binary_dilation(labels == 2) & (labels == 1)]
    assert len(touching), "the sac adjoins an artery"
    assert set(np.unique(touching)) == {int(pieces[labels == 2][0])}


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_arteries_are_the_brightest_soft_tissue(modality: str) -> None:
    rng = np.random.default_rng(4)
    head = sample_head(sample_participant(rng), rng, max_tilt=5)
    circle = sample_circle(head, rng, sample_sites(rng, 1))
    grid = slab_grid(head, (2.0, 1.2, 1.2), 200)
    angiogram = (simulate_tof if modality == "MR" else simulate_cta)(head, circle, grid, rng)
    image, labels = angiogram.image.voxels, angiogram.labels.voxels
    assert image.dtype == np.int16
    assert angiogram.image.units == ("a.u." if modality == "MR" else "HU")
    inner = ndimage.binary_erosion(labels > 0)
    around = ndimage.binary_dilation(labels > 0, iterations=4) & ~ndimage.binary_dilation(labels > 0, iterations=2)
    assert np.median(image[inner]) > np.median(image[around]) + 100


def test_the_truth_is_what_is_measured_on_its_labels() -> None:
    rng = np.random.default_rng(8)
    head = sample_head(sample_participant(rng), rng, max_tilt=5)
    circle = sample_circle(head, rng, sample_sites(rng, 1))
    truth = circle.aneurysms[0].truth()
    grid = centred_grid(truth["centre"], (30, 30, 30), (0.3, 0.3, 0.3))
    record = measure(circle.labels(grid, circle.distance(grid)))
    assert record["volume"] == pytest.approx(truth["volume"], rel=0.03)
    assert record["height"] == pytest.approx(truth["height"], rel=0.05)

"""Simulated training patches: labels follow the image, fields of view end, bodies without a heart have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ops.phantoms.labels import TERRITORY_LABELS, Tissue
from ops.training.anatomy import HEART_CLASSES, HU_BANDS, Anatomy, random_hounsfield
from ops.training.negatives import KINDS
from ops.training.randomise import PADDING_HU, gaussian_blur, random_geometry, random_patch, rotation_zyx

SHAPE = (16, 24, 24)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    """A ball of heart in lung."""
    axes = np.meshgrid(*[np.arange(60) * 3.0 - 88.5] * 3, indexing="ij")
    ball = sum(a**2 for a in axes) < 50.0**2
    tissues = np.where(ball, Tissue.BLOOD_LV, Tissue.LUNG).astype(np.uint8)
    return Anatomy(tissues, ball.astype(np.uint8), 3.0)


def test_every_tissue_has_a_band():
    assert set(HU_BANDS) == set(Tissue)


def test_hounsfield_values_stay_in_their_bands_unless_enhanced():
    rng = np.random.default_rng(0)
    for _ in range(20):
        table = random_hounsfield(rng)
        low, high = HU_BANDS[Tissue.FAT]
        assert low <= table[Tissue.FAT] <= high
    enhanced = [random_hounsfield(rng)[Tissue.BLOOD_LV] > 100 for _ in range(300)]
    assert 0.05 < np.mean(enhanced) < 0.25


def test_labels_follow_the_image(anatomy):
    """Heart is brighter than lung wherever the two are labelled, whatever was drawn."""
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(12):
        image, labels = random_patch(anatomy, SHAPE, 6.0, rng)
        assert image.shape == labels.shape == SHAPE
        assert torch.isfinite(image).all()
        heart, lung = image[labels == 1], image[(labels == 0) & (image > PADDING_HU)]
        if min(len(heart), len(lung)) > 100:
            seen += 1
            assert heart.median() > lung.median() + 200
    assert seen >= 4


def test_patches_repeat_with_their_seed_and_differ_without(anatomy):
    first, again, other = (random_patch(anatomy, SHAPE, 6.0, np.random.default_rng(s))[0] for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_field_of_view_ends_with_padding_and_background(anatomy):
    rng = np.random.default_rng(0)
    cut = 0
    for _ in range(10):
        image, labels = random_patch(anatomy, (24, 24, 24), 12.0, rng)
        outside = image == PADDING_HU
        cut += int(outside.any())
        assert (labels[outside] == 0).all()
    assert cut >= 5


def test_gated_patches_look_at_the_heart(anatomy):
    rng = np.random.default_rng(0)
    centres = np.array([random_geometry(anatomy, np.array([144.0, 240, 240]), rng).centre for _ in range(60)])
    near = np.linalg.norm(centres - 88.5, axis=1) < 50
    assert 0.5 < near.mean() < 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_bodies_without_a_heart_have_no_heart(kind):
    body = kind(np.random.default_rng(0), 5.0)
    assert not np.isin(body.labels, HEART_CLASSES).any()
    assert body.heart_box is None
    assert len(np.unique(body.tissues)) > 1
    assert set(np.unique(body.labels)) <= {0, TERRITORY_LABELS["bone"], TERRITORY_LABELS["aorta"]}


def test_blur_keeps_the_mean_and_has_its_sigma():
    impulse = torch.zeros(21, 21, 21)
    impulse[10, 10, 10] = 1
    out = gaussian_blur(impulse, (1.0, 0.0, 2.0))
    assert out.sum() == pytest.approx(1, abs=1e-5)
    offsets = torch.arange(21.0) - 10
    assert (out.sum(dim=(1, 2)) * offsets**2).sum() == pytest.approx(1.0, abs=0.1)
    assert (out.sum(dim=(0, 1)) * offsets**2).sum() == pytest.approx(4.0, abs=0.4)
    assert (out.sum(dim=(0, 2)) > 0).sum() == 1


def test_rotation_keeps_lengths():
    turn = rotation_zyx(np.array([0.3, -0.2, 0.1]))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)

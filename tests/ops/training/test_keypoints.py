"""Views of simulated heads whose landmarks are known, and a network that learns to find them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ops.phantoms.head.anatomy import HeadTissue
from ops.registration.keypoints import SIDE, SPACING_MM
from ops.training.keypoints import (
    EARLY_TURN,
    INTRACRANIAL,
    KEYPOINTS,
    WIDTHS,
    KeypointLearner,
    LabelledHead,
    head_grid,
    image_grid,
    keypoint_loss,
    largest_turn,
    random_contrast,
    random_image,
    random_rotation,
    random_strain,
    random_view,
    random_views,
    simulated_head,
    template_landmarks,
    train_keypoints,
)
from ops.training.network import UNet3d, count_parameters


@pytest.fixture(scope="module")
def head() -> LabelledHead:
    return simulated_head(1)


def test_a_head_lies_upright_in_its_lattice(head):
    assert head.labels.shape == head_grid().shape
    points = head_grid().index_to_patient(np.argwhere(np.isin(head.labels, INTRACRANIAL)))
    assert np.abs(points.mean(0)).max() < 25
    eyes = head_grid().index_to_patient(np.argwhere(head.labels == HeadTissue.EYE))
    assert eyes[:, 1].max() < -50, "in front"
    np.testing.assert_array_equal(head.labels, simulated_head(1).labels)
    assert head.landmarks.shape == (KEYPOINTS, 3)


def test_the_means_of_voxels_lie_where_the_image_lattice_says():
    coarse, fine = image_grid(), head_grid()
    for index in ((0, 0, 0), (3, 5, 7)):
        block = np.multiply(index, 3) + 1
        np.testing.assert_allclose(coarse.index_to_patient(index), fine.index_to_patient(block))


def test_landmarks_spread_over_all_directions():
    offsets = template_landmarks() - template_landmarks().mean(0)
    assert np.linalg.svd(offsets, compute_uv=False)[-1] > 100
    assert np.linalg.norm(offsets, axis=1).min() > 50


def test_contrasts_differ_and_air_is_darkest():
    rng = np.random.default_rng(0)
    contrasts = np.stack([random_contrast(rng) for _ in range(200)])
    assert contrasts.min() >= 0
    assert contrasts.max() < 1.3
    assert (contrasts[:, HeadTissue.AIR] == contrasts.min(1)).all()
    stripped = (contrasts[:, HeadTissue.BONE] == 0) & (contrasts[:, HeadTissue.FAT] == 0)
    assert 20 < stripped.sum() < 80
    white_is_brighter = contrasts[:, HeadTissue.WHITE] > contrasts[:, HeadTissue.GREY]
    assert 40 < white_is_brighter.sum() < 160


@pytest.mark.parametrize("largest", [0.5, 2.0, math.pi])
def test_rotations_are_proper_and_no_larger_than_asked(largest):
    rng = np.random.default_rng(0)
    rotations = np.stack([random_rotation(largest, rng) for _ in range(300)])
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (300, 3, 3)), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    angles = np.arccos(np.clip((np.trace(rotations, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert 0.8 * largest < angles.max() <= largest + 1e-9


def test_strains_neither_mirror_nor_turn():
    rng = np.random.default_rng(0)
    for _ in range(50):
        strain = random_strain(rng)
        np.testing.assert_allclose(strain, strain.T)
        assert np.linalg.eigvalsh(strain).min() > 0.4


def test_turns_grow_with_the_training():
    assert largest_turn(0) == EARLY_TURN
    assert largest_turn(0.3) == pytest.approx(2.1, abs=0.1)
    assert largest_turn(0.5) == largest_turn(1) == math.pi


def test_a_view_shows_what_lies_at_its_landmarks(head):
    """A head of eyes alone, and a landmark in the left one: it is found where the view is bright."""
    eye = head_grid().index_to_patient(np.argwhere(head.labels == HeadTissue.EYE))
    left = eye[eye[:, 0] > 0]
    labelled = LabelledHead(head.labels, np.broadcast_to(left.mean(0), (KEYPOINTS, 3)))
    image = torch.nn.functional.avg_pool3d(
        torch.from_numpy((head.labels == HeadTissue.EYE).astype(np.float32))[None, None], 3
    )
    for seed in range(5):
        view, landmarks = random_view(image, labelled, math.pi, np.random.default_rng(seed))
        near = tuple(slice(max(0, int(c) - 1), int(c) + 3) for c in landmarks[0])
        assert view[near].max() > 0.5 * view.max()


def test_views_are_what_the_network_is_made_for(head):
    views = random_views([head], 4, math.pi, np.random.default_rng(0))
    assert views.images.shape == (4, 1, SIDE, SIDE, SIDE)
    assert views.images.dtype == torch.float32
    assert views.images.min() >= 0
    assert views.images.max() <= 1
    inside = ((views.landmarks > 0) & (views.landmarks < SIDE - 1)).all(2)
    assert inside.float().mean() > 0.8
    assert SIDE * SPACING_MM == 240
    assert random_image(head, np.random.default_rng(0)).shape == (1, 1, *image_grid().shape)


def test_loss_is_zero_at_the_landmarks_and_counts_coherent_errors_twice():
    landmarks = torch.from_numpy(template_landmarks()).float()[None] / SPACING_MM
    assert keypoint_loss(landmarks, landmarks) == pytest.approx(0, abs=1e-4)
    shifted = landmarks + torch.tensor([1.0, 0, 0])
    assert keypoint_loss(shifted, landmarks) == pytest.approx(2, rel=1e-4)
    scattered = landmarks + torch.randn(landmarks.shape, generator=torch.Generator().manual_seed(0)) / 3**0.5
    assert keypoint_loss(scattered, landmarks) < 2.2


def test_training_lowers_the_loss(head):
    torch.manual_seed(0)
    learner = KeypointLearner(UNet3d(KEYPOINTS, (4, 8)), autocast=False)
    views = random_views([head], 2, 0.2, np.random.default_rng(0))
    losses = [learner.step(views.images, views.landmarks, 0.2) for _ in range(30)]
    assert losses[-1] < 0.95 * losses[0]


def test_the_loop_ends_on_time_with_turns_of_every_size(head):
    seen = []
    learner = train_keypoints([head], 0.01, 0, lambda _, loss, progress: seen.append((progress, loss)), widths=(2, 4))
    assert learner.steps == len(seen) > 2
    assert seen == sorted(seen, key=lambda step: step[0])
    assert seen[-1][0] < 1


def test_the_network_is_small():
    assert count_parameters(UNet3d(KEYPOINTS, WIDTHS)) < 240_000
    assert SIDE % UNet3d(KEYPOINTS, WIDTHS).stride == 0

"""Self-similarity context: twelve pairs, blind to brightness, sharp in place."""

from __future__ import annotations

import numpy as np
import torch

from ops.registration.self_similarity import DISTANCE, describe, neighbour_pairs
from ops.registration.similarity import Metric, cost
from tests.ops.registration.blobs import image, make_grid

ANATOMY = torch.from_numpy(image(make_grid(), count=60).voxels)[None, None] / 3000
EVERYWHERE = torch.ones_like(ANATOMY)


def test_twelve_pairs_of_neighbours_that_are_not_opposite():
    pairs = neighbour_pairs()
    assert len({frozenset(pair) for pair in pairs}) == 12
    lengths = {float(np.linalg.norm(np.subtract(*pair))) for pair in pairs}
    np.testing.assert_allclose(list(lengths), np.sqrt(2) * DISTANCE)


def test_the_most_alike_pair_is_one_and_none_is_beyond():
    found = describe(ANATOMY, EVERYWHERE)
    assert found.shape == (1, 12, *ANATOMY.shape[2:])
    torch.testing.assert_close(found.amax(1), torch.ones_like(found[:, 0]))
    assert float(found.min()) >= 0


def test_brightness_and_its_sign_do_not_matter():
    torch.testing.assert_close(
        describe(0.9 - 0.5 * ANATOMY, EVERYWHERE), describe(ANATOMY, EVERYWHERE), atol=2e-3, rtol=0
    )


def test_a_flat_image_is_alike_everywhere():
    torch.testing.assert_close(describe(EVERYWHERE / 2, EVERYWHERE), torch.ones(1, 12, *ANATOMY.shape[2:]))


def test_an_edge_separates_patches_across_it_and_not_those_along_it():
    step = torch.zeros(1, 1, 12, 12, 12)
    step[..., 6:] = 1
    found = describe(step, torch.ones_like(step))[0, :, 6, 6, 6]
    touches = torch.tensor([any(offset[2] for offset in pair) for pair in neighbour_pairs()])
    assert float(found[touches].max()) < 0.3
    assert float(found[~touches].min()) == 1


def test_another_contrast_is_most_alike_in_place():
    other = torch.sin(5 * ANATOMY[:, 0])
    distances = [
        float(cost(Metric.MIND, ANATOMY[:, 0], torch.roll(other, shift, 2), EVERYWHERE[:, 0])) for shift in range(-3, 4)
    ]
    assert int(np.argmin(distances)) == 3

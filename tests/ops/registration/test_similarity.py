"""Similarities: closed forms, invariances, weights, gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.registration.similarity import (
    Metric,
    cost,
    joint_histogram,
    lncc,
    mattes_mi,
    ncc,
    shared_information,
    ssd,
)

SHAPE = (2, 7, 8, 9)


def values(seed: int, low: float = 0.05, high: float = 0.95) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(low, high, SHAPE))


@pytest.mark.parametrize("metric", list(Metric))
def test_gradient_matches_finite_differences(metric):
    fixed, moving, weights = values(1), values(2).requires_grad_(), values(3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m, w: cost(metric, fixed, m, w), (moving, weights), eps=1e-6, atol=1e-7, rtol=1e-4, fast_mode=True
    )


@pytest.mark.parametrize("metric", list(Metric))
def test_a_batch_is_its_single_pairs(metric):
    fixed, moving, weights = values(1), values(2), values(3)
    single = [cost(metric, fixed[k : k + 1], moving[k : k + 1], weights[k : k + 1]) for k in range(2)]
    torch.testing.assert_close(cost(metric, fixed, moving, weights), torch.cat(single))


@pytest.mark.parametrize("metric", list(Metric))
def test_what_the_mask_excludes_does_not_count(metric):
    fixed, moving = values(1), values(2)
    weights = torch.zeros(SHAPE, dtype=torch.float64)
    weights[:, 1:5, 2:6, 3:7] = 1
    changed = torch.where(weights > 0, moving, 0.5)
    torch.testing.assert_close(cost(metric, fixed, changed, weights), cost(metric, fixed, moving, weights))


def flat(seed: int) -> torch.Tensor:
    return values(seed).flatten(1)


def test_closed_forms():
    a, one = flat(1), torch.ones_like(flat(1))
    torch.testing.assert_close(ssd(a, a + 0.1, one), torch.full((2,), 0.01, dtype=torch.float64))
    torch.testing.assert_close(ncc(a, 3 * a + 1, one), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(ncc(a, 1 - a, one), -torch.ones(2, dtype=torch.float64))
    assert (ncc(a, one, one).abs() < 1e-6).all()
    assert (lncc(values(1), 1 - values(1), torch.ones(SHAPE)) > 0.99).all()


def test_ncc_is_numpys():
    a, b = flat(1), flat(2)
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ncc(a, b, torch.ones_like(a)), expected)


def test_the_histogram_sums_to_one_and_its_fixed_margin_counts():
    a, b, one = flat(1), flat(2), torch.ones_like(flat(1))
    joint = joint_histogram(a, b, one)
    torch.testing.assert_close(joint.sum((1, 2)), torch.ones(2, dtype=torch.float64))
    expected = np.histogram(a[0], bins=28, range=(0, 1))[0] / a.shape[1]
    np.testing.assert_allclose(joint[0].sum(1)[2:30], expected, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_mutual_information_does_not_see_an_inversion(seed):
    a, b, one = flat(seed), flat(seed), torch.ones_like(flat(seed))
    b = 0.7 * b + 0.3 * flat(seed + 1)
    torch.testing.assert_close(mattes_mi(a, 1 - b, one), mattes_mi(a, b, one), rtol=1e-6, atol=1e-9)
    assert (mattes_mi(a, b, one) >= -1e-12).all()


def test_mutual_information_of_independent_images_is_small_and_of_equal_ones_large():
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.uniform(0, 1, (1, 200_000))) for _ in range(2))
    one = torch.ones_like(a)
    # Bias of a plug-in estimate: about (bins − 1)² / 2n (Miller 1955).
    assert float(mattes_mi(a, b, one)) < 31**2 / 400_000
    # Half of the information of 28 uniform bins survives the cubic window of the moving image.
    assert 0.5 * np.log(28) < float(mattes_mi(a, a, one)) < np.log(28)
    assert 0.5 < float(shared_information(a, a, one)) < 1

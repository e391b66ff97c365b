"""The batched optimiser on functions of known minimum, and the motion it drives."""

from __future__ import annotations

import numpy as np
import torch

from ops.registration.linear import motion
from ops.registration.optimise import Schedule, minimise

SCHEDULE = Schedule(first_step=1.0, longest_step=5.0, tolerance=1e-6, iterations=200)


def test_quadratics_of_different_scales_are_solved_at_once():
    target = torch.tensor([[1.0, -2.0, 3.0], [10.0, 0.0, -7.0]], dtype=torch.float64)
    scales = torch.tensor([[1.0, 30.0, 0.2], [5.0, 1.0, 100.0]], dtype=torch.float64)
    found, value = minimise(lambda x: (scales * (x - target) ** 2).sum(1), torch.zeros_like(target), SCHEDULE)
    torch.testing.assert_close(found, target, atol=1e-3, rtol=0)
    assert (value < 1e-5).all()


def test_rosenbrocks_valley():
    start = torch.tensor([[-1.2, 1.0]], dtype=torch.float64)
    found, _ = minimise(lambda x: 100 * (x[:, 1] - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2, start, SCHEDULE)
    torch.testing.assert_close(found, torch.ones_like(start), atol=1e-3, rtol=0)


def test_a_forbidden_region_is_never_entered_and_a_forbidden_start_stays():
    start = torch.tensor([[0.5], [-3.0]], dtype=torch.float64)
    found, value = minimise(lambda x: torch.where(x[:, 0] > 0, (x[:, 0] + 2) ** 2, torch.inf), start, SCHEDULE)
    assert 0 < float(found[0, 0]) < 0.5
    assert float(found[1, 0]) == -3
    assert torch.isinf(value[1])


def test_rigid_motion_is_a_rotation_and_moves_points_by_its_parameters():
    parameters = torch.tensor([[1.0, 2, 3, 4, -5, 6]], dtype=torch.float64)
    (matrix,) = motion(parameters, torch.tensor([50.0], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(matrix[:3, :3].T @ matrix[:3, :3], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(matrix[:3, 3], [1, 2, 3])
    angle = np.arccos((np.trace(matrix[:3, :3]) - 1) / 2)
    np.testing.assert_allclose(angle * 50, np.linalg.norm([4, -5, 6]))


def test_affine_motion_never_mirrors():
    parameters = torch.from_numpy(np.random.default_rng(0).normal(scale=60, size=(50, 12)))
    linear = motion(parameters, torch.full((50,), 50.0, dtype=torch.float64))[:, :3, :3]
    assert (torch.linalg.det(linear) > 0).all()

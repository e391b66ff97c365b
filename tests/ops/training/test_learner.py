"""Loss, network and optimiser state."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from ops.training.learner import PEAK_RATE, Learner, learning_rate
from ops.training.loss import dice_and_cross_entropy
from ops.training.network import UNet3d, count_parameters


def task() -> tuple[torch.Tensor, torch.Tensor]:
    """Tell bright from dark."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 1, 8, 8, 8, generator=generator)
    return images, (images[:, 0] > 0.5).long()


def learner() -> Learner:
    torch.manual_seed(0)
    return Learner(UNet3d(2, (4, 8)), torch.ones(2), autocast=False)


def test_loss_equals_its_definition():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 4, 4), torch.randint(0, 3, (2, 4, 4, 4))
    weights = torch.tensor([0.5, 1.0, 2.0])
    p, truth = logits.softmax(1), one_hot(labels, 3).movedim(-1, 1)
    dice = (2 * (p * truth).sum((0, 2, 3, 4)) + 1) / ((p + truth).sum((0, 2, 3, 4)) + 1)
    expected = 1 - dice[1:].mean() + cross_entropy(logits, labels, weight=weights)
    assert dice_and_cross_entropy(logits, labels, weights) == pytest.approx(float(expected), rel=1e-5)


def test_a_perfect_prediction_costs_nothing_and_absent_classes_are_free():
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    labels[:, :2] = 1
    logits = 50.0 * one_hot(labels, 3).movedim(-1, 1)
    assert dice_and_cross_entropy(logits, labels, torch.ones(3)) == pytest.approx(0, abs=1e-4)


def test_training_lowers_the_loss():
    images, labels = task()
    model = learner()
    losses = [model.step(images, labels, 0.2) for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0]


def test_average_weights_follow_the_network():
    images, labels = task()
    model = learner()
    for _ in range(60):
        model.step(images, labels, 0.2)
    with torch.no_grad():
        right = (model.average(images).argmax(1) == labels).float().mean()
    assert right > 0.9


def test_resuming_goes_on_exactly():
    images, labels = task()
    through, first = learner(), learner()
    for _ in range(3):
        through.step(images, labels, 0.1)
        first.step(images, labels, 0.1)
    second = learner()
    second.resume(first.state())
    assert second.steps == 3
    assert second.step(images, labels, 0.2) == pytest.approx(through.step(images, labels, 0.2), rel=1e-6)


class Overflowing(nn.Module):
    """A network whose output is not finite in bfloat16, or never."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.inner, self.always = UNet3d(2, (4, 8)), always

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.inner(x)
        return logits * float("nan") if self.always or torch.is_autocast_enabled("cpu") else logits


def test_a_step_that_overflows_in_bfloat16_is_taken_in_float32():
    torch.manual_seed(0)
    model = Learner(Overflowing(always=False), torch.ones(2), autocast=True)
    losses = [model.step(*task(), 0.2) for _ in range(20)]
    assert not model.autocast
    assert model.steps == 20
    assert losses[-1] < losses[0]


def test_gradients_that_are_never_finite_end_the_training_and_leave_the_weights():
    torch.manual_seed(0)
    model = Learner(Overflowing(always=True), torch.ones(2), autocast=True)
    before = [p.clone() for p in model.network.parameters()]
    with pytest.raises(FloatingPointError, match="at step 0"):
        model.step(*task(), 0.2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.network.parameters(), strict=True))


def test_rate_warms_up_peaks_and_falls():
    assert learning_rate(0) < 0.1 * PEAK_RATE
    assert learning_rate(0.03) == pytest.approx(PEAK_RATE)
    assert learning_rate(1.0) < 0.01 * PEAK_RATE


def test_network_keeps_the_size_and_is_compact():
    network = UNet3d(9)
    assert network.stride == 16
    assert count_parameters(network) < 1.3e6  # 5 MB in float32
    assert network(torch.zeros(1, 1, 16, 32, 16)).shape == (1, 9, 16, 32, 16)

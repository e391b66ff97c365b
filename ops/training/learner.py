"""One network in training: optimiser, averaged weights, state that can be saved and resumed."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from ops.training.loss import dice_and_cross_entropy

PEAK_RATE = 2e-3
WEIGHT_DECAY = 1e-2
WARM_UP = 0.03  # share of the training over which the rate rises
GRADIENT_NORM = 2.0
# The averaged weights forget over the last 1/(1 − decay) steps; a short run must not average in its beginning.
AVERAGE_DECAY, AVERAGE_WARM_UP = 0.998, 20
# x86 instruction sets that compute bfloat16 in hardware. Without one PyTorch emulates it: measured at 48 × 80 × 80, a
# step then takes 20 s where float32 takes 0.7 s.
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def has_native_bfloat16() -> bool:
    """Tell whether this CPU computes bfloat16 itself."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in BFLOAT16_INSTRUCTIONS)


def learning_rate(progress: float, peak: float = PEAK_RATE) -> float:
    """Rate at a fraction ``progress`` 0–1 of training: linear warm-up to ``peak``, then half a cosine to nearly 0."""
    if progress < WARM_UP:
        return peak * max(progress, 1e-3) / WARM_UP
    done = min(1.0, (progress - WARM_UP) / (1 - WARM_UP))
    return peak * max(0.005, 0.5 * (1 + math.cos(math.pi * done)))


class Learner:
    """Trains one segmentation network.

    Parameters
    ----------
    network
        Maps ``(n, 1, z, y, x)`` to logits.
    class_weights
        Weights of the cross entropy, one per class.
    peak_rate
        Highest learning rate.
    autocast
        Compute forward passes in bfloat16; by default where the CPU does so in hardware. Given up for float32 for
        good when a step's gradients are not finite: one CI machine returned NaN for small patches.

    Attributes
    ----------
    average
        Exponential moving average of the weights: the network to evaluate and to export.
    steps
        Optimiser steps taken.
    """

    def __init__(
        self,
        network: nn.Module,
        class_weights: Tensor,
        peak_rate: float = PEAK_RATE,
        autocast: bool | None = None,
    ) -> None:
        self.network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=peak_rate, weight_decay=WEIGHT_DECAY)
        self.peak_rate = peak_rate
        self.class_weights = class_weights
        self.autocast = has_native_bfloat16() if autocast is None else autocast
        self.steps = 0

    def step(self, images: Tensor, labels: Tensor, progress: float) -> float:
        """Take one optimiser step and return the loss.

        Parameters
        ----------
        images
            ``(n, 1, z, y, x)`` float32, windowed.
        labels
            ``(n, z, y, x)`` int64.
        progress
            Fraction of the training that is over; sets the learning rate.

        Raises
        ------
        FloatingPointError
            The gradients are not finite in float32 either; the weights are as they were before the step.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(progress, self.peak_rate)
        loss, norm = self._gradients(images, labels)
        if self.autocast and not math.isfinite(norm):
            self.autocast = False
            loss, norm = self._gradients(images, labels)
        if not math.isfinite(norm):
            raise FloatingPointError(f"gradient norm is {norm} at step {self.steps}, loss {loss}")
        self.optimiser.step()
        self.steps += 1
        self._update_average()
        return loss

    def _gradients(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Compute clipped gradients; return the loss and the norm before clipping."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            logits = self.network(images.contiguous(memory_format=torch.channels_last_3d))
        loss = self._loss(logits.float(), labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        return float(loss.detach()), float(norm)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return dice_and_cross_entropy(logits, labels, self.class_weights)

    def _update_average(self) -> None:
        decay = min(AVERAGE_DECAY, self.steps / (self.steps + AVERAGE_WARM_UP))
        with torch.no_grad():
            for mean, current in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(current, 1 - decay)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on later."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "steps": self.steps,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps = int(state["steps"])

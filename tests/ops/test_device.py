"""Telling a lost GPU from one that is well, or was never there; the card is stubbed, as there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ops.device import is_lost, to_device


class Card:
    """What `ops.device` asks of ``torch.cuda``."""

    def __init__(self, initialised: bool, works: bool) -> None:
        self.initialised, self.works, self.asked = initialised, works, []

    def is_initialized(self) -> bool:
        return self.initialised

    def device_count(self) -> int:
        return 1

    def synchronize(self, index: int) -> None:
        self.asked.append(index)
        if not self.works:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize(
    ("device", "initialised", "works", "lost"),
    [
        ("cpu", True, False, False),
        ("cuda:0", True, True, False),
        ("cuda:0", True, False, True),
        ("tensorrt:0", True, False, True),
        ("cuda:0", False, False, False),  # opening it failed: that error says why
        ("cuda:1", True, False, False),  # there is no such card
    ],
)
def test_lost_is_what_was_there(
    monkeypatch: pytest.MonkeyPatch, device: str, initialised: bool, works: bool, lost: bool
) -> None:
    monkeypatch.setattr(torch, "cuda", Card(initialised, works))
    assert is_lost(device) == lost


def test_on_the_cpu_memory_is_shared() -> None:
    array = np.zeros(3, np.int16)
    tensor = to_device(array, "cpu")
    array[1] = 5
    assert tensor.tolist() == [0, 5, 0]

"""Between host and device, so that both go on meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ops.spans import span

_streams = threading.local()


def to_device(array: npt.NDArray[np.generic], place: torch.device | str) -> Tensor:
    """Copy an array to a device; on the CPU the tensor shares its memory.

    To a GPU it travels from pinned memory on a stream of the calling thread, beside what the card computes for others.
    Only this thread waits for it, so whoever gets the tensor may use it on any stream.
    """
    host, place = torch.from_numpy(array), torch.device(place)
    if place.type != "cuda":
        return host.to(place)
    stream = _stream(place)
    with span("transfer"), torch.cuda.stream(stream):
        found = host.pin_memory().to(place, non_blocking=True)
        stream.synchronize()
    found.record_stream(torch.cuda.default_stream(place))  # or its memory is taken again while kernels still read it
    return found


def _stream(place: torch.device) -> torch.cuda.Stream:
    """Give the calling thread's stream for copies to a device."""
    known: dict[torch.device, torch.cuda.Stream] = _streams.__dict__.setdefault("known", {})
    if place not in known:
        make: Any = torch.cuda.Stream  # only partly typed
        known[place] = make(place)
    return known[place]


class Pace:
    """Lets the host run one batch ahead of the device and no more, so that a batch holds what has come until then.

    Parameters
    ----------
    place
        The device; nothing runs ahead on a CPU.
    """

    def __init__(self, place: torch.device) -> None:
        self._place = place
        self._ends: deque[torch.cuda.Event] = deque()

    def step(self) -> None:
        """Call after each batch was handed to the device: waits for the one before."""
        if self._place.type != "cuda":
            return
        self._ends.append(torch.cuda.current_stream(self._place).record_event())
        if len(self._ends) > 1:
            self._ends.popleft().synchronize()


def is_lost(device: str) -> bool:
    """Tell whether a GPU gives this process nothing but errors any more, as after an illegal memory access.

    Parameters
    ----------
    device
        ``cpu``, ``cuda:0``, ``tensorrt:0`` …
    """
    kind, _, name = device.partition(":")
    index = int(name or 0)
    cuda: Any = torch.cuda  # only partly typed
    was_used = cuda.is_initialized() and index < torch.cuda.device_count()
    if kind == "cpu" or not was_used:  # what was never there cannot be lost
        return False
    try:
        torch.cuda.synchronize(index)
    except RuntimeError:
        return True
    return False

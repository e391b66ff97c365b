"""A card that is not there, for the shared inference of several cases: its kernels are the CPU's, its faults are ours.

Each case is an empty scan of one brightness; the network meets it as one window of that brightness.
"""

from __future__ import annotations

import os
import signal
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch

import ops.device
import ops.inference.batch_size
from ops.inference.onnx import OnnxPredictor
from ops.volume import Grid, Volume
from storage.models import ModelBundle, list_bundles, load_bundle
from storage.urls import Location
from tasks import infer
from tasks.case import Case, Recipe, Stores, Work

SHIPPED = load_bundle(next(folder for folder in list_bundles() if folder.name.startswith(infer.HEART_MODEL)))
RAISES, KILLS, BREAKS = 101, 102, 103
"""Brightness in HU of a scan that the card answers with an error, the end of the process, or silence for ever."""


class FakeCard(OnnxPredictor):
    """Notes each batch in a file, takes its time, and fails on the scans above."""

    notes: Path

    def infer(self, batch: torch.Tensor) -> torch.Tensor:
        low, high = SHIPPED.manifest.input.window
        brightness = [round(float(window.max()) * (high - low) + low) for window in batch]
        with open(self.notes / str(os.getpid()), "a", encoding="utf-8") as notes:
            notes.write(" ".join(map(str, brightness)) + "\n")
        time.sleep(0.1)
        if KILLS in brightness:
            os.kill(os.getpid(), signal.SIGKILL)
        if {RAISES, BREAKS} & set(brightness):
            raise RuntimeError("CUDA error: device-side assert triggered")
        return super().infer(batch)


@cache
def install(notes: str) -> None:
    """Put the card into this worker process."""
    FakeCard.notes = Path(notes)

    def opened(bundle: ModelBundle, device: str, _precision: str) -> OnnxPredictor:
        return (FakeCard if device == "cuda:0" else OnnxPredictor)(bundle.weights, threads=1)

    def is_lost(_device: str) -> bool:
        return str(BREAKS) in (FakeCard.notes / str(os.getpid())).read_text().split()

    infer.open_predictor = opened
    ops.device.is_lost = is_lost
    ops.inference.batch_size.best_batch = lambda _predictor, _window: 4  # what it takes to find out is not of interest


def empty_scan(brightness: int) -> Work:
    """A case with a scan of 20 × 40 × 40 voxels of 3 mm, all alike."""
    grid = Grid.from_spacing((20, 40, 40), (3.0, 3.0, 3.0))
    nowhere = Location("memory://nowhere")
    recipe = Recipe("calcium", "1", {}, (), {infer.HEART_MODEL: SHIPPED.digest})
    case = Case(f"{brightness} HU", "1.2", {"ct": "1.3"}, {}, {}, {}, recipe, Stores(nowhere, nowhere, nowhere), "f")
    return Work(case, {"ct": Volume(np.full(grid.shape, brightness, np.int16), grid)}, {})


def locate_on_the_card(brightness: int, notes: str) -> tuple[int, tuple[str, ...]]:
    """Stage: what a case would do; its scan's brightness, and the flags of inference."""
    install(notes)
    return brightness, infer.locate_heart(empty_scan(brightness)).flags

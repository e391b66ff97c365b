"""Train a network on simulated anatomy: make the anatomies, run the loop with checkpoints, export to ONNX."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue

from ops.inference.locate import NetworkContract
from ops.phantoms.labels import TERRITORY_LABELS
from ops.preprocess.intensity import window
from ops.training.anatomy import HEART_CLASSES, Anatomy, simulated_chest
from ops.training.learner import Learner
from ops.training.negatives import negative
from ops.training.network import UNet3d, count_parameters
from ops.training.randomise import random_patch
from storage.models import InputContract, IntendedUse, Manifest, ModelBundle, OutputContract, Quality

# What heart-territories expects. 48 × 80 × 80 at 3 mm sees 144 × 240 × 240 mm: a whole heart and its surroundings.
# The window keeps fat, soft tissue and lung apart; calcium and bone saturate, so neither is recognised by brightness.
CONTRACT = NetworkContract((3.0, 3.0, 3.0), (-250.0, 350.0), (48, 80, 80), HEART_CLASSES)
# Cross-entropy weights in label order: small classes count more. The left main is 20–50 voxels of a patch; with a
# weight below some 1000 a new network never learned that it exists, and with 1500 to the end it labels too much of it.
CLASS_WEIGHTS = (0.5, 0.8, 30.0, 3.0, 3.0, 3.0, 2.0, 6.0, 0.8)
EARLY_LM_WEIGHT, EARLY_SHARE = 1500.0, 0.7
# Highest learning rate of a network that has been trained before: higher would undo more than it brings.
CONTINUED_PEAK_RATE = 1e-3
ANATOMY_SPACING_MM = 2.5
NEGATIVE_SHARE = 0.18
BATCH = 2
CHECKPOINT_SECONDS = 60.0
# Anatomy seeds of the training set count up from here, those of the held-out set from HELD_OUT_SEED.
TRAINING_SEED, HELD_OUT_SEED = 1_000_000, 9_000_000


@dataclass(frozen=True)
class TrainingResult:
    """The trained network and how it came about."""

    network: UNet3d
    steps: int
    seconds: float
    precision: str
    losses: list[float]


def make_anatomies(folder: Path, count: int, first_seed: int, workers: int = 1) -> list[Path]:
    """Simulate ``count`` chests into ``folder`` as ``.npz``; those already there are kept.

    Returns
    -------
    list of Path
        One file per anatomy, in seed order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(first_seed, first_seed + count)
    paths = [folder / f"chest-{seed}.npz" for seed in seeds]
    missing = [(seed, path) for seed, path in zip(seeds, paths, strict=True) if not path.exists()]
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            list(pool.map(_save_chest, *zip(*missing, strict=True))) if missing else None
    else:
        for seed, path in missing:
            _save_chest(seed, path)
    return paths


def _save_chest(seed: int, path: Path) -> None:
    anatomy = simulated_chest(seed, ANATOMY_SPACING_MM)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, tissues=anatomy.tissues, labels=anatomy.labels, spacing_mm=anatomy.spacing_mm)
    os.replace(part, path)


def load_anatomy(path: Path) -> Anatomy:
    """Read an anatomy that :func:`make_anatomies` wrote."""
    with np.load(path) as data:
        return Anatomy(data["tissues"], data["labels"], float(data["spacing_mm"]))


def training_batch(
    anatomies: Sequence[Anatomy], rng: np.random.Generator, size: int = BATCH
) -> tuple[torch.Tensor, torch.Tensor]:
    """Simulate one batch: windowed images ``(n, 1, z, y, x)`` and labels ``(n, z, y, x)``."""
    images, labels = [], []
    for _ in range(size):
        if rng.uniform() < NEGATIVE_SHARE:
            anatomy = negative(rng, ANATOMY_SPACING_MM)
        else:
            anatomy = anatomies[int(rng.integers(len(anatomies)))]
        image, label = random_patch(anatomy, CONTRACT.patch_shape, CONTRACT.spacing_mm[0], rng)
        images.append(torch.from_numpy(window(image.numpy(), *CONTRACT.window_hu)))
        labels.append(label)
    return torch.stack(images)[:, None], torch.stack(labels)


def train_network(
    anatomies: Sequence[Anatomy],
    checkpoint: Path,
    minutes: float,
    seed: int,
    on_progress: Callable[[int, float, float], None] | None = None,
    start: Mapping[str, torch.Tensor] | None = None,
) -> TrainingResult:
    """Train until ``minutes`` of training time are used up, over as many interrupted runs as it takes.

    Parameters
    ----------
    anatomies
        Chests to make patches of.
    checkpoint
        Written about every minute and at the end; an existing one is resumed.
    minutes
        Training time of all runs together; it also sets the learning-rate schedule.
    seed
        Initial weights and patches. Same seed, machine and number of steps: same network up to float rounding.
    on_progress
        Called with step, mean recent loss and seconds at every checkpoint.
    start
        Weights to begin with, from `onnx_weights`; by default random ones.
    """
    torch.manual_seed(seed)
    learner = _new_learner(start)
    used, losses = _resume(learner, checkpoint)
    rng = np.random.default_rng([seed, learner.steps])
    saved = used
    started = time.monotonic() - used
    with ThreadPoolExecutor(1) as simulator:  # one patch ahead: simulation and training overlap on two cores
        upcoming = simulator.submit(training_batch, anatomies, rng)
        while (used := time.monotonic() - started) < 60 * minutes:
            images, labels = upcoming.result()
            upcoming = simulator.submit(training_batch, anatomies, rng)
            progress = used / (60 * minutes)
            if start is None:
                learner.class_weights = class_weights(progress)
            losses.append(learner.step(images, labels, progress))
            if used - saved > CHECKPOINT_SECONDS:
                _checkpoint(learner, checkpoint, used, losses)
                saved = used
                if on_progress is not None:
                    on_progress(learner.steps, float(np.mean(losses[-100:])), used)
    _checkpoint(learner, checkpoint, used, losses)
    network = learner.average
    assert isinstance(network, UNet3d)
    precision = "bfloat16" if learner.autocast else "float32"
    return TrainingResult(network, learner.steps, used, precision, losses)


def _new_learner(start: Mapping[str, torch.Tensor] | None) -> Learner:
    network = UNet3d(len(TERRITORY_LABELS))
    if start is None:
        return Learner(network, class_weights(0.0))
    network.load_state_dict(dict(start))
    return Learner(network, class_weights(1.0), CONTINUED_PEAK_RATE)


def onnx_weights(model: bytes) -> dict[str, torch.Tensor]:
    """Weights by parameter name of a network that `export_onnx` serialised; needs the extra ``train``."""
    import onnx

    names = UNet3d(len(TERRITORY_LABELS)).state_dict().keys()
    initialisers = onnx.load_from_string(model).graph.initializer
    return {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in initialisers if i.name in names}


def class_weights(progress: float) -> torch.Tensor:
    """Cross-entropy weights at a fraction ``progress`` 0–1 of the training."""
    weights = torch.tensor(CLASS_WEIGHTS)
    if progress < EARLY_SHARE:
        weights[TERRITORY_LABELS["LM"]] = EARLY_LM_WEIGHT
    return weights


def _resume(learner: Learner, checkpoint: Path) -> tuple[float, list[float]]:
    """Load a checkpoint if there is one: seconds used so far and the losses."""
    if not checkpoint.exists():
        return 0.0, []
    state = torch.load(checkpoint, weights_only=True)
    learner.resume(state)
    return float(state["seconds"]), list(state["losses"])


def _checkpoint(learner: Learner, path: Path, seconds: float, losses: list[float]) -> None:
    """Replace the checkpoint in one step, so that a kill never leaves half of one."""
    part = path.with_name(path.name + ".part")
    torch.save({**learner.state(), "seconds": seconds, "losses": losses}, part)
    os.replace(part, path)


def export_onnx(network: UNet3d) -> bytes:
    """Serialise a network to ONNX with free batch and spatial sizes (multiples of its stride).

    Needs the extra ``train`` (onnx, onnxscript).
    """
    import onnxscript  # noqa: F401  (fails here, with its name, when the extra is missing)

    plain = UNet3d(network.head.out_channels, network.widths).eval()
    plain.load_state_dict(network.state_dict())
    side = 2 * network.stride
    multiples = {axis: network.stride * torch.export.Dim(f"n{axis}", min=1) for axis in (2, 3, 4)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about its own deprecated calls
        programme = torch.onnx.export(
            plain,
            (torch.zeros(2, 1, side, side, side),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC, **multiples},),
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
    assert programme is not None  # only without dynamo
    return bytes(programme.model_proto.SerializeToString())


def provenance(result: TrainingResult, anatomies: int, seed: int, start: ModelBundle | None) -> dict[str, JsonValue]:
    """Say how a network was trained: data, code, seed, effort, machine, and which bundle it continues."""
    continued: dict[str, JsonValue] = {}
    if start is not None:
        continued = {"continues": f"{start.manifest.folder}, digest {start.digest}"}
        continued["its_provenance"] = start.manifest.provenance
    return continued | {
        "data": "simulated chests only (ops.phantoms) under domain randomisation; no patient data",
        "anatomies": anatomies,
        "anatomy_seeds": [TRAINING_SEED, TRAINING_SEED + anatomies - 1],
        "seed": seed,
        "steps": result.steps,
        "batch": BATCH,
        "training_minutes": round(result.seconds / 60, 1),
        "parameters": count_parameters(result.network),
        "hardware": f"{os.cpu_count()} × {platform.machine()} CPU cores, {result.precision}",
        "torch": torch.__version__,
        "code": _git_commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _git_commit() -> str:
    """Commit of the running code, ``unknown`` outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def heart_territories_bundle(
    weights: bytes, version: str, facts: dict[str, JsonValue], quality: tuple[Quality, ...]
) -> ModelBundle:
    """Put weights and what is known about them into a bundle."""
    manifest = Manifest(
        name="heart-territories",
        version=version,
        sha256=hashlib.sha256(weights).hexdigest(),
        runtime="onnx",
        file="model.onnx",
        input=InputContract(
            units="HU",
            window=CONTRACT.window_hu,
            spacing_mm=CONTRACT.spacing_mm,
            patch_shape=CONTRACT.patch_shape,
        ),
        output=OutputContract(labels=tuple(TERRITORY_LABELS)),
        intended_use=IntendedUse(
            statement=(
                "Research use only, not a medical device. Finds the heart, the neighbourhoods of its arteries, the "
                "aorta and bone in unenhanced chest or cardiac CT of adults, to say which calcium is coronary."
            ),
            modality="CT",
            anatomy="chest",
            contrast_agent=False,
            slice_spacing_mm=(0.4, 5.0),
        ),
        licence="Apache-2.0",
        provenance=facts,
        quality=quality,
    )
    return ModelBundle(manifest, weights)


def log_line(path: Path, **facts: object) -> None:
    """Append one JSON line to a training log."""
    with path.open("a") as file:
        file.write(json.dumps(facts) + "\n")

"""Retrain ``heart-territories``: simulate chests, train, measure on held-out chests, export a bundle.

One command, no data and no server needed; repeated after an interruption it goes on where it stopped::

    python -m flows.train --out models --minutes 150 --seed 0

With ``--start storage/bundles/heart-territories-…`` it trains that network further instead of a new one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prefect import flow

from ops.inference.inferer import WindowInferer
from ops.inference.sliding_window import Tiling
from ops.inference.torch import TorchPredictor
from storage.models import load_bundle, write_bundle
from tasks.evaluate import evaluate_network, lesion_fates, lesion_quality, measured_quality
from tasks.train import (
    CONTRACT,
    HELD_OUT_SEED,
    TRAINING_SEED,
    export_onnx,
    heart_territories_bundle,
    load_anatomy,
    log_line,
    make_anatomies,
    onnx_weights,
    provenance,
    train_network,
)

WORK_FOLDER = ".heart-territories-training"
# Each simulated chest is seen in thousands of different patches; more of them bring more variety of anatomy.
ANATOMIES, HELD_OUT = 240, 24
# Seeds of scans, apart from all anatomy seeds.
SCAN_SEED = 7000
# Complete scans with calcium on which lesions are followed; half gated, half chest.
SCANS = 12


def train_bundle(
    out: Path,
    minutes: float = 55.0,
    seed: int = 0,
    anatomies: int = ANATOMIES,
    held_out: int = HELD_OUT,
    version: str = "1.0.0",
    workers: int = 2,
    scans: int = SCANS,
    start: Path | None = None,
) -> Path:
    """Train and write ``out/heart-territories-<version>``.

    Parameters
    ----------
    out
        Folder of bundles. Anatomies, checkpoint and log are kept below it in ``WORK_FOLDER`` for resuming.
    minutes
        Training time, not counting simulation and evaluation.
    seed
        Initial weights and all patches; anatomies have their own fixed seeds.
    anatomies, held_out
        Number of simulated chests to train on and to measure on.
    version
        Of the bundle.
    workers
        Processes that simulate.
    scans
        Simulated scans with calcium on which lesions are followed.
    start
        Folder of the bundle to train further; by default a new network.

    Returns
    -------
    Path
        The bundle's folder.
    """
    work = out / WORK_FOLDER
    work.mkdir(parents=True, exist_ok=True)
    earlier = load_bundle(start) if start else None
    chests = [load_anatomy(path) for path in make_anatomies(work, anatomies, TRAINING_SEED, workers)]
    result = train_network(
        chests,
        work / "checkpoint.pt",
        minutes,
        seed,
        lambda step, loss, seconds: log_line(work / "log.jsonl", step=step, loss=loss, seconds=seconds),
        onnx_weights(earlier.weights) if earlier else None,
    )
    del chests
    unseen = [load_anatomy(path) for path in make_anatomies(work, held_out, HELD_OUT_SEED, workers)]
    quality = measured_quality(evaluate_network(result.network, unseen, seed), len(unseen))
    network = WindowInferer(TorchPredictor(result.network), Tiling(CONTRACT.patch_shape))
    fates = [fate for n in range(scans) for fate in lesion_fates(network, SCAN_SEED + n, gated=n % 2 == 0)]
    quality += lesion_quality(fates, f"calcium deposits above 130 HU in {scans} held-out simulated scans with noise")
    facts = provenance(result, anatomies, seed, earlier)
    return write_bundle(out, heart_territories_bundle(export_onnx(result.network), version, facts, quality))


@flow(name="train")
def train(
    out: str,
    minutes: float = 55.0,
    seed: int = 0,
    anatomies: int = ANATOMIES,
    held_out: int = HELD_OUT,
    version: str = "1.0.0",
    start: str | None = None,
) -> str:
    """Prefect flow around :func:`train_bundle`."""
    earlier = Path(start) if start else None
    return str(train_bundle(Path(out), minutes, seed, anatomies, held_out, version, start=earlier))


def main() -> None:
    """Parse the command line and train, without a Prefect server."""
    parser = argparse.ArgumentParser(prog="python -m flows.train", description="Retrain heart-territories.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the bundle to")
    parser.add_argument("--minutes", type=float, default=55.0, help="training time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anatomies", type=int, default=ANATOMIES, help="simulated chests (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="chests to measure on (default: %(default)s)")
    parser.add_argument("--scans", type=int, default=SCANS, help="scans to follow lesions on (default: %(default)s)")
    parser.add_argument("--start", type=Path, help="folder of a bundle to train further (default: a new network)")
    parser.add_argument("--version", default="1.0.0", help="version of the bundle (default: %(default)s)")
    arguments = parser.parse_args()
    print(train_bundle(**vars(arguments)))


if __name__ == "__main__":
    main()

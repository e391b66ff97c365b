"""Sliding window on a GPU: ours, MONAI's and the bare network on data that lies there already.

    python benchmarks/gpu/sliding_window.py [--volume 192 256 256] [--window 96 96 96] [--volumes 4] [--rounds 5]

Needs ``ops`` and torch, no Prefect, Dask or zarr; MONAI's row only where it is installed. Each figure is the median of
the rounds, all in this process and interleaved. The bare network computes the same number of windows in the same
batches and throws its logits away: nothing that blends can be faster. What is asked of ours is at least 90 % of it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ops.inference.batch_size import best_batch
from ops.inference.predictor import Precision
from ops.inference.sliding_window import OVERLAP, Shape, Tiling, mosaics, window_starts
from ops.inference.torch import TorchPredictor
from ops.training.network import UNet3d

CLASSES = 9
ASKED_SHARE = 0.90


def ours(network: TorchPredictor, volumes: list[Tensor], tiling: Tiling) -> None:
    """Labels of all volumes through common batches."""
    for mosaic in mosaics(network, volumes, tiling):
        mosaic.labels()


def bare(network: TorchPredictor, batch: Tensor, windows: int) -> None:
    """As many windows, resident, with nothing around the network."""
    for first in range(0, windows, len(batch)):
        network.infer(batch[: windows - first])


@torch.inference_mode()  # it writes into the logits
def monai_inferer(network: TorchPredictor, volumes: list[Tensor], tiling: Tiling) -> None:
    """Labels of each volume with MONAI's inferer, same windows, batch and kind of weights."""
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(tiling.window, tiling.batch, tiling.overlap, mode="gaussian")
    for volume in volumes:
        inferer(volume[None, None], network.infer).argmax(dim=1)


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """Time of a call, to the last kernel."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_windows(shape: Shape, window: Shape) -> int:
    """Windows that cover a volume."""
    z, y, x = (len(window_starts(size, n, OVERLAP)) for size, n in zip(shape, window, strict=True))
    return z * y * x


def compare(device: str, precision: Precision, shape: Shape, window: Shape, volumes: int, rounds: int) -> list[str]:
    """Rows of the table for one precision."""
    torch.manual_seed(0)
    network = TorchPredictor(UNet3d(CLASSES), device, precision)
    data = [torch.rand(shape, device=device) for _ in range(volumes)]
    tiling = Tiling(window, batch=best_batch(network, window))
    windows = volumes * count_windows(shape, window)
    resident = torch.rand((tiling.batch, 1, *window), device=device)
    contestants: dict[str, Callable[[], None]] = {
        "bare network": lambda: bare(network, resident, windows),
        "Popscan": lambda: ours(network, data, tiling),
    }
    if _has_monai():
        contestants["MONAI"] = lambda: monai_inferer(network, data, tiling)
    for work in contestants.values():
        work()  # kernels chosen, memory taken
    times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            times[name].append(seconds(work, network.place))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [
        f"{precision:9} {tiling.batch:5} {name:14} {median:8.3f} {windows / median:9.1f} "
        f"{medians['bare network'] / median:7.1%}"
        for name, median in medians.items()
    ]


def _has_monai() -> bool:
    try:
        import monai.inferers  # noqa: F401
    except ImportError:
        return False
    return True


def main() -> int:
    """Print the table; without a GPU say so and stop with status 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volume", type=int, nargs=3, default=(192, 256, 256), help="voxels z y x")
    parser.add_argument("--window", type=int, nargs=3, default=(96, 96, 96), help="voxels z y x, multiples of 16")
    parser.add_argument("--volumes", type=int, default=4, help="volumes a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--device", default="cuda:0", help="(default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("no GPU: torch sees no CUDA device, nothing was measured")
        return 1
    card = torch.cuda.get_device_name(arguments.device) if arguments.device.startswith("cuda") else arguments.device
    print(f"{card}, torch {torch.__version__}; asked of Popscan: {ASKED_SHARE:.0%} of the bare network")
    print(f"{'precision':9} {'batch':>5} {'':14} {'s':>8} {'windows/s':>9} {'of bare':>7}")
    precisions: list[Precision] = ["float32", "float16", "bfloat16"]
    for precision in precisions if arguments.device.startswith("cuda") else precisions[:1]:
        shape, window = tuple(arguments.volume), tuple(arguments.window)
        print(*compare(arguments.device, precision, shape, window, arguments.volumes, arguments.rounds), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

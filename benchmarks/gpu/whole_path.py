"""The whole calcium path on a machine with GPUs, in series an hour: from compressed DICOM on disk to committed results.

    python benchmarks/gpu/whole_path.py [--series 64] [--cluster gpus] [--workers 16]

Series are simulated gated heart CTs, simulated before the clock starts. Everything else is real but Prefect, which it
does not need. What is asked: 14,000 series an hour on one H100 with 16 cores. ``popscan bench`` is the same on one's
own DICOM, with more detail.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from flows.bench import Bench, measure
from flows.settings import Settings
from tasks.simulate import simulate_study

ASKED = 14_000
SEED = 1


def main() -> int:
    """Print the table; without a GPU say so and stop with status 1, unless another cluster is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--cluster", default="gpus", help="as POPSCAN_CLUSTER (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="as POPSCAN_WORKERS (default: one per core)")
    arguments = parser.parse_args()
    if arguments.cluster == "gpus" and not torch.cuda.is_available():
        print("no GPU: torch sees no CUDA device, nothing was measured")
        return 1
    with TemporaryDirectory() as folder:
        dicom = Path(folder) / "dicom"
        simulate(dicom, arguments.series)
        settings = Settings(cluster=arguments.cluster, workers=arguments.workers)
        found = measure([dicom], "calcium", settings, Path(folder) / "home")
    print_table(found)
    return 0


def simulate(folder: Path, series: int) -> None:
    """Write the DICOM of as many participants."""
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(simulate_study, folder), range(series), repeat(SEED)))


def print_table(found: Bench) -> None:
    """Where the time went, and the figure that is asked for."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{found.cases} series, {found.failed} failed; {found.machine}; {card}; torch {torch.__version__}")
    print(f"{'ingest':24} {found.ingest_seconds / found.cases:9.4f} s a series, wall")
    print(f"{'computing':24} {found.compute_seconds / found.cases:9.4f} s a series, wall")
    for name, seconds in found.stages.items():
        print(f"  {name:22} {seconds:9.4f} s of a thread")
    for name, seconds in found.alone.items():
        print(f"  {name + ', alone':22} {seconds:9.4f} s")
    print("busy: " + ", ".join(f"{what} {share:.0%}" for what, share in found.busy.items()))
    print(f"{found.cases_per_hour:,.0f} series an hour; asked {ASKED:,}")


if __name__ == "__main__":
    sys.exit(main())

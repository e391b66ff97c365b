"""One scan end to end, from the array in memory to the label map in a file: Popscan against nnU-Net.

    python benchmarks/gpu/nnunet.py [--volume 300 512 512] [--spacing 0.75 0.7 0.7] [--target 1.5] [--classes 9]
        [--patch 96 96 96] [--step 0.5] [--network popscan|nnunet] [--rounds 3] [--device cuda:0]

Needs ``ops``, torch and SimpleITK, no Prefect, Dask or zarr; nnU-Net's rows only where ``nnunetv2`` is installed. All
get the same simulated CT, random weights, windows and precision, one fold and no mirroring. nnU-Net runs
``predict_single_npy_array``, once with the resampling of its default plans and once with the faster one on torch that
its maintainers recommend for many classes (MIC-DKFZ/nnUNet, pull request 2545). Each contestant has a process of its
own, so that the peaks of host memory are its own. Times are medians of the rounds after a warm-up on a small part.

It is the latency of one scan: nnU-Net's command line hides preprocessing and export of many scans behind the network,
in other processes. The labels cannot be equal everywhere: we average probabilities where windows overlap and resample
labels, nnU-Net does both with logits, and its resampling to the network's spacing has no filter against aliasing.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import combinations, pairwise
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import SimpleITK
import torch
from scipy import ndimage
from torch import nn
from torch.nn.functional import interpolate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ops.inference.batch_size import best_batch
from ops.inference.inferer import WindowInferer
from ops.inference.predictor import Precision
from ops.inference.segment import SegmentationContract, segment
from ops.inference.sliding_window import Shape, Tiling
from ops.inference.torch import TorchPredictor
from ops.phantoms.chest.protocol import Protocol
from ops.phantoms.chest.scan import simulate_scan
from ops.phantoms.chest.thorax import thorax
from ops.phantoms.participant import sample_participant
from ops.preprocess.intensity import window
from ops.training.network import UNet3d, count_parameters
from ops.volume import Grid, Volume

SEED = 2026
# HU mapped to 0 … 1. Nothing in the scan lies outside, so that it is the same to clip before resampling or after.
WINDOW = (-1024.0, 1024.0)
# Voxels along each axis of the part that is segmented before anything is timed.
WARM_UP = 64
GIB = 2**30
COLUMNS = (
    *("", "preprocess, s", "predict, s", "export, s", "total, s", "CPU time, s"),
    *("host peak at start, GiB", "after preprocess", "after predict", "after export", "GPU peak, GiB"),
)

Segmenter = Callable[[Volume, Path], None]
"""Segments a volume into the file ``<path>.nii.gz``."""
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """What all contestants are given.

    Attributes
    ----------
    shape, spacing
        Of the scan ``(z, y, x)``, voxels and mm.
    target
        Spacing of the network's input, mm.
    classes, network
        Output channels, and whose architecture: ``popscan`` or ``nnunet``.
    patch, step
        Window ``(z, y, x)`` and distance between windows as a fraction of it, as nnU-Net counts.
    """

    folder: Path
    device: str
    shape: Shape
    spacing: tuple[float, float, float]
    target: float
    classes: int
    network: str
    patch: Shape
    step: float
    rounds: int

    @property
    def on_gpu(self) -> bool:
        """Whether the network computes on a CUDA device."""
        return self.device.startswith("cuda")

    @property
    def precision(self) -> Precision:
        """What nnU-Net computes in: it autocasts on CUDA and only there."""
        return "float16" if self.on_gpu else "float32"

    @property
    def grid(self) -> Grid:
        """Grid of the scan, around the template's heart."""
        extent = np.multiply(np.subtract(self.shape, 1), self.spacing)
        return Grid.from_spacing(self.shape, self.spacing, tuple(-extent[::-1] / 2))

    def load_volume(self) -> Volume:
        """Read the scan: stored int16 HU."""
        return Volume(np.load(self.folder / "scan.npy"), self.grid)

    def load_network(self) -> nn.Module:
        """Build the network with its weights, on the CPU, in evaluation mode."""
        network = build_network(self)
        network.load_state_dict(torch.load(self.folder / "weights.pt"))
        return network.eval()


@dataclass(frozen=True)
class Round:
    """What was measured of one run of a contestant.

    Attributes
    ----------
    seconds
        Before the network's first call, until its last call ends, after it.
    cpu_seconds
        Time of all cores.
    peaks
        Peak host memory of the process so far, bytes: before the run, and at the end of each part.
    """

    seconds: list[float]
    cpu_seconds: float
    peaks: list[int]


class HostEvent:
    """A moment of the CPU, read as a ``torch.cuda.Event`` is."""

    def __init__(self) -> None:
        self._at = time.perf_counter()

    def elapsed_time(self, later: HostEvent) -> float:
        """Milliseconds until a later moment."""
        return 1000 * (later._at - self._at)


class Stopwatch:
    """Splits the run of a contestant at the first and at the last call of its network, the same way for all.

    On a GPU the moments are those when the device gets there, so nothing has to wait for it.
    """

    def __init__(self, network: nn.Module, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._marks: list[tuple[Any, int]] = []
        network.register_forward_pre_hook(self._before_call)
        network.register_forward_hook(self._after_call)

    def split(self, work: Callable[[], None]) -> Round:
        """Run and measure."""
        began = time.process_time()
        self._marks = [self._mark()]
        work()
        self._marks.append(self._mark())
        if self._on_gpu:
            torch.cuda.synchronize()
        moments, peaks = zip(*self._marks, strict=True)
        seconds = [a.elapsed_time(b) / 1000 for a, b in pairwise(moments)]
        return Round(seconds, time.process_time() - began, list(peaks))

    def _before_call(self, *_: object) -> None:
        if len(self._marks) == 1:
            self._marks.append(self._mark())

    def _after_call(self, *_: object) -> None:
        self._marks[2:] = [self._mark()]

    def _mark(self) -> tuple[Any, int]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
        if not self._on_gpu:
            return HostEvent(), peak
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event, peak


def build_network(case: Case) -> nn.Module:
    """Popscan's network, or the one that nnU-Net plans for patches of 128³ (31 million weights, patches of 32 n)."""
    torch.manual_seed(SEED)
    if case.network == "popscan":
        return UNet3d(case.classes)
    from dynamic_network_architectures.architectures.unet import PlainConvUNet  # type: ignore[import-not-found]

    network: nn.Module = PlainConvUNet(
        input_channels=1,
        n_stages=6,
        features_per_stage=(32, 64, 128, 256, 320, 320),
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=(1, 2, 2, 2, 2, 2),
        n_conv_per_stage=2,
        num_classes=case.classes,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    return network


def prepare(case: Case) -> int:
    """Store the scan and the weights for all contestants; give the number of weights."""
    rng = np.random.default_rng(SEED)
    chest = thorax(sample_participant(rng))
    dz = case.spacing[0]
    protocol = Protocol("SIEMENS", gated=False, thickness=dz, increment=dz, kernel="soft", noise=12.0)
    scan = simulate_scan(chest, protocol, rng, grid=case.grid).volume
    np.save(case.folder / "scan.npy", scan.voxels)
    network = build_network(case).eval()
    average_kernels(network)
    standardise(network, middle_patch(scan, case))
    torch.save(network.state_dict(), case.folder / "weights.pt")
    return count_parameters(network)


def middle_patch(scan: Volume, case: Case) -> torch.Tensor:
    """About what the network gets to see in the middle of a scan, ``(1, 1, z, y, x)``."""
    wanted = np.rint(np.multiply(case.patch, case.target) / case.spacing).astype(int)
    part = middle(scan, np.minimum(wanted, scan.grid.shape))
    values = torch.from_numpy(window(part.physical(), *WINDOW))
    return interpolate(values[None, None], case.patch, mode="trilinear")


def middle(volume: Volume, size: npt.ArrayLike) -> Volume:
    """Box of ``size`` voxels in the middle of a volume."""
    start = np.subtract(volume.grid.shape, size) // 2
    return volume.crop(tuple(start.tolist()), tuple((start + size).tolist()))


@torch.no_grad()
def average_kernels(network: nn.Module) -> None:
    """Make every random kernel an average over space, so that the label map follows the anatomy and not the noise."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            mean = module.weight.mean(dim=(2, 3, 4), keepdim=True)
            module.weight.copy_(mean * np.sqrt(np.prod(module.kernel_size)))  # as large as it was


@torch.no_grad()
def standardise(network: nn.Module, batch: torch.Tensor) -> None:
    """Give the logits of every class mean 0 and deviation 1, so that none wins everywhere and all occur."""
    head = [module for module in network.modules() if isinstance(module, nn.Conv3d)][-1]
    assert head.bias is not None
    spread, mean = torch.std_mean(network(batch), dim=(0, 2, 3, 4))
    head.weight.div_(spread[:, None, None, None, None])
    head.bias.sub_(mean).div_(spread)


def popscan(case: Case, network: nn.Module) -> Segmenter:
    """Ours: everything on the device, labels resampled back."""
    predictor = TorchPredictor(network, case.device, case.precision)
    tiling = Tiling(case.patch, 1 - case.step, best_batch(predictor, case.patch))
    inferer = WindowInferer(predictor, tiling)
    contract = SegmentationContract("HU", (case.target,) * 3, WINDOW)

    def run(volume: Volume, path: Path) -> None:
        write_labels(segment(volume, inferer, contract), path)

    return run


def write_labels(labels: Volume, path: Path) -> None:
    """Write as nnU-Net's ``SimpleITKIO`` does: compressed NIfTI."""
    image: Any = SimpleITK.GetImageFromArray(labels.voxels)
    geometry = itk_geometry(labels.grid)
    image.SetSpacing(geometry["spacing"])
    image.SetOrigin(geometry["origin"])
    image.SetDirection(geometry["direction"])
    SimpleITK.WriteImage(image, f"{path}.nii.gz", useCompression=True)


def itk_geometry(grid: Grid) -> dict[str, tuple[float, ...]]:
    """Grid as ITK says it: axes in the order x, y, z."""
    return {
        "spacing": grid.spacing[::-1],
        "origin": tuple(grid.origin.tolist()),
        "direction": tuple(grid.directions[:, ::-1].ravel().tolist()),
    }


def nnunet(case: Case, network: nn.Module, on_torch: bool) -> Segmenter:
    """nnU-Net's: its predictor with its preprocessing and export."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # type: ignore[import-not-found]
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # type: ignore[import-not-found]

    plans, device = PlansManager(nnunet_plans(case, on_torch)), torch.device(case.device)
    with redirect_stdout(sys.stderr):  # on a CPU it says that it is none of CUDA
        predictor = nnUNetPredictor(case.step, use_mirroring=False, device=device, allow_tqdm=False)
    labels = {"background": 0} | {f"class {label}": label for label in range(1, case.classes)}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    configuration, weights = plans.get_configuration("3d_fullres"), [network.state_dict()]
    predictor.manual_initialization(network, plans, configuration, weights, dataset, "benchmark", None)

    def run(volume: Volume, path: Path) -> None:
        properties = {"spacing": list(volume.grid.spacing), "sitk_stuff": itk_geometry(volume.grid)}
        predictor.predict_single_npy_array(volume.voxels[None], properties, output_file_truncated=str(path))

    return run


def nnunet_plans(case: Case, on_torch: bool) -> dict[str, Any]:
    """Write what its planner would; ``CTNormalization`` becomes our window by its mean and deviation."""
    low, high = WINDOW
    intensities = {"mean": low, "std": high - low, "percentile_00_5": low, "percentile_99_5": high}
    configuration = {
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": list(case.patch),
        "spacing": [case.target] * 3,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {},  # the network is given as an object
        **nnunet_resampling(on_torch),
    }
    return {
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "configurations": {"3d_fullres": configuration},
    }


def nnunet_resampling(on_torch: bool) -> dict[str, Any]:
    """Write what the plans say of resampling: by default scikit-image, cubic for images and linear for the rest."""
    options: dict[str, Any] = {"force_separate_z": False, "num_threads": torch.get_num_threads()}
    chosen: dict[str, Any] = {}
    for name, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        if not on_torch:
            options = {"force_separate_z": None, "order": order, "order_z": 0}
        chosen[f"resampling_fn_{name}"] = "resample_torch_fornnunet" if on_torch else "resample_data_or_seg_to_shape"
        chosen[f"resampling_fn_{name}_kwargs"] = {"is_seg": name == "seg", **options}
    return chosen


CONTESTANTS: dict[str, Callable[[Case, nn.Module], Segmenter]] = {
    "Popscan": popscan,
    "nnU-Net": partial(nnunet, on_torch=False),
    "nnU-Net, resampling on torch": partial(nnunet, on_torch=True),
}


def measure(name: str, case: Case) -> str:
    """Run one contestant; give its line of the table."""
    if case.on_gpu:
        torch.cuda.set_device(case.device)
    volume, network = case.load_volume(), case.load_network()
    run, stopwatch = CONTESTANTS[name](case, network), Stopwatch(network, case.on_gpu)
    path = case.folder / name
    run(middle(volume, np.minimum(WARM_UP, volume.grid.shape)), path)
    rounds = [stopwatch.split(lambda: run(volume, path)) for _ in range(case.rounds)]
    return row(name, rounds, torch.cuda.max_memory_allocated() if case.on_gpu else 0)


def alone(work: Callable[..., T], *arguments: object) -> T:
    """Call in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def row(name: str, rounds: list[Round], gpu_peak: int) -> str:
    """Format medians of the times and the peaks of the first round."""
    parts = map(statistics.median, zip(*(one.seconds for one in rounds), strict=True))
    total = statistics.median(sum(one.seconds) for one in rounds)
    cpu = statistics.median(one.cpu_seconds for one in rounds)
    seconds = [f"{value:.2f}" for value in (*parts, total, cpu)]
    return f"| {' | '.join([name, *seconds, *(f'{peak / GIB:.2f}' for peak in (*rounds[0].peaks, gpu_peak))])} |"


def agreement(case: Case, one: str, other: str) -> str:
    """How far two label maps are the same: share of equal voxels, everywhere and off the borders, and Dice."""
    a, b = (_read(case.folder / f"{name}.nii.gz") for name in (one, other))
    size = 2 * np.ceil(np.divide(case.target, case.spacing)).astype(int) + 1
    inside = ndimage.maximum_filter(b, size) == ndimage.minimum_filter(b, size)
    equal = a == b
    dice = " ".join(f"{value:.3f}" for value in dice_by_class(a, b, case.classes))
    return (
        f"{one} and {other}: {equal.mean():.2%} of the voxels equal, {equal[inside].mean():.3%} of the "
        f"{inside.mean():.0%} that are more than {case.target} mm off any border; Dice by class {dice}"
    )


def _read(path: Path) -> npt.NDArray[np.uint8]:
    return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)), dtype=np.uint8)


def dice_by_class(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], classes: int) -> npt.NDArray[np.float64]:
    """Dice coefficient ``(classes,)`` of two label maps; NaN for a class that neither has."""
    pairs = sum(
        np.bincount((x.astype(np.int64) * classes + y).ravel(), minlength=classes**2) for x, y in zip(a, b, strict=True)
    )
    counts = np.reshape(pairs, (classes, classes))
    sizes = counts.sum(axis=0) + counts.sum(axis=1)
    dice: npt.NDArray[np.float64] = np.divide(
        2.0 * counts.diagonal(), sizes, out=np.full(classes, np.nan), where=sizes > 0
    )
    return dice


def compare(case: Case) -> None:
    """Print what was the same, the table and the agreement."""
    weights = alone(prepare, case)
    print(
        f"{_product(case.shape)} voxels of {_product(case.spacing)} mm, network at {case.target} mm with "
        f"{case.classes} classes and {weights / 1e6:.1f} million weights, windows of {_product(case.patch)}, "
        f"step {case.step}, {case.precision}, median of {case.rounds}"
    )
    names = list(CONTESTANTS) if find_spec("nnunetv2") else ["Popscan"]
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name in names:
        print(alone(measure, name, case), flush=True)
    print()
    for a, b in combinations(names, 2):
        print(agreement(case, a, b))


def _product(sizes: tuple[float, ...]) -> str:
    return " × ".join(map(str, sizes))


def parse() -> dict[str, Any]:
    """Arguments of the command, by the attributes of :class:`Case`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = partial(parser.add_argument, help="(default: %(default)s)")
    add("--volume", dest="shape", type=int, nargs=3, default=(300, 512, 512), help="voxels z y x; y, x even")
    add("--spacing", type=float, nargs=3, default=(0.75, 0.7, 0.7), help="mm z y x")
    add("--target", type=float, default=1.5, help="mm of the network's input (default: %(default)s)")
    add("--classes", type=int, default=9, help="with background (default: %(default)s)")
    add("--patch", type=int, nargs=3, default=(96, 96, 96), help="voxels z y x, multiples of 16 or 32")
    add("--step", type=float, default=0.5, help="as a fraction of a window (default: %(default)s)")
    add("--network", choices=("popscan", "nnunet"), default="popscan")
    add("--rounds", type=int, default=3)
    add("--device", default="cuda:0")
    given = vars(parser.parse_args())
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def main() -> int:
    """Print the table; without a GPU say so and stop with status 1."""
    with TemporaryDirectory() as folder:
        case = Case(Path(folder), **parse())
        if case.on_gpu and not torch.cuda.is_available():
            print("no GPU: torch sees no CUDA device, nothing was measured")
            return 1
        place = torch.cuda.get_device_name(case.device) if case.on_gpu else case.device
        theirs = f"nnunetv2 {version('nnunetv2')}" if find_spec("nnunetv2") else "nnunetv2 is not installed: ours alone"
        print(
            f"{place}, torch {torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} CPU threads, {theirs}"
        )
        compare(case)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One CT series to an array, and on into the store, against SimpleITK and dcm2niix in the same run.

As an ordinary test it runs on a few slices and compares values. ``pytest tests/benchmarks/test_series_to_volume.py
--benchmark-enable -s`` takes 300 slices of 512×512 and prints medians.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from rle.rle import encode_frame

from storage.ledger import Ledger
from storage.urls import Location
from storage.volumes import VolumeStore
from tasks.ingest import ingest_paths, read_series
from tests.ops.dicom.builders import instance, set_pixels, to_bytes

ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    "uncompressed": lambda a: a.tobytes(),
    "RLE": lambda a: encode_frame(a.tobytes(), *a.shape, 1, 16, "<"),
    "JPEG lossless": lambda a: imagecodecs.ljpeg_encode(a.view(np.uint16)),
    "JPEG-LS": lambda a: imagecodecs.jpegls_encode(a.view(np.uint16)),
    "JPEG 2000": lambda a: imagecodecs.jpeg2k_encode(a, level=0, reversible=True, codecformat="j2k"),
    "HTJ2K": lambda a: imagecodecs.htj2k_encode(a, reversible=True),
}
SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
    "HTJ2K": HTJ2KLossless,
}
ROUNDS = 3
# Not slower than the quickest of the two peers, with this much allowed for the noise of a shared machine.
SLACK = 1.25


def body_like(slices: int) -> np.ndarray:
    """Smooth anatomy with noise of 18 HU: compresses like CT, unlike zeros or pure noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    inside = (y / 0.6) ** 2 + (x / 0.85) ** 2 < 1
    volume = np.empty((slices, 512, 512), np.int16)
    for z in range(slices):
        tissue = 40 + 60 * np.sin(9 * x + z / 20) * np.cos(7 * y) + rng.normal(0, 18, inside.shape)
        volume[z] = np.where(inside, tissue, -1000 + rng.normal(0, 8, inside.shape))
    return volume


@pytest.fixture(scope="module")
def measuring(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("benchmark_enable"))


@pytest.fixture(scope="module")
def voxels(measuring: bool) -> np.ndarray:
    return body_like(300 if measuring else 6)


@pytest.fixture(scope="module", params=SYNTAXES)
def folder(request: pytest.FixtureRequest, voxels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = request.param
    out = tmp_path_factory.mktemp(name.replace(" ", ""))
    for number, image in enumerate(voxels):

        def encode(_number: int, dataset: Dataset, image: np.ndarray = image) -> None:
            set_pixels(dataset, image)
            dataset.file_meta.TransferSyntaxUID = SYNTAXES[name]
            if name != "uncompressed":
                dataset.PixelData = encapsulate([ENCODERS[name](image)])
                dataset["PixelData"].VR = "OB"

        (out / f"{number:03d}.dcm").write_bytes(to_bytes(instance(number, change=encode)))
    return out


def ours(folder: Path) -> np.ndarray:
    return read_series(folder).voxels


def simpleitk(folder: Path) -> np.ndarray:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return SimpleITK.GetArrayFromImage(reader.Execute())


def dcm2niix(folder: Path, out: Path) -> None:
    program = shutil.which("dcm2niix", path=sysconfig.get_path("scripts"))
    if program is None:
        pytest.skip("no dcm2niix program: pip install dcm2niix")
    out.mkdir()
    subprocess.run([program, "-b", "n", "-z", "n", "-o", str(out), str(folder)], check=True, capture_output=True)


def into_the_store(folder: Path, home: Path) -> None:
    home.mkdir()
    with Ledger(home / "ledger.sqlite") as ledger:
        ingest_paths([folder], ledger, VolumeStore(Location(str(home / "volumes"))))


def median_seconds(work: Callable[[int], object], rounds: int) -> float:
    taken = []
    for turn in range(rounds):
        start = time.perf_counter()
        work(turn)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def test_series_to_array(folder: Path, voxels: np.ndarray, measuring: bool, tmp_path: Path) -> None:
    np.testing.assert_array_equal(ours(folder), voxels)
    readable = folder.name.startswith("HTJ2K") or np.array_equal(simpleitk(folder) + 1024, voxels)
    assert readable  # our files are right: another reader finds the same values in them
    if not measuring:
        return
    seconds = {
        "ours": median_seconds(lambda _: ours(folder), ROUNDS),
        "ours, in the store": median_seconds(lambda turn: into_the_store(folder, tmp_path / f"home{turn}"), ROUNDS),
        "SimpleITK": median_seconds(lambda _: simpleitk(folder), ROUNDS),
        "dcm2niix": median_seconds(lambda turn: dcm2niix(folder, tmp_path / f"nii{turn}"), ROUNDS),
    }
    print(f"\n{folder.name}: " + ", ".join(f"{who} {taken:.2f} s" for who, taken in seconds.items()))
    assert seconds["ours"] < SLACK * min(seconds["SimpleITK"], seconds["dcm2niix"])

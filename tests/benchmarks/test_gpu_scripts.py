"""The scripts in ``benchmarks/gpu`` run, without Prefect, Dask, zarr and our own upper layers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"
UPPER = ("prefect", "deployments")
FORBIDDEN = (*UPPER, "dask", "distributed", "zarr", "storage", "tasks", "flows")
SMALL = {
    "sliding_window": ["--volume", "32", "40", "32", "--window", "32", "32", "32", "--volumes", "2", "--rounds", "1"],
    "nnunet": ["--volume", "48", "64", "64", "--patch", "32", "32", "32", "--classes", "4", "--rounds", "1"],
}


class Python:
    """Runs Python with some modules out of reach, in processes that it starts too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, *arguments: str, forbidden: tuple[str, ...] = FORBIDDEN) -> subprocess.CompletedProcess[str]:
        block = f"import sys; sys.modules.update(dict.fromkeys({forbidden}))"
        (self._folder / "sitecustomize.py").write_text(block)
        environment = os.environ | {"PYTHONPATH": str(self._folder)}
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment, check=False)

    def script(self, name: str, *arguments: str, forbidden: tuple[str, ...] = FORBIDDEN) -> list[str]:
        """Lines that a script prints on the CPU."""
        path = str(SCRIPTS / f"{name}.py")
        done = self.run(path, "--device", "cpu", *SMALL[name], *arguments, forbidden=forbidden)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def python(tmp_path: Path) -> Python:
    return Python(tmp_path)


def test_the_upper_layers_are_out_of_reach(python: Python) -> None:
    start_another = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import zarr']))"
    assert python.run("-c", start_another).returncode == 1
    assert python.run("-c", start_another, forbidden=()).returncode == 0


def test_it_prints_a_table(python: Python) -> None:
    rows = [line.split() for line in python.script("sliding_window")[2:]]
    assert {"Popscan", "bare"} <= {row[2] for row in rows}


def test_the_whole_path_needs_no_prefect(python: Python) -> None:
    path = str(SCRIPTS / "whole_path.py")
    done = python.run(path, "--cluster", "threads", "--series", "2", forbidden=UPPER)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 series, 0 failed")
    assert re.search(r"^busy: threads \d+%", done.stdout, re.M)
    assert re.search(r"^[\d,]+ series an hour; asked 14,000$", done.stdout, re.M)


@pytest.mark.parametrize("script", [*SMALL, "whole_path"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(python: Python, script: str) -> None:
    forbidden = UPPER if script == "whole_path" else FORBIDDEN
    done = python.run(str(SCRIPTS / f"{script}.py"), forbidden=forbidden)
    assert done.returncode == 1
    assert "no GPU" in done.stdout


def test_without_nnunet_it_measures_ours_alone(python: Python) -> None:
    pytest.importorskip("SimpleITK", reason="extra test")
    printed = python.script("nnunet", forbidden=(*FORBIDDEN, "nnunetv2"))
    assert "nnunetv2 is not installed" in printed[0]
    assert [label for label, *_ in table(printed)] == ["Popscan"]


@pytest.mark.skipif(find_spec("nnunetv2") is None, reason="nnunetv2 is not installed")
def test_nnunet_finds_the_same(python: Python) -> None:
    printed = python.script("nnunet")
    rows = table(printed)
    assert [label for label, *_ in rows] == ["Popscan", "nnU-Net", "nnU-Net, resampling on torch"]
    for _, *figures in rows:
        preprocess, predict, export, total = map(float, figures[:4])
        assert preprocess + predict + export == pytest.approx(total, abs=0.02)
    (ours, _, theirs) = (float(re.search(r"([\d.]+)% of the \d+%", line)[1]) for line in printed[-3:])
    assert ours > 97
    assert theirs > 99


def table(printed: list[str]) -> list[list[str]]:
    """Cells of the rows of a Markdown table."""
    lines = [line for line in printed if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]

"""The scripts in ``benchmarks/gpu`` run, without Prefect, Dask, zarr and our own upper layers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "sliding_window.py"
FORBIDDEN = ("prefect", "dask", "distributed", "zarr", "storage", "tasks", "flows", "deployments")
RUN = (
    f"import sys, runpy; sys.modules.update(dict.fromkeys({FORBIDDEN})); del sys.argv[0]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
SMALL = ["--volume", "32", "40", "32", "--window", "32", "32", "32", "--volumes", "2", "--rounds", "1"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)


def test_it_prints_a_table() -> None:
    done = run("--device", "cpu", *SMALL)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert {"Popscan", "bare"} <= {row[2] for row in rows}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = run()
    assert done.returncode == 1
    assert "no GPU" in done.stdout

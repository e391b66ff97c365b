"""The command ``popscan`` in a process of its own, as a person or a script runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.servers import postgres_server, s3_server

__all__ = ["postgres_server", "s3_server"]

REPOSITORY = Path(__file__).parents[2]

Popscan = Callable[..., subprocess.CompletedProcess[str]]


def run_popscan(
    home: Path, *arguments: str | Path, timeout: float = 600, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``popscan`` in this home; standard output and error come back apart."""
    # Of a terminal's size only what a test says: pytest's readline sets COLUMNS for the processes of pytest-xdist.
    ours = {n: value for n, value in os.environ.items() if not n.startswith("POPSCAN_") and n != "COLUMNS"}
    return subprocess.run(
        [sys.executable, "-c", "from deployments.cli import main; main()", *map(str, arguments)],
        env={**ours, "POPSCAN_HOME": str(home), **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture
def popscan(tmp_path: Path) -> Popscan:
    """`run_popscan` with a home of the test's own."""
    return partial(run_popscan, tmp_path / "home")

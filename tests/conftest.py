"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of real DICOM: ``POPSCAN_REALDATA``, else ``../shared/data``; skipped where absent, a failure in CI."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("POPSCAN_REALDATA", default))
    if not folder.is_dir():
        message = f"real data not found at {folder}; set POPSCAN_REALDATA"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: on small lattices, waiting for a busy core costs more than a second thread gains."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

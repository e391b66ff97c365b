"""The clinical reference file, one test per case, ids = case ids; the checks are in ``tests/ops/reference``."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

from tests.ops import reference
from tests.ops.reference.expect import Case, Check

CHECKS: dict[str, Check] = {}
for module in iter_modules(reference.__path__, f"{reference.__name__}."):
    CHECKS |= getattr(import_module(module.name), "CHECKS", {})


@pytest.fixture(scope="session")
def cases() -> dict[str, Case]:
    """Cases by id from ``POPSCAN_CLINICAL``, else ``../shared/clinical``; skipped where absent, a failure in CI."""
    default = Path(__file__).resolve().parents[3] / "shared" / "clinical"
    file = Path(os.environ.get("POPSCAN_CLINICAL", default)) / "reference_cases.json"
    if not file.is_file():
        message = f"clinical reference cases not found at {file}; set POPSCAN_CLINICAL"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return {case["id"]: case for case in json.loads(file.read_text())}


@pytest.mark.parametrize("case_id", sorted(CHECKS))
def test_case(case_id: str, cases: dict[str, Case]) -> None:
    CHECKS[case_id](cases[case_id])


def test_every_case_is_checked(cases: dict[str, Case]) -> None:
    domains = {case_id.split("-")[0] for case_id in CHECKS}
    assert {case_id for case_id in cases if case_id.split("-")[0] in domains} == set(CHECKS)

"""Is this machine set up right? Every check really does the thing it speaks of."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flows.settings import Settings, available_cores

LEAST_FREE_GB = 5.0
"""A hundred chest scans take about this much, compressed."""

PACKAGES = ("dask", "distributed", "highdicom", "imagecodecs", "onnxruntime", "pydicom", "torch", "zarr")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: its name, whether it is right, and what was found."""

    name: str
    ok: bool
    found: str


def examine(settings: Settings) -> list[Check]:
    """Run all checks; one that cannot be carried out is a bad one."""
    checks: list[tuple[str, Callable[[Settings], tuple[bool, str]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("prefect", _prefect),
        ("cores", _cores),
        ("gpu", _gpu),
        ("disk", _disk),
        ("ledger", _ledger),
        ("models", _models),
        ("inference", _inference),
        ("decoders", _decoders),
        ("dask", _dask),
        ("settings", _settings),
    ]
    return [_attempt(name, check, settings) for name, check in checks]


def _attempt(name: str, check: Callable[[Settings], tuple[bool, str]], settings: Settings) -> Check:
    try:
        return Check(name, *check(settings))
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}")


def _python(_: Settings) -> tuple[bool, str]:
    return True, f"{platform.python_version()} on {platform.platform()}"


def _packages(_: Settings) -> tuple[bool, str]:
    found = {name: _version(name) for name in PACKAGES}
    found["onnxruntime"] = found["onnxruntime"] or _version("onnxruntime-gpu")
    missing = [name for name, number in found.items() if number is None]
    text = ", ".join(f"{name} {number or 'missing'}" for name, number in found.items())
    return not missing, text


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _prefect(_: Settings) -> tuple[bool, str]:
    """Prefect 3.8's server does not start with FastAPI 0.151 or later, nor schedule with SQLAlchemy 2.1."""
    numbers = {name: version(name) for name in ("prefect", "fastapi", "sqlalchemy")}
    fastapi, sqlalchemy = _numeric(numbers["fastapi"]), _numeric(numbers["sqlalchemy"])
    is_old = _numeric(numbers["prefect"]) < (3, 9)
    ok = not is_old or (fastapi < (0, 152) and sqlalchemy < (2, 1))
    text = ", ".join(f"{name} {number}" for name, number in numbers.items())
    return ok, text if ok else f"{text}: these do not work together; pip install -c constraints.txt"


def _numeric(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _cores(_: Settings) -> tuple[bool, str]:
    return True, str(available_cores())


def _gpu(_: Settings) -> tuple[bool, str]:
    import torch

    if not torch.cuda.is_available():
        return True, "none; everything runs on the CPU"
    return True, ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _disk(settings: Settings) -> tuple[bool, str]:
    home = settings.open_home().root
    free = shutil.disk_usage(home).free / 1e9
    return free >= LEAST_FREE_GB, f"{free:.0f} GB free at {home}"


def _ledger(settings: Settings) -> tuple[bool, str]:
    home = settings.open_home()
    with home.open_ledger() as ledger:
        studies, results = ledger.count_studies(), ledger.count_results().total()
        return True, f"{studies} studies, {results} results in {home.ledger_place}"


def _models(settings: Settings) -> tuple[bool, str]:
    from storage.releases import verify_installed

    checks = verify_installed(settings.open_home().stores.models)
    text = ", ".join(f"{check.folder} {check.problem or 'verified'}" for check in checks)
    return bool(checks) and not any(check.problem for check in checks), text or "none installed"


def _inference(settings: Settings) -> tuple[bool, str]:
    from storage.models import load_bundle
    from storage.releases import installed_bundles
    from tasks.infer import open_predictor

    bundles = map(load_bundle, installed_bundles(settings.open_home().stores.models))
    devices = [f"{bundle.manifest.folder} on {open_predictor(bundle).device}" for bundle in bundles]
    return True, ", ".join(devices) or "no models"


def _decoders(_: Settings) -> tuple[bool, str]:
    import imagecodecs

    needed = ("JPEG8", "LJPEG", "JPEGLS", "JPEG2K", "HTJ2K")
    missing = [name for name in needed if not getattr(imagecodecs, name).available]
    return not missing, f"missing: {', '.join(missing)}" if missing else ", ".join(("raw", "RLE", *needed))


def _dask(settings: Settings) -> tuple[bool, str]:
    from distributed import Client

    from flows.clusters import scheduler_address

    connect: Callable[..., Any] = Client
    with scheduler_address(settings) as address, connect(address, timeout=10, set_as_default=False) as client:
        threads = client.nthreads()
        return bool(threads), f"{address}: {len(threads)} workers, {sum(threads.values())} threads"


def _settings(settings: Settings) -> tuple[bool, str]:
    shown = settings.model_dump()
    if settings.ledger:
        shown["ledger"] = settings.open_home().ledger_place
    return True, ", ".join(f"POPSCAN_{name.upper()}={value}" for name, value in shown.items())

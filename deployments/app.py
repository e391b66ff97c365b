"""What the modules of the command line share: the application, its errors, settings, and JSON output."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from flows.settings import Settings

app = App(
    name="popscan",
    help="Population-scale imaging screening: DICOM in, measurements with provenance out. Research use only.",
)

Json = Annotated[bool, Parameter(name="--json", negative=())]
"""Print one JSON document on standard output and nothing else there."""


class UsageError(Exception):
    """The command cannot do what it was asked; the message says what to do instead."""


def load_settings() -> Settings:
    """Read the settings from the environment; where `popscan up` is up in the home, its Prefect server is used.

    Raises
    ------
    UsageError
        A value cannot be used.
    """
    from pydantic import ValidationError

    from deployments.pidfile import owner
    from deployments.services import prefect_url
    from flows.settings import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        problems = "; ".join(f"POPSCAN_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise UsageError(f"a setting cannot be used: {problems}") from error
    if owner(settings.home.expanduser()) is not None:
        os.environ.setdefault("PREFECT_API_URL", prefect_url(settings))
    return settings


def check_programme(name: str, settings: Settings) -> None:
    """Check that there is such a programme and that its options can be used.

    Raises
    ------
    UsageError
        There is none, or an option is wrong.
    """
    from flows.programmes import load_programme

    try:
        load_programme(name).with_policy(settings.options(name))
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    print()

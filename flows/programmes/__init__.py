"""Screening programmes by name. A new disease adds one module here with a ``PROGRAMME`` and one line below."""

from __future__ import annotations

from importlib import import_module

from flows.programmes.programme import Programme

PROGRAMMES = ("calcium",)


class UnknownProgrammeError(ValueError):
    """There is no programme of that name."""


def load_programme(name: str) -> Programme:
    """Import the programme ``name``.

    Raises
    ------
    UnknownProgrammeError
        There is none; the message names those that exist.
    """
    if name not in PROGRAMMES:
        raise UnknownProgrammeError(f"unknown programme {name!r}; choose one of: {', '.join(PROGRAMMES)}")
    programme: Programme = import_module(f"flows.programmes.{name}").PROGRAMME
    return programme

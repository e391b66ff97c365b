"""Screening programmes by name. A new disease adds one module here with a ``PROGRAMME`` and one line below.

A site adds its own without touching this package: an installed distribution whose entry points have the group
``popscan.programmes``, for example ``vertebra = "our_hospital.vertebra:PROGRAMME"``.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from flows.programmes.programme import Programme

ENTRY_POINTS = "popscan.programmes"

OURS = {"calcium": "flows.programmes.calcium:PROGRAMME"}


class UnknownProgrammeError(ValueError):
    """There is no programme of that name."""


def programme_names() -> tuple[str, ...]:
    """Names of all programmes, ours first."""
    return tuple(dict.fromkeys([*OURS, *(found.name for found in entry_points(group=ENTRY_POINTS))]))


def load_programme(name: str) -> Programme:
    """Import the programme ``name``.

    Raises
    ------
    UnknownProgrammeError
        There is none; the message names those that exist.
    """
    if name in OURS:
        loaded = EntryPoint(name, OURS[name], ENTRY_POINTS).load()
    else:
        found = list(entry_points(group=ENTRY_POINTS, name=name))
        if not found:
            raise UnknownProgrammeError(f"unknown programme {name!r}; choose one of: {', '.join(programme_names())}")
        loaded = found[0].load()
    programme: Programme = loaded
    return programme

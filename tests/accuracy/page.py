"""The sections of ``docs/accuracy.md``: a module of its own, so that other processes can import it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module

from ops.agreement import limits_of_agreement
from tests import accuracy
from tests.accuracy.draw import Draw

PARTICIPANTS, SEED = 50, 2026


def section(name: str) -> str:
    """Heading, the module's own words, and the table of one disease."""
    module = import_module(f"{accuracy.__name__}.{name}")
    draws = list(module.draws(PARTICIPANTS, SEED))
    title = name.replace("_", " ").capitalize()
    return "\n".join([f"## {title}", "", (module.__doc__ or "").strip(), "", *table(draws), ""])


def table(draws: Sequence[Draw]) -> Iterator[str]:
    """Rows of a Markdown table: each quantity at each resolution, in order of appearance."""
    yield "| measurement | unit | resolution | n | true values | bias | limits of agreement | refused |"
    yield "|---|---|---|---|---|---|---|---|"
    groups: dict[tuple[str, str, str], list[Draw]] = {}
    quantities = list(dict.fromkeys(draw.quantity for draw in draws))
    for draw in draws:
        groups.setdefault((draw.quantity, draw.unit, draw.resolution), []).append(draw)
    for quantity in quantities:
        for (name, unit, resolution), group in groups.items():
            if name == quantity:
                yield f"| {name} | {unit} | {resolution} | {' | '.join(row(group))} |"


def row(group: Sequence[Draw]) -> Iterator[str]:
    """Cells of one quantity at one resolution."""
    pairs = [(draw.truth, draw.measured) for draw in group if draw.measured is not None]
    refused = Counter(draw.reason for draw in group if draw.measured is None)
    truths = [round(draw.truth, 9) for draw in group]
    yield str(len(pairs))
    yield f"{min(truths):.3g} – {max(truths):.3g}"
    if pairs:
        found = limits_of_agreement(*zip(*pairs, strict=True))
        yield f"{found.bias:+.2g}"
        yield f"{found.lower:+.2g} … {found.upper:+.2g}"
    else:
        yield from ("", "")
    yield ", ".join(f"{reason} × {count}" for reason, count in refused.most_common())

"""``python -m tests.accuracy`` writes ``docs/accuracy.md``: measurements against the truth of phantoms."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from ops.agreement import limits_of_agreement
from tests import accuracy
from tests.accuracy.draw import Draw

PARTICIPANTS, SEED = 50, 2026
PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"

HEAD = f"""# Accuracy on simulated participants

Made by `make accuracy`: {PARTICIPANTS} participants per disease and resolution (seed {SEED}), each painted from its own
parameters with partial volume, blur and noise; the true value comes from those parameters, not from the code tested.
Bias is the mean of measured minus true, the limits are bias ± 1.96 standard deviations (Bland and Altman), in the unit
of the measurement. What was refused is not in them: it is counted, with its reason. Masks are the true ones unless a
section says otherwise, so this is the error of the measurement, not of a model.
"""


def main() -> None:
    """Measure every disease's draws, side by side on all cores, and write the page."""
    names = [module.name for module in iter_modules(accuracy.__path__) if module.name not in ("draw", "__main__")]
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        sections = list(pool.map(section, names))
    PAGE.write_text("\n".join([HEAD, *sections]), encoding="utf-8")
    print(PAGE, file=sys.stderr)


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
    truths = [draw.truth for draw in group]
    yield str(len(pairs))
    yield f"{min(truths):.3g} – {max(truths):.3g}"
    if pairs:
        found = limits_of_agreement(*zip(*pairs, strict=True))
        yield f"{found.bias:+.2g}"
        yield f"{found.lower:+.2g} … {found.upper:+.2g}"
    else:
        yield from ("", "")
    yield ", ".join(f"{reason} × {count}" for reason, count in refused.most_common())


if __name__ == "__main__":
    main()

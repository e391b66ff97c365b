"""``python -m tests.accuracy`` writes ``docs/accuracy.md``: measurements against the truth of phantoms."""

from __future__ import annotations

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from pkgutil import iter_modules

from tests import accuracy
from tests.accuracy.page import PARTICIPANTS, SEED, section

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
    names = [
        module.name for module in iter_modules(accuracy.__path__) if module.name not in ("draw", "page", "__main__")
    ]
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a process per core already
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        sections = list(pool.map(section, names))
    PAGE.write_text("\n".join([HEAD, *sections]), encoding="utf-8")
    print(PAGE, file=sys.stderr)


if __name__ == "__main__":
    main()

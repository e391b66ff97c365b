"""Run by test_screen_killed.py in a process of its own, which is then killed: ``HOME LOG`` as arguments."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import flows.screen
from flows.clusters import scheduler_address
from flows.settings import Settings
from tasks.case import Work
from tasks.stage import Stage
from tests.flows.mean_programme import PROGRAMME

SECONDS_A_CASE = 0.2


def slowly(work: Work) -> Work:
    """Take a while, and note which case it was: a computation that happens twice is seen."""
    time.sleep(SECONDS_A_CASE)
    with Path(sys.argv[2]).open("a") as log:
        log.write(f"{work.case.study_uid}\n")
    return work


def main() -> None:
    load, *others = PROGRAMME.stages
    programme = replace(PROGRAMME, stages=(load, Stage("slowly", "1", slowly), *others))
    flows.screen.load_programme = lambda name: programme
    settings = Settings(home=Path(sys.argv[1]), workers=2)
    with scheduler_address(settings) as address:
        flows.screen.screen("mean", sys.argv[1], address, failure_threshold=1.0)


if __name__ == "__main__":
    main()

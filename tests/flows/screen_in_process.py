"""Run by test_screen_killed.py in a process of its own, which is then killed: ``HOME LOG`` as arguments."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import flows.screen
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
    os.environ |= {"POPSCAN_HOME": sys.argv[1], "POPSCAN_WORKERS": "2", "POPSCAN_FAILURE_THRESHOLD": "1"}
    flows.screen.screen("mean")


if __name__ == "__main__":
    main()

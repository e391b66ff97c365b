"""Linear registration against SimpleITK, elastix and ANTs at equal error, on one CPU thread.

``python -m benchmarks.registration_peers [--pairs 2] [--real FOLDER]`` prints, for every task, the seconds of CPU time
and the target registration error (TRE) of our default plan and of several settings of each peer, and beside each peer
the fastest setting whose mean error is no more than a tenth above ours. Peers that are not installed are named.

Simulated heads have exact maps. The real thighs (IBSI) were aligned by somebody to some millimetres, so that their
error is the distance to the result of the same setting without the known map, and for CT–CT to that map itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ops.measure.errors import NotEvaluableError
from ops.registration.linear import LinearModel
from ops.registration.register import RegistrationPlan, register
from ops.registration.transforms import Affine, Transform, chain
from ops.volume import Volume
from tests.ops.registration import real
from tests.ops.registration.heads import Heads, mean_distance, moved_by, perturbation
from tests.ops.registration.peers import ants_linear, elastix_linear, sitk_linear

OURS = "Popscan"
MODULES = {"SimpleITK": "SimpleITK", "elastix": "itk.elxParameterObjectPython", "ANTs": "ants"}
# "No worse than ours" allows for chance: the peers sample at random.
EQUAL = 1.1
Register = Callable[[Volume, Volume, bool], Transform]


@dataclass(frozen=True)
class Contestant:
    """One setting of one tool."""

    tool: str
    setting: str
    run: Register


@dataclass(frozen=True)
class Task:
    """Two images, whether the map between them is rigid, and the error in mm of an answer."""

    fixed: Volume
    moving: Volume
    rigid: bool
    error: Callable[[Transform, Contestant], float]


@dataclass(frozen=True)
class Run:
    """Seconds of CPU time and error in mm of one task; infinite where the tool gave up or refused."""

    seconds: float
    error: float


def popscan(fixed: Volume, moving: Volume, rigid: bool) -> Transform:
    """Our default plan."""
    return register(fixed, moving, RegistrationPlan(LinearModel.RIGID if rigid else LinearModel.AFFINE)).transform


def contestants() -> list[Contestant]:
    """Ours first; for each peer its usual recipe, then faster and more thorough ones."""
    samples, iterations = "NumberOfSpatialSamples", "MaximumNumberOfIterations"
    shrunk = {f"{image}ImagePyramid": f"{image}RecursiveImagePyramid" for image in ("Fixed", "Moving")}
    halves = {**shrunk, "NumberOfResolutions": "3", "ImagePyramidSchedule": "8 8 8 4 4 4 2 2 2"}
    coarse = {"aff_shrink_factors": (6, 4, 2), "aff_smoothing_sigmas": (3, 2, 1)}
    peers: dict[str, dict[str, Register]] = {
        "SimpleITK": {
            "5 %, shrunk 4 2 1": sitk_linear,
            "1 %, shrunk 4 2 1": partial(sitk_linear, share=0.01),
            "5 %, shrunk 8 4 2": partial(sitk_linear, shrink=(8, 4, 2)),
            "20 %, shrunk 8 4 2": partial(sitk_linear, share=0.2, shrink=(8, 4, 2)),
        },
        "elastix": {
            "default map": partial(elastix_linear, changes={}),
            "8,192 samples": partial(elastix_linear, changes={samples: "8192"}),
            "3 levels of 128": partial(elastix_linear, changes={"NumberOfResolutions": "3", iterations: "128"}),
            "shrunk 8 4 2 1": partial(elastix_linear, changes=shrunk),
            "shrunk 8 4 2 1, levels of 128": partial(elastix_linear, changes={**shrunk, iterations: "128"}),
            "shrunk 8 4 2": partial(elastix_linear, changes=halves),
            "shrunk 8 4 2, 8,192 samples": partial(elastix_linear, changes={**halves, samples: "8192"}),
        },
        "ANTs": {
            "default": ants_linear,
            "5 % of voxels": partial(ants_linear, aff_random_sampling_rate=0.05),
            "shrunk 6 4 2": partial(ants_linear, aff_iterations=(1000, 500, 250), **coarse),
            "shrunk 6 4 2, 5 %": partial(
                ants_linear, aff_iterations=(1000, 500, 250), aff_random_sampling_rate=0.05, **coarse
            ),
        },
    }
    found = [Contestant(OURS, "default plan", popscan)]
    for tool, settings in peers.items():
        if not is_installed(tool):
            print(f"{tool}: not installed")
            continue
        found += [Contestant(tool, setting, run) for setting, run in settings.items()]
    return found


def is_installed(tool: str) -> bool:
    """Say whether the module of a peer can be found."""
    try:
        return importlib.util.find_spec(MODULES[tool]) is not None
    except ModuleNotFoundError:
        return False


def attempt(contestant: Contestant, task: Task) -> Run:
    """Run and time one contestant; ITK raises RuntimeError where images no longer meet."""
    began = time.process_time()
    try:
        found = contestant.run(task.fixed, task.moving, task.rigid)
    except (RuntimeError, NotEvaluableError):
        run = Run(time.process_time() - began, np.inf)
    else:
        seconds = time.process_time() - began
        run = Run(seconds, task.error(found, contestant))
    print(
        f"{contestant.tool}, {contestant.setting}: {run.seconds:.2f} s, {run.error:.3f} mm", file=sys.stderr, flush=True
    )
    return run


def head_tasks(pairs: int, size_mm: float) -> Iterator[tuple[str, list[Task]]]:
    """Heads of 180 × 256 × 256 voxels of 1 mm, CT to CT and CT to MR, each moved by maps of its own."""
    rng = np.random.default_rng(2026)
    made: dict[str, list[Task]] = {}
    for seed in range(pairs):
        heads = Heads(size_mm, seed)
        fixed, lattice = heads.image("CT", heads.grid(0.0)), heads.grid(0.37)
        for model in ("rigid", "affine"):
            for kind in ("CT", "MR"):
                truth = perturbation(rng, np.zeros(3), model)
                moving = heads.painted_through(kind, truth, lattice)
                error = partial(_head_error, heads, truth)
                made.setdefault(f"{model}, head CT–{kind}", []).append(Task(fixed, moving, model == "rigid", error))
    yield from made.items()


def _head_error(heads: Heads, truth: Affine, found: Transform, _: Contestant) -> float:
    return heads.tre(found, truth)


def real_tasks(folder: Path) -> Iterator[tuple[str, list[Task]]]:
    """Thighs of the IBSI patients, moved by known rigid maps."""
    rng = np.random.default_rng(7)
    made: dict[str, list[Task]] = {}
    for name in real.PATIENTS:
        images = real.patient(folder, name)
        for kind in ("CT", "MR_T1", "PET"):
            fixed, still = images["CT"], images[kind]
            points = real.body_points(fixed, still)
            truth = perturbation(rng, points.mean(0), "rigid")
            reference = _exact if kind == "CT" else partial(_unmoved, fixed, still)
            error = partial(_real_error, reference, truth, points)
            made.setdefault(f"rigid, thigh CT–{kind}", []).append(Task(fixed, moved_by(still, truth), True, error))
    yield from made.items()


def _exact(_: Contestant) -> Transform:
    return Affine(np.eye(4))


def _unmoved(fixed: Volume, still: Volume, contestant: Contestant) -> Transform:
    return contestant.run(fixed, still, True)


def _real_error(
    reference: Callable[[Contestant], Transform],
    truth: Affine,
    points: np.ndarray,
    found: Transform,
    contestant: Contestant,
) -> float:
    return mean_distance(found, chain(reference(contestant), truth), points)


def compare(label: str, tasks: list[Task], entrants: list[Contestant]) -> None:
    """Print the table of one kind of task; contestants take turns, so that load on the machine meets all alike."""
    runs = [[attempt(entrant, task) for entrant in entrants] for task in tasks]
    print(f"\n{label}, {len(tasks)} pairs\n{'tool':<12}{'setting':<34}{'CPU s':>8}{'TRE mm':>9}{'worst':>9}")
    summary = {}
    for number, entrant in enumerate(entrants):
        seconds, errors = zip(*((row[number].seconds, row[number].error) for row in runs), strict=True)
        summary[entrant] = Run(float(np.mean(seconds)), float(np.mean(errors)))
        worst = max(errors)
        print(f"{entrant.tool:<12}{entrant.setting:<34}{np.mean(seconds):>8.2f}{np.mean(errors):>9.3f}{worst:>9.3f}")
    verdicts(summary, entrants[0])


def verdicts(summary: dict[Contestant, Run], ours: Contestant) -> None:
    """Say for each peer how many times as long its fastest setting takes that is as accurate as ours."""
    limit = EQUAL * summary[ours].error
    for tool in dict.fromkeys(entrant.tool for entrant in summary if entrant is not ours):
        mine = {entrant: run for entrant, run in summary.items() if entrant.tool == tool}
        equal = [entrant for entrant, run in mine.items() if run.error <= limit]
        if not equal:
            best = min(run.error for run in mine.values())
            print(f"{tool}: no setting reached {limit:.3f} mm; its best {best:.3f} mm")
            continue
        fastest = min(equal, key=lambda entrant: mine[entrant].seconds)
        times = mine[fastest].seconds / summary[ours].seconds
        print(f"{tool}: {times:.1f} times our time at equal error ({fastest.setting})")


def main() -> None:
    """Compare on simulated heads, and on the real thighs where their folder is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2, help="simulated pairs of each kind")
    parser.add_argument("--size", type=float, default=1.0, help="mm of the simulated voxels")
    parser.add_argument("--real", type=Path, help="folder of real data, with ibsi/ in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # read by each peer when it is first used
    entrants = contestants()
    for label, tasks in head_tasks(options.pairs, options.size):
        compare(label, tasks, entrants)
    if options.real:
        for label, tasks in real_tasks(options.real):
            compare(label, tasks, entrants)


if __name__ == "__main__":
    main()

"""The simulated anatomy of each programme but calcium, whose chest is a protocol's and not a study's (`chest.scan`)."""

from __future__ import annotations

from importlib import import_module

import numpy as np

from ops.phantoms.study import SimulatedStudy

# Programme → module of this package with a function ``sample_study(rng) -> SimulatedStudy``.
ANATOMIES = {
    "aneurysm": "head.circle_of_willis",
    "cardiac": "heart.short_axis",
    "coronary": "heart.coronary_tree",
    "echo": "heart.left_ventricle",
    "fibrosis": "liver.abdomen",
    "fracture": "bones.radiographs",
    "haemorrhage": "head.bleeds",
    "liver_lesion": "liver.lesions",
    "stroke": "head.ischaemia",
}


def sample_study(programme: str, rng: np.random.Generator) -> SimulatedStudy:
    """Draw one participant's study for ``programme``.

    Raises
    ------
    KeyError
        There is no anatomy for it; `ANATOMIES` lists them.
    """
    study: SimulatedStudy = import_module(f"ops.phantoms.{ANATOMIES[programme]}").sample_study(rng)
    return study

"""The stroke cases, ST-*."""

from __future__ import annotations

import numpy as np
import pytest

from ops.diseases.stroke.diffusion import adc_map
from ops.diseases.stroke.perfusion import deconvolution, deconvolve
from ops.diseases.stroke.scores import defuse3_eligible
from ops.phantoms.head.ischaemia import Circulation, TissuePerfusion
from tests.ops.reference.expect import Case, Check, check

TIMES = np.arange(0.0, 60.0)


def st_01(case: Case) -> None:
    low, high = case["inputs"]["S0"], case["inputs"]["S"]
    check(case, adc_map([[low] * len(high), high], [0, 1000]).tolist())


def st_02(case: Case) -> None:
    check(case, [defuse3_eligible(core, late) for core, late in case["inputs"]["rows"]])


def st_04a(case: Case) -> None:
    """Our Tmax has no bias of one sample: it is within a fifth of one, where the tolerance is a whole one."""
    inputs, circulation = case["inputs"], Circulation()
    curves = [circulation.tissue(TissuePerfusion(60, inputs["mtt"], delay), TIMES) for delay in inputs["delays"]]
    with_artery = deconvolution(circulation.artery(TIMES), TIMES, inputs["lambda_"])
    tmax = deconvolve(np.stack(curves, axis=1), with_artery)[3]
    check(case, tmax.tolist())
    assert tmax == pytest.approx(inputs["delays"], abs=0.2)


def st_04b(case: Case) -> None:
    circulation = Circulation()
    curves = [circulation.tissue(TissuePerfusion(6000 * flow, 4, 2), TIMES) for flow in case["inputs"]["cbf"]]
    normal, low = deconvolve(np.stack(curves, axis=1), deconvolution(circulation.artery(TIMES), TIMES, 0.15))[0]
    check(case, low / normal)


CHECKS: dict[str, Check] = {"ST-01": st_01, "ST-02": st_02, "ST-04a": st_04a, "ST-04b": st_04b}

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.diseases.stroke.scores import (
    ASPECTS_REGIONS,
    HyperdenseVesselPolicy,
    affected_regions,
    aspects,
    defuse3_eligible,
    extend_eligible,
    hyperdense_vessel,
    mismatch,
)
from ops.measure.errors import NotEvaluableError
from ops.volume import Grid, Volume

BAD_VOLUMES = [(-1, 10), (10, -1), (float("nan"), 10), (10, float("inf"))]


def test_mismatch() -> None:
    assert (mismatch(40, 80).ratio, mismatch(40, 80).volume_ml) == (2, 40)
    assert mismatch(0, 15).ratio is None
    assert mismatch(20, 5).volume_ml == -15


@pytest.mark.parametrize(
    ("core", "late", "eligible"),
    [
        (69.999, 200, True),
        (70, 200, False),  # core < 70 mL
        (50, 90, True),
        (50, 89.99, False),  # ratio ≥ 1.8
        (5, 20, True),
        (5, 19.999, False),  # mismatch ≥ 15 mL
        (5.1, 20.1, True),  # 20.1 − 5.1 is 15.000000000000002 or less in binary
        (0, 15, True),
        (0, 14.99, False),
        (0, 0, False),
        (30, 20, False),
    ],
)
def test_defuse3(core: float, late: float, eligible: bool) -> None:
    assert defuse3_eligible(core, late) is eligible


@pytest.mark.parametrize(
    ("core", "late", "eligible"),
    [
        (69.999, 100, True),
        (70, 200, False),  # core < 70 mL
        (60, 72, False),  # ratio > 1.2, and 12 mL
        (60, 72.01, True),
        (20, 30, False),  # difference > 10 mL
        (20, 30.01, True),
        (12.3, 22.3, False),  # 10 mL, whatever binary makes of it
        (0, 10, False),
        (0, 10.01, True),
        (0, 0, False),
    ],
)
def test_extend(core: float, late: float, eligible: bool) -> None:
    assert extend_eligible(core, late) is eligible


@given(st.floats(0, 200), st.floats(0, 400))
def test_defuse3_is_the_stricter_trial(core: float, late: float) -> None:
    assert not defuse3_eligible(core, late) or extend_eligible(core, late)


@pytest.mark.parametrize("trial", [defuse3_eligible, extend_eligible])
def test_no_core(trial) -> None:
    assert trial(0, 40, "ratio_satisfied")
    with pytest.raises(NotEvaluableError) as error:
        trial(0, 40, "refuse")
    assert error.value.reason == "ratio_undefined"
    with pytest.raises(ValueError, match="zero_core"):
        trial(0, 40, "maybe")


@pytest.mark.parametrize(("core", "late"), BAD_VOLUMES)
@pytest.mark.parametrize("function", [mismatch, defuse3_eligible, extend_eligible])
def test_bad_volumes(function, core: float, late: float) -> None:
    with pytest.raises(NotEvaluableError) as error:
        function(core, late)
    assert error.value.reason == "invalid_volume"


def test_aspects() -> None:
    assert aspects([]) == 10
    assert aspects(["M1", "M2", "I", "M1"]) == 7
    assert aspects(ASPECTS_REGIONS) == 0
    for unknown in (["M7"], "M1"):
        with pytest.raises(NotEvaluableError) as error:
            aspects(unknown)
        assert error.value.reason == "unknown_region"


def label_map(voxels: list[int]) -> Volume:
    array = np.array(voxels, dtype=np.uint8).reshape(1, 1, -1)
    return Volume(array, Grid.from_spacing(array.shape, (1, 1, 1)), "label")


def test_affected_regions() -> None:
    regions = label_map([n for n in range(1, 11) for _ in range(4)])
    infarct = label_map([1] * 4 + [1, 1, 0, 0] + [1, 0, 0, 0] + [0] * 28)
    assert affected_regions(regions, infarct, 0.5) == {"C", "L"}
    assert affected_regions(regions, infarct, 0.25) == {"C", "L", "IC"}
    assert affected_regions(regions, infarct, 0.26) == {"C", "L"}
    assert affected_regions(regions, label_map([0] * 40), 0.01) == frozenset()


@pytest.mark.parametrize(
    ("regions", "infarct", "share", "reason"),
    [
        ([1, 2, 3], [0, 0, 0], 0.5, "empty_mask"),
        ([*range(1, 12)], [0] * 11, 0.5, "unknown_region"),
        ([*range(1, 11)], [0] * 9, 0.5, "grid_mismatch"),
        ([*range(1, 11)], [0] * 10, 0.0, "invalid_share"),
        ([*range(1, 11)], [0] * 10, float("nan"), "invalid_share"),
    ],
)
def test_affected_regions_refuses(regions: list[int], infarct: list[int], share: float, reason: str) -> None:
    with pytest.raises(NotEvaluableError) as error:
        affected_regions(label_map(regions), label_map(infarct), share)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("hu", "other", "flagged"), [(43.1, 35, True), (43, 30, False), (60, 50, False), (60.1, 50, True), (50, 45, False)]
)
def test_hyperdense_vessel(hu: float, other: float, flagged: bool) -> None:
    assert hyperdense_vessel(hu, other).flagged is flagged
    assert hyperdense_vessel(hu, other).ratio == pytest.approx(hu / other)


def test_hyperdense_vessel_policy_and_bad_input() -> None:
    assert not hyperdense_vessel(48, 35, HyperdenseVesselPolicy(above_hu=50)).flagged
    for hu, other in ((50, 0), (50, -5), (float("nan"), 30), (50, float("inf"))):
        with pytest.raises(NotEvaluableError) as error:
            hyperdense_vessel(hu, other)
        assert error.value.reason == "invalid_hu"
    with pytest.raises(ValueError, match="positive"):
        HyperdenseVesselPolicy(above_ratio=0)

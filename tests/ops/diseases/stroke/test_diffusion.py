from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.diseases.stroke.diffusion import DiffusionPolicy, adc_map, dwi_core, rayleigh_sd
from ops.measure.errors import NotEvaluableError
from ops.volume import Grid

GRID = Grid.from_spacing((5, 20, 20), (5.0, 2.0, 2.0))


@given(st.floats(50, 3000), st.lists(st.floats(0, 1400), min_size=2, max_size=6, unique=True))
def test_adc_of_any_b_values(adc: float, b_values: list[float]) -> None:
    b_values = [*b_values, 0.0, 1500.0]
    signals = [[30000 * np.exp(-b * adc * 1e-6)] for b in b_values]
    assert adc_map(signals, b_values)[0] == pytest.approx(adc, abs=0.5)


def test_signals_at_the_noise_floor_are_left_out() -> None:
    b_values, floor = [0, 500, 1000], 40.0
    clean = np.array([[1000.0], [1000 * np.exp(-1.5)], [1000 * np.exp(-3.0)]])
    lifted = clean.copy()
    lifted[2] = 39.0 + 40.0  # 50 + noise
    assert adc_map(lifted, b_values)[0] < 2800
    assert adc_map(lifted, b_values, 80.0)[0] == pytest.approx(3000, rel=1e-4)
    assert np.isnan(adc_map([[1000.0], [floor]], [0, 1000], floor)[0])
    assert np.isnan(adc_map([[1000.0], [0.0]], [0, 1000])[0])
    # Two images of one b-value are no decay.
    assert np.isnan(adc_map([[1000.0], [990.0], [10.0]], [0, 0, 1000], floor)[0])


@pytest.mark.parametrize(
    "b_values", [[0], [1000, 1000], [0, 499], [0, 1501], [0, -1000], [0, float("nan")], [0, 1, 1000]]
)
def test_unsupported_b_values(b_values: list[float]) -> None:
    with pytest.raises(NotEvaluableError) as error:
        adc_map(np.ones((2 if len(b_values) != 1 else 1, 3)), b_values)
    assert error.value.reason == "b_values_unsupported"


def test_signals_that_are_not_finite() -> None:
    with pytest.raises(NotEvaluableError) as error:
        adc_map([[1000.0], [np.nan]], [0, 1000])
    assert error.value.reason == "not_finite"


def test_rayleigh() -> None:
    rng = np.random.default_rng(0)
    assert rayleigh_sd(np.hypot(*rng.normal(0, 7, (2, 20000)))) == pytest.approx(7, rel=0.02)
    assert rayleigh_sd([]) == 0


def brain() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ADC, DWI and mask: tissue of 800 and 300 ± 15."""
    dwi = np.random.default_rng(1).normal(300, 15, GRID.shape).astype(np.float32)
    return np.full(GRID.shape, 800.0, dtype=np.float32), dwi, np.ones(GRID.shape, dtype=bool)


def core_at(adc_value: float, dwi_value: float, policy: DiffusionPolicy | None = None) -> bool:
    adc, dwi, mask = brain()
    adc[2, 10, 10], dwi[2, 10, 10] = adc_value, dwi_value
    core = dwi_core(adc, dwi, mask, GRID, policy or DiffusionPolicy())
    assert core.sum() == core[2, 10, 10]
    return bool(core.any())


def test_core_lies_below_620_in_bright_tissue() -> None:
    assert core_at(619.9, 400)
    assert not core_at(620, 400)
    assert not core_at(500, 300)  # dark as the rest
    assert not core_at(0, 400)  # not measured
    assert not core_at(float("nan"), 400)


def test_bright_counts_from_the_named_number_of_deviations() -> None:
    policy = DiffusionPolicy(bright_rule="normal_brain", bright_sd=4)
    dwi = np.delete(brain()[1], np.ravel_multi_index((2, 10, 10), GRID.shape))
    middle = float(np.median(dwi))
    limit = middle + 4 * 1.4826 * float(np.median(np.abs(dwi - middle)))
    assert core_at(500, limit + 0.5, policy)
    assert not core_at(500, limit - 0.5, policy)


def test_brightness_is_local_unless_the_policy_says_otherwise() -> None:
    grid = Grid.from_spacing((5, 60, 60), (5.0, 3.0, 3.0))
    slope = np.linspace(0.5, 1.5, 60, dtype=np.float32)
    dwi = np.random.default_rng(1).normal(300, 15, grid.shape).astype(np.float32) * slope
    adc, mask = np.full(grid.shape, 800.0, dtype=np.float32), np.ones(grid.shape, dtype=bool)
    adc[2, 28:32, [8, 50]] = 450
    dwi[2, 28:32, [8, 50]] = 300 * slope[[8, 50], None] * [[1.4], [1.0]]
    local = dwi_core(adc, dwi, mask, grid, DiffusionPolicy())
    everywhere = dwi_core(adc, dwi, mask, grid, DiffusionPolicy(bright_rule="normal_brain"))
    assert local[2, 28:32, 8].all()
    assert not local[2, 28:32, 50].any()
    assert not everywhere[2, 28:32, 8].any()


def test_core_refuses() -> None:
    adc, dwi, mask = brain()
    for values, signal, where, reason in (
        (adc * 1e-3, dwi, mask, "implausible_adc"),
        (np.full_like(adc, np.nan), dwi, mask, "implausible_adc"),
        (np.full_like(adc, 500), dwi, mask, "no_reference"),
        (adc, dwi * 0, mask, "no_signal"),
    ):
        with pytest.raises(NotEvaluableError) as error:
            dwi_core(values, signal, where, GRID, DiffusionPolicy())
        assert error.value.reason == reason


@pytest.mark.parametrize(
    "wrong",
    [
        {"bright_rule": "bright"},
        {"edge_rule": "ignore"},
        {"bright_sd": -1},
        {"bright_sd": float("nan")},
        {"csf_adc": 600},
        {"local_sd_mm": 0},
    ],
)
def test_policy_is_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"rule|limits|csf_adc|local_sd_mm"):
        DiffusionPolicy(**wrong)

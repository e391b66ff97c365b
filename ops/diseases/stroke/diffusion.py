"""Diffusion MR of the brain: apparent diffusion coefficient (ADC), and the infarct core it shows (SPEC §6).

Evidence marks: [R] recalled and not re-read, [U] uncertain: a policy, not a fact. ADC is in 10⁻⁶ mm²/s, b in s/mm².
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.measure.errors import NotEvaluableError
from ops.volume import Grid

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

ADC_UNITS = "1e-6 mm2/s"
# Exclusive upper limit of the core (DEFUSE/RAPID [R]).
CORE_ADC = 620.0
# The limit was set with b of 0 and about 1000. A smaller step measures perfusion too, a larger one kurtosis [U].
SMALLEST_B_STEP, LARGEST_B = 500.0, 1500.0
# The median ADC of a brain's tissue lies near 750–900; a median outside this range is another unit [U].
PLAUSIBLE_MEDIAN_ADC = (300.0, 2500.0)
# Standard deviation of a normal distribution over its median absolute deviation.
MAD_TO_SD = 1.4826
# Fewer voxels of normal tissue say nothing about normal tissue (policy).
SMALLEST_REFERENCE_VOXELS = 100

BrightRule = Literal["local_normal_brain", "normal_brain"]
EdgeRule = Literal["refuse", "flag"]


@dataclass(frozen=True)
class DiffusionPolicy:
    """Named choices that change a DWI core; all limits but the ADC's are [U].

    Attributes
    ----------
    bright_rule
        What a voxel's DWI signal is compared with: normal brain around it (``local_normal_brain``, default), weighted
        by a Gaussian, which makes up for the coil's uneven sensitivity, or all normal brain (``normal_brain``).
        Normal is what is neither CSF nor below the core's ADC.
    bright_sd
        A voxel is bright when its DWI signal, relative to that level, lies this many robust standard deviations of
        normal brain or more above its median.
    local_sd_mm
        Standard deviation of the Gaussian of ``local_normal_brain``.
    csf_adc
        ADC from which a voxel is CSF, in no reference.
    noise_floor_sd
        Signals up to this many standard deviations of the noise are no measurement of diffusion.
    minimum_island_ml
        26-connected pieces of the core smaller than this are absent from the cleaned volume. SPEC: 1–3 mL.
    edge_rule
        What becomes of a core that reaches a face of the scan, small islands aside: ``refuse`` (default) or ``flag``.
    """

    bright_rule: BrightRule = "local_normal_brain"
    bright_sd: float = 2.0
    local_sd_mm: float = 20.0
    csf_adc: float = 1200.0
    noise_floor_sd: float = 3.0
    minimum_island_ml: float = 1.0
    edge_rule: EdgeRule = "refuse"

    def __post_init__(self) -> None:
        if self.bright_rule not in ("local_normal_brain", "normal_brain") or self.edge_rule not in ("refuse", "flag"):
            raise ValueError(f"unknown bright_rule {self.bright_rule!r} or edge_rule {self.edge_rule!r}")
        numbers = (self.bright_sd, self.csf_adc, self.noise_floor_sd, self.minimum_island_ml)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ValueError(f"limits must be finite and not negative, got {numbers}")
        if self.csf_adc <= CORE_ADC:
            raise ValueError(f"csf_adc must lie above the core's {CORE_ADC:g}, got {self.csf_adc:g}")
        if not 0 < self.local_sd_mm < math.inf:
            raise ValueError(f"local_sd_mm must be positive, got {self.local_sd_mm}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


def adc_map(signals: npt.ArrayLike, b_values: Sequence[float], noise_floor: float = 0.0) -> FloatArray:
    """ADC of signals at two or more b-values: S(b) = S(0)·exp(−b·ADC), by least squares of ln S (mono-exponential [R]).

    Parameters
    ----------
    signals
        ``(n, ...)``, one image per b-value.
    b_values
        ``n`` values in s/mm².
    noise_floor
        Signals at or below it are left out: magnitude noise lifts them, and the ADC would read too low.

    Returns
    -------
    ndarray
        ``(...)`` float32 in 10⁻⁶ mm²/s; NaN where signals above the floor cover fewer than two b-values.

    Raises
    ------
    NotEvaluableError
        ``b_values_unsupported``: see `require_b_values`. ``not_finite``: a signal or the floor is NaN or infinite.
    """
    images = np.asarray(signals, dtype=np.float32)
    require_b_values(b_values)
    if len(images) != len(b_values):
        raise NotEvaluableError("b_values_unsupported", f"{len(images)} images do not go with {len(b_values)} b-values")
    if not (np.isfinite(images).all() and math.isfinite(noise_floor)):
        raise NotEvaluableError("not_finite", "a diffusion signal or its noise floor is NaN or infinite")
    # Weights 0 and 1 choose the signals of each voxel, so that one pass of sums fits all voxels.
    n, b_sum, bb_sum, y_sum, by_sum = (np.zeros(images.shape[1:]) for _ in range(5))
    for image, b in zip(images, b_values, strict=True):
        usable = image > max(noise_floor, 0.0)
        log_signal = np.log(image, where=usable, out=np.zeros(image.shape, dtype=np.float32))
        n += usable
        b_sum += b * usable
        bb_sum += b * b * usable
        y_sum += log_signal
        by_sum += b * log_signal
    determinant = n * bb_sum - b_sum**2
    adc = np.full(images.shape[1:], np.nan)
    np.divide((b_sum * y_sum - n * by_sum) * 1e6, determinant, out=adc, where=determinant > 0.5)
    return adc.astype(np.float32)


def require_b_values(b_values: Sequence[float]) -> None:
    """Refuse b-values that the core's limit does not hold for: ``b_values_unsupported``.

    They must be finite and not negative, span at least `SMALLEST_B_STEP`, and not exceed `LARGEST_B`.
    """
    b = np.asarray(b_values, dtype=np.float64)
    if b.size < 2 or not np.isfinite(b).all() or b.min() < 0 or np.ptp(b) < SMALLEST_B_STEP or b.max() > LARGEST_B:
        limits = f"at least two, {SMALLEST_B_STEP:g} or more apart, up to {LARGEST_B:g} s/mm²"
        raise NotEvaluableError("b_values_unsupported", f"b-values {list(b_values)}; an ADC here needs {limits}")


def rayleigh_sd(background: npt.ArrayLike) -> float:
    """Noise of a magnitude image: σ in both channels, from voxels without signal, where E[S²] = 2σ² [M]."""
    values = np.asarray(background, dtype=np.float64)
    return float(np.sqrt((values**2).mean() / 2)) if values.size else 0.0


def dwi_core(adc: FloatArray, dwi: FloatArray, brain: BoolArray, grid: Grid, policy: DiffusionPolicy) -> BoolArray:
    """Core: ADC < 620 in bright tissue (SPEC §6; DEFUSE/RAPID [R]).

    Parameters
    ----------
    adc
        ``(z, y, x)`` 10⁻⁶ mm²/s. NaN and values ≤ 0 are voxels without a measurement, never core.
    dwi
        ``(z, y, x)`` signal at the highest b-value.
    brain
        ``(z, y, x)`` where to look, without ventricles and old infarcts if they are known.
    grid
        Of all three.
    policy
        What is bright.

    Raises
    ------
    NotEvaluableError
        ``implausible_adc``: the ADC is in another unit; ``no_reference``: too little normal brain to compare with;
        ``no_signal``: its DWI signal is not above 0.
    """
    measured = brain & (adc > 0)
    median = float(np.median(adc[measured])) if measured.any() else math.nan
    low, high = PLAUSIBLE_MEDIAN_ADC
    if not low <= median <= high:
        detail = f"median ADC of the brain is {median:g}, outside {low:g}–{high:g}: is it in {ADC_UNITS}?"
        raise NotEvaluableError("implausible_adc", detail)
    low_adc = measured & (adc < CORE_ADC)
    normal = measured & ~low_adc & (adc < policy.csf_adc)
    if np.count_nonzero(normal) < SMALLEST_REFERENCE_VOXELS:
        raise NotEvaluableError("no_reference", f"only {normal.sum()} voxels of normal brain to compare the DWI with")
    if not dwi[normal].mean() > 0:
        raise NotEvaluableError("no_signal", f"the DWI signal of normal brain is {dwi[normal].mean():g} in the mean")
    relative = dwi / _local_level(dwi, normal, grid, policy) if policy.bright_rule == "local_normal_brain" else dwi
    reference = relative[normal]
    middle = float(np.median(reference))
    spread = MAD_TO_SD * float(np.median(np.abs(reference - middle)))
    return np.asarray(low_adc & (relative >= middle + policy.bright_sd * spread))


def _local_level(dwi: FloatArray, normal: BoolArray, grid: Grid, policy: DiffusionPolicy) -> FloatArray:
    """Mean signal of normal tissue around each voxel, weighted by a Gaussian; where none is near, that of all of it."""
    sigma = [policy.local_sd_mm / step for step in grid.spacing]
    everywhere = float(dwi[normal].mean())
    weight = ndimage.gaussian_filter(normal.astype(np.float32), sigma)
    deviation = ndimage.gaussian_filter(np.where(normal, dwi - np.float32(everywhere), np.float32(0)), sigma)
    # A weight of a thousandth pulls lone voxels far from normal tissue towards the mean of all of it.
    return np.asarray(everywhere + deviation / (weight + np.float32(1e-3)), dtype=np.float32)

"""CT perfusion: CBF, CBV, MTT and Tmax of every voxel by deconvolution of its curve with the arterial one (SPEC §6).

Evidence marks: [M] mathematics, [R] recalled and not re-read, [U] uncertain: a policy, not a fact. Enhancement in HU is
taken as proportional to the concentration of iodine [R]. Times are in s, CBF in mL/100 g/min, CBV in mL/100 g.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.interpolate import CubicSpline

from ops.diseases.stroke.bolus import Bolus, BolusPolicy, find_bolus, require_times
from ops.measure.errors import NotEvaluableError
from ops.volume import Volume

Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Contrast stays in plasma: haematocrit of large and of small vessels, and density of brain in g/mL (all [R]).
HAEMATOCRIT_LARGE_VESSELS, HAEMATOCRIT_SMALL_VESSELS = 0.45, 0.25
BRAIN_DENSITY = 1.04
# mL of blood in 1 g of tissue for each unit of (area under the tissue curve / area under the arterial curve).
BLOOD_PER_GRAM = (1 - HAEMATOCRIT_LARGE_VESSELS) / (1 - HAEMATOCRIT_SMALL_VESSELS) / BRAIN_DENSITY

# Lags at which the residue function is evaluated: tissue may be reached before the chosen artery, and later than
# 25 s no bolus arrives that could be told from noise [U].
EARLIEST_LAG, LATEST_LAG, LAG_STEP = -5.0, 25.0, 0.5
# Mean transit times of the table that undoes the truncation's blur. No brain's is shorter: apparent ones below 3 s come
# from noise, and undoing their blur would multiply it [U].
TABLE_MTT = np.geomspace(3.0, 60.0, 100)
# Step of the table's convolutions, as a share of the sampling interval.
TABLE_STEPS = 16
# Shorter steps of the uniform time axis cost time and add nothing (policy).
SHORTEST_STEP = 0.5
# Expected maximum of the residue function of pure noise, in its standard deviations: some ten independent values lie
# within the lags [U].
NOISE_MAXIMUM = 1.6
# Voxels per matrix product: some 100 MB of residues.
CHUNK = 200_000

FWHM_PER_SD = math.sqrt(8 * math.log(2))


@dataclass(frozen=True)
class PerfusionPolicy:
    """Named choices that change a perfusion map.

    Attributes
    ----------
    bolus
        How baseline, artery and vein are found.
    truncation
        Frequencies at which the arterial spectrum is at or below this share of its maximum are set to 0. For the
        block-circulant matrix this is truncation of singular values. Wu 2003 MRM 50:164 takes 0.1 [R]; as the blur is
        undone, 0.15 keeps less noise at no cost in bias (measured on simulated strokes).
    residue_rule
        Truncation blurs the residue function: its peak comes late and is too low, by an amount that grows with MTT.
        ``exponential`` (default) looks up, for an exponential residue of the voxel's own MTT, how late and how low, and
        undoes it [M]; ``none`` reports the blurred peak itself. Exact for exponentials only: were residues boxes, CBF
        would read 1.7–2.2 times too high (ratios within a third), and Tmax fall inside the box.
    noise_rule
        The maximum of a noisy residue function is too high, most of all where there is little flow. ``quadrature``
        (default) takes what is to be expected of noise alone off in quadrature [U]; ``none`` does not.
    smoothing_fwhm_mm
        Isotropic Gaussian over brain tissue, without CSF and vessels, before deconvolution; 0 = none.
    vessel_cbv
        CBV above which a voxel is a vessel, in no volume and no reference (Kudo 2003 [R]).
    csf_hu
        Baseline HU below which a voxel is CSF or an old infarct, in no volume and no reference [U].
    """

    bolus: BolusPolicy = field(default_factory=BolusPolicy)
    truncation: float = 0.15
    residue_rule: Literal["exponential", "none"] = "exponential"
    noise_rule: Literal["quadrature", "none"] = "quadrature"
    smoothing_fwhm_mm: float = 7.0
    vessel_cbv: float = 8.0
    csf_hu: float = 20.0

    def __post_init__(self) -> None:
        if self.residue_rule not in ("exponential", "none") or self.noise_rule not in ("quadrature", "none"):
            raise ValueError(f"unknown residue_rule {self.residue_rule!r} or noise_rule {self.noise_rule!r}")
        if not 0 < self.truncation < 1:
            raise ValueError(f"truncation must lie between 0 and 1, got {self.truncation}")
        if not (0 <= self.smoothing_fwhm_mm < math.inf and 0 < self.vessel_cbv < math.inf):
            raise ValueError("smoothing_fwhm_mm must not be negative, and vessel_cbv must be positive")
        if not math.isfinite(self.csf_hu):
            raise ValueError(f"csf_hu must be finite, got {self.csf_hu}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Perfusion:
    """Maps of one slab.

    Attributes
    ----------
    cbf, cbv, mtt, tmax
        ``(z, y, x)`` float32 in mL/100 g/min, mL/100 g, s and s; NaN outside ``tissue``. MTT and Tmax are NaN in
        tissue without any flow, too.
    tissue
        ``(z, y, x)`` brain without CSF and vessels.
    bolus
        Curves and what was found on the way to them.
    """

    cbf: Array
    cbv: Array
    mtt: Array
    tmax: Array
    tissue: BoolArray
    bolus: Bolus


@dataclass(frozen=True, eq=False)
class Deconvolution:
    """What deconvolution with one arterial curve does to any curve sampled at the same times.

    Attributes
    ----------
    matrix
        ``(lags, times)``: curve → residue function times flow, in 1/s.
    area
        ``(times,)``: curve → its area over the area of the arterial curve.
    lags
        ``(lags,)`` s.
    table
        ``(4, n)`` for exponential residues: apparent MTT = area / peak (rising), lag of the peak, peak per unit of
        flow, true MTT.
    """

    matrix: FloatArray
    area: FloatArray
    lags: FloatArray
    table: FloatArray


def deconvolution(arterial: npt.ArrayLike, times: Sequence[float] | FloatArray, truncation: float) -> Deconvolution:
    """Prepare the block-circulant truncated SVD deconvolution of Wu 2003 MRM 50:164 [R].

    A circulant matrix is diagonal in the Fourier basis and its singular values are the magnitudes of the spectrum, so
    no SVD is computed. The truncated residue function is band-limited; it is evaluated between the samples, too.

    Parameters
    ----------
    arterial
        ``(times,)`` enhancement, baseline removed.
    times
        ``(times,)`` s, rising; uneven ones are interpolated linearly to their shortest interval.
    truncation
        See `PerfusionPolicy`.

    Raises
    ------
    NotEvaluableError
        ``times_invalid``; ``no_artery`` when the curve is not finite or has no area.
    """
    curve = np.asarray(arterial, dtype=np.float64)
    t = require_times(times, len(curve))
    if not (np.isfinite(curve).all() and np.trapezoid(curve, t) > 0):
        raise NotEvaluableError("no_artery", "the arterial curve is not finite, or has no area above its baseline")
    step = max(float(np.diff(t).min()), SHORTEST_STEP)
    uniform = t[0] + step * np.arange(int((t[-1] - t[0]) / step + 1e-6) + 1)
    resample = _interpolation(t, uniform)
    artery = resample @ curve
    n = len(uniform)
    length = 2 * n
    spectrum = np.fft.rfft(artery, length) * step
    keep = np.abs(spectrum) > truncation * np.abs(spectrum).max()
    inverse = np.where(keep, 1 / np.where(keep, spectrum, 1), 0)
    lags = np.arange(EARLIEST_LAG, min(LATEST_LAG, n * step / 2) + LAG_STEP / 2, LAG_STEP)
    omega = 2 * np.pi * np.arange(len(spectrum)) / length
    # All but the first and the last frequency stand for themselves and their conjugate.
    twice = np.where((np.arange(len(spectrum)) % n) == 0, 1, 2) / length
    synthesis = np.exp(1j * np.outer(lags / step, omega)) * (inverse * twice)
    matrix = (synthesis @ np.exp(-1j * np.outer(omega, np.arange(n)))).real
    area = np.full(n, 1 / artery.sum())
    table = _exponential_table(matrix, area, lags, artery, step)
    return Deconvolution(matrix @ resample, area @ resample, lags, table)


def _interpolation(source: FloatArray, target: FloatArray) -> FloatArray:
    """Matrix ``(target, source)`` of linear interpolation."""
    upper = np.clip(np.searchsorted(source, target), 1, len(source) - 1)
    share = np.clip((target - source[upper - 1]) / (source[upper] - source[upper - 1]), 0, 1)
    matrix = np.zeros((len(target), len(source)))
    matrix[np.arange(len(target)), upper - 1] = 1 - share
    matrix[np.arange(len(target)), upper] += share
    return matrix


def _exponential_table(
    matrix: FloatArray, area: FloatArray, lags: FloatArray, artery: FloatArray, step: float
) -> FloatArray:
    """Apparent MTT, lag and height of the residue's peak, and true MTT, for tissue with R(t) = exp(−t/MTT).

    Its curves are convolutions on a fine time axis, so that the table also undoes what sampling does to the step of R:
    without it Tmax reads one sample late (SPEC §6, ST-04a).
    """
    n = len(artery)
    fine_step = step / TABLE_STEPS
    fine_index = np.arange((n - 1) * TABLE_STEPS + 1) / TABLE_STEPS
    fine_artery = CubicSpline(np.arange(n), artery)(fine_index)
    residues = np.exp(-(fine_index * step)[None, :] / TABLE_MTT[:, None])
    size = 2 * len(fine_index)
    product = np.fft.rfft(residues, size) * np.fft.rfft(fine_artery, size)
    # Trapezoidal rule: the ends of the integral count half.
    ends = 0.5 * (residues[:, :1] * fine_artery + residues * fine_artery[0])
    tissue = (np.fft.irfft(product, size)[:, : len(fine_index)] - ends) * fine_step
    curves = tissue[:, ::TABLE_STEPS].T
    lag, height = _peak(matrix @ curves, lags)
    apparent = np.maximum.accumulate(area @ curves / height)
    return np.stack([apparent, lag, height, TABLE_MTT])


def _peak(residue: npt.NDArray[Any], lags: FloatArray) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Lag and height of the maximum of residues ``(lags, n)``, by a parabola through it and its neighbours."""
    top = np.clip(residue.argmax(axis=0), 1, len(lags) - 2)
    column = np.arange(residue.shape[1])
    before, middle, after = (residue[top + shift, column] for shift in (-1, 0, 1))
    curvature = np.minimum(before - 2 * middle + after, -np.finfo(np.float32).tiny)
    shift = np.clip(0.5 * (before - after) / curvature, -1, 1)
    return lags[top] + shift * LAG_STEP, middle - 0.25 * (before - after) * shift


def deconvolve(
    curves: npt.ArrayLike, with_artery: Deconvolution, residue_rule: str = "exponential", noise_hu: float = 0.0
) -> FloatArray:
    """CBF, CBV, MTT and Tmax ``(4, n)`` of tissue curves ``(times, n)``, baseline removed.

    The units of CBF and CBV are mL/100 g/min and mL/100 g, with `BLOOD_PER_GRAM`; MTT = CBV / CBF (central volume
    theorem [M]), with ``exponential`` that of the table. Where nothing stands out of the noise CBF is 0 and MTT is NaN;
    where no residue is positive Tmax is NaN, too.

    Parameters
    ----------
    curves
        Enhancement in HU.
    with_artery
        From `deconvolution`.
    residue_rule
        See `PerfusionPolicy`.
    noise_hu
        Standard deviation of the curves' noise. The highest of a noisy residue function is higher than the true one:
        of pure noise it is about `NOISE_MAXIMUM` standard deviations, which are taken off in quadrature.
    """
    values = np.asarray(curves)
    values = values.astype(np.result_type(values, np.float32), copy=False)
    operator = np.vstack([with_artery.matrix, with_artery.area]).astype(values.dtype)
    noise = noise_hu * float(np.sqrt((with_artery.matrix**2).sum(axis=1).mean()))
    out = np.empty((4, values.shape[1]), dtype=np.float64)
    for start in range(0, values.shape[1], CHUNK):
        product = operator @ values[:, start : start + CHUNK]
        out[:, start : start + CHUNK] = _haemodynamics(product[:-1], product[-1], with_artery, residue_rule, noise)
    return out


def _haemodynamics(
    residue: npt.NDArray[Any], area: npt.NDArray[Any], with_artery: Deconvolution, residue_rule: str, noise: float
) -> FloatArray:
    lag, raw_height = _peak(residue, with_artery.lags)
    reached = raw_height > 0
    height = np.sqrt(np.maximum(np.where(reached, raw_height, 0) ** 2 - (NOISE_MAXIMUM * noise) ** 2, 0))
    area = np.maximum(area, 0)
    flows = height > 0
    apparent_mtt = np.divide(area, height, out=np.full(area.shape, np.inf), where=flows)
    if residue_rule == "exponential":
        known, late, low, true_mtt = with_artery.table
        height = height / np.interp(apparent_mtt, known, low)
        lag = lag - np.interp(apparent_mtt, known, late)
        apparent_mtt = np.interp(apparent_mtt, known, true_mtt)
    mtt, tmax = np.where(flows, apparent_mtt, np.nan), np.where(reached, lag, np.nan)
    per_100_g = 100 * BLOOD_PER_GRAM
    return np.stack([height * per_100_g * 60, area * per_100_g, mtt, tmax])


def perfusion_maps(
    frames: Sequence[Volume], times: Sequence[float], brain: BoolArray, policy: PerfusionPolicy | None = None
) -> Perfusion:
    """Perfusion of every voxel of the brain.

    Parameters
    ----------
    frames
        CT in HU at each time, on one grid.
    times
        s, rising.
    brain
        ``(z, y, x)`` with its ventricles and sulci; the vessels that feed and drain it may lie just outside.
    policy
        Choices.

    Raises
    ------
    NotEvaluableError
        See `find_bolus`; ``no_tissue`` when the brain's HU are those of CSF.
    """
    policy = policy or PerfusionPolicy()
    bolus = find_bolus(frames, times, brain, policy.bolus)
    before = frames[: bolus.baseline_frames]
    candidates = _unenhanced_tissue(before, brain, policy)
    candidates[tuple(bolus.vessel_index.T)] = False
    if not candidates.any():
        raise NotEvaluableError("no_tissue", f"no voxel of the brain has {policy.csf_hu:g} HU or more before contrast")
    curves = _curves(frames, candidates, policy.smoothing_fwhm_mm)
    curves -= curves[: bolus.baseline_frames].mean(axis=0)
    noise = 0.0
    if policy.noise_rule == "quadrature":
        noise = float(np.sqrt(np.median(curves[: bolus.baseline_frames].var(axis=0, ddof=1))))
    values = deconvolve(curves, deconvolution(bolus.artery, times, policy.truncation), policy.residue_rule, noise)
    values[:, values[1] > policy.vessel_cbv] = np.nan
    maps = np.full((4, *brain.shape), np.nan, dtype=np.float32)
    maps[:, candidates] = values
    return Perfusion(maps[0], maps[1], maps[2], maps[3], np.isfinite(maps[0]), bolus)


def _unenhanced_tissue(before: Sequence[Volume], brain: BoolArray, policy: PerfusionPolicy) -> BoolArray:
    """Brain without CSF and old infarcts, by its HU before contrast, smoothed half as much as the curves."""
    hu = _curves(before, brain, policy.smoothing_fwhm_mm / 2).mean(axis=0)
    tissue = brain.copy()
    tissue[brain] = hu >= policy.csf_hu
    return tissue


def _curves(frames: Sequence[Volume], mask: BoolArray, fwhm_mm: float) -> Array:
    """HU ``(times, n)`` of the voxels of ``mask``, smoothed over them only: nothing beside them bleeds in."""
    sigma = [fwhm_mm / FWHM_PER_SD / step for step in frames[0].grid.spacing]
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    inside = mask[box]
    curves = np.empty((len(frames), int(np.count_nonzero(inside))), dtype=np.float32)
    weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma)[inside]
    for frame, curve in zip(frames, curves, strict=True):
        hu = frame.voxels[box].astype(np.float32) * np.float32(frame.slope) + np.float32(frame.intercept)
        if fwhm_mm == 0:
            curve[:] = hu[inside]
        else:
            curve[:] = ndimage.gaussian_filter(np.where(inside, hu, np.float32(0)), sigma)[inside] / weight
    return curves

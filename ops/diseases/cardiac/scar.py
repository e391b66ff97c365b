"""Scar of the left ventricle on late gadolinium enhancement (LGE), by its definitions (SPEC §8).

Sources named by the specification: Kim 1999, Amado 2004, Flett 2011, all [R] (recalled, not re-read).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.measure.errors import NotEvaluableError

BoolArray = npt.NDArray[np.bool_]

Method = Literal["n_sd", "fwhm"]
FwhmReference = Literal["half_of_maximum", "half_between_remote_and_maximum"]
BorderRule = Literal["confirmed_by_core", "all_voxels"]
ObstructionRule = Literal["enclosed_by_scar_or_cavity", "enclosed_by_scar", "not_filled"]

# Standard deviations above remote myocardium from which tissue is visibly bright (Flett 2011 [R]: 5 SD is nearest to
# what readers draw).
VISIBLE_SD = 5.0
# A mean and SD of fewer voxels are not the tissue's (policy).
MIN_REMOTE_VOXELS = 20

_PIXEL_NEIGHBOURS = np.zeros((3, 3, 3), dtype=bool)
_PIXEL_NEIGHBOURS[1] = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True)
class ScarPolicy:
    """Every choice that can change a scar result; recorded with each.

    Attributes
    ----------
    method
        ``n_sd`` (default): brighter than remote mean + n · SD; ``fwhm``: brighter than half of the maximum.
    n_sd
        n of the first: 5 (default), 2, 3 or 6.
    fwhm_reference
        ``half_of_maximum`` (default), or ``half_between_remote_and_maximum``, which subtracts the remote mean first.
    border_rule
        Voxels at the endo- and epicardial border share blood or fat, both bright. ``confirmed_by_core`` (default)
        counts one only beside a scar voxel that is not at the border; ``all_voxels`` counts every bright one.
    obstruction_rule
        Microvascular obstruction is dark inside bright. ``enclosed_by_scar_or_cavity`` (default) also fills what is
        open to the cavity, where it mostly lies, and so the inner wall behind an unbroken ring of scar;
        ``enclosed_by_scar`` only what scar surrounds in its slice.
    visible_ml
        Hyper-enhancement is visible when voxels 5 SD above remote, by the border rule, hang together in this volume.
        Otherwise the result is ``none``, whatever the method.
    max_slice_distance_mm
        Largest slice distance that is measured.
    """

    method: Method = "n_sd"
    n_sd: Literal[2, 3, 5, 6] = 5
    fwhm_reference: FwhmReference = "half_of_maximum"
    border_rule: BorderRule = "confirmed_by_core"
    obstruction_rule: ObstructionRule = "enclosed_by_scar_or_cavity"
    visible_ml: float = 0.2
    max_slice_distance_mm: float = 10.0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("method", ("n_sd", "fwhm")),
            ("n_sd", (2, 3, 5, 6)),
            ("fwhm_reference", ("half_of_maximum", "half_between_remote_and_maximum")),
            ("border_rule", ("confirmed_by_core", "all_voxels")),
            ("obstruction_rule", ("enclosed_by_scar_or_cavity", "enclosed_by_scar", "not_filled")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name in ("visible_ml", "max_slice_distance_mm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_SCAR_POLICY = ScarPolicy()


def n_sd_threshold(remote_mean: float, remote_sd: float, n: float = 5) -> float:
    """Signal above which, exclusive, myocardium is scar: mean_remote + n · SD_remote (SPEC §8 [R]).

    Raises
    ------
    NotEvaluableError
        ``not_finite``; ``not_positive``: SD or n is not above 0, e.g. a remote region that was set to one value.
    """
    _require_finite(remote_mean, remote_sd, n)
    if remote_sd <= 0 or n <= 0:
        raise NotEvaluableError("not_positive", f"remote SD {remote_sd:g} and n {n:g} must both be above 0")
    return remote_mean + n * remote_sd


def fwhm_threshold(maximum: float, remote_mean: float = 0.0, reference: FwhmReference = "half_of_maximum") -> float:
    """Signal above which, exclusive, myocardium is scar: half of the hyper-enhanced region's maximum (SPEC §8 [R]).

    Parameters
    ----------
    maximum
        Highest signal inside the hyper-enhanced region.
    remote_mean
        Mean of remote myocardium; used only by ``half_between_remote_and_maximum``: (maximum + mean) / 2.
    reference
        Whether the remote mean is subtracted.

    Raises
    ------
    NotEvaluableError
        ``not_finite``; ``not_hyper_enhanced``: the maximum is not above the remote mean and 0.
    """
    _require_finite(maximum, remote_mean)
    base = remote_mean if reference == "half_between_remote_and_maximum" else 0.0
    if maximum <= max(base, remote_mean, 0.0):
        detail = f"the maximum {maximum:g} does not exceed remote myocardium {remote_mean:g} and 0"
        raise NotEvaluableError("not_hyper_enhanced", detail)
    return base + (maximum - base) / 2


def scar_percent(scar_g: float, lv_g: float) -> float:
    """Scar in % of LV mass: 100 · scar / LV (SPEC §8).

    Raises
    ------
    NotEvaluableError
        ``not_finite``, ``not_positive`` (LV ≤ 0 or scar < 0), ``scar_exceeds_myocardium``.
    """
    _require_finite(scar_g, lv_g)
    if lv_g <= 0 or scar_g < 0:
        raise NotEvaluableError("not_positive", f"scar {scar_g:g} g and LV mass {lv_g:g} g")
    if scar_g > lv_g:
        raise NotEvaluableError("scar_exceeds_myocardium", f"scar of {scar_g:g} g in {lv_g:g} g of myocardium")
    return 100 * scar_g / lv_g


def _require_finite(*values: float) -> None:
    if not all(math.isfinite(value) for value in values):
        raise NotEvaluableError("not_finite", f"a value is NaN or infinite: {values}")


def remote_statistics(signal: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Mean and sample SD of the signal ``(n,)`` of remote myocardium.

    Raises
    ------
    NotEvaluableError
        ``remote_too_small``: under 20 voxels.
    """
    if len(signal) < MIN_REMOTE_VOXELS:
        detail = f"the remote region has {len(signal)} voxels; at least {MIN_REMOTE_VOXELS} are needed"
        raise NotEvaluableError("remote_too_small", detail)
    return float(signal.mean()), float(signal.std(ddof=1))


def bright_myocardium(
    signal: npt.NDArray[np.floating], myocardium: BoolArray, threshold: float, rule: BorderRule = "confirmed_by_core"
) -> BoolArray:
    """Myocardium brighter than ``threshold``, exclusive, by the border rule of `ScarPolicy`; ``(z, y, x)``."""
    bright = myocardium & (signal > threshold)
    if rule == "all_voxels":
        return bright
    core = ndimage.binary_erosion(myocardium, _PIXEL_NEIGHBOURS)
    return np.asarray(ndimage.binary_dilation(bright & core, _PIXEL_NEIGHBOURS) & bright, dtype=bool)


def visible_enhancement(bright: BoolArray, voxel_ml: float, visible_ml: float) -> BoolArray:
    """Find groups of ``bright`` voxels, joined by any of 26 neighbours, of at least ``visible_ml``, inclusive."""
    group, n = ndimage.label(bright, ndimage.generate_binary_structure(3, 3))
    size = np.bincount(group.ravel(), minlength=n + 1) * voxel_ml
    # Volumes are products of spacings in decimals.
    visible = size >= visible_ml * (1 - 1e-9)
    visible[0] = False
    return np.asarray(visible[group])


def microvascular_obstruction(
    scar: BoolArray,
    myocardium: BoolArray,
    cavity: BoolArray,
    rule: ObstructionRule = "enclosed_by_scar_or_cavity",
) -> BoolArray:
    """Dark myocardium ``(z, y, x)`` that scar encloses within its slice, to be counted as scar (SPEC §8).

    Dark pixels hang together by their edges. Those from which a way leads out of the myocardium without crossing scar
    are healthy; with ``enclosed_by_scar_or_cavity`` a way into the cavity does not count as one.
    """
    if rule == "not_filled":
        return np.zeros_like(scar)
    closed = scar | cavity if rule == "enclosed_by_scar_or_cavity" else scar
    outside = ~myocardium & ~closed
    # A rim of pixels around the array is outside, also where the myocardium fills the array.
    pad = ((0, 0), (1, 1), (1, 1))
    open_ = np.pad(~closed, pad, constant_values=True)
    region, _ = ndimage.label(open_, _PIXEL_NEIGHBOURS)
    reaches_out = np.unique(region[np.pad(outside, pad, constant_values=True)])
    enclosed = ~np.isin(region, reaches_out)[:, 1:-1, 1:-1]
    return np.asarray(enclosed & myocardium & ~scar)

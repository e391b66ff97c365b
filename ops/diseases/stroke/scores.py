"""Ischaemic stroke by its definitions: mismatch, DEFUSE 3 and EXTEND eligibility, ASPECTS, hyperdense vessel (SPEC §6).

Evidence marks: [R] recalled and not re-read, [U] uncertain. Volumes are in mL.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ops.measure.checks import require_label_map, require_not_empty, require_same_grid
from ops.measure.errors import NotEvaluableError
from ops.volume import Volume

# What the ratio criterion says when there is no core and the ratio is undefined (SPEC §6).
ZeroCoreRule = Literal["ratio_satisfied", "refuse"]
ZERO_CORE_RULES = ("ratio_satisfied", "refuse")

# DEFUSE 3: Albers 2018 NEJM 378:708 [R]. EXTEND: Ma 2019 NEJM 380:1795 [R]. Both take cores below 70 mL.
LARGEST_CORE_ML = 70.0
DEFUSE3_RATIO, DEFUSE3_MISMATCH_ML = 1.8, 15.0
EXTEND_RATIO, EXTEND_MISMATCH_ML = 1.2, 10.0
# Volumes are voxel counts times header decimals; one this close to a limit is the limit.
VOLUME_TOLERANCE_ML = 1e-6

# Caudate, lentiform, internal capsule, insula and six cortical regions of one hemisphere (Barber 2000 Lancet
# 355:1670 [R]). In a label map, region n is ASPECTS_REGIONS[n - 1].
ASPECTS_REGIONS = ("C", "L", "IC", "I", "M1", "M2", "M3", "M4", "M5", "M6")


@dataclass(frozen=True)
class Mismatch:
    """Difference between hypoperfused tissue and core.

    Attributes
    ----------
    volume_ml
        Hypoperfused − core; negative where the core is the larger.
    ratio
        Hypoperfused / core; None without a core.
    """

    volume_ml: float
    ratio: float | None


def mismatch(core_ml: float, hypoperfused_ml: float) -> Mismatch:
    """Mismatch of a core and the tissue with Tmax > 6 s (SPEC §6).

    Raises
    ------
    NotEvaluableError
        ``invalid_volume``: a volume is negative, NaN or infinite.
    """
    for name, volume in (("core", core_ml), ("hypoperfused volume", hypoperfused_ml)):
        if not (math.isfinite(volume) and volume >= 0):
            raise NotEvaluableError("invalid_volume", f"{name} of {volume} mL: a volume is finite and not negative")
    return Mismatch(hypoperfused_ml - core_ml, hypoperfused_ml / core_ml if core_ml > 0 else None)


def defuse3_eligible(core_ml: float, hypoperfused_ml: float, zero_core: ZeroCoreRule = "ratio_satisfied") -> bool:
    """Target mismatch of DEFUSE 3: core < 70 mL, ratio ≥ 1.8 and mismatch ≥ 15 mL (Albers 2018 [R]).

    Parameters
    ----------
    core_ml, hypoperfused_ml
        Core, and tissue with Tmax > 6 s.
    zero_core
        Without a core the ratio is undefined: ``ratio_satisfied`` lets the volume decide, ``refuse`` does not decide.

    Raises
    ------
    NotEvaluableError
        ``invalid_volume``; ``ratio_undefined`` for a core of 0 with ``refuse``.
    """
    volume = mismatch(core_ml, hypoperfused_ml).volume_ml
    _require_ratio(core_ml, zero_core)
    # Without a core the ratio criterion reads 0 ≤ hypoperfused volume, which holds: it is satisfied.
    return (
        core_ml < LARGEST_CORE_ML - VOLUME_TOLERANCE_ML
        and hypoperfused_ml >= DEFUSE3_RATIO * core_ml - VOLUME_TOLERANCE_ML
        and volume >= DEFUSE3_MISMATCH_ML - VOLUME_TOLERANCE_ML
    )


def extend_eligible(core_ml: float, hypoperfused_ml: float, zero_core: ZeroCoreRule = "ratio_satisfied") -> bool:
    """Perfusion mismatch of EXTEND: core < 70 mL, ratio > 1.2 and difference > 10 mL (Ma 2019 [R]).

    Parameters and errors are those of `defuse3_eligible`.
    """
    volume = mismatch(core_ml, hypoperfused_ml).volume_ml
    _require_ratio(core_ml, zero_core)
    # Without a core, volume > 10 mL implies hypoperfused volume > 0: the ratio criterion is satisfied.
    return (
        core_ml < LARGEST_CORE_ML - VOLUME_TOLERANCE_ML
        and hypoperfused_ml > EXTEND_RATIO * core_ml + VOLUME_TOLERANCE_ML
        and volume > EXTEND_MISMATCH_ML + VOLUME_TOLERANCE_ML
    )


def _require_ratio(core_ml: float, zero_core: ZeroCoreRule) -> None:
    if zero_core not in ZERO_CORE_RULES:
        raise ValueError(f"zero_core must be one of {ZERO_CORE_RULES}, got {zero_core!r}")
    if core_ml == 0 and zero_core == "refuse":
        raise NotEvaluableError("ratio_undefined", "the core is 0 mL, and the policy does not decide without a ratio")


def aspects(affected: Collection[str]) -> int:
    """ASPECTS 0–10 of one hemisphere: 10 minus the number of affected regions (Barber 2000 [R]).

    Parameters
    ----------
    affected
        Names out of `ASPECTS_REGIONS`; one named twice counts once.

    Raises
    ------
    NotEvaluableError
        ``unknown_region``.
    """
    if unknown := sorted(set(affected) - set(ASPECTS_REGIONS)):
        raise NotEvaluableError("unknown_region", f"{unknown} are no ASPECTS regions; known are {ASPECTS_REGIONS}")
    return len(ASPECTS_REGIONS) - len(set(affected))


def affected_regions(regions: Volume, infarct: Volume, minimum_share: float) -> frozenset[str]:
    """ASPECTS regions of which an infarct covers at least a share.

    Parameters
    ----------
    regions
        Label map 1–10 in the order of `ASPECTS_REGIONS`, of one hemisphere.
    infarct
        Label map on the same grid; > 0 is infarct. None at all is a finding: no region is affected.
    minimum_share
        Above 0, up to 1. Readers judge by eye and no share is published [U], so there is no default.

    Raises
    ------
    NotEvaluableError
        ``not_a_label_map``, ``grid_mismatch``, ``invalid_share``, ``unknown_region`` for a label above 10, or
        ``empty_mask`` where one of the ten regions is not segmented.
    """
    require_label_map(regions)
    require_label_map(infarct)
    require_same_grid(regions, infarct)
    if not 0 < minimum_share <= 1:
        raise NotEvaluableError("invalid_share", f"a share lies above 0 and up to 1, got {minimum_share}")
    labels = regions.voxels.astype(np.int64).ravel()
    size = np.bincount(labels, minlength=len(ASPECTS_REGIONS) + 1)
    if len(size) > len(ASPECTS_REGIONS) + 1:
        raise NotEvaluableError("unknown_region", f"label {len(size) - 1} is no ASPECTS region; they are 1 to 10")
    for n, name in enumerate(ASPECTS_REGIONS, start=1):
        require_not_empty(size[n : n + 1] > 0, name)
    hit = np.bincount(labels[infarct.voxels.ravel().astype(bool)], minlength=len(size))
    return frozenset(
        name for n, name in enumerate(ASPECTS_REGIONS, start=1) if hit[n] > 0 and hit[n] >= minimum_share * size[n]
    )


@dataclass(frozen=True)
class HyperdenseVesselPolicy:
    """Marks of a hyperdense vessel: about 43 HU and 1.2 times the other side ([R]/[U]: marks, not facts).

    Attributes
    ----------
    above_hu, above_ratio
        Both exclusive. Blood is denser at a high haematocrit, which the ratio makes up for.
    """

    above_hu: float = 43.0
    above_ratio: float = 1.2

    def __post_init__(self) -> None:
        if not (0 < self.above_hu < math.inf and 0 < self.above_ratio < math.inf):
            raise ValueError(f"limits must be positive and finite, got {self.above_hu} HU and {self.above_ratio}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


@dataclass(frozen=True)
class HyperdenseVessel:
    """A flag for a reader, and the ratio it rests on.

    Attributes
    ----------
    flagged
        Both marks are exceeded.
    ratio
        HU of the vessel over HU of the same vessel on the other side.
    """

    flagged: bool
    ratio: float


def hyperdense_vessel(
    vessel_hu: float, contralateral_hu: float, policy: HyperdenseVesselPolicy | None = None
) -> HyperdenseVessel:
    """Flag a vessel on unenhanced CT as hyperdense: > 43 HU and > 1.2 times the other side ([R]/[U]).

    Raises
    ------
    NotEvaluableError
        ``invalid_hu``: not finite, or the other side is not above 0 HU (no blood was measured).
    """
    policy = policy or HyperdenseVesselPolicy()
    if not (math.isfinite(vessel_hu) and math.isfinite(contralateral_hu) and contralateral_hu > 0):
        detail = f"{vessel_hu} HU against {contralateral_hu} HU: both must be finite, and the other side above 0"
        raise NotEvaluableError("invalid_hu", detail)
    ratio = vessel_hu / contralateral_hu
    return HyperdenseVessel(vessel_hu > policy.above_hu and ratio > policy.above_ratio, ratio)

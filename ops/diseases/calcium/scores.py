"""Calcium scores by their definitions: Agatston, volume, mass, lesions, categories, CAC-DRS, Shemesh.

Section numbers are those of the project's clinical reference specification (SPEC); evidence marks: [P] read in the
primary source, [S] in a secondary source, [R] recalled and not re-read. Artery labels: 1 LM, 2 LAD, 3 LCX, 4 RCA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ops.measure.components import (
    Connectivity,
    IntArray,
    VoxelList,
    label_in_plane,
    label_in_space,
    majority_label,
    maximum_by_component,
    voxels_above,
)
from ops.measure.errors import OutOfModelRangeError
from ops.volume import Grid, Volume

ARTERIES = {1: "LM", 2: "LAD", 3: "LCX", 4: "RCA"}

AreaRule = Literal[">=1mm2", ">1mm2", "min_pixels"]
IncrementRule = Literal["linear_increment", "slab3mm"]
SplitRule = Literal["voxel", "component"]
WeightEdges = tuple[float, float, float, float]

# HU threshold and weight edges, all inclusive (SPEC §1.6). 120: Agatston 1990 JACC 15:827 [S]. 80 and 70: Gräni 2018
# EHJ-CVI 19:1362 [S]. 135: [S], public code only. 100 kVp is absent on purpose: sources conflict (145 [S], 147 [R]).
WEIGHT_EDGES: dict[int, WeightEdges] = {
    120: (130, 200, 300, 400),
    80: (177, 271, 408, 544),
    70: (207, 318, 477, 636),
    135: (119, 183, 274, 364),
}
# Headers write tube voltages as decimals; this allows for their formatting, not for another voltage.
KVP_TOLERANCE = 0.5

# Slice increment of the original protocol, to which scores are normalised (SPEC §1.1; Agatston 1990 [R]).
REFERENCE_INCREMENT_MM = 3.0
# Increments come from positions written with few decimals: 5 mm may read as 5.000000000000001.
INCREMENT_TOLERANCE_MM = 0.002
# Sums of increments in mm that differ by rounding only.
LENGTH_TOLERANCE = 1e-6
MINIMUM_AREA_MM2 = 1.0
# Pixel areas come from products of header decimals; an area this close to the limit is the limit.
AREA_TOLERANCE_MM2 = 1e-6

# Upper bounds, inclusive, on the unrounded score (SPEC §1.3; Rumberger 1999 [R]).
CATEGORIES = ((0.0, "0"), (10.0, "1-10"), (100.0, "11-100"), (400.0, "101-400"), (math.inf, ">400"))
# CAC-DRS lower bounds of A2 and A3, inclusive (SPEC §1.3; Hecht 2018 JCCT 12:185 [S]). Not the 100/400 above.
CAC_DRS_EDGES = (100.0, 300.0)


@dataclass(frozen=True)
class ScorePolicy:
    """Named choices that change a score; they go into every result.

    Attributes
    ----------
    area_rule
        ``>=1mm2`` (default), ``>1mm2`` (wording of 1990 [R]) or ``min_pixels``.
    min_pixels
        Smallest component in pixels; used only by ``min_pixels``.
    connectivity
        In-plane neighbours, 8 (default) or 4. van Ooijen 2005 Eur Radiol 15:102 [P]: 8 → 4 changes scores by 3 %.
    increment_rule
        ``linear_increment`` multiplies by increment/3; ``slab3mm`` averages slices to 3 mm first.
    split_rule
        What happens to a slice component in two arteries: ``voxel`` shares its score by voxels (peak and area of
        the whole component decide weight and minimum size), ``component`` gives it to the artery with most voxels.
    weight_edges_100kvp
        Threshold and edges for 100 kVp; None (default) leaves 100 kVp out of model range, as sources conflict.
    """

    area_rule: AreaRule = ">=1mm2"
    min_pixels: int = 3
    connectivity: Connectivity = 8
    increment_rule: IncrementRule = "linear_increment"
    split_rule: SplitRule = "voxel"
    weight_edges_100kvp: WeightEdges | None = None

    def __post_init__(self) -> None:
        for name, allowed in (
            ("area_rule", (">=1mm2", ">1mm2", "min_pixels")),
            ("connectivity", (4, 8)),
            ("increment_rule", ("linear_increment", "slab3mm")),
            ("split_rule", ("voxel", "component")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.min_pixels < 1:
            raise ValueError(f"min_pixels must be at least 1, got {self.min_pixels}")
        edges = self.weight_edges_100kvp
        if edges is not None and (len(edges) != 4 or sorted(set(edges)) != list(edges)):
            raise ValueError(f"weight_edges_100kvp must be four rising HU values, got {edges}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)


DEFAULT_POLICY = ScorePolicy()


def weight_edges(kvp: float, policy: ScorePolicy = DEFAULT_POLICY, *, tin_filter: bool = False) -> WeightEdges:
    """Return threshold and density weight edges (HU, inclusive) for a tube voltage.

    Raises
    ------
    OutOfModelRangeError
        Tin filtration, 100 kVp without explicit edges, or any voltage not in the table (SPEC §1.6).
    """
    if tin_filter:
        raise OutOfModelRangeError(
            "tin_filter", f"tin-filtered {kvp:g} kVp needs its own weight table; none is published"
        )
    nearest = round(kvp)
    if abs(kvp - nearest) <= KVP_TOLERANCE and nearest in WEIGHT_EDGES:
        return WEIGHT_EDGES[nearest]
    if abs(kvp - 100) <= KVP_TOLERANCE:
        if policy.weight_edges_100kvp is not None:
            return policy.weight_edges_100kvp
        raise OutOfModelRangeError(
            "kvp_out_of_table", "published 100 kVp edges conflict; set weight_edges_100kvp to choose them"
        )
    raise OutOfModelRangeError("kvp_out_of_table", f"no weight table for {kvp:g} kVp (known: {sorted(WEIGHT_EDGES)})")


def density_weight(peak: npt.ArrayLike, edges: WeightEdges = WEIGHT_EDGES[120]) -> IntArray:
    """Agatston weight 0–4 of a peak in HU; lower edges inclusive (SPEC §1.1)."""
    return np.asarray(np.searchsorted(np.asarray(edges, dtype=np.float64), peak, side="right"), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class CalciumVoxels:
    """Calcified voxels that count, grouped into slice components.

    Attributes
    ----------
    voxels
        Index, HU and spacing.
    artery
        ``(n,)`` artery label of each voxel after the split rule.
    component
        ``(n,)`` slice component 0 … m-1 of each voxel.
    peak
        ``(m,)`` highest HU of each slice component, in its own slice.
    """

    voxels: VoxelList
    artery: IntArray
    component: IntArray
    peak: npt.NDArray[np.float64]

    def select(self, keep: npt.NDArray[np.bool_]) -> CalciumVoxels:
        """Voxels where ``keep`` ``(n,)`` is true; whole components only, so that peaks stay what they are."""
        kept, component = np.unique(self.component[keep], return_inverse=True)
        return CalciumVoxels(self.voxels.select(keep), self.artery[keep], component.reshape(-1), self.peak[kept])


def counted_voxels(voxels: VoxelList, artery: IntArray, policy: ScorePolicy = DEFAULT_POLICY) -> CalciumVoxels:
    """Group voxels at or above the threshold into slice components and drop those below the minimum size.

    Parameters
    ----------
    voxels
        All voxels ≥ threshold inside the arteries' mask.
    artery
        ``(n,)`` label 1–4 of each voxel.
    policy
        Connectivity, area rule and split rule.
    """
    component = label_in_plane(voxels, policy.connectivity)
    if policy.split_rule == "component":
        artery = majority_label(artery, component, n_labels=len(ARTERIES) + 1)[component]
    everything = CalciumVoxels(voxels, artery, component, maximum_by_component(voxels.value, component))
    return everything.select(_large_enough(voxels, component, policy)[component])


def _large_enough(voxels: VoxelList, component: IntArray, policy: ScorePolicy) -> npt.NDArray[np.bool_]:
    """Tell for each component whether the area rule keeps it; ``(m,)``."""
    pixels = np.bincount(component)
    if policy.area_rule == "min_pixels":
        return np.asarray(pixels >= policy.min_pixels)
    area = pixels * (voxels.spacing[1] * voxels.spacing[2])
    if policy.area_rule == ">1mm2":
        return np.asarray(area > MINIMUM_AREA_MM2 + AREA_TOLERANCE_MM2)
    return np.asarray(area >= MINIMUM_AREA_MM2 - AREA_TOLERANCE_MM2)


def find_calcium(
    volume: Volume, arteries: npt.NDArray[np.generic], edges: WeightEdges, policy: ScorePolicy = DEFAULT_POLICY
) -> CalciumVoxels:
    """Find the calcium that counts inside an artery label map on the volume's own grid.

    Parameters
    ----------
    volume
        CT in HU. With ``slab3mm`` it is averaged to 3 mm here, once; the score then uses the new increment.
    arteries
        ``(z, y, x)`` labels 0–4.
    edges
        From `weight_edges`; the first is the threshold.
    policy
        See `ScorePolicy`.
    """
    if policy.increment_rule == "slab3mm":
        volume, arteries = average_to_slabs(volume), slab_labels(arteries, volume.grid)
    voxels = voxels_above(volume, edges[0], arteries)
    k, j, i = voxels.index.T
    return counted_voxels(voxels, arteries[k, j, i].astype(np.int64), policy)


def agatston(calcium: CalciumVoxels, edges: WeightEdges) -> dict[str, float]:
    """Agatston score per artery and ``total`` = their sum (SPEC §1.1).

    Each slice component contributes area × weight(peak in that slice) × increment/3 [S].
    """
    dz, dy, dx = calcium.voxels.spacing
    weight = density_weight(calcium.peak, edges)[calcium.component]
    return _per_artery(calcium, weight, scale=dy * dx * dz / REFERENCE_INCREMENT_MM)


def volume_score(calcium: CalciumVoxels) -> dict[str, float]:
    """Calcium volume in mm³ per artery and ``total``: voxels × voxel volume, increment not thickness.

    The raw variant over the Agatston components (Callister 1998 Radiology 208:807 [R]).
    """
    return _per_artery(calcium, np.ones(len(calcium.voxels)), scale=math.prod(calcium.voxels.spacing))


def mass_score(calcium: CalciumVoxels, calibration: float) -> dict[str, float]:
    """Calcium mass in mg hydroxyapatite per artery and ``total``.

    m = c · mean(HU) · V, HU as they are, no background subtracted (McCollough 2007 Radiology 243:527; formula [R]).

    Parameters
    ----------
    calcium
        Counted voxels.
    calibration
        c in mg/cm³/HU from a calibration phantom in the same scan. There is no default on purpose.
    """
    if not (math.isfinite(calibration) and calibration > 0):
        raise ValueError(f"calibration factor must be positive mg/cm3/HU, got {calibration}")
    mm3_per_cm3 = 1000.0
    scale = calibration * math.prod(calcium.voxels.spacing) / mm3_per_cm3
    return _per_artery(calcium, calcium.voxels.value, scale)


def _per_artery(calcium: CalciumVoxels, weights: npt.NDArray[Any], scale: float) -> dict[str, float]:
    """Sum of voxel weights by artery × scale. The total is the sum of the four, so nothing counts twice."""
    sums = np.bincount(calcium.artery, weights=weights, minlength=len(ARTERIES) + 1) * scale
    scores = {name: float(sums[label]) for label, name in ARTERIES.items()}
    return {**scores, "total": sum(scores.values())}


def lesion_count(calcium: CalciumVoxels) -> int:
    """Count lesions: 26-connected groups of counted voxels, whatever artery they are in."""
    return int(label_in_space(calcium.voxels).max(initial=-1)) + 1


def relative_density(calcium: CalciumVoxels, edges: WeightEdges) -> float | None:
    """Area-weighted mean density weight 1–4 of the calcium (policy); None where there is none."""
    if len(calcium.voxels) == 0:
        return None
    return float(density_weight(calcium.peak, edges)[calcium.component].mean())


def average_to_slabs(volume: Volume) -> Volume:
    """Resample to contiguous 3 mm slabs along k: overlap-weighted means of slices as wide as the increment.

    The first slab starts at the lower edge of the first slice; a last slab that is not full is left out. Averaging
    lowers peaks: not equivalent to ``linear_increment``.

    Raises
    ------
    ValueError
        Increment above 3 mm, or less than one slab of slices.
    """
    increment = volume.grid.spacing[0]
    weights = _slab_weights(volume.grid)
    # The mean of equal HU may be 199.99999999999997 in float64; as float32 it is what it was, and edges are inclusive.
    mean = np.tensordot(weights, volume.physical(np.float32), axes=1).astype(np.float32)
    step = volume.grid.affine[:3, 0] / increment
    affine = volume.grid.affine.copy()
    affine[:3, 3] += step * (REFERENCE_INCREMENT_MM - increment) / 2
    affine[:3, 0] = step * REFERENCE_INCREMENT_MM
    return Volume(mean, Grid((len(weights), *volume.grid.shape[1:]), affine), volume.units)


def slab_labels(labels: npt.NDArray[np.generic], grid: Grid) -> npt.NDArray[np.generic]:
    """Labels ``(z, y, x)`` of the slabs of `average_to_slabs`: the highest label of the slices in each."""
    return np.stack([labels[row > 0].max(axis=0) for row in _slab_weights(grid)])


def _slab_weights(grid: Grid) -> npt.NDArray[np.float64]:
    """Weight ``(slabs, slices)`` of every slice in every 3 mm slab; rows sum to 1."""
    n, increment = grid.shape[0], grid.spacing[0]
    n_slabs = math.floor(n * increment / REFERENCE_INCREMENT_MM + LENGTH_TOLERANCE)
    if increment > REFERENCE_INCREMENT_MM + INCREMENT_TOLERANCE_MM or n_slabs < 1:
        raise ValueError(f"slab3mm needs increments up to 3 mm and one full slab, got {n} slices of {increment:g} mm")
    slab = np.arange(n_slabs)[:, None] * REFERENCE_INCREMENT_MM
    start = np.arange(n)[None, :] * increment
    weights = np.minimum(slab + REFERENCE_INCREMENT_MM, start + increment) - np.maximum(slab, start)
    weights[weights < LENGTH_TOLERANCE] = 0.0
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def interpolate_slices(volume: Volume) -> Volume:
    """Resample k to the column spacing, HU linear: input of the *interpolated* volume score.

    Not comparable with the raw score: van Ooijen 2005 reports −29.7 % mean variability [P].
    """
    dz, _, dx = volume.grid.spacing
    last = volume.grid.shape[0] - 1
    position = np.arange(math.floor(last * dz / dx + LENGTH_TOLERANCE) + 1) * (dx / dz)
    lower = np.minimum(position.astype(np.int64), max(last - 1, 0))
    fraction = (position - lower)[:, None, None].astype(np.float32)
    hu = volume.physical(np.float32)
    mixed = hu[lower] * (1 - fraction) + hu[np.minimum(lower + 1, last)] * fraction
    affine = volume.grid.affine.copy()
    affine[:3, 0] *= dx / dz
    return Volume(mixed, Grid((len(position), *volume.grid.shape[1:]), affine), volume.units)


def category(score: float) -> str:
    """Category 0 | (0,10] | (10,100] | (100,400] | (400,∞) of the unrounded score (SPEC §1.3)."""
    _check_score(score)
    return next(label for upper, label in CATEGORIES if score <= upper)


def cac_drs_a(score: float) -> str:
    """CAC-DRS A0 = 0, A1 = above 0 and below 100, A2 = 100 to below 300, A3 ≥ 300 (Hecht 2018 [S])."""
    _check_score(score)
    if score == 0:
        return "A0"
    return f"A{1 + sum(score >= edge for edge in CAC_DRS_EDGES)}"


def cac_drs(score: float, n_vessels: int) -> str:
    """CAC-DRS label such as ``CAC-DRS A2/N2``.

    Raises
    ------
    ValueError
        Score 0 with calcified vessels, a score above 0 without, or a number of vessels outside 0–4.
    """
    if not 0 <= n_vessels <= len(ARTERIES):
        raise ValueError(f"number of calcified vessels must be 0 to 4, got {n_vessels}")
    if (score == 0) != (n_vessels == 0):
        raise ValueError(f"score {score:g} contradicts {n_vessels} calcified vessels")
    return f"CAC-DRS {cac_drs_a(score)}/N{n_vessels}"


def calcified_vessels(scores: Mapping[str, float]) -> int:
    """Count arteries with a score above 0."""
    return sum(scores[name] > 0 for name in ARTERIES.values())


def shemesh_total(grades: Mapping[str, int]) -> int:
    """Ordinal score 0–12 of a non-gated scan: sum of 0–3 per artery (Shemesh 2010 Radiology 257:541 [S]).

    Raises
    ------
    ValueError
        An artery is missing or unknown, or a grade is not 0, 1, 2 or 3.
    """
    if set(grades) != set(ARTERIES.values()):
        raise ValueError(f"grades are needed for exactly {sorted(ARTERIES.values())}, got {sorted(grades)}")
    if any(grade not in (0, 1, 2, 3) for grade in grades.values()):
        raise ValueError(f"Shemesh grades are 0, 1, 2 or 3 per artery, got {dict(grades)}")
    return sum(int(grade) for grade in grades.values())


def shemesh_band(total: int) -> str:
    """Band 0 | 1-3 | 4-12 of the ordinal score (Shemesh 2010 [R])."""
    if not 0 <= total <= 12:
        raise ValueError(f"Shemesh total must be 0 to 12, got {total}")
    return "0" if total == 0 else "1-3" if total <= 3 else "4-12"


def _check_score(score: float) -> None:
    if not (math.isfinite(score) and score >= 0):
        raise ValueError(f"an Agatston score is finite and not negative, got {score}")

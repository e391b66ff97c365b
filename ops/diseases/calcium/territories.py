"""Which calcium is coronary: artery territories, blood pool and noise from the network's coarse label map.

The label map lies on its own coarse grid. It is never resampled to the scan: single points go from one grid to the
other through patient coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.diseases.calcium.scores import CalciumVoxels, ScorePolicy, counted_voxels
from ops.measure.components import BoolArray, IntArray, label_in_space, voxels_above
from ops.phantoms.labels import ARTERIES, TERRITORY_LABELS
from ops.volume import Grid, Volume

Box = tuple[tuple[int, int, int], tuple[int, int, int]]

# The four artery territories follow each other in the label map, in the order of the artery labels 1–4.
FIRST_ARTERY = TERRITORY_LABELS[ARTERIES[0]]
LAST_ARTERY = TERRITORY_LABELS[ARTERIES[-1]]
EXCLUDED = tuple(TERRITORY_LABELS[name] for name in ("aorta", "valve", "bone"))
NEVER_CORONARY = tuple(TERRITORY_LABELS[name] for name in ("valve", "bone"))
# Ostial lesions: share of voxels inside an artery's territory, and along it (policy). On 20 simulated chests with true
# label maps at 3 mm, ostial lesions had at least 0.25 and 0.85, calcium of the aortic wall at most 0.26 and 0.65.
OSTIAL_SHARE_INSIDE = 0.2
OSTIAL_SHARE_ALONG = 0.8
IN_HEART = (TERRITORY_LABELS["heart"], *range(FIRST_ARTERY, LAST_ARTERY + 1), TERRITORY_LABELS["valve"])

# On simulated chests the territories measure 15–40 mL; a tenth of a small one is no territory (policy).
LEAST_TERRITORY_ML = {"LAD": 2.0, "LCX": 2.0, "RCA": 2.0}

# Depth inside a structure from which its voxels are blood and not wall, fat or a neighbour (policy): the aortic wall
# is some 2 mm and the label map's voxels are 2–3 mm; the chambers lie behind a myocardium of about 10 mm.
BLOOD_DEPTH_MM = {"aorta": 4.0, "heart": 15.0}
# Fewer samples than this make no median worth a refusal.
MINIMUM_BLOOD_SAMPLES = 50
# Median absolute deviation of a normal distribution is σ / 1.4826.
MAD_TO_SIGMA = 1.4826
# Metal, not calcium: flagged and never capped (SPEC §1.1).
METAL_HU = 2000.0


@dataclass(frozen=True)
class BloodPool:
    """Attenuation of blood.

    Attributes
    ----------
    median_hu
        Higher of the medians inside aorta and heart; None when neither shows enough blood.
    region
        Where that is: ``aorta`` or ``heart``.
    noise_hu
        Robust σ inside the aorta, else the heart; None like the median.
    """

    median_hu: float | None
    region: str
    noise_hu: float | None


def blood_pool(volume: Volume, territories: Volume) -> BloodPool:
    """Measure blood inside the eroded aorta and heart, one scan voxel per voxel of the label map."""
    samples = {}
    for region, depth in BLOOD_DEPTH_MM.items():
        values = _sample(volume, territories.grid, _deep_inside(territories, TERRITORY_LABELS[region], depth))
        if len(values) >= MINIMUM_BLOOD_SAMPLES:
            samples[region] = values * volume.slope + volume.intercept
    if not samples:
        return BloodPool(None, "", None)
    medians = {region: float(np.median(values)) for region, values in samples.items()}
    brightest = max(medians, key=lambda region: medians[region])
    quietest = next(iter(samples))
    deviation = np.median(np.abs(samples[quietest] - medians[quietest]))
    return BloodPool(medians[brightest], brightest, float(deviation * MAD_TO_SIGMA))


def padding_in_heart(volume: Volume, territories: Volume, padding_value: int | None) -> bool:
    """Tell whether the stored padding value occurs inside the heart (SPEC §0.3)."""
    if padding_value is None:
        return False
    inside = np.argwhere(np.isin(territories.voxels, IN_HEART))
    return bool((_sample(volume, territories.grid, inside) == padding_value).any())


def _deep_inside(territories: Volume, label: int, depth_mm: float) -> IntArray:
    """Return indices ``(n, 3)`` of the label map's voxels ``depth_mm`` or more inside a label's region."""
    region = territories.voxels == label
    if label == TERRITORY_LABELS["heart"]:
        region = np.isin(territories.voxels, IN_HEART)
    found = ndimage.find_objects(region.astype(np.uint8))
    if not found:
        return np.zeros((0, 3), dtype=np.int64)
    # One voxel of margin, so that the region's own border counts as its surface.
    inside = np.pad(region[found[0]], 1)
    deep = ndimage.distance_transform_edt(inside, sampling=territories.grid.spacing) > depth_mm
    corner = np.array([axis.start for axis in found[0]]) - 1
    return np.asarray(np.argwhere(deep) + corner, dtype=np.int64)


def _sample(volume: Volume, grid: Grid, index: IntArray) -> npt.NDArray[np.float64]:
    """Return stored values of ``volume`` nearest to voxels of another grid; points outside it are left out."""
    nearest = np.rint(volume.grid.patient_to_index(grid.index_to_patient(index))).astype(np.int64)
    k, j, i = nearest[_inside(nearest, volume.grid.shape)].T
    return np.asarray(volume.voxels[k, j, i], dtype=np.float64)


def _inside(index: IntArray, shape: tuple[int, int, int]) -> BoolArray:
    return np.asarray(((index >= 0) & (index < np.array(shape))).all(axis=1))


def heart_box(grid: Grid, territories: Volume, margin_mm: float) -> Box:
    """Half-open index box of ``grid`` around everything labelled heart, artery or valve.

    Raises
    ------
    ValueError
        The label map has no heart inside the grid.
    """
    index = np.argwhere(np.isin(territories.voxels, IN_HEART))
    if len(index) == 0:
        raise ValueError("the label map has no heart")
    corners = np.array(np.meshgrid(*zip(index.min(axis=0) - 0.5, index.max(axis=0) + 0.5, strict=True)))
    points = grid.patient_to_index(territories.grid.index_to_patient(corners.reshape(3, -1).T))
    margin = margin_mm / np.array(grid.spacing)
    start = np.clip(np.floor(points.min(axis=0) - margin), 0, None).astype(int)
    stop = np.clip(np.ceil(points.max(axis=0) + margin) + 1, None, grid.shape).astype(int)
    if (stop <= start).any():
        raise ValueError(f"the labelled heart {points.min(axis=0)}..{points.max(axis=0)} lies outside {grid.shape}")
    return tuple(start.tolist()), tuple(stop.tolist())


def heart_centre(territories: Volume) -> npt.NDArray[np.float64]:
    """Patient point ``(x, y, z)`` mm in the middle of everything labelled heart; NaN when nothing is."""
    index = np.argwhere(np.isin(territories.voxels, IN_HEART))
    if len(index) == 0:
        return np.full(3, np.nan)
    return territories.grid.index_to_patient(index.mean(axis=0))


def missing_territories(territories: Volume) -> list[str]:
    """Names of arteries whose territory is too small to have been found; without one, no calcium could be its own.

    The left main is 1 cm long and may be lost between coarse voxels; its calcium then goes to its branches.
    """
    counts = np.bincount(np.asarray(territories.voxels, dtype=np.uint8).ravel(), minlength=len(TERRITORY_LABELS))
    millilitres = counts * territories.grid.voxel_volume / 1000
    return [name for name, least in LEAST_TERRITORY_ML.items() if millilitres[TERRITORY_LABELS[name]] < least]


@dataclass(frozen=True, eq=False)
class CoronaryCalcium:
    """Coronary calcium found in a box of a scan.

    Attributes
    ----------
    calcium
        Counted voxels, indices in ``box``.
    box
        Grid the indices refer to.
    n_large
        Lesions left out for their size.
    metal
        A candidate in the heart is brighter than 2000 HU.
    """

    calcium: CalciumVoxels
    box: Grid
    n_large: int
    metal: bool

    def label_map(self, volume: Volume) -> Volume | None:
        """Artery labels 1–4 of the counted voxels on the smallest box of the scan's grid; None when there are none.

        With ``slab3mm`` each slab's labels appear on the slices whose centres it covers.
        """
        index = self.calcium.voxels.index
        if len(index) == 0:
            return None
        start, stop = index.min(axis=0), index.max(axis=0) + 1
        local = np.zeros(tuple(stop - start), dtype=np.uint8)
        local[tuple((index - start).T)] = self.calcium.artery
        here = self.box.crop(tuple(start), tuple(stop))
        return _on_grid(Volume(local, here, "label"), volume.grid)


def _on_grid(labels: Volume, grid: Grid) -> Volume:
    """Labels on the scan's own slices: the scan and ``labels`` share their columns and rows."""
    last = np.array(labels.grid.shape) - 1
    half = np.array([0.5, 0.0, 0.0])
    ends = grid.patient_to_index(labels.grid.index_to_patient(np.array([-half, last + half])))
    low, high = np.rint(ends[0]).astype(int), np.rint(ends[1]).astype(int)
    first, past = int(np.ceil(ends[0, 0] - 1e-6)), int(np.ceil(ends[1, 0] - 1e-6))
    start, stop = (
        (max(first, 0), int(low[1]), int(low[2])),
        (min(past, grid.shape[0]), int(high[1]) + 1, int(high[2]) + 1),
    )
    target = grid.crop(start, stop)
    slices = np.column_stack([np.arange(target.shape[0]), np.zeros((target.shape[0], 2))])
    source = np.rint(labels.grid.patient_to_index(target.index_to_patient(slices))[:, 0]).astype(int)
    return Volume(labels.voxels[np.clip(source, 0, last[0])], target, labels.units)


def coronary_calcium(
    box: Volume, territories: Volume, threshold: float, policy: ScorePolicy, tolerance_mm: float, max_lesion_mm3: float
) -> CoronaryCalcium:
    """Find the calcium of the coronary arteries.

    Slice components that the area rule keeps are joined to lesions (26 neighbours). Each lesion counts whole or not at
    all, as `_is_coronary` says; each voxel of one that counts goes to its nearest territory.

    Parameters
    ----------
    box
        The part of the scan around the heart, HU.
    territories
        The network's label map.
    threshold
        Inclusive, HU.
    policy
        Connectivity, area and split rules.
    tolerance_mm, max_lesion_mm3
        See `CalciumPolicy`.
    """
    field = _ArteryField(territories, tolerance_mm)
    candidates = voxels_above(box, threshold)
    label, artery, _ = field.at(box.grid, candidates.index)
    metal = bool((candidates.value[np.isin(label, IN_HEART)] > METAL_HU).any())
    calcium = counted_voxels(candidates, artery, policy)
    label, _, distance = field.at(box.grid, calcium.voxels.index)
    lesion = label_in_space(calcium.voxels)
    coronary = _is_coronary(lesion, label, distance <= tolerance_mm)
    large = np.bincount(lesion) * box.grid.voxel_volume > max_lesion_mm3
    kept = calcium.select((coronary & ~large)[lesion])
    return CoronaryCalcium(kept, box.grid, int((coronary & large).sum()), metal)


def _is_coronary(lesion: IntArray, label: IntArray, near: BoolArray) -> BoolArray:
    """Tell for each lesion 0 … m-1 whether it is coronary (rule ``lesion_majority_or_ostial``).

    Most of its voxels are near a territory and are not aorta, valve or bone; or it is ostial: it begins in the wall
    of the aorta, where labels of coarse voxels overlap, but lies along the artery and partly in its territory.

    Parameters
    ----------
    lesion, label, near
        Of each voxel ``(n,)``: its lesion, its territory label, and whether it is within the tolerance of a territory.
    """
    voxels = np.bincount(lesion)

    def share(condition: BoolArray) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(lesion, weights=condition, minlength=len(voxels)) / voxels)

    mostly = share(near & ~np.isin(label, EXCLUDED)) > 0.5
    inside = share((label >= FIRST_ARTERY) & (label <= LAST_ARTERY))
    along = share(near & ~np.isin(label, NEVER_CORONARY))
    return np.asarray(mostly | ((inside >= OSTIAL_SHARE_INSIDE) & (along >= OSTIAL_SHARE_ALONG)))


class _ArteryField:
    """Nearest artery and its distance around the territories, computed once on the coarse grid."""

    def __init__(self, territories: Volume, reach_mm: float) -> None:
        labels = np.asarray(territories.voxels, dtype=np.uint8)
        self.territories = Volume(labels, territories.grid, territories.units)
        arteries = (labels >= FIRST_ARTERY) & (labels <= LAST_ARTERY)
        found = ndimage.find_objects(arteries.astype(np.uint8))
        self.box: tuple[slice, ...] | None = None
        if not found:
            return
        margin = [math.ceil(reach_mm / step) + 1 for step in territories.grid.spacing]
        self.box = tuple(slice(max(0, axis.start - m), axis.stop + m) for axis, m in zip(found[0], margin, strict=True))
        self.distance, where = ndimage.distance_transform_edt(
            ~arteries[self.box], sampling=territories.grid.spacing, return_indices=True
        )
        self.artery = labels[self.box][tuple(where)].astype(np.int64) - FIRST_ARTERY + 1

    def at(self, grid: Grid, index: IntArray) -> tuple[IntArray, IntArray, npt.NDArray[np.float64]]:
        """Territory label, nearest artery 1–4 and its distance in mm of voxels ``(n, 3)`` of a grid.

        Voxels outside the label map are background. Beyond the reach the distance is infinite, and the artery is that
        of the nearest place within it.
        """
        nearest = np.rint(self.territories.grid.patient_to_index(grid.index_to_patient(index))).astype(np.int64)
        label = np.zeros(len(index), dtype=np.int64)
        artery = np.ones(len(index), dtype=np.int64)
        distance = np.full(len(index), np.inf)
        inside = _inside(nearest, self.territories.grid.shape)
        label[inside] = self.territories.voxels[tuple(nearest[inside].T)]
        if self.box is not None:
            local = nearest - [axis.start for axis in self.box]
            near = _inside(local, self.distance.shape)
            artery = self.artery[tuple(np.clip(local, 0, np.array(self.artery.shape) - 1).T)]
            distance[near] = self.distance[tuple(local[near].T)]
        return label, artery, distance

"""Ischaemic strokes in a simulated head: diffusion MR, and CT perfusion with a bolus of contrast, with their truth.

A stroke is a territory of one middle cerebral artery with a core inside. Images are sums of tissue shares times what
each tissue does, so that edges mix as they do in a voxel: signals on diffusion MR, enhancement curves on CT perfusion.
True volumes are sums of those shares; CBF, MTT and delay are parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ops.diseases.stroke.diffusion import ADC_UNITS
from ops.diseases.stroke.perfusion import BLOOD_PER_GRAM
from ops.phantoms.head.anatomy import HEAD_HU, Head, HeadFields, HeadTissue, capsule, head_grid, sample_head
from ops.phantoms.lattice import coverage, rician
from ops.phantoms.noise import correlated_noise
from ops.phantoms.participant import Participant, sample_participant
from ops.phantoms.sdf import Array, Coordinates, ellipsoid, smooth_min
from ops.phantoms.study import SimulatedStudy, SliceSeries, Stack
from ops.volume import Grid, Volume

FloatArray = npt.NDArray[np.float64]

BRAIN_LABEL, CORE_LABEL, PENUMBRA_LABEL = 1, 2, 3
GREY_TISSUES = (HeadTissue.GREY, HeadTissue.DEEP_GREY, HeadTissue.CEREBELLUM)
WHITE_TISSUES = (HeadTissue.WHITE, HeadTissue.BRAINSTEM)
FLUIDS = (HeadTissue.CSF, HeadTissue.VENTRICLE)

# Both sides' carotid ends, middle cerebral arteries and insular branches, then what lies in the middle; template mm,
# with the radius at both ends.
_PAIRED_ARTERIES = (
    ((7, -10, -22), (7, -11, -16), 2.0, 1.9),
    ((7, -11, -16), (30, -14, -13), 1.8, 1.5),
    ((30, -14, -13), (37, -6, -3), 1.4, 1.2),
    ((37, -6, -3), (39, 12, 6), 1.2, 1.0),
)
_MEDIAN_ARTERIES = (
    ((0, -13, -15), (0, -38, -4), 1.7, 1.5),
    ((0, -38, -4), (0, -42, 12), 1.5, 1.4),
    ((0, -42, 12), (0, -22, 32), 1.4, 1.1),
    ((0, 3, -40), (0, 0, -18), 1.8, 1.7),
)
# Centre and semi-axes of the middle cerebral artery's territory on the left, template mm, and of the part of it that
# dies first.
_TERRITORY = ((42.0, 2.0, 20.0), (34.0, 46.0, 36.0))
_DEEP = (36.0, -2.0, 14.0)
# Kept between a territory and the midline, which the other hemisphere's arteries supply.
_MIDLINE_MM = 6.0
# Longest edge of a painted sub-voxel along the slice normal.
_SUBSLICE_MM = 2.0


@dataclass(frozen=True)
class Stroke:
    """Territory and core as shares of the middle cerebral artery's whole territory.

    Attributes
    ----------
    side
        +1 left, −1 right.
    territory_scale
        Size of the hypoperfused territory along each axis, 1 = all of it; 0 = none.
    core_scale
        Size of the core along each axis, as a share of the whole territory; 0 = none.
    """

    side: int
    territory_scale: float
    core_scale: float

    def __post_init__(self) -> None:
        if self.side not in (-1, 1) or not 0 <= self.core_scale <= self.territory_scale <= 1:
            raise ValueError(f"side is ±1 and 0 ≤ core ≤ territory ≤ 1, got {self}")

    def distances(self, p: Coordinates) -> tuple[Array, Array]:
        """Signed distance (mm) to territory and core at template coordinates ``p``; the core lies in the territory."""
        x = p[0] * np.float32(self.side)
        centre, axes = (np.array(row) for row in _TERRITORY)
        deep = np.array(_DEEP)
        # Collaterals leave no smooth border.
        waves = np.sin(np.float32(0.31) * p[1] + np.float32(0.23) * p[2]) * np.sin(np.float32(0.37) * p[2] - p[1] / 7)
        bodies = []
        for scale in (self.territory_scale, self.core_scale):
            if scale == 0:
                bodies.append(np.full(x.shape, np.inf, dtype=np.float32))
                continue
            body = ellipsoid((x, p[1], p[2]), deep + scale * (centre - deep), scale * axes)
            lobe = ellipsoid((x, p[1], p[2]), deep + scale * np.array([8.0, 26.0, 16.0]), 0.6 * scale * axes)
            ragged = smooth_min(body, lobe, 6 * scale) + np.float32(5 * scale) * waves
            bodies.append(np.maximum(ragged, np.float32(_MIDLINE_MM) - x))
        return bodies[0], np.maximum(bodies[0], bodies[1])


@dataclass(frozen=True, eq=False)
class Shares:
    """How much of each voxel ``(z, y, x)`` is what, 0–1.

    Attributes
    ----------
    grey, white
        Brain tissue, healthy or not.
    territory, core
        Hypoperfused tissue (the core in it) and core, of each of grey and white: ``(2, z, y, x)``.
    fluid, sinus, outside
        CSF, venous sinuses, and what is not in the skull.
    healthy_artery, occluded_artery
        Arteries of the healthy side and of the middle, and of the stroke's side.
    hu
        Unenhanced CT.
    """

    grid: Grid
    grey: Array
    white: Array
    territory: Array
    core: Array
    fluid: Array
    sinus: Array
    outside: Array
    healthy_artery: Array
    occluded_artery: Array
    hu: Array

    @property
    def labels(self) -> Volume:
        """Label map: brain with its CSF 1, core 2, penumbra 3; a voxel is what fills most of it."""
        brain = self.grey + self.white + self.fluid + self.healthy_artery + self.occluded_artery > 0.5
        tissue = self.grey + self.white
        labels = brain.astype(np.uint8) * np.uint8(BRAIN_LABEL)
        labels[brain & (self.territory.sum(axis=0) > 0.5 * np.maximum(tissue, 0.5))] = PENUMBRA_LABEL
        labels[brain & (self.core.sum(axis=0) > 0.5 * np.maximum(tissue, 0.5))] = CORE_LABEL
        return Volume(labels, self.grid, "label")

    def volume_ml(self, share: Array) -> float:
        """Volume of a share."""
        return float(share.sum(dtype=np.float64)) * self.grid.voxel_volume / 1000


def paint_shares(head: Head, stroke: Stroke, grid: Grid) -> Shares:
    """Shares of all tissues in the voxels of ``grid``, each the mean of sub-slices."""
    names = [name for name in Shares.__dataclass_fields__ if name not in ("grid", "territory", "core")]
    out = {name: np.zeros(grid.shape, dtype=np.float32) for name in names}
    pairs = {name: np.zeros((2, *grid.shape), dtype=np.float32) for name in ("territory", "core")}
    for k, fine in _sub_slices(grid):
        fields = head.fields(fine)
        edge = float(np.mean(fine.spacing[1:]))
        found = _inner_shares(fields, stroke, edge)
        for name, flat in found.items():
            full = np.zeros((*flat.shape[:-1], *fine.shape), dtype=np.float32)
            full[..., fields.inside] = flat
            target = pairs[name] if name in pairs else out[name]
            target[..., k, :, :] = full.mean(axis=-3)
        table = np.array([HEAD_HU[tissue] for tissue in HeadTissue])
        out["hu"][k] = fields.paint(table, edge).mean(axis=0)
        out["outside"][k] = 1 - _inside(fields).mean(axis=0)
    return Shares(grid=grid, **out, **pairs)


def _sub_slices(grid: Grid) -> Iterator[tuple[int, Grid]]:
    """Each slice and the grid of its sub-slices."""
    n = max(1, int(np.ceil(grid.spacing[0] / _SUBSLICE_MM)))
    affine = grid.affine.copy()
    affine[:3, 0] /= n
    for k in range(grid.shape[0]):
        affine[:3, 3] = grid.index_to_patient((k - 0.5 + 0.5 / n, 0, 0))
        yield k, Grid((n, grid.shape[1], grid.shape[2]), affine)


def _inside(fields: HeadFields) -> Array:
    full = np.zeros(fields.grid.shape, dtype=np.float32)
    full[fields.inside] = coverage(fields.cavity, float(np.mean(fields.grid.spacing[1:])))
    return full


def _inner_shares(fields: HeadFields, stroke: Stroke, edge: float) -> dict[str, Array]:
    """Shares ``(n,)`` of the intracranial voxels; those of territory and core are ``(2, n)``."""
    groups = {"grey": GREY_TISSUES, "white": WHITE_TISSUES, "fluid": FLUIDS, "sinus": (HeadTissue.SINUS,)}
    shares = {name: np.zeros(fields.cavity.shape, dtype=np.float32) for name in groups}
    for tissue, distance in fields.inner:
        covered = coverage(distance, edge)
        for name, members in groups.items():
            shares[name] += covered * (np.float32(tissue in members) - shares[name])
    for name, distance in zip(("healthy_artery", "occluded_artery"), _arteries(fields, stroke), strict=True):
        covered = coverage(distance, edge)
        for share in shares.values():
            share *= 1 - covered
        shares[name] = covered
    territory, core = (coverage(distance, edge) for distance in stroke.distances(fields.tissue_position))
    tissue_shares = np.stack([shares["grey"], shares["white"]])
    return {**shares, "territory": tissue_shares * territory, "core": tissue_shares * core}


def _arteries(fields: HeadFields, stroke: Stroke) -> tuple[Array, Array]:
    """Signed distances to the arteries that are open, and to those of the stroke's side."""
    x, y, z = fields.tissue_position
    side = np.float32(stroke.side)
    here, there, middle = (side * x, y, z), (-side * x, y, z), (x, y, z)
    # On the stroke's side the carotid end and the first part of the middle cerebral artery are open.
    paired = [capsule(there, *row) for row in _PAIRED_ARTERIES] + [capsule(here, *row) for row in _PAIRED_ARTERIES[:2]]
    healthy = np.minimum.reduce(paired + [capsule(middle, *row) for row in _MEDIAN_ARTERIES])
    occluded = np.minimum.reduce([capsule(here, *row) for row in _PAIRED_ARTERIES[2:]])
    return healthy, np.maximum(occluded, -healthy)


# --- diffusion MR -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DiffusionTissue:
    """Signal at b = 0 (a.u.) and ADC (10⁻⁶ mm²/s) of grey and white matter and CSF (typical), and of the core.

    Attributes
    ----------
    core_adc
        ADC of the core.
    core_signal
        Signal of the core at b = 0 over that of the tissue it was: oedema makes it brighter.
    """

    grey: tuple[float, float] = (900.0, 830.0)
    white: tuple[float, float] = (720.0, 750.0)
    fluid: tuple[float, float] = (2400.0, 3000.0)
    outside: tuple[float, float] = (110.0, 900.0)
    core_adc: float = 450.0
    core_signal: float = 1.1


def diffusion_signal(shares: Shares, tissue: DiffusionTissue, b_value: float) -> Array:
    """Noise-free signal ``(z, y, x)`` at ``b_value`` s/mm²: each tissue decays by itself, then they mix."""

    def signal(at_zero: float, adc: float) -> np.float32:
        return np.float32(at_zero * np.exp(-b_value * adc * 1e-6))

    skull = np.clip((300 - shares.hu) / 300, 0.05, 1) * (shares.hu > -300)
    out = shares.outside * skull * signal(*tissue.outside)
    out += shares.fluid * signal(*tissue.fluid)
    for n, (share, values) in enumerate(((shares.grey, tissue.grey), (shares.white, tissue.white))):
        core = signal(values[0] * tissue.core_signal, tissue.core_adc)
        out += (share - shares.core[n]) * signal(*values) + shares.core[n] * core
    return np.asarray(out, dtype=np.float32)


def simulate_dwi(
    shares: Shares, tissue: DiffusionTissue, rng: np.random.Generator, b_value: float = 1000.0, noise: float = 11.0
) -> tuple[Volume, Volume, Volume]:
    """Images at b = 0 and ``b_value``, and the scanner's ADC map: int16, Rician ``noise``, uneven coil sensitivity."""
    grid = shares.grid
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in grid.shape[1:])
    coil = 1 + np.float32(0.12) * y[:, None] + np.float32(0.1) * (x[None, :] ** 2 + y[:, None] ** 2)
    low, high = (rician(coil * diffusion_signal(shares, tissue, b), noise, rng) for b in (0.0, b_value))
    adc = np.log(np.maximum(low, 1) / np.maximum(high, 1)) / b_value * 1e6
    adc[(low < 5 * noise) | (adc < 0)] = 0
    stored = [np.clip(np.round(image), 0, 32767).astype(np.int16) for image in (low, high, adc)]
    return Volume(stored[0], grid, "a.u."), Volume(stored[1], grid, "a.u."), Volume(stored[2], grid, ADC_UNITS)


# --- CT perfusion -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TissuePerfusion:
    """CBF in mL/100 g/min, mean transit time and delay behind the artery in s."""

    cbf: float
    mtt: float
    delay: float

    @property
    def cbv(self) -> float:
        """mL/100 g, by the central volume theorem."""
        return self.cbf * self.mtt / 60


@dataclass(frozen=True)
class Circulation:
    """Bolus, and perfusion of grey and white matter in health, penumbra and core.

    Attributes
    ----------
    peak_hu, arrival, shape, scale
        Gamma variate of the artery: height in HU, arrival in s, exponent, and time constant in s.
    recirculation
        Height of the second pass as a share of the first.
    transit
        Time from artery to sinus in s.
    """

    peak_hu: float = 260.0
    arrival: float = 8.0
    shape: float = 3.0
    scale: float = 1.5
    recirculation: float = 0.15
    transit: float = 6.0
    healthy: tuple[TissuePerfusion, TissuePerfusion] = (TissuePerfusion(62, 4.0, 1.0), TissuePerfusion(28, 5.0, 1.5))
    penumbra: tuple[TissuePerfusion, TissuePerfusion] = (TissuePerfusion(30, 8.5, 8.0), TissuePerfusion(17, 9.0, 8.5))
    core: tuple[TissuePerfusion, TissuePerfusion] = (TissuePerfusion(7, 12.0, 9.0), TissuePerfusion(4, 12.0, 9.0))

    def artery(self, t: FloatArray) -> FloatArray:
        """Enhancement of the arteries in HU at times ``t`` s: first pass, and a second one, late and broad."""
        return self.peak_hu * (
            _gamma_variate(t - self.arrival, self.shape, self.scale)
            + self.recirculation * _gamma_variate(t - self.arrival - 14, self.shape, 3 * self.scale)
        )

    def tissue(self, tissue: TissuePerfusion, t: FloatArray) -> FloatArray:
        """Enhancement of a tissue: the artery's curve convolved with its exponential residue function, in HU."""
        return tissue.cbf / (6000 * BLOOD_PER_GRAM) * self._passed(tissue.mtt, tissue.delay, t)

    def occluded_artery(self, t: FloatArray) -> FloatArray:
        """Enhancement beyond the clot in HU: filled through collaterals, late and broad."""
        return self._passed(2.0, 5.0, t) / 2.0

    def vein(self, t: FloatArray) -> FloatArray:
        """Enhancement of the sinuses: the artery's curve after the brain, of the same area."""
        return self._passed(3.0, self.transit, t) / 3.0

    def _passed(self, mtt: float, delay: float, t: FloatArray) -> FloatArray:
        """∫ artery(t − delay − s) exp(−s / mtt) ds, by the midpoint rule on 0.05 s."""
        step = 0.05
        fine = np.arange(0, float(t.max()) + step, step)
        residue = np.exp(-(fine + step / 2) / mtt)
        filled = np.convolve(self.artery(fine), residue)[: len(fine)] * step
        return np.asarray(np.interp(t - delay - step / 2, fine, filled, left=0.0))


def _gamma_variate(t: FloatArray, shape: float, scale: float) -> FloatArray:
    """(t / t_max)^shape · exp(shape − t / scale) from t = 0, with its maximum 1 at t_max = shape · scale."""
    x = np.maximum(t, 0)
    return np.asarray((x / (shape * scale)) ** shape * np.exp(shape - x / scale))


def simulate_ctp(
    shares: Shares, circulation: Circulation, times: FloatArray, rng: np.random.Generator, noise_hu: float = 6.0
) -> list[Volume]:
    """CT at each of ``times`` s, int16 HU, with correlated noise."""
    penumbra = shares.territory - shares.core
    healthy = np.stack([shares.grey, shares.white]) - shares.territory
    parts = [shares.healthy_artery, shares.occluded_artery, shares.sinus, *healthy, *penumbra, *shares.core]
    states = (*circulation.healthy, *circulation.penumbra, *circulation.core)
    vessels = [circulation.artery(times), circulation.occluded_artery(times), circulation.vein(times)]
    curves = np.stack([*vessels, *(circulation.tissue(state, times) for state in states)]).astype(np.float32)
    inside = np.flatnonzero(shares.outside < 1)
    weights = np.stack([part.ravel()[inside] for part in parts])
    frames = []
    for curve in curves.T:
        noise = correlated_noise(shares.grid.shape, shares.grid.spacing[2], 2.2, 1.0, rng)
        hu = shares.hu + np.float32(noise_hu) * noise
        hu.ravel()[inside] += curve @ weights
        frames.append(Volume(np.clip(np.round(hu), -1024, 3071).astype(np.int16), shares.grid))
    return frames


def slab_grid(head: Head, spacing: tuple[float, float, float], matrix: int, coverage_mm: float = 80.0) -> Grid:
    """Axial slab ``coverage_mm`` thick from the arteries at the skull base upwards, as CT perfusion covers it."""
    grid = head_grid(head, spacing, matrix)
    base = float(head.to_patient((0, 0, -26))[2])
    first = max(0, round((base - float(grid.origin[2])) / spacing[0]))
    last = min(grid.shape[0], first + round(coverage_mm / spacing[0]))
    return grid.crop((first, 0, 0), (last, matrix, matrix))


def sample_stroke(rng: np.random.Generator) -> Stroke:
    """Draw a stroke; one in five is none."""
    side = int(rng.choice([-1, 1]))
    if rng.uniform() < 0.2:
        return Stroke(side, 0.0, 0.0)
    territory = float(rng.uniform(0.45, 0.95))
    return Stroke(side, territory, float(rng.uniform(0.25, 0.8) * territory))


def sample_diffusion(rng: np.random.Generator) -> DiffusionTissue:
    """Draw an acute core: ADC 350–520."""
    return DiffusionTissue(core_adc=float(rng.uniform(350, 520)), core_signal=float(rng.uniform(1.0, 1.25)))


def sample_circulation(rng: np.random.Generator) -> Circulation:
    """Draw a bolus and a person's perfusion."""
    flow = float(rng.uniform(0.85, 1.15))
    delay = float(rng.uniform(7.5, 9.5))
    return Circulation(
        peak_hu=float(rng.uniform(200, 320)),
        arrival=float(rng.uniform(6.5, 10)),
        scale=float(rng.uniform(1.3, 1.8)),
        recirculation=float(rng.uniform(0.1, 0.2)),
        healthy=(TissuePerfusion(62 * flow, 4.0, 1.0), TissuePerfusion(28 * flow, 5.0, 1.5)),
        penumbra=(TissuePerfusion(30 * flow, 8.5, delay), TissuePerfusion(17 * flow, 9.0, delay + 0.5)),
        core=(TissuePerfusion(7 * flow, 12.0, delay + 1), TissuePerfusion(4 * flow, 12.0, delay + 1)),
    )


def perfusion_times(rng: np.random.Generator) -> FloatArray:
    """Draw the times of a protocol in s: 60 s at one rate, or slower after the first pass."""
    if rng.uniform() < 0.5:
        return np.arange(0, 61, float(rng.choice([1.0, 1.5, 2.0])))
    return np.concatenate([np.arange(0, 36, 1.5), np.arange(36, 64, 3.0)])


def sample_study(rng: np.random.Generator) -> SimulatedStudy:
    """Draw a diffusion MR or a CT perfusion of a suspected stroke.

    Truth by the names of `ops.diseases.stroke.measurement`: ``core_ml`` for both, for CT perfusion also
    ``hypoperfused_ml``, ``penumbra_ml`` and ``mismatch_ml``.
    """
    participant = sample_participant(rng)
    head = sample_head(participant, rng)
    stroke = sample_stroke(rng)
    if rng.uniform() < 0.5:
        return dwi_study(participant, head, stroke, rng)
    return ctp_study(participant, head, stroke, rng)


def dwi_study(participant: Participant, head: Head, stroke: Stroke, rng: np.random.Generator) -> SimulatedStudy:
    """Diffusion MR of the whole head: b of 0 and 1000 s/mm² in one enhanced object, and the scanner's ADC map."""
    spacing, matrix = ((4.0, 1.6, 1.6), 144) if rng.uniform() < 0.5 else ((3.0, 1.2, 1.2), 192)
    shares = paint_shares(head, stroke, head_grid(head, spacing, matrix))
    low, high, adc = simulate_dwi(shares, sample_diffusion(rng), rng)
    stacks = (Stack(low, {"DiffusionBValue": 0.0}), Stack(high, {"DiffusionBValue": 1000.0}))
    series = (
        SliceSeries("dwi", "MR", "DWI b0 b1000 TRACE", stacks, "enhanced"),
        SliceSeries("adc", "MR", "ADC 10-6 mm2/s", (Stack(adc),), "enhanced"),
    )
    truth = {"core_ml": shares.volume_ml(shares.core)}
    return SimulatedStudy(participant, "MR BRAIN STROKE", series, {"dwi": shares.labels}, truth)


def ctp_study(participant: Participant, head: Head, stroke: Stroke, rng: np.random.Generator) -> SimulatedStudy:
    """CT perfusion of a slab of 80 mm, one file a slice and time, told apart by AcquisitionTime (from 10:15:00 on)."""
    shares = paint_shares(head, stroke, slab_grid(head, (5.0, 0.9, 0.9), 256))
    times = perfusion_times(rng)
    frames = simulate_ctp(shares, sample_circulation(rng), times, rng, noise_hu=float(rng.uniform(4, 7)))
    stacks = tuple(Stack(frame, {"AcquisitionTime": _clock(float(t))}) for frame, t in zip(frames, times, strict=True))
    series = SliceSeries("ctp", "CT", "BRAIN PERFUSION 5 mm", stacks)
    core, late = shares.volume_ml(shares.core), shares.volume_ml(shares.territory)
    truth = {"core_ml": core, "hypoperfused_ml": late, "penumbra_ml": late - core, "mismatch_ml": late - core}
    return SimulatedStudy(participant, "CT HEAD PERFUSION", (series,), {"ctp": shares.labels}, truth)


def _clock(seconds: float) -> str:
    """Return DICOM TM of ``seconds`` after 10:15:00."""
    minutes, rest = divmod(round(seconds, 6), 60)
    return f"10{15 + int(minutes):02d}{rest:09.6f}"

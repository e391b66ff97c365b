"""A simulated CT scan of a chest, at the resolution of its protocol, with its truth.

The background is painted on a coarser lattice with blended edges; every calcium deposit is supersampled on
the scan's own pixels, so its partial volume and its mass are right. Then kernel blur, noise and rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ops.phantoms.chest.agatston import EDGES, agatston
from ops.phantoms.chest.calcification import Deposit
from ops.phantoms.chest.canvas import Canvas
from ops.phantoms.chest.hounsfield import calcium_hu, tissue_hu
from ops.phantoms.chest.protocol import Protocol
from ops.phantoms.chest.thorax import Thorax, paint
from ops.phantoms.labels import ARTERIES, ARTERY_LABELS
from ops.phantoms.noise import correlated_noise, double, kernel_blur, lung_texture, noise_map
from ops.phantoms.sdf import Array
from ops.volume import Grid, Volume

SUBPIXELS = 4  # supersampling of deposits in plane
SUBSLICE_MM = 0.375  # and along z, at most
THIN_MM = 1.3
BACKGROUND_Z_MM = 1.6  # z step of the painted background, at most
COARSE = 2  # background pixel over scan pixel
HU_RANGE = (-1024, 3071)  # 12-bit scanners clip here

# In-plane Gaussian sigma (mm), overshoot, and noise cut-off (mm) of typical reconstruction kernels.
KERNELS = {"soft": (0.60, 0.0, 2.6), "medium": (0.47, 0.0, 2.0), "sharp": (0.40, 0.45, 1.0)}
# The artery mask reaches this far from its deposits; nearer non-coronary calcium keeps its own voxels.
MASK_MARGIN_MM = 2.0
# Heart motion smears non-gated scans: deposits appear in this many places along a path.
MOTION_GHOSTS = 3


@dataclass(frozen=True)
class Truth:
    """What a perfect reader would report.

    Attributes
    ----------
    agatston
        By artery and ``total``, on the noise-free scan; None when the tube voltage has no agreed threshold.
    volume_mm3, mass_mg
        By artery and ``total``, from the geometry.
    """

    agatston: dict[str, float] | None
    volume_mm3: dict[str, float]
    mass_mg: dict[str, float]


@dataclass(frozen=True, eq=False)
class Scan:
    """A simulated series.

    Attributes
    ----------
    volume
        HU, int16, with noise.
    noise_free
        HU, int16, same grid, with partial volume and blur but no noise.
    artery_labels
        uint8 ``(z, y, x)``: ``ARTERY_LABELS`` around the coronary deposits.
    """

    protocol: Protocol
    volume: Volume
    noise_free: Volume
    artery_labels: npt.NDArray[np.uint8]
    truth: Truth


def scan_grid(chest: Thorax, protocol: Protocol, rng: np.random.Generator) -> Grid:
    """Field of view of a protocol: the heart from carina to diaphragm when gated, the whole chest otherwise."""
    low, high = chest.deformation.to_patient(np.stack(chest.heart.bounds()))
    if protocol.gated:
        bottom, top = low[2] - rng.uniform(4, 18), high[2] + rng.uniform(8, 24)
        middle = (low[:2] + high[:2]) / 2 + [rng.uniform(-12, 4), rng.uniform(0, 18)]
    else:
        bottom, top = low[2] - rng.uniform(60, 100), 172 * chest.body.stretch + rng.uniform(0, 25)
        middle = np.array([rng.uniform(-8, 8), chest.body.centre_y + rng.uniform(0, 15)])
    n, pixel = protocol.matrix, protocol.pixel
    corner = middle - pixel * (n - 1) / 2
    slices = int(np.ceil((top - bottom) / protocol.increment))
    return Grid.from_spacing((slices, n, n), (protocol.increment, pixel, pixel), (corner[0], corner[1], bottom))


def simulate_scan(
    chest: Thorax,
    protocol: Protocol,
    rng: np.random.Generator,
    coronary: Sequence[Deposit] = (),
    other: Sequence[Deposit] = (),
    grid: Grid | None = None,
) -> Scan:
    """Scan ``chest`` with its calcium.

    Parameters
    ----------
    coronary, other
        Deposits in patient space; ``coronary`` ones carry an artery as their site.
    grid
        Where to scan; by default ``scan_grid`` chooses. Axis-aligned, matrix divisible by ``COARSE``.
    """
    grid = scan_grid(chest, protocol, rng) if grid is None else grid
    hu = background(chest, protocol, grid, tissue_hu(chest.participant, protocol.kvp, rng, protocol.contrast))
    hu += lung_texture(hu, rng)
    motion = _motion(protocol, rng)
    shares = add_deposits(hu, grid, [*coronary, *other], protocol, motion)
    sigma, sharpening, cutoff = KERNELS[protocol.kernel]
    clean = np.clip(kernel_blur(hu, grid.spacing[2], sigma, sharpening), *HU_RANGE)
    labels = artery_mask(grid, coronary, shares[: len(coronary)], shares[len(coronary) :])
    overlap = protocol.thickness / protocol.increment
    noise = correlated_noise(grid.shape, grid.spacing[2], cutoff, overlap, rng)
    noise *= noise_map(clean) * np.float32(protocol.noise)
    noisy = np.clip(clean + noise, *HU_RANGE)
    return Scan(
        protocol=protocol,
        volume=Volume(np.round(noisy).astype(np.int16), grid),
        noise_free=Volume(np.round(clean).astype(np.int16), grid),
        artery_labels=labels,
        truth=true_scores(np.round(clean), labels, grid, coronary, protocol),
    )


def true_scores(
    clean: Array, labels: npt.NDArray[np.uint8], grid: Grid, coronary: Sequence[Deposit], protocol: Protocol
) -> Truth:
    """Truth of a scan: Agatston from the noise-free image, volume and mass from the deposits themselves."""
    volume = {name: float(sum(d.volume for d in coronary if d.site == name)) for name in ARTERIES}
    mass = {name: float(sum(d.mass for d in coronary if d.site == name)) for name in ARTERIES}
    volume["total"], mass["total"] = sum(volume.values()), sum(mass.values())
    known = protocol.kvp in EDGES and not protocol.tin_filter and not protocol.contrast
    return Truth(agatston(clean, labels, grid.spacing, protocol.kvp) if known else None, volume, mass)


def background(chest: Thorax, protocol: Protocol, grid: Grid, hounsfield: npt.NDArray[np.float32]) -> Array:
    """HU of the chest without calcium ``(z, y, x)`` float32: painted coarsely, averaged over each slice."""
    nz, ny, nx = grid.shape
    dz, dy, dx = grid.spacing
    if dz < THIN_MM:  # every other slice is enough for the background; the others are interpolated
        wide = Grid.from_spacing((nz // 2 + 1, ny, nx), (2 * dz, dy, dx), tuple(grid.origin + np.array([0, 0, dz / 2])))
        thick = replace(protocol, increment=2 * dz)
        return double(background(chest, thick, wide, hounsfield), 0)[:nz]
    per = int(np.ceil(dz / BACKGROUND_Z_MM))
    step, extra, window = _slice_sampling(protocol, dz, per)
    x0, y0, z0 = grid.origin
    origin = (x0 + dx * (COARSE - 1) / 2, y0 + dy * (COARSE - 1) / 2, z0 - step * extra)
    fine = Grid.from_spacing(
        ((nz - 1) * per + 1 + 2 * extra, ny // COARSE, nx // COARSE), (step, dy * COARSE, dx * COARSE), origin
    )
    canvas = Canvas(fine, chest.deformation, hounsfield)
    paint(chest, canvas)
    assert canvas.hu is not None  # the canvas was given HU
    slabs = _slice_average(canvas.hu, nz, per, window)
    return double(double(slabs, 1), 2)


def _slice_sampling(protocol: Protocol, increment: float, per: int) -> tuple[float, int, int]:
    """Fine z step, fine planes needed outside the first and last slice centre, and planes in one slice thickness."""
    step = increment / per
    window = max(1, round(protocol.thickness / step))
    return step, window // 2, window


def _slice_average(fine: Array, slices: int, per: int, window: int) -> Array:
    """Mean of ``window`` fine planes around every ``per``-th plane (half weight at both ends when even)."""
    weights = np.ones(window + 1 - window % 2, dtype=np.float32)
    if window % 2 == 0:
        weights[[0, -1]] = 0.5
    weights /= weights.sum()
    out = np.zeros((slices, *fine.shape[1:]), dtype=np.float32)
    for offset, weight in enumerate(weights):
        out += weight * fine[offset : offset + (slices - 1) * per + 1 : per]
    return out


def _motion(protocol: Protocol, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Displacements ``(n, 3)`` mm at which a coronary deposit is seen; one at rest when gated."""
    if protocol.gated:
        return np.zeros((1, 3))
    path = rng.normal(0, [1.4, 1.4, 0.8])
    return np.linspace(-1, 1, MOTION_GHOSTS)[:, None] * path


def add_deposits(
    hu: Array,
    grid: Grid,
    deposits: Sequence[Deposit],
    protocol: Protocol,
    motion: npt.NDArray[np.float64],
) -> list[tuple[tuple[slice, slice, slice], Array] | None]:
    """Add calcium to ``hu`` in place by the exact share of each voxel it fills.

    Returns
    -------
    list
        Per deposit its index box and the share ``(z, y, x)`` of each voxel it fills; None when out of the field.
    """
    shares: list[tuple[tuple[slice, slice, slice], Array] | None] = []
    for deposit in deposits:
        moves = motion if deposit.site in ARTERIES else motion[:1] * 0
        share = occupancy(deposit, grid, protocol, moves)
        shares.append(share)
        if share is not None:
            hu[share[0]] += share[1] * np.float32(calcium_hu(deposit.density, protocol.kvp))
    return shares


def occupancy(
    deposit: Deposit, grid: Grid, protocol: Protocol, moves: npt.NDArray[np.float64]
) -> tuple[tuple[slice, slice, slice], Array] | None:
    """Share of each voxel filled by a deposit, supersampled; averaged over its displacements."""
    low, high = deposit.bounds()
    low, high = low + moves.min(axis=0), high + moves.max(axis=0)
    dz, dy, dx = grid.spacing
    reach = np.array([dx, dy, dz + protocol.thickness / 2])
    start = np.floor((low - reach - grid.origin) / [dx, dy, dz]).astype(int)
    stop = np.ceil((high + reach - grid.origin) / [dx, dy, dz]).astype(int) + 1
    start, stop = np.maximum(start, 0), np.minimum(stop, grid.shape[::-1])
    if (start >= stop).any():
        return None
    nx, ny, nz = (int(n) for n in stop - start)
    per = int(np.ceil(dz / SUBSLICE_MM)) | 1  # odd: planes symmetric about the slice centre
    step, extra, window = _slice_sampling(protocol, dz, per)
    x, y = (
        grid.origin[k] + d * (start[k] + (np.arange(n * SUBPIXELS) + 0.5) / SUBPIXELS - 0.5)
        for k, d, n in ((0, dx, nx), (1, dy, ny))
    )
    z = grid.origin[2] + dz * start[2] + step * (np.arange((nz - 1) * per + 1 + 2 * extra) - extra)
    total = np.zeros((nz, ny, nx), dtype=np.float32)
    for move in moves:
        inside = deposit.inside(x - move[0], y - move[1], z - move[2])
        pixels = inside.reshape(len(z), ny, SUBPIXELS, nx, SUBPIXELS).mean(axis=(2, 4), dtype=np.float32)
        total += _slice_average(pixels, nz, per, window)
    box = (slice(int(start[2]), int(stop[2])), slice(int(start[1]), int(stop[1])), slice(int(start[0]), int(stop[0])))
    return box, total / np.float32(len(moves))


def artery_mask(
    grid: Grid,
    coronary: Sequence[Deposit],
    shares: Sequence[tuple[tuple[slice, slice, slice], Array] | None],
    foreign: Sequence[tuple[tuple[slice, slice, slice], Array] | None],
) -> npt.NDArray[np.uint8]:
    """Artery labels of the voxels within ``MASK_MARGIN_MM`` of coronary deposits; the nearer artery wins."""
    labels = np.zeros(grid.shape, dtype=np.uint8)
    best = np.zeros(grid.shape, dtype=np.float32)
    for deposit, share in zip(coronary, shares, strict=True):
        if share is not None:
            _claim(labels, best, grid, share, ARTERY_LABELS[deposit.site])
    for share in foreign:
        if share is not None:
            _claim(labels, best, grid, share, 0)
    return labels


def _claim(
    labels: npt.NDArray[np.uint8],
    best: Array,
    grid: Grid,
    share: tuple[tuple[slice, slice, slice], Array],
    label: int,
) -> None:
    margin = [0, *(int(np.ceil(MASK_MARGIN_MM / d)) for d in grid.spacing[1:])]
    box = tuple(
        slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in zip(share[0], margin, grid.shape, strict=True)
    )
    padded = np.zeros([s.stop - s.start for s in box], dtype=np.float32)
    inner = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(share[0], box, strict=True))
    padded[inner] = share[1] > 0
    gap = ndimage.distance_transform_edt(padded == 0, sampling=(1e3, *grid.spacing[1:])) if padded.any() else None
    if gap is None:
        return
    closeness = np.clip(1 - gap / MASK_MARGIN_MM, 0, None).astype(np.float32)
    wins = closeness > best[box]
    labels[box][wins] = label
    best[box][wins] = closeness[wins]

"""Volumes and attenuation of simulated livers of all stages from their true masks, 1.8 mm pixels at three slice
thicknesses, and the surface's nodularity on portal-venous CT with 0.75 mm pixels at the same thicknesses.

The true nodularity is that of the surface itself. The scanner's blur and the smooth fit take up some of it, and a thick
slice averages over nodules; noise adds to it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ops.diseases.fibrosis.liver_surface import surface_nodularity
from ops.diseases.fibrosis.measurement import measure
from ops.measure.errors import NotEvaluableError
from ops.phantoms.lattice import centred_grid
from ops.phantoms.liver.abdomen import Body, UpperAbdomen, bodies, label_map, paint, sample_abdomen
from ops.phantoms.noise import correlated_noise, kernel_blur
from ops.phantoms.participant import sample_participant
from ops.volume import Grid, Volume
from tests.accuracy.draw import Draw

SLICES_MM = (1.0, 2.5, 5.0)
VOLUME_PIXEL_MM, SURFACE_PIXEL_MM = 1.8, 0.75
SURFACE_SLICES = 12
NOISE_HU = 12.0
UNITS = {
    "liver_volume": "cm3",
    "segment_I_volume": "cm3",
    "lsvr": "1",
    "spleen_volume": "cm3",
    "liver_attenuation": "[hnsf'U]",
    "spleen_attenuation": "[hnsf'U]",
}


def draws(n: int, seed: int) -> Iterator[Draw]:
    """Truth and measurement of ``n`` participants at every slice thickness."""
    rng = np.random.default_rng(seed)
    for number in range(n):
        abdomen = sample_abdomen(sample_participant(rng), rng, number % 5)
        truth = abdomen.truth(1.5)
        for thickness in SLICES_MM:
            grid = organ_grid(abdomen, thickness, rng)
            record = measure(label_map(abdomen, grid), "CT", organ_ct(abdomen, grid, rng))
            for name, unit in UNITS.items():
                found = record.measurement(name)
                value = found.value if isinstance(found.value, float) else None
                yield Draw(name, unit, f"{thickness:g} mm", truth[name], value, found.reason)
            yield surface_draw(abdomen, thickness, truth["liver_surface_nodularity"], rng)


def surface_draw(abdomen: UpperAbdomen, thickness: float, truth: float, rng: np.random.Generator) -> Draw:
    """Nodularity of the front half of some slices through the middle of the liver."""
    grid = surface_grid(abdomen, thickness, rng)
    value, reason = None, ""
    try:
        value = surface_nodularity(label_map(abdomen, grid), organ_ct(abdomen, grid, rng)).value
    except NotEvaluableError as error:
        reason = error.reason
    return Draw("liver_surface_nodularity", "10*-1.mm", f"{thickness:g} mm", truth, value, reason)


def organ_grid(abdomen: UpperAbdomen, thickness: float, rng: np.random.Generator) -> Grid:
    """Liver and spleen with a margin, the slices anywhere."""
    lows, highs = zip(abdomen.liver.bounds(), abdomen.spleen.bounds(), strict=True)
    low, high = np.min(lows, axis=0) - 6, np.max(highs, axis=0) + 6
    centre = (low + high) / 2 + rng.uniform(-0.5, 0.5, 3) * [VOLUME_PIXEL_MM, VOLUME_PIXEL_MM, thickness]
    return centred_grid(centre, high - low, (thickness, VOLUME_PIXEL_MM, VOLUME_PIXEL_MM))


def surface_grid(abdomen: UpperAbdomen, thickness: float, rng: np.random.Generator) -> Grid:
    """Return the grid of `SURFACE_SLICES` slices with the front half of the liver."""
    low, high = abdomen.liver.bounds()
    size = np.array([high[0] - low[0] + 12, -low[1] + 6, SURFACE_SLICES * thickness])
    centre = np.array([(low[0] + high[0]) / 2, low[1] / 2 - 3, 20.0]) + rng.uniform(-0.5, 0.5, 3)
    return centred_grid(centre, size, (thickness, SURFACE_PIXEL_MM, SURFACE_PIXEL_MM))


def organ_ct(abdomen: UpperAbdomen, grid: Grid, rng: np.random.Generator) -> Volume:
    """Noisy CT of liver, its vessels and spleen in fat."""
    everywhere = np.array([500.0, 500.0, 500.0])
    fat = Body(lambda p: np.float32(-1000) + 0 * (p[0] + p[1] + p[2]), abdomen.hu("fat"), -everywhere, everywhere)
    organs = (abdomen.liver_hu, abdomen.spleen_hu, abdomen.hu("portal"))
    inside = [body for body in bodies(abdomen) if body.hu in organs]
    hu = kernel_blur(paint([fat, *inside], grid), grid.spacing[2], 0.6, 0.0)
    hu += NOISE_HU * correlated_noise(grid.shape, grid.spacing[2], 2.6, 1.0, rng)
    return Volume(np.round(hu).astype(np.int16), grid)

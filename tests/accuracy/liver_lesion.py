"""One ellipsoidal lesion of 4 to 45 mm in a block of liver, at a random place of the lattice. Diameters run from edge
to edge of the outermost pixels (the default), which is why they come out about half a pixel long.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ops.diseases.liver_lesion.measurement import measure
from ops.phantoms.lattice import centred_grid
from ops.phantoms.liver.lesions import label_map, sample_lesion
from tests.accuracy.draw import Draw

RESOLUTIONS = {
    "0.6 × 0.6 × 1 mm": (1.0, 0.6, 0.6),
    "0.8 × 0.8 × 2.5 mm": (2.5, 0.8, 0.8),
    "0.9 × 0.9 × 5 mm": (5.0, 0.9, 0.9),
}


def draws(n: int, seed: int) -> Iterator[Draw]:
    """Yield diameters and volume of ``n`` lesions at each resolution."""
    for resolution, spacing in RESOLUTIONS.items():
        for index in range(n):
            rng = np.random.default_rng([seed, index])
            lesion = sample_lesion(rng, rng.uniform(-3, 3, size=3))
            size = 2 * max(lesion.semi_axes) + 8 * max(spacing)
            record = measure(label_map([lesion], centred_grid((0, 0, 0), (size, size, size), spacing)))
            for name, unit, truth in (
                ("lesion_1_longest_diameter", "mm", lesion.longest_diameter),
                ("lesion_1_short_axis", "mm", lesion.short_axis),
                ("lesion_1_volume", "mL", lesion.volume),
            ):
                found = record.measurement(name) if record["lesion_count"] else None
                value = found and found.value
                yield Draw(
                    name, unit, resolution, truth, value, "not on the lattice" if found is None else found.reason
                )

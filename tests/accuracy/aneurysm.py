"""Sacs of 2–16 mm on the arteries of a circle of Willis, a third with a bleb.

Sacs that the measurement flags ``low_confidence`` (fewer than 6 voxels across) have rows of their own. Sections that
are parallel to the neck have no closed form with a bleb and are compared without one. The parent vessel is compared at
the middle cerebral bifurcation and the basilar tip, where the arteries that leave the neck keep one calibre for long
enough.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ops.diseases.aneurysm.measurement import measure
from ops.phantoms.head.anatomy import sample_head
from ops.phantoms.head.cerebral_arteries import sample_circle, sample_sites
from ops.phantoms.lattice import centred_grid
from ops.phantoms.participant import sample_participant
from tests.accuracy.draw import Draw

SPACINGS_MM = (0.3, 0.5, 0.8)
AROUND_MM = 32.0
UNITS = {
    "diameter_3d": "mm",
    "diameter_section": "mm",
    "dome_width": "mm",
    "height": "mm",
    "height_max": "mm",
    "neck_diameter_mean_radius": "mm",
    "neck_diameter_hydraulic": "mm",
    "volume": "mm3",
    "surface_area": "mm2",
    "aspect_ratio": "1",
    "bottleneck_factor": "1",
    "nonsphericity_index": "1",
    "ellipticity_index": "1",
    "undulation_index": "1",
    "conicity": "1",
    "parent_diameter": "mm",
    "size_ratio": "1",
}


def draws(n: int, seed: int) -> Iterator[Draw]:
    """Truth and measurement of ``n`` sacs at each voxel size."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < n:
        head = sample_head(sample_participant(rng), rng, max_tilt=5)
        circle = sample_circle(head, rng, sample_sites(rng, 1))
        if not circle.aneurysms:
            continue
        made += 1
        truth = circle.aneurysms[0].truth()
        for spacing in SPACINGS_MM:
            centre = circle.aneurysms[0].sac.centre + rng.uniform(-spacing / 2, spacing / 2, 3)
            grid = centred_grid(centre, (AROUND_MM,) * 3, (spacing,) * 3)
            record = measure(circle.labels(grid, circle.distance(grid)))
            resolution = f"{spacing} mm" + (", low confidence" if "low_confidence" in record.flags else "")
            for name, unit in UNITS.items():
                if name in truth:
                    found = record.measurement(name) if record.measurements else None
                    reason = record.reason if found is None else found.reason
                    value = None if found is None else found.value
                    yield Draw(name, unit, resolution, truth[name], value, reason)  # type: ignore[arg-type]

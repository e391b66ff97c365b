from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ops.measure import checks
from ops.measure.errors import NotEvaluableError
from ops.volume import Grid, Volume

GRID = Grid.from_spacing((4, 5, 6), (2.0, 1.0, 1.0))
MASK = np.zeros(GRID.shape, dtype=bool)
INSIDE = MASK.copy()
INSIDE[1:3, 2, 2:4] = True


def image(value: float = 0.0, units: str = "HU") -> Volume:
    return Volume(np.full(GRID.shape, value, dtype=np.float32), GRID, units)


def labels(dtype: type[np.generic] = np.uint8, units: str = "label") -> Volume:
    return Volume(np.zeros(GRID.shape, dtype=dtype), GRID, units)


def tilted() -> Grid:
    affine = GRID.affine.copy()
    affine[1, 0] = 0.5
    return Grid(GRID.shape, affine)


def at_face(axis: int, end: int) -> np.ndarray:
    mask = MASK.copy()
    np.moveaxis(mask, axis, 0)[end, 2, 2] = True
    return mask


@pytest.mark.parametrize(
    ("reason", "refuse"),
    [
        ("wrong_modality", lambda: checks.require_modality("MR", "CT")),
        ("wrong_units", lambda: checks.require_units(image(units="a.u."), "HU")),
        ("grid_mismatch", lambda: checks.require_same_grid(image(), Volume(image().voxels, tilted()))),
        ("gantry_tilt", lambda: checks.require_orthogonal(tilted())),
        ("anisotropic", lambda: checks.require_isotropy(GRID, 1.99)),
        ("not_finite", lambda: checks.require_finite(image(np.nan))),
        ("not_finite", lambda: checks.require_finite(image(np.inf), INSIDE)),
        ("not_a_label_map", lambda: checks.require_label_map(labels(units="HU"))),
        ("not_a_label_map", lambda: checks.require_label_map(labels(np.float32))),
        ("not_a_label_map", lambda: checks.require_label_map(Volume(np.full(GRID.shape, -1), GRID, "label"))),
        ("empty_mask", lambda: checks.require_not_empty(MASK, "sac")),
        *(
            ("touches_border", lambda axis=axis, end=end: checks.require_inside(at_face(axis, end), "sac"))
            for axis in range(3)
            for end in (0, -1)
        ),
    ],
)
def test_refusals(reason: str, refuse: Callable[[], None]) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        refuse()
    assert caught.value.reason == reason
    assert caught.value.detail


def test_what_is_right_passes() -> None:
    checks.require_modality("CT", "CT", "MR")
    checks.require_units(image(), "HU")
    checks.require_same_grid(image(), labels())
    checks.require_orthogonal(GRID)
    checks.require_isotropy(GRID, 2.0)
    checks.require_finite(image())
    checks.require_finite(labels())
    broken = image()
    broken.voxels[0, 0, 0] = np.nan
    checks.require_finite(broken, INSIDE)
    checks.require_label_map(labels())
    checks.require_label_map(labels(np.bool_))
    checks.require_not_empty(INSIDE, "sac")
    checks.require_inside(INSIDE, "sac")

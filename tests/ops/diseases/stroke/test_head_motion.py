from __future__ import annotations

import numpy as np
import pytest

from ops.diseases.stroke.head_motion import displacement_mm
from ops.phantoms.lattice import coordinates, coverage
from ops.phantoms.sdf import ellipsoid, rotation
from ops.volume import Grid, Volume

GRID = Grid.from_spacing((10, 90, 80), (6.0, 2.4, 2.4), (-95, -107, -30))


def head(shift: tuple[float, float, float] = (0, 0, 0), yaw: float = 0.0, enhancement: float = 0.0) -> Volume:
    points = coordinates(GRID)
    frame = rotation(yaw, 0, 0).T
    skull = coverage(ellipsoid(points, shift, (74, 93, 75), frame), 3)
    brain = coverage(ellipsoid(points, shift, (68, 86, 68), frame), 3)
    vessel = coverage(ellipsoid(points, (shift[0], shift[1] + 82, shift[2]), (4, 4, 40), frame), 3)
    hu = -1000 + 2000 * skull - 965 * brain + enhancement * (0.05 * brain + vessel)
    hu += np.random.default_rng(int(enhancement)).normal(0, 6, hu.shape)
    return Volume(np.round(hu).astype(np.int16), GRID)


BRAIN = ellipsoid(coordinates(GRID), (0, 0, 0), (68, 86, 68)) < 0


@pytest.mark.parametrize("shift", [(1.0, 0, 0), (0, -1.5, 0), (0.6, 0.6, 1.0)])
def test_translation(shift: tuple[float, float, float]) -> None:
    found = displacement_mm([head(), head(shift)], BRAIN)
    assert found[0] == 0
    assert found[1] == pytest.approx(np.linalg.norm(shift), rel=0.25)


def test_rotation() -> None:
    angle = 1.5
    points = GRID.index_to_patient(np.argwhere(BRAIN))
    true = np.radians(angle) * np.sqrt((points[:, :2] ** 2).sum(axis=1).mean())
    assert displacement_mm([head(), head(yaw=angle)], BRAIN)[1] == pytest.approx(true, rel=0.35)


def test_contrast_is_no_motion_and_large_motion_is_found() -> None:
    still, moved = displacement_mm([head(), head(enhancement=250), head((6, 0, 0))], BRAIN)[1:]
    assert still < 0.3
    assert moved > 2


def test_one_slice() -> None:
    frames = [frame.crop((5, 0, 0), (6, 90, 80)) for frame in (head(), head((1.2, 0, 0)))]
    assert displacement_mm(frames, BRAIN[5:6])[1] == pytest.approx(1.2, rel=0.25)

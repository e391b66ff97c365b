from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ops.measure.errors import NotEvaluableError
from ops.metrics.registration import mean_squared_error, target_registration_errors
from ops.volume import Grid, Volume

GRID = Grid.from_spacing((2, 3, 4), (1, 1, 1))


def image(value: float, units: str = "HU") -> Volume:
    return Volume(np.full(GRID.shape, value, dtype=np.float32), GRID, units)


def region(n: int = 5) -> Volume:
    voxels = np.zeros(GRID.shape, dtype=np.uint8)
    voxels.reshape(-1)[:n] = 1
    return Volume(voxels, GRID, "label")


def test_errors_are_distances_in_mm() -> None:
    found = target_registration_errors([[0, 0, 0], [10, 10, 10]], [[3, 4, 0], [10, 10, 12]])
    assert found.tolist() == [5, 2]


def test_difference_is_that_of_physical_values_in_the_region() -> None:
    second = image(3.0)
    second.voxels[1] = 1000
    assert mean_squared_error(image(1.0), second, region()) == 4
    scaled = replace(image(1.0), slope=2.0, intercept=-1.0)
    assert mean_squared_error(scaled, image(1.0), region()) == 0


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: target_registration_errors([], []), "no_landmarks"),
        (lambda: target_registration_errors([[0, 0, 0]], [[0, 0, 0], [1, 1, 1]]), "landmark_mismatch"),
        (lambda: target_registration_errors([[0, 0]], [[0, 0]]), "landmark_mismatch"),
        (lambda: target_registration_errors([[0, 0, np.nan]], [[0, 0, 0]]), "not_finite"),
        (lambda: mean_squared_error(image(1), image(1, "a.u."), region()), "wrong_units"),
        (lambda: mean_squared_error(image(1), image(1), region(0)), "empty_mask"),
        (lambda: mean_squared_error(image(np.nan), image(1), region()), "not_finite"),
    ],
)
def test_bad_input_has_a_reason(call, reason: str) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        call()
    assert caught.value.reason == reason

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import pdist

from ops.measure.diameters import feret_diameter, in_plane_diameters, width_along


def ellipse(semi: tuple[float, float], pixel: tuple[float, float], angle: float = 0.0) -> np.ndarray:
    n = 101
    rows, columns = np.mgrid[:n, :n] - (n - 1) / 2
    y, x = rows * pixel[0], columns * pixel[1]
    c, s = np.cos(angle), np.sin(angle)
    return ((x * c + y * s) / semi[0]) ** 2 + ((y * c - x * s) / semi[1]) ** 2 <= 1


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 4, 1.2])
@pytest.mark.parametrize("pixel", [(0.5, 0.5), (0.6, 0.3)])
def test_ellipse_has_its_axes(angle: float, pixel: tuple[float, float]) -> None:
    found = in_plane_diameters(ellipse((10, 5), pixel, angle), pixel, "centre_to_centre")
    assert found.longest == pytest.approx(20, abs=max(pixel))
    assert found.perpendicular == pytest.approx(10, abs=max(pixel))
    ends = (found.ends[1] - found.ends[0]) * pixel
    assert np.linalg.norm(ends) == pytest.approx(found.longest)
    # The end of a long axis is flat: the pixels that reach farthest lie up to 3 pixels beside it.
    assert abs(np.cross([*ends, 0], [np.sin(angle), np.cos(angle), 0])[2]) < 6 * max(pixel)


def test_edge_to_edge_counts_whole_pixels() -> None:
    mask = np.zeros((5, 9), dtype=bool)
    mask[2, 1:8] = True
    assert in_plane_diameters(mask, (2.0, 0.5), "centre_to_centre").longest == pytest.approx(3.0)
    assert in_plane_diameters(mask, (2.0, 0.5), "centre_to_centre").perpendicular == 0
    assert in_plane_diameters(mask, (2.0, 0.5)).longest == pytest.approx(np.hypot(3.5, 2.0))


def test_one_pixel() -> None:
    mask = np.ones((1, 1), dtype=bool)
    assert in_plane_diameters(mask, (1.0, 1.0), "centre_to_centre").longest == 0
    assert in_plane_diameters(mask, (1.0, 1.0)).longest == pytest.approx(np.sqrt(2))


def test_nothing_has_no_diameter() -> None:
    with pytest.raises(ValueError, match="mask is empty"):
        in_plane_diameters(np.zeros((3, 3), dtype=bool), (1, 1))
    with pytest.raises(ValueError, match="no points"):
        feret_diameter(np.empty((0, 3)))


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(3)), elements=st.integers(-5, 5).map(float)))
def test_feret_is_the_largest_distance(points: np.ndarray) -> None:
    assert feret_diameter(points) == pytest.approx(pdist(points).max(initial=0))


def test_width_does_not_depend_on_the_length_of_the_direction() -> None:
    assert width_along([[0, 0, 0], [1, 2, 3]], [0, 0, 7]) == pytest.approx(3)

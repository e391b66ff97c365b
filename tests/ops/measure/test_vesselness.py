from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.filters import frangi

from ops.measure.errors import NotEvaluableError
from ops.measure.vesselness import frangi_vesselness, hessian, symmetric_eigenvalues
from ops.volume import Grid, Volume
from tests.ops.reference.coronary import gaussian_tube


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.5, 1.0), (0.7, 1.5, 0.7)])
@pytest.mark.parametrize("sigma", [1.5, 2.0, 3.0, 4.5])
def test_curvature_of_a_gaussian_tube(spacing: tuple[float, float, float], sigma: float) -> None:
    tube, middle = gaussian_tube(3.0, spacing)
    curvature = -symmetric_eigenvalues(hessian(tube, sigma).reshape(6, -1)[:, [middle]])[0, 0]
    assert curvature == pytest.approx(sigma**2 * 9 / (9 + sigma**2) ** 2, abs=0.003)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.5, 1.0)])
def test_vesselness_on_the_axis(spacing: tuple[float, float, float]) -> None:
    tube, middle = gaussian_tube(3.0, spacing)
    assert frangi_vesselness(tube, [3.0]).reshape(-1)[middle] == pytest.approx((1 - np.exp(-2)) ** 2, abs=1e-3)


def test_agrees_with_scikit_image_at_one_scale() -> None:
    """With its contrast given for the Hessian without σ², which is how scikit-image takes it."""
    rng = np.random.default_rng(0)
    image = gaussian_filter(rng.normal(size=(40, 44, 48)), 2.0).astype(np.float32)
    volume = Volume(image, Grid.from_spacing(image.shape, (1, 1, 1)))
    ours = frangi_vesselness(volume, [2.0], c=0.05)
    theirs = frangi(image, sigmas=[2.0], black_ridges=False, gamma=0.05 / 2.0**2)
    inner = (slice(12, -12),) * 3
    assert np.abs(ours - theirs)[inner].max() < 0.04
    assert theirs[inner].max() > 0.3


def test_dark_tubes_plates_and_uniform_tissue_score_nothing() -> None:
    tube, middle = gaussian_tube(3.0)
    assert frangi_vesselness(Volume(-tube.voxels, tube.grid), [3.0], c=0.1).reshape(-1)[middle] == 0
    plate = np.zeros((24, 24, 24), dtype=np.float32)
    plate[12] = 100
    grid = Grid.from_spacing(plate.shape, (1, 1, 1))
    assert frangi_vesselness(Volume(plate, grid), [1.5], c=1.0).max() < 0.01
    uniform = Volume(np.full(plate.shape, -800, dtype=np.int16), grid)
    assert frangi_vesselness(uniform, [0.5, 1.5]).max() == 0
    assert np.abs(hessian(uniform, 0.5)).max() < 1e-2


def test_the_best_scale_wins_and_where_limits_it() -> None:
    tube, _ = gaussian_tube(3.0)
    single = [frangi_vesselness(tube, [sigma], c=0.1) for sigma in (1.5, 3.0)]
    both = frangi_vesselness(tube, [1.5, 3.0], c=0.1)
    assert np.array_equal(both, np.maximum(*single))
    where = np.zeros(tube.grid.shape, dtype=bool)
    where[:4] = True
    limited = frangi_vesselness(tube, [1.5, 3.0], c=0.1, where=where)
    assert np.array_equal(limited[:4], both[:4])
    assert limited[4:].max() == 0


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_scales(value: float) -> None:
    tube, _ = gaussian_tube(3.0, (6.0, 6.0, 6.0))
    for scales, c in (([value], None), ([2.0], value)):
        with pytest.raises(NotEvaluableError) as error:
            frangi_vesselness(tube, scales, c)
        assert error.value.reason == "invalid_scale"


def test_nan_and_shear() -> None:
    tube, _ = gaussian_tube(3.0, (6.0, 6.0, 6.0))
    tube.voxels[0, 0, 0] = np.nan
    with pytest.raises(NotEvaluableError, match="NaN"):
        frangi_vesselness(tube, [2.0])
    affine = tube.grid.affine.copy()
    affine[1, 0] = 2.0
    with pytest.raises(NotEvaluableError) as error:
        frangi_vesselness(Volume(np.zeros(tube.grid.shape), Grid(tube.grid.shape, affine)), [2.0])
    assert error.value.reason == "gantry_tilt"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6))
def test_eigenvalues(elements: list[float]) -> None:
    aa, ab, ac, bb, bc, cc = elements
    expected = np.linalg.eigvalsh([[aa, ab, ac], [ab, bb, bc], [ac, bc, cc]])
    assert symmetric_eigenvalues(np.array(elements)[:, None])[:, 0] == pytest.approx(expected, abs=1e-4)

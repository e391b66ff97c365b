from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ops.diseases.fibrosis.liver_surface import SurfacePolicy, contour_nodularity, mean_deviation, surface_nodularity
from ops.measure.errors import NotEvaluableError
from ops.phantoms.lattice import coordinates, coverage
from ops.phantoms.noise import kernel_blur
from ops.volume import Grid, Volume

RADIUS, PERIOD = 70.0, 10.0


def disc(
    amplitude: float,
    pixel: tuple[float, float] = (0.8, 0.8),
    turn: float = 0.0,
    contrast: float = 200.0,
    radius: float = RADIUS,
) -> tuple[Volume, Volume]:
    """A wavy cylinder in fat as mask and CT, its in-plane axes turned by ``turn`` rad against the patient's."""
    shape = (9, int(2.4 * radius / pixel[0]), int(2.4 * radius / pixel[1]))
    c, s = np.cos(turn), np.sin(turn)
    affine = np.eye(4)
    affine[:3, 0] = 0, 0, 2.5
    affine[:3, 1] = -s * pixel[0], c * pixel[0], 0
    affine[:3, 2] = c * pixel[1], s * pixel[1], 0
    affine[:3, 3] = -affine[:3, 1:3] @ ((np.array(shape[1:]) - 1) / 2 + [0.13, -0.31])
    grid = Grid(shape, affine)
    x, y, z = coordinates(grid)
    wave = np.sin(2 * np.pi * (radius * np.arctan2(x, -y) / PERIOD + z / 17))
    distance = np.hypot(x, y) - np.float32(radius) - np.float32(amplitude) * wave
    hu = contrast * coverage(distance, float(np.mean(pixel))) - 100
    ct = kernel_blur(hu.astype(np.float32), float(np.mean(pixel)), 0.6, 0.0)
    return Volume((distance < 0).astype(np.uint8), grid, "label"), Volume(np.round(ct).astype(np.int16), grid)


def truth(amplitude: float) -> float:
    return 20 * amplitude / np.pi


def test_mean_deviation_of_a_sinusoid_is_two_over_pi() -> None:
    along = np.linspace(0, 50, 100_001)
    assert mean_deviation(0.4 * np.sin(2 * np.pi * along / 10), 0 * along) == pytest.approx(truth(0.4), abs=1e-3)


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.3, 2.9, 4.0])
def test_contour_in_any_direction(angle: float) -> None:
    along = np.arange(0, 50, 0.5)
    across = 0.5 * np.sin(2 * np.pi * along / PERIOD + 1) + 0.006 * (along - 25) ** 2
    points = np.stack(
        [along * np.cos(angle) - across * np.sin(angle), along * np.sin(angle) + across * np.cos(angle)], 1
    )
    assert contour_nodularity(points) == pytest.approx(truth(0.5), rel=0.06)


def test_folded_contour_is_refused() -> None:
    angle = np.linspace(0, 1.6 * np.pi, 100)
    with pytest.raises(NotEvaluableError) as error:
        contour_nodularity(20 * np.stack([np.cos(angle), np.sin(angle)], 1))
    assert error.value.reason == "folded_contour"


@pytest.mark.parametrize(
    ("points", "reason"),
    [(np.zeros((4, 2)), "no_points"), (np.full((50, 2), np.nan), "not_finite"), (np.zeros((50, 2)), "folded_contour")],
)
def test_contours_that_say_nothing(points: np.ndarray, reason: str) -> None:
    with pytest.raises(NotEvaluableError) as error:
        contour_nodularity(points)
    assert error.value.reason == reason


@pytest.mark.parametrize(("edge", "reason"), [([], "no_points"), ([1.0, np.nan], "not_finite")])
def test_no_deviation_of_nothing(edge: list[float], reason: str) -> None:
    with pytest.raises(NotEvaluableError) as error:
        mean_deviation(edge, 0.0)
    assert error.value.reason == reason


def test_neither_pixel_size_nor_direction_nor_shape_shows() -> None:
    """The scanner's blur takes 7 % of a period of 10 mm and the fit some 3 %, whatever the pixels are."""
    settings = [((p, p), turn) for p in (0.5, 0.95) for turn in (0.0, 0.4)] + [((0.6, 0.9), 0.2), ((0.9, 0.6), 0.0)]
    found = [surface_nodularity(*disc(0.5, pixel, turn)).value for pixel, turn in settings]
    assert found == pytest.approx([truth(0.5) * 0.9] * len(found), rel=0.03)


def test_smooth_surface_is_near_zero() -> None:
    assert surface_nodularity(*disc(0.0)).value < 0.3


def test_rises_in_proportion() -> None:
    small, large = (surface_nodularity(*disc(amplitude)).value for amplitude in (0.3, 0.9))
    assert large / small == pytest.approx(3, rel=0.05)


def test_axes_in_any_order() -> None:
    liver, ct = disc(0.5)
    expected = surface_nodularity(liver, ct).value
    affine = liver.grid.affine[:, [1, 2, 0, 3]]
    turned = [Volume(np.moveaxis(v.voxels, 0, 2), Grid((*v.grid.shape[1:], 9), affine), v.units) for v in (liver, ct)]
    assert surface_nodularity(*turned).value == pytest.approx(expected, rel=1e-6)


def test_ct_decides_where_the_mask_is_rough() -> None:
    liver, ct = disc(0.5)
    flips = np.random.default_rng(0).random(liver.grid.shape) < 0.3
    rim = np.abs(np.roll(liver.voxels, 1, 2).astype(int) - liver.voxels) + np.abs(
        np.roll(liver.voxels, 1, 1) - liver.voxels
    )
    rough = replace(liver, voxels=np.where((rim > 0) & flips, 1 - liver.voxels, liver.voxels))
    assert surface_nodularity(rough, ct).value == pytest.approx(surface_nodularity(liver, ct).value, rel=0.05)
    assert surface_nodularity(rough).value > 1.05 * surface_nodularity(liver).value


def test_mask_alone_depends_on_the_pixels() -> None:
    fine, coarse = (surface_nodularity(disc(0.0, (p, p))[0]).value for p in (0.5, 0.95))
    assert fine < coarse < 1.5


def test_policy_is_obeyed() -> None:
    liver, ct = disc(0.5)
    anterior = surface_nodularity(liver, ct)
    whole = surface_nodularity(liver, ct, SurfacePolicy(surface="whole"))
    assert len(whole.rois) > 2 * len(anterior.rois) > 0
    # A polynomial of degree 8 over one period takes all of it up.
    assert surface_nodularity(liver, ct, SurfacePolicy(roi_length_mm=10, polynomial_degree=8)).value < 0.5
    assert anterior.value == pytest.approx(np.mean(anterior.rois))


@pytest.mark.parametrize(
    "bad",
    [
        {"surface": "back"},
        {"roi_length_mm": 5},
        {"polynomial_degree": 0},
        {"min_rois": 0},
        {"max_pixel_mm": 0},
        {"n_slices": 0},
        {"max_tilt": np.nan},
        {"min_contrast_hu": 400.0},
    ],
)
def test_policy_is_validated(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|is 10"):
        SurfacePolicy(**bad)  # type: ignore[arg-type]


def refusal(liver: Volume, ct: Volume | None = None, policy: SurfacePolicy | None = None) -> str:
    with pytest.raises(NotEvaluableError) as error:
        surface_nodularity(liver, ct, policy or SurfacePolicy())
    return error.value.reason


def test_reasons() -> None:
    liver, ct = disc(0.5)
    assert refusal(replace(liver, voxels=0 * liver.voxels)) == "empty_mask"
    assert refusal(replace(liver, units="HU")) == "not_a_label_map"
    assert refusal(liver, replace(ct, units="a.u.")) == "wrong_units"
    assert refusal(liver, Volume(ct.voxels, Grid.from_spacing(ct.grid.shape, (2.5, 0.7, 0.7)))) == "grid_mismatch"
    holes = ct.voxels.astype(np.float32)
    holes[4] = np.nan
    assert refusal(liver, replace(ct, voxels=holes)) == "not_finite"
    assert refusal(liver, ct, SurfacePolicy(max_pixel_mm=0.7)) == "pixel_too_large"
    assert refusal(liver, ct, SurfacePolicy(min_rois=500)) == "too_few_rois"
    # Muscle or bowel beside the liver: no edge to measure. Lung: the edge is the diaphragm's.
    assert refusal(*disc(0.5, contrast=40.0)) == "too_few_rois"
    assert refusal(*disc(0.5, contrast=900.0)) == "too_few_rois"
    sheared = liver.grid.affine + np.outer([0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0])
    assert refusal(replace(liver, grid=Grid(liver.grid.shape, sheared))) == "gantry_tilt"
    assert refusal(*disc(0.5, radius=12.0)) == "too_few_rois"
    oblique = np.array([[0, 0, 0.8, 0], [0.57, 0.57, 0, 0], [0.57, -0.57, 0, 0], [0, 0, 0, 1]])
    assert refusal(replace(liver, grid=Grid(liver.grid.shape, oblique))) == "not_axial"

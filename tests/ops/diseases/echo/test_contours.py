from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest

from ops.diseases.echo.contours import AnnulusRule, Chamber, chamber_from_mask, chamber_from_wall, pixel_size
from ops.measure.errors import NotEvaluableError
from ops.phantoms.heart.chambers import TruncatedEllipsoid

SHAPE = TruncatedEllipsoid(a=50.0, d=20.0, b_u=25.0, b_v=25.0)
ATRIUM = TruncatedEllipsoid(a=30.0, d=15.0, b_u=27.0, b_v=27.0)
LENGTH, AREA, WALL = SHAPE.length, SHAPE.area_mm2(0), SHAPE.wall_length_mm(0)
# True diameters at the disc centres.
CENTRES = (np.arange(20) + 0.5) * LENGTH / 20
DIAMETERS = 2 * SHAPE.b_u * np.sqrt(1 - ((CENTRES - SHAPE.d) / SHAPE.a) ** 2)


def masks(spacing: tuple[float, float], degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Ventricle and atrium, the apex up and then turned."""
    size = 170.0
    rows, columns = (np.arange(math.ceil(size / step)) * step - size / 2 for step in spacing)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    angle = math.radians(degrees)
    u, w = x * math.cos(angle) + y * math.sin(angle), -(y * math.cos(angle) - x * math.sin(angle)) + 12.3
    zero = np.zeros_like(u)
    return SHAPE.contains(u, zero, w), ATRIUM.contains(u, zero, -w)


@pytest.mark.parametrize("spacing", [(0.5, 0.5), (1.0, 1.0), (0.4, 0.9), (1.1, 0.5)])
@pytest.mark.parametrize("degrees", [0, 33, 90, 200])
def test_closed_forms(spacing: tuple[float, float], degrees: float) -> None:
    ventricle, atrium = masks(spacing, degrees)
    chamber = chamber_from_mask(ventricle, atrium, spacing)
    pixel = max(spacing)
    # The corners at the annulus are rounded, which takes half a pixel off.
    assert chamber.length_mm == pytest.approx(LENGTH - 0.5 * pixel, abs=0.5 * pixel)
    assert chamber.area_mm2 == pytest.approx(AREA, rel=0.02 * pixel)
    assert chamber.wall_length_mm == pytest.approx(WALL, abs=2 * pixel)
    # The first and last discs lie where the outline is cut and where it is steepest.
    np.testing.assert_allclose(chamber.diameters_mm[1:-1], DIAMETERS[1:-1], atol=1.2 * pixel)


def test_sign_of_the_spacing_changes_nothing() -> None:
    ventricle, atrium = masks((0.5, 0.7), 10)
    plain = chamber_from_mask(ventricle, atrium, (0.5, 0.7))
    signed = chamber_from_mask(ventricle, atrium, (0.5, -0.7))
    assert (plain.length_mm, plain.area_mm2) == (signed.length_mm, signed.area_mm2)
    # The image shown the other way round is as long.
    mirrored = chamber_from_mask(ventricle[:, ::-1], atrium[:, ::-1], (0.5, 0.7))
    assert mirrored.length_mm == pytest.approx(plain.length_mm, abs=1e-6)
    np.testing.assert_allclose(mirrored.diameters_mm, plain.diameters_mm, atol=1e-6)


def test_row_and_column_spacing_are_not_swapped() -> None:
    ventricle, atrium = masks((0.5, 1.0), 0)
    assert chamber_from_mask(ventricle, atrium, (0.5, 1.0)).length_mm == pytest.approx(LENGTH, abs=1.0)
    assert chamber_from_mask(ventricle, atrium, (1.0, 0.5)).length_mm == pytest.approx(2 * LENGTH, abs=2.0)


def test_papillary_muscles_and_specks_do_not_matter() -> None:
    ventricle, atrium = masks((0.5, 0.5), 15)
    plain = chamber_from_mask(ventricle, atrium, (0.5, 0.5))
    spotted = ventricle.copy()
    row, column = (int(n) for n in np.argwhere(ventricle).mean(axis=0))
    spotted[row - 4 : row + 4, column - 4 : column + 4] = False
    spotted[5:9, 5:9] = True
    found = chamber_from_mask(spotted, atrium, (0.5, 0.5))
    assert found.area_mm2 == pytest.approx(plain.area_mm2)
    assert found.length_mm == pytest.approx(plain.length_mm)


def test_atrium_likewise() -> None:
    ventricle, atrium = masks((0.5, 0.5), 25)
    chamber = chamber_from_mask(atrium, ventricle, (0.5, 0.5))
    assert chamber.length_mm == pytest.approx(ATRIUM.length, abs=0.5)
    assert chamber.area_mm2 == pytest.approx(ATRIUM.area_mm2(0), rel=0.02)


@pytest.mark.parametrize("degrees", [0, 40, 110, 200])
def test_corners_find_the_annulus_of_a_ventricle_alone(degrees: float) -> None:
    ventricle, atrium = masks((0.5, 0.5), degrees)
    nothing = np.zeros_like(atrium)
    chamber = chamber_from_mask(ventricle, nothing, (0.5, 0.5), "corners")
    assert chamber.length_mm == pytest.approx(LENGTH, abs=1.5)
    assert chamber.wall_length_mm == pytest.approx(WALL, rel=0.03)
    with pytest.raises(NotEvaluableError) as caught:
        chamber_from_mask(ventricle, nothing, (0.5, 0.5), "base_contact")
    assert caught.value.reason == "annulus_not_found"


def wall_points(n: int) -> np.ndarray:
    end = math.acos(-SHAPE.d / SHAPE.a)
    phi = np.linspace(-end, end, n)
    return np.stack([-SHAPE.a * np.cos(phi), SHAPE.b_u * np.sin(phi)], axis=1)


def test_a_traced_wall_is_as_good_as_a_mask() -> None:
    chamber = chamber_from_wall(wall_points(2001))
    assert chamber.length_mm == pytest.approx(LENGTH, rel=1e-5)
    assert chamber.area_mm2 == pytest.approx(AREA, rel=1e-5)
    assert chamber.wall_length_mm == pytest.approx(WALL, rel=1e-5)
    np.testing.assert_allclose(chamber.diameters_mm, DIAMETERS, rtol=1e-4)
    np.testing.assert_allclose(chamber.apex, (-SHAPE.a, 0), atol=1e-6)
    assert isinstance(chamber, Chamber)


def test_either_sense_of_tracing() -> None:
    forward, backward = chamber_from_wall(wall_points(200)), chamber_from_wall(wall_points(200)[::-1])
    np.testing.assert_allclose(forward.diameters_mm, backward.diameters_mm)
    assert forward.area_mm2 == pytest.approx(backward.area_mm2)


def test_a_fold_of_the_wall_is_not_bridged() -> None:
    # A square of 40 with a slit of 10 in the middle, open at the right, from the annulus at the top down.
    wall = [(0, 0), (40, 0), (40, 40), (25, 40), (25, 20), (15, 20), (15, 40), (0, 40)]
    chamber = chamber_from_wall(wall)
    assert chamber.area_mm2 == pytest.approx(40 * 40 - 10 * 20)


@pytest.mark.parametrize(
    ("reason", "points"),
    [
        ("degenerate_contour", [(0, 0), (1, 0), (1, 1)]),
        ("degenerate_contour", [(0, 0), (1, 0), (2, 0), (3, 0)]),
        ("degenerate_contour", [(0, 0), (9, 0), (9, 9), (0, 0)]),
        ("degenerate_contour", np.zeros((5, 3))),
        ("not_finite", [(0, 0), (9, 0), (np.nan, 9), (0, 9)]),
    ],
)
def test_bad_contours(reason: str, points: list[tuple[float, float]]) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        chamber_from_wall(points)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("reason", "spacing"),
    [
        ("bad_pixel_spacing", (0.0, 0.5)),
        ("bad_pixel_spacing", (0.5, math.nan)),
        ("bad_pixel_spacing", (math.inf, 0.5)),
        ("anisotropic", (0.5, 5.0)),
        ("anisotropic", (3.01, 1.0)),
    ],
)
def test_bad_spacing(reason: str, spacing: tuple[float, float]) -> None:
    with pytest.raises(NotEvaluableError) as caught:
        pixel_size(spacing)
    assert caught.value.reason == reason


def test_bad_masks() -> None:
    ventricle, atrium = masks((0.5, 0.5), 0)

    def reason(mask: np.ndarray, base: np.ndarray) -> str:
        with pytest.raises(NotEvaluableError) as caught:
            chamber_from_mask(mask, base, (0.5, 0.5))
        return caught.value.reason

    rows = np.flatnonzero(ventricle.any(axis=1))
    cut = slice(int(rows[0]) + 5, None)
    assert reason(np.zeros_like(ventricle), atrium) == "empty_mask"
    assert reason(ventricle[cut], atrium[cut]) == "touches_border"
    assert reason(ventricle, ~ventricle) == "annulus_not_found"
    assert reason(*(mask[::10, ::10] for mask in masks((0.5, 0.5), 0))) == "too_coarse"


@pytest.mark.parametrize("rule", ["base_contact", "corners"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (2, 2), (3, 60), (60, 3)])
def test_scraps_are_refused(rule: AnnulusRule, shape: tuple[int, int]) -> None:
    mask, base = np.zeros((2, 80, 80), dtype=bool)
    mask[5 : 5 + shape[0], 5 : 5 + shape[1]] = True
    base[5 + shape[0] : 9 + shape[0], 5 : 5 + shape[1]] = True
    # A long strip has an outline; whatever else has none is a refusal and no traceback.
    with contextlib.suppress(NotEvaluableError):
        assert chamber_from_mask(mask, base, (1.0, 1.0), rule).length_mm >= 20

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK

from ops.measure.errors import NotEvaluableError
from ops.metrics.surface_distance import surface_distances
from ops.phantoms.sdf import rotation
from ops.volume import Grid, Volume

SHAPE = (20, 24, 28)


def box(low: tuple[int, int, int], high: tuple[int, int, int], grid: Grid | None = None) -> Volume:
    voxels = np.zeros(SHAPE, dtype=np.uint8)
    voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return Volume(voxels, Grid.from_spacing(SHAPE, (1, 1, 1)) if grid is None else grid, "label")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_is_measured_in_mm_along_its_axis(axis: int) -> None:
    spacing = (3.0, 0.5, 0.8)
    grid = Grid.from_spacing(SHAPE, spacing)
    shift = [0, 0, 0]
    shift[axis] = 3
    first = box((4, 4, 4), (10, 12, 12), grid)
    second = box((4 + shift[0], 4 + shift[1], 4 + shift[2]), (10 + shift[0], 12 + shift[1], 12 + shift[2]), grid)
    found = surface_distances(first, second)
    assert found.hausdorff == pytest.approx(3 * spacing[axis])
    assert found.nsd(3 * spacing[axis]) == 1
    assert found.nsd(3 * spacing[axis] - 1e-6) < 1
    assert 0 < found.assd < found.hd95 <= found.hausdorff


def test_orientation_does_not_matter() -> None:
    affine = np.eye(4)
    affine[:3, :3] = (rotation(30, 40, -20) @ np.diag([0.8, 0.5, 3.0]))[:, ::-1]
    straight, turned = Grid.from_spacing(SHAPE, (3.0, 0.5, 0.8)), Grid(SHAPE, affine)
    found = [
        surface_distances(box((4, 4, 4), (10, 12, 12), grid), box((5, 6, 4), (12, 12, 15), grid))
        for grid in (straight, turned)
    ]
    for name in ("hausdorff", "hd95", "assd"):
        assert getattr(found[0], name) == pytest.approx(getattr(found[1], name))


def test_hausdorff_is_simpleitks() -> None:
    rng = np.random.default_rng(0)
    first, second = (box((0, 0, 0), (0, 0, 0)) for _ in range(2))
    for mask in (first, second):
        mask.voxels[:] = rng.uniform(size=SHAPE) > 0.97
    measure = SimpleITK.HausdorffDistanceImageFilter()
    measure.Execute(*(SimpleITK.GetImageFromArray(mask.voxels) for mask in (first, second)))
    assert surface_distances(first, second).hausdorff == pytest.approx(measure.GetHausdorffDistance())


def test_hd95_is_the_larger_of_two_directions() -> None:
    """A small prediction inside a large truth: near from the one, far from the other."""
    found = surface_distances(box((9, 9, 9), (11, 11, 11)), box((2, 2, 2), (18, 18, 18)))
    assert found.hd95 == pytest.approx(np.percentile(found.to_predicted, 95))
    assert found.hd95 > np.percentile(found.to_truth, 95)


def test_identical_masks_have_no_distance() -> None:
    found = surface_distances(box((2, 2, 2), (9, 9, 9)), box((2, 2, 2), (9, 9, 9)))
    assert (found.hausdorff, found.assd, found.nsd(0.0)) == (0, 0, 1)


def test_empty_masks_have_no_distance_or_the_named_penalty() -> None:
    empty, full = box((0, 0, 0), (0, 0, 0)), box((2, 2, 2), (9, 9, 9))
    for pair in ((empty, full), (full, empty), (empty, empty)):
        found = surface_distances(*pair)
        assert not found.defined
        assert all(math.isnan(value) for value in (found.hausdorff, found.hd95, found.assd, found.nsd(1)))
    penalty = surface_distances(empty, full, empty="image_diagonal")
    assert penalty.hausdorff == pytest.approx(math.sqrt(19**2 + 23**2 + 27**2))
    assert not surface_distances(empty, empty, empty="image_diagonal").defined
    with pytest.raises(ValueError, match="empty must be"):
        surface_distances(empty, full, empty="zero")


def test_one_slice_is_a_plane() -> None:
    grid = Grid.from_spacing((1, 12, 12), (5.0, 1.0, 1.0))
    first, second = (np.zeros((1, 12, 12), dtype=np.uint8) for _ in range(2))
    first[0, 2:9, 2:9] = second[0, 4:7, 4:7] = 1
    found = surface_distances(Volume(first, grid, "label"), Volume(second, grid, "label"))
    assert found.hausdorff == pytest.approx(math.sqrt(8)), "outlines, not whole areas"


def test_grids_must_agree() -> None:
    with pytest.raises(NotEvaluableError) as caught:
        surface_distances(box((2, 2, 2), (4, 4, 4)), box((2, 2, 2), (4, 4, 4), Grid.from_spacing(SHAPE, (2, 1, 1))))
    assert caught.value.reason == "grid_mismatch"

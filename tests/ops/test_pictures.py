"""Pictures: what is drawn, where, and which way round."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ops.pictures import ARTERY_COLOURS, TILE_PIXELS, calcium_picture, png, thumbnail
from ops.volume import Grid, Volume

CENTRE = (0.0, 0.0, 60.0)


def chest(affine: np.ndarray | None = None) -> Volume:
    """40 slices of 240×240 pixels of 1 mm around x = y = 0, with something bright at the patient's left front."""
    voxels = np.full((40, 240, 240), 40, dtype=np.int16)
    grid = Grid.from_spacing(voxels.shape, (3.0, 1.0, 1.0), (-120.0, -120.0, 0.0))
    volume = Volume(voxels, grid if affine is None else Grid(voxels.shape, affine))
    _, j, i = np.rint(volume.grid.patient_to_index([50.0, -50.0, 60.0])).astype(int)
    voxels[:, j - 8 : j + 9, i - 8 : i + 9] = 240
    return volume


def lesion(volume: Volume, label: int, point: tuple[float, float, float], size: int = 5) -> Volume:
    start = np.rint(volume.grid.patient_to_index(point)).astype(int)
    grid = volume.grid.crop(tuple(start), tuple(start + np.array([2, size, size])))
    return Volume(np.full(grid.shape, label, dtype=np.uint8), grid, "label")


def tiles(picture: np.ndarray) -> list[np.ndarray]:
    rows = [picture[:TILE_PIXELS], picture[TILE_PIXELS : 2 * TILE_PIXELS]]
    return [tile for row in rows for tile in np.split(row, row.shape[1] // TILE_PIXELS, axis=1)]


def coloured(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (image == colour).all(axis=-1)


@pytest.mark.parametrize("label", [1, 2, 3, 4])
def test_lesions_are_outlined_in_the_colour_of_their_artery(label: int) -> None:
    volume = chest()
    picture = calcium_picture(volume, lesion(volume, label, (-20.0, 10.0, 60.0)), CENTRE)
    assert picture.dtype == np.uint8
    views = tiles(picture)
    outlined = [view for view in views if coloured(view, ARTERY_COLOURS[label]).sum() > 10]
    assert len(outlined) == 3  # its two slices and the projection
    for other in set(ARTERY_COLOURS) - {label}:
        assert not any(coloured(view, ARTERY_COLOURS[other]).any() for view in views)


def test_the_outline_surrounds_the_calcium_and_leaves_it_visible() -> None:
    volume = chest()
    view = next(
        v for v in tiles(calcium_picture(volume, lesion(volume, 2, (-20.0, 10.0, 60.0)), CENTRE))
        if coloured(v, ARTERY_COLOURS[2]).any()
    )  # fmt: skip
    rows, columns = np.nonzero(coloured(view, ARTERY_COLOURS[2]))
    middle = view[int(rows.mean()), int(columns.mean())]
    assert tuple(middle) != ARTERY_COLOURS[2]
    # 170 mm fill the tile: x −20…−15 mm and y 10…15 mm are left of and below its middle.
    assert rows.mean() == pytest.approx(TILE_PIXELS / 2 + 12.5 * TILE_PIXELS / 170, abs=5)
    assert columns.mean() == pytest.approx(TILE_PIXELS / 2 - 17.5 * TILE_PIXELS / 170, abs=5)


@pytest.mark.parametrize("name", ["supine", "columns to the right", "rows to the front", "feet first", "on the side"])
def test_every_orientation_shows_the_left_front_at_the_upper_right(name: str) -> None:
    columns = {
        "supine": ([0, 0, 3], [0, 1, 0], [1, 0, 0]),
        "columns to the right": ([0, 0, 3], [0, 1, 0], [-1, 0, 0]),
        "rows to the front": ([0, 0, 3], [0, -1, 0], [1, 0, 0]),
        "feet first": ([0, 0, -3], [0, 1, 0], [1, 0, 0]),
        "on the side": ([0, 0, 3], [-1, 0, 0], [0, 1, 0]),
    }[name]
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns, dtype=float).T
    # The middle voxel lies at the centre of the pictures, in every orientation.
    affine[:3, 3] = np.array(CENTRE) - affine[:3, :3] @ [20, 120, 120]
    view = tiles(calcium_picture(chest(affine), None, CENTRE))[3][24:-40, 20:-40].astype(int).sum(axis=-1)
    rows, cols = np.nonzero(view > 700)
    assert rows.mean() < view.shape[0] / 2
    assert cols.mean() > view.shape[1] / 2


def test_slices_run_from_head_to_foot_and_include_every_artery() -> None:
    volume = chest()
    labels = np.zeros((20, 60, 60), dtype=np.uint8)
    for n, label in enumerate((1, 2, 3, 4)):
        labels[5 * n, 10 * n : 10 * n + 6, 10:16] = label
    grid = volume.grid.crop((10, 90, 90), (30, 150, 150))
    views = tiles(calcium_picture(volume, Volume(labels, grid, "label"), CENTRE))[:-1]
    order = [label for view in views for label, colour in ARTERY_COLOURS.items() if coloured(view, colour).any()]
    assert order == [4, 3, 2, 1]  # z rises with k


def test_no_calcium_still_gives_a_picture_of_the_heart() -> None:
    picture = calcium_picture(chest(), None, CENTRE, "Agatston 0")
    assert picture.shape == (2 * TILE_PIXELS + 34, 4 * TILE_PIXELS, 3)
    assert all(view.any() for view in tiles(picture))


def test_a_heart_at_the_border_of_the_scan_is_drawn() -> None:
    volume = chest()
    assert calcium_picture(volume, None, (-119.0, 119.0, 0.0)).any()
    assert calcium_picture(volume, None, (500.0, 500.0, 500.0)).shape[2] == 3


def test_thumbnails_keep_their_proportions() -> None:
    assert thumbnail(np.zeros((600, 1200, 3), dtype=np.uint8), width=300).shape == (150, 300, 3)


def test_png_holds_the_same_pixels() -> None:
    picture = calcium_picture(chest(), None, CENTRE)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)

"""Pictures of results as RGB arrays: axial slices with outlined calcium, and a maximum intensity projection.

Nothing that identifies a person is drawn: only the image, its orientation, scale and position.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ops.diseases.calcium.scores import ARTERIES
from ops.volume import Grid, Volume

RGBArray = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

# Okabe–Ito colours, told apart with every common colour-vision deficiency and on grey (Okabe & Ito 2008 [R]).
ARTERY_COLOURS: dict[int, Colour] = {1: (240, 228, 66), 2: (230, 120, 0), 3: (86, 180, 233), 4: (0, 190, 130)}
WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
GREY: Colour = (170, 170, 170)

# Mediastinal window: centre 40, width 400 HU, the custom for a non-contrast heart.
WINDOW_HU = (-160.0, 240.0)
# A projection of the whole heart needs a wider window, or ribs and calcium are one white.
PROJECTION_WINDOW_HU = (-50.0, 600.0)
TILE_PIXELS = 300
TILE_MM = 170.0
COLUMNS = 4
ROWS = 2
SCALE_BAR_MM = 50
# Length of the heart along the body that slices without calcium are spread over, and the projection covers.
HEART_MM = 100.0
BORDER = 6
# zlib's level. On these pictures 3 takes half the time of the usual 6, and the files are 7 % smaller.
PNG_LEVEL = 3


def calcium_picture(volume: Volume, lesions: Volume | None, centre: npt.ArrayLike, note: str = "") -> RGBArray:
    """Compose one picture: up to seven axial slices and a projection, outlined by artery.

    Parameters
    ----------
    volume
        CT in HU with axial slices along k.
    lesions
        Artery labels 1–4 on a box of the volume's grid; None shows slices through the heart and says there is none.
    centre
        Patient point ``(x, y, z)`` mm in the middle of the heart, where the tiles are centred.
    note
        One line for the legend, such as ``Agatston 123 (LAD 100, RCA 23)``.

    Returns
    -------
    ndarray
        ``(height, width, 3)`` uint8.
    """
    middle = np.asarray(centre, dtype=np.float64)
    labels = _labels_in_scan(volume.grid, lesions)
    slices = _representative_slices(volume.grid, labels, middle)
    tiles = [_slice_tile(volume, labels, k, middle) for k in slices]
    blank = np.zeros((TILE_PIXELS, TILE_PIXELS, 3), dtype=np.uint8)
    tiles += [blank] * (COLUMNS * ROWS - 1 - len(tiles))
    tiles.append(_projection_tile(volume, labels, middle))
    rows = [np.concatenate(tiles[n : n + COLUMNS], axis=1) for n in range(0, COLUMNS * ROWS, COLUMNS)]
    return np.concatenate([*rows, _legend(COLUMNS * TILE_PIXELS, labels, note)], axis=0)


def thumbnail(picture: RGBArray, width: int = 480) -> RGBArray:
    """Scale a picture down to ``width`` pixels."""
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def png(picture: RGBArray) -> bytes:
    """Encode a picture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


class _Labels:
    """Lesion labels with the index of their box in the scan; empty when there is no calcium."""

    def __init__(self, start: tuple[int, int, int], voxels: npt.NDArray[np.uint8]) -> None:
        self.start, self.voxels = start, voxels

    def in_slice(self, k: int, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Labels ``(y, x)`` of slice ``k`` of the scan."""
        plane = np.zeros(shape, dtype=np.uint8)
        n = k - self.start[0]
        if 0 <= n < len(self.voxels):
            _, j, i = self.start
            plane[j : j + self.voxels.shape[1], i : i + self.voxels.shape[2]] = self.voxels[n]
        return plane

    def projected(self, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Highest label along k, ``(y, x)``."""
        plane = np.zeros(shape, dtype=np.uint8)
        if len(self.voxels):
            _, j, i = self.start
            plane[j : j + self.voxels.shape[1], i : i + self.voxels.shape[2]] = self.voxels.max(axis=0)
        return plane


def _labels_in_scan(grid: Grid, lesions: Volume | None) -> _Labels:
    if lesions is None:
        return _Labels((0, 0, 0), np.zeros((0, 0, 0), dtype=np.uint8))
    k, j, i = np.rint(grid.patient_to_index(lesions.grid.origin)).astype(int).tolist()
    return _Labels((k, j, i), np.asarray(lesions.voxels, dtype=np.uint8))


def _representative_slices(grid: Grid, labels: _Labels, centre: npt.NDArray[np.float64]) -> list[int]:
    """Choose slices: most calcium of each artery, most calcium at all, then evenly through the heart; head to foot."""
    n_tiles = COLUMNS * ROWS - 1
    ranked: list[int] = []
    if labels.voxels.any():
        per_slice = np.stack([(labels.voxels == label).sum(axis=(1, 2)) for label in ARTERIES])
        total = per_slice.sum(axis=0)
        ranked = [int(counts.argmax()) for counts in per_slice if counts.any()]
        ranked += [n for n in np.argsort(-total, kind="stable").tolist() if total[n] > 0]
    step = HEART_MM / n_tiles / grid.spacing[0]
    spread = grid.patient_to_index(centre)[0] + step * (np.arange(n_tiles) - (n_tiles - 1) / 2)
    wanted = [n + labels.start[0] for n in ranked] + np.clip(np.rint(spread), 0, grid.shape[0] - 1).astype(int).tolist()
    chosen = list(dict.fromkeys(wanted))[:n_tiles]
    return sorted(chosen, key=lambda k: -float(grid.index_to_patient([k, 0, 0])[2]))


def _slice_tile(volume: Volume, labels: _Labels, k: int, centre: npt.NDArray[np.float64]) -> RGBArray:
    hu = volume.voxels[k].astype(np.float32) * volume.slope + volume.intercept
    position = volume.grid.index_to_patient([k, 0, 0])[2]
    plane = labels.in_slice(k, hu.shape)
    return _tile(
        hu, plane, volume.grid, centre, WINDOW_HU, f"slice {k + 1}/{volume.grid.shape[0]}  z {position:.0f} mm"
    )


def _projection_tile(volume: Volume, labels: _Labels, centre: npt.NDArray[np.float64]) -> RGBArray:
    """Maximum along k over the slices of the heart, which keeps table and skin fold out of a long scan."""
    middle = np.clip(volume.grid.patient_to_index(centre)[0], 0, volume.grid.shape[0] - 1)
    half = 0.6 * HEART_MM / volume.grid.spacing[0]
    low, high = max(0, int(middle - half)), min(volume.grid.shape[0], int(middle + half) + 1)
    stored = volume.voxels[low:high].max(axis=0)
    hu = stored.astype(np.float32) * volume.slope + volume.intercept
    return _tile(hu, labels.projected(hu.shape), volume.grid, centre, PROJECTION_WINDOW_HU, "projection (MIP)")


def _tile(
    hu: npt.NDArray[np.float32],
    labels: npt.NDArray[np.uint8],
    grid: Grid,
    centre: npt.NDArray[np.float64],
    window: tuple[float, float],
    caption: str,
) -> RGBArray:
    """One square view around ``centre``, radiological: the patient's right on the left, front up."""
    grey = np.clip((_square(hu, grid, centre, fill=-1024) - window[0]) / (window[1] - window[0]), 0, 1) * 255
    marks = _square(labels, grid, centre, fill=0)
    size = (TILE_PIXELS - BORDER, TILE_PIXELS - BORDER)
    image = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    framed = np.zeros((TILE_PIXELS, TILE_PIXELS, 3), dtype=np.uint8)
    framed[: size[1], : size[0]] = _outline(np.array(image), np.array(Image.fromarray(marks).resize(size, 0)))
    return _annotate(framed, caption)


def _square(plane: npt.NDArray[Any], grid: Grid, centre: npt.NDArray[np.float64], fill: int) -> npt.NDArray[Any]:
    """Cut the square of ``TILE_MM`` around ``centre``, turned so that columns go left and rows go to the back."""
    _, dy, dx = grid.spacing
    _, j, i = np.rint(grid.patient_to_index(centre)).astype(int)
    half = (round(TILE_MM / 2 / dy), round(TILE_MM / 2 / dx))
    padded = np.pad(plane, tuple((n, n) for n in half), constant_values=fill)
    j, i = min(max(j, 0), plane.shape[0]), min(max(i, 0), plane.shape[1])
    view = padded[j : j + 2 * half[0], i : i + 2 * half[1]]
    down, right = grid.directions[:, 1], grid.directions[:, 2]
    if abs(right[0]) < abs(down[0]):  # a patient lying on the side: rows run along the patient's x
        view, down, right = view.T, right, down
    return view[:: 1 if down[1] > 0 else -1, :: 1 if right[0] > 0 else -1]


def _outline(image: RGBArray, marks: npt.NDArray[np.uint8]) -> RGBArray:
    """Draw a ring just outside each lesion, so that the calcium itself stays visible."""
    for label, colour in ARTERY_COLOURS.items():
        lesion = marks == label
        if lesion.any():
            ring = ndimage.binary_dilation(lesion, iterations=3) & ~ndimage.binary_dilation(lesion, iterations=1)
            image[ring] = colour
    return image


def _annotate(tile: RGBArray, caption: str) -> RGBArray:
    """Write orientation letters, a scale bar and the caption."""
    image = Image.fromarray(tile)
    draw = ImageDraw.Draw(image)
    side = TILE_PIXELS - BORDER
    font = ImageFont.load_default(size=13)
    bottom, middle = side - 20, side // 2
    length = round(SCALE_BAR_MM / TILE_MM * side)
    bar = side - length - 8
    draw.line([(bar, bottom - 5), (side - 8, bottom - 5)], fill=WHITE, width=2)
    for text, place, colour in (
        ("R", (4, middle), GREY),
        ("L", (side - 14, middle), GREY),
        ("A", (middle, 18), GREY),
        ("P", (middle, bottom), GREY),
        (f"{SCALE_BAR_MM} mm", (bar, bottom), WHITE),
        (caption, (5, 3), WHITE),
    ):
        draw.text(place, text, fill=colour, font=font, stroke_width=1, stroke_fill=BLACK)
    return np.array(image)


def _legend(width: int, labels: _Labels, note: str) -> RGBArray:
    image = Image.new("RGB", (width, 34), (24, 24, 24))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=15)
    x = 10
    if labels.voxels.any():
        for label, name in ARTERIES.items():
            draw.rectangle([x, 10, x + 14, 24], outline=ARTERY_COLOURS[label], width=3)
            draw.text((x + 20, 8), name, fill=WHITE, font=font)
            x += 70
    else:
        draw.text((x, 8), "no coronary calcium found", fill=WHITE, font=font)
        x += 210
    draw.text((x + 10, 8), note, fill=GREY, font=font)
    right = f"window {WINDOW_HU[0]:g}…{WINDOW_HU[1]:g} HU   research use only"
    draw.text((width - 10 - draw.textlength(right, font=font), 8), right, fill=GREY, font=font)
    return np.array(image)

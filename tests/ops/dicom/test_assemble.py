"""Stored values of every encoding, and one rescale for the whole stack."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from rle.rle import encode_frame

from ops.dicom.assemble import build_volume, pixel_digest
from ops.dicom.decode import DecodeError
from ops.volume import Volume
from tests.ops.dicom.builders import Change, files, only, pixels, set_pixels, setting

ENCODERS = {
    RLELossless: lambda a: encode_frame(a.tobytes(), *a.shape, 1, 16, "<"),
    JPEGLosslessSV1: lambda a: imagecodecs.ljpeg_encode(a.view(np.uint16)),
    JPEGLSLossless: lambda a: imagecodecs.jpegls_encode(a.view(np.uint16)),
    JPEG2000Lossless: lambda a: imagecodecs.jpeg2k_encode(a, level=0, reversible=True, codecformat="j2k"),
    HTJ2KLossless: lambda a: imagecodecs.htj2k_encode(a, reversible=True),
}


def build(sources: dict[str, bytes]) -> Volume:
    series, assessment = only(sources)
    assert not assessment.verdict.refused, assessment.verdict
    return build_volume(series, assessment, sources.__getitem__)


def image(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(-1024, 3000, (24, 32)).astype(np.int16)


def compressed(syntax: str, split: bool = False) -> Change:
    def change(number: int, dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        set_pixels(dataset, image(number))
        frame = ENCODERS[syntax](image(number))
        dataset.PixelData = encapsulate([frame], fragments_per_frame=3 if split else 1, has_bot=not split)
        dataset["PixelData"].VR = "OB"

    return change


@pytest.mark.parametrize("syntax", ENCODERS)
def test_lossless_transfer_syntaxes(syntax: str) -> None:
    volume = build(files(3, compressed(syntax)))
    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(volume.voxels, [image(n) for n in range(3)])


def test_fragments_without_an_offset_table() -> None:
    volume = build(files(3, compressed(JPEGLSLossless, split=True)))
    np.testing.assert_array_equal(volume.voxels, [image(n) for n in range(3)])


def test_sign_of_a_jpeg2000_codestream_does_not_overrule_the_header() -> None:
    def unsigned_codestream(number: int, dataset: Dataset) -> None:
        compressed(JPEG2000Lossless)(number, dataset)
        frame = imagecodecs.jpeg2k_encode(image(number).view(np.uint16), level=0, reversible=True, codecformat="j2k")
        dataset.PixelData = encapsulate([frame])

    np.testing.assert_array_equal(build(files(3, unsigned_codestream)).voxels, [image(n) for n in range(3)])


def test_damaged_frame_is_an_error_and_names_the_file() -> None:
    def damaged(number: int, dataset: Dataset) -> None:
        compressed(JPEG2000Lossless)(number, dataset)
        if number == 1:
            dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])

    with pytest.raises(DecodeError, match="001"):
        build(files(3, damaged))


def test_codestream_of_another_size_is_refused_before_it_is_decoded() -> None:
    def huge(number: int, dataset: Dataset) -> None:
        compressed(JPEGLSLossless)(number, dataset)
        dataset.PixelData = encapsulate([imagecodecs.jpegls_encode(np.zeros((64, 64), np.uint16))])

    with pytest.raises(DecodeError, match="64×64"):
        build(files(3, huge))


@pytest.mark.parametrize("bits", [12, 16])
def test_bits_above_the_stored_ones_mean_nothing(bits: int) -> None:
    stored = np.array([[0, 5, 4095], [2048, 1, 77]], np.uint16)

    def overlaid(_number: int, dataset: Dataset) -> None:
        set_pixels(dataset, stored | 0xA000 if bits == 12 else stored)
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0

    np.testing.assert_array_equal(build(files(3, overlaid)).voxels[1], stored)


def test_sign_is_extended_from_the_stored_bits() -> None:
    def twelve_bits(_number: int, dataset: Dataset) -> None:
        set_pixels(dataset, np.array([[0xFFF, 0x800, 0x7FF, 0xF001]], np.uint16))
        dataset.BitsStored, dataset.HighBit = 12, 11

    volume = build(files(3, twelve_bits))
    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(volume.voxels[0], [[-1, -2048, 2047, 1]])


def test_high_bit_above_the_stored_ones_shifts() -> None:
    def left_aligned(_number: int, dataset: Dataset) -> None:
        set_pixels(dataset, np.array([[0x7FF0, 0x8000, 0x0010]], np.uint16))
        dataset.BitsStored, dataset.HighBit = 12, 15

    np.testing.assert_array_equal(build(files(3, left_aligned)).voxels[0], [[2047, -2048, 1]])


def test_type_comes_from_all_slices_not_the_first() -> None:
    def signed_later(number: int, dataset: Dataset) -> None:
        dataset.PixelRepresentation = int(number > 0)
        set_pixels(
            dataset, np.full((2, 2), 60000 if number == 0 else -5).astype(np.uint16 if number == 0 else np.int16)
        )

    volume = build(files(3, signed_later))
    assert volume.voxels[0, 0, 0] == 60000
    assert volume.voxels[2, 0, 0] == -5


def test_equal_rescale_is_kept_and_integers_stay() -> None:
    volume = build(files(3))
    assert (volume.slope, volume.intercept, volume.voxels.dtype) == (1.0, -1024.0, np.int16)
    np.testing.assert_array_equal(volume.voxels[2], pixels(2))


@pytest.mark.parametrize(
    ("slope", "intercept", "integer"),
    [
        (lambda n: 1, lambda n: -1024 + 24 * n, True),
        (lambda n: 1 + n, lambda n: -1000, True),
        (lambda n: 0.5 * (1 + n), lambda n: 0.5 * n, True),
        (lambda n: 1 + 0.1 * n, lambda n: 3.7 * n, False),
    ],
)
def test_each_slice_has_its_own_rescale(slope, intercept, integer: bool) -> None:
    def change(number: int, dataset: Dataset) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope(number), intercept(number)

    volume = build(files(4, change))
    assert np.issubdtype(volume.voxels.dtype, np.integer) is integer
    expected = [slope(n) * pixels(n).astype(float) + intercept(n) for n in range(4)]
    np.testing.assert_allclose(volume.physical(np.float64), expected, rtol=0 if integer else 1e-6)


def test_big_files_are_read_one_instance_at_a_time() -> None:
    sources = files(6)
    series, assessment = only(sources)
    fetched: list[str] = []

    def fetch(name: str) -> bytes:
        fetched.append(name)
        return sources[name]

    build_volume(series, assessment, fetch)
    assert sorted(fetched) == sorted(sources)


def test_a_refused_series_is_not_built() -> None:
    sources = files(2)
    with pytest.raises(ValueError, match="too_few_slices"):
        build_volume(*only(sources), sources.__getitem__)


def test_pixel_digest_tells_any_difference() -> None:
    def shifted(_number: int, dataset: Dataset) -> None:
        dataset.ImagePositionPatient = [0, *dataset.ImagePositionPatient[1:]]

    def brighter(number: int, dataset: Dataset) -> None:
        set_pixels(dataset, pixels(number) + np.int16(1))

    volumes = [build(files(4, change)) for change in (None, shifted, brighter, setting(RescaleIntercept=-1000))]
    assert len({pixel_digest(volume) for volume in volumes}) == 4
    assert pixel_digest(volumes[0]) == pixel_digest(build(files(4)))

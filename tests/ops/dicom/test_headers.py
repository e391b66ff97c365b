from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from ops.dicom.decode import decode_frames
from ops.dicom.headers import MAX_INFLATION, UnreadableDicomError, looks_like_dicom, plain_bytes, read_header
from tests.ops.dicom.builders import instance, pixels, to_bytes


def encoded(transfer_syntax: str) -> bytes:
    dataset = instance(1)
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    if transfer_syntax == ExplicitVRBigEndian:
        dataset.PixelData = pixels(1).astype(">i2").tobytes()
    return to_bytes(dataset)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_native_encoding_gives_the_same_header_and_pixels(syntax: str) -> None:
    plain, other = to_bytes(instance(1)), encoded(syntax)
    expected, header = read_header(plain), read_header(other)
    assert header.values == expected.values
    assert header.transfer_syntax == syntax or syntax == DeflatedExplicitVRLittleEndian
    np.testing.assert_array_equal(next(decode_frames(other, header)), pixels(1))


def test_values_are_typed() -> None:
    header = read_header(to_bytes(instance(2)))
    assert header.vector("ImagePositionPatient", 3) == (-10.0, -20.0, 4.0)
    assert header.number("Rows") == 6
    assert header.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert header.number("EchoTime") is None
    assert header.vector("PixelSpacing", 3) is None


def test_without_preamble_and_meta() -> None:
    data = to_bytes(instance(0))
    meta_length = struct.unpack_from("<I", data, 140)[0]
    bare = data[144 + meta_length :]
    assert looks_like_dicom(bare)
    header = read_header(bare)
    np.testing.assert_array_equal(next(decode_frames(bare, header)), pixels(0))


@pytest.mark.parametrize("offset", [0, 64, 127, 256])
def test_misplaced_prefix(offset: int) -> None:
    data = bytes(offset) + to_bytes(instance(0))[128:]
    assert looks_like_dicom(data[:1024])
    np.testing.assert_array_equal(next(decode_frames(data, read_header(data))), pixels(0))


@pytest.mark.parametrize(
    "rubbish", [b"", b"\x89PNG\r\n", b"PK\x03\x04" + bytes(60), b"plain text, long enough", bytes(500)]
)
def test_rubbish_does_not_look_like_dicom(rubbish: bytes) -> None:
    assert not looks_like_dicom(rubbish)


def test_file_name_counts_as_a_claim() -> None:
    assert looks_like_dicom(b"", "scan.DCM")
    with pytest.raises(UnreadableDicomError) as caught:
        read_header(b"")
    assert caught.value.reason == "unreadable_header"


def test_unreadable_values_count_as_absent() -> None:
    data = to_bytes(instance(0)).replace(b"-10.0\\-20.0\\0.0 ", b"-10.0\\twenty\\0  ")
    header = read_header(data)
    assert header.vector("ImagePositionPatient", 3) is None
    assert header.vector("ImageOrientationPatient", 6) is not None


def test_infinite_numbers_count_as_absent() -> None:
    data = to_bytes(instance(0)).replace(b"-10.0\\-20.0\\0.0 ", b"-10.0\\-20.0\\inf ")
    assert read_header(data).vector("ImagePositionPatient", 3) is None


def test_a_deflate_bomb_is_refused() -> None:
    data = encoded(DeflatedExplicitVRLittleEndian)
    meta_end = 144 + struct.unpack_from("<I", data, 140)[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(bytes(50_000_000)) + packer.flush()
    assert len(bomb) * MAX_INFLATION < 50_000_000
    with pytest.raises(UnreadableDicomError) as caught:
        plain_bytes(data[:meta_end] + bomb)
    assert caught.value.reason == "corrupt_deflate"


def test_digest_covers_header_and_pixels() -> None:
    data = to_bytes(instance(0))
    changed_pixel = data[:-1] + bytes([data[-1] ^ 1])
    changed_name = data.replace(b"Doe^Jane", b"Roe^Jane")
    first, second, third = (read_header(d) for d in (data, changed_pixel, changed_name))
    assert len({first.digest, second.digest, third.digest}) == 3
    assert first.payload_digest == third.payload_digest != second.payload_digest


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom describes the damage
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_bytes_never_escape_as_another_error(data: st.DataObject) -> None:
    original = bytearray(to_bytes(instance(0)))
    for _ in range(data.draw(st.integers(1, 6))):
        original[data.draw(st.integers(132, len(original) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(original[: data.draw(st.integers(140, len(original)))])
    try:
        header = read_header(damaged)
    except UnreadableDicomError as error:
        assert error.reason  # noqa: PT017
    else:
        assert header.payload is None or header.payload.length <= len(damaged)

"""Pixel payload of one instance → stored integers, by the fastest decoder at hand for each transfer syntax.

All decoders used here release the interpreter lock, so slices decode in parallel threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.encaps import generate_frames
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from ops.dicom.codestreams import check_codestream_shape
from ops.dicom.headers import InstanceHeader, plain_bytes

Pixels = npt.NDArray[np.integer[Any]]
FrameDecoder = Callable[[bytes, tuple[int, int], np.dtype[Any]], Pixels]


class DecodeError(ValueError):
    """Pixel data that cannot be decoded into the image that the header describes."""


def _rle(frame: bytes, shape: tuple[int, int], dtype: np.dtype[Any]) -> Pixels:
    return np.frombuffer(imagecodecs.dicomrle_decode(frame, dtype), dtype).reshape(shape)


def _single_threaded_jpeg2k(frame: bytes, shape: tuple[int, int], dtype: np.dtype[Any]) -> Pixels:
    return np.asarray(imagecodecs.jpeg2k_decode(frame, numthreads=1))


_NATIVE = frozenset(
    map(str, (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian))
)


def _plainly(decoder: Callable[[bytes], Any]) -> FrameDecoder:
    return lambda frame, shape, dtype: np.asarray(decoder(frame))


_DECODERS: dict[str, FrameDecoder] = {
    str(RLELossless): _rle,
    str(JPEGBaseline8Bit): _plainly(imagecodecs.jpeg8_decode),
    str(JPEGExtended12Bit): _plainly(imagecodecs.jpeg_decode),
    str(JPEGLossless): _plainly(imagecodecs.ljpeg_decode),
    str(JPEGLosslessSV1): _plainly(imagecodecs.ljpeg_decode),
    str(JPEGLSLossless): _plainly(imagecodecs.jpegls_decode),
    str(JPEGLSNearLossless): _plainly(imagecodecs.jpegls_decode),
    str(JPEG2000Lossless): _single_threaded_jpeg2k,
    str(JPEG2000): _single_threaded_jpeg2k,
    str(HTJ2KLossless): _plainly(imagecodecs.htj2k_decode),
    str(HTJ2KLosslessRPCL): _plainly(imagecodecs.htj2k_decode),
    str(HTJ2K): _plainly(imagecodecs.htj2k_decode),
}
SUPPORTED_TRANSFER_SYNTAXES = _NATIVE | frozenset(_DECODERS)


def decode_frames(data: bytes, header: InstanceHeader) -> Iterator[Pixels]:
    """Yield the stored values ``(rows, columns)`` of each frame, sign-extended, free of bits that are not stored.

    Parameters
    ----------
    data
        The file, as `ops.dicom.headers.read_header` saw it.
    header
        Its header.

    Raises
    ------
    DecodeError
        The data are damaged, or hold an image of another size than the header says.
    """
    shape = int(header.values["Rows"]), int(header.values["Columns"])
    frames = _native_frames if header.transfer_syntax in _NATIVE else _encapsulated_frames
    for frame in frames(plain_bytes(data), header, shape):
        yield _stored_values(frame, header)


def _container_type(header: InstanceHeader) -> np.dtype[Any]:
    return np.dtype(f"u{int(header.values['BitsAllocated']) // 8}")


def _native_frames(plain: bytes, header: InstanceHeader, shape: tuple[int, int]) -> Iterator[Pixels]:
    payload = header.payload
    if payload is None:
        raise DecodeError(f"{header.source}: no pixel data")
    dtype = _container_type(header)
    # PS3.5 §8.1.1: 8-bit pixels of a big-endian file may lie in 16-bit words (OW), swapped; this is not done for OB.
    ordered = dtype.newbyteorder("<" if header.little_endian else ">")
    size = shape[0] * shape[1]
    for number in range(header.frame_count):
        offset = payload.offset + number * size * dtype.itemsize
        yield np.frombuffer(plain, ordered, size, offset).reshape(shape)


def _encapsulated_frames(plain: bytes, header: InstanceHeader, shape: tuple[int, int]) -> Iterator[Pixels]:
    payload = header.payload
    if payload is None:
        raise DecodeError(f"{header.source}: no pixel data")
    decode, dtype = _DECODERS[header.transfer_syntax], _container_type(header)
    count = 0
    try:
        for frame in generate_frames(plain[payload.offset :], number_of_frames=header.frame_count):
            count += 1
            check_codestream_shape(frame, shape)
            pixels = decode(frame, shape, dtype)
            if pixels.shape != shape:
                raise DecodeError(f"decoded to shape {pixels.shape}, the header says {shape}")
            yield _as_container(pixels, dtype)
    except (GeneratorExit, MemoryError):
        raise
    except Exception as error:  # each codec has its own exceptions
        detail = f"{header.source}: frame {count} ({header.transfer_syntax}): {type(error).__name__}: {error}"
        raise DecodeError(detail) from error
    if count != header.frame_count:
        raise DecodeError(f"{header.source}: {count} frames found, NumberOfFrames says {header.frame_count}")


def _as_container(pixels: Pixels, dtype: np.dtype[Any]) -> Pixels:
    """Reinterpret what a codec returned as unsigned integers of BitsAllocated; the bits stay.

    A JPEG 2000 codestream states its own sign, which need not agree with PixelRepresentation: the header rules, as in
    every major toolkit. `_stored_values` then extends the sign from BitsStored.
    """
    if pixels.dtype.itemsize == dtype.itemsize:
        return pixels.view(dtype)
    return pixels.astype(dtype)


def _stored_values(pixels: Pixels, header: InstanceHeader) -> Pixels:
    """Shift to bit 0, cut or sign-extend above BitsStored (PS3.5 §8.1.1: other bits mean nothing)."""
    values = header.values
    allocated, stored = int(values["BitsAllocated"]), int(values["BitsStored"])
    unused = allocated - stored
    high = int(values.get("HighBit", stored - 1))
    if values["PixelRepresentation"] == 1:
        signed = pixels.view(pixels.dtype.str.replace("u", "i"))
        if unused == 0:
            return signed
        left = allocated - 1 - high
        return (signed << left) >> unused if left else signed >> unused
    if high + 1 > stored:
        pixels = pixels >> (high + 1 - stored)
    return pixels & ((1 << stored) - 1) if unused else pixels

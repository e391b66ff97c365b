"""Size of an image as its own JPEG or JPEG 2000 codestream states it, read before a decoder allocates for it."""

from __future__ import annotations

import struct

_JPEG_START = b"\xff\xd8"
_JPEG2000_START = b"\xff\x4f\xff\x51"  # SOC, SIZ (ISO/IEC 15444-1 A.4.1, A.5.1)
_JP2_BOX = b"\x00\x00\x00\x0cjP  "
# Start-of-frame markers: JPEG C0–CF without DHT (C4), JPG (C8) and DAC (CC); JPEG-LS F7.
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}


def check_codestream_shape(frame: bytes, shape: tuple[int, int]) -> None:
    """Raise ValueError when a codestream states another size than ``shape`` ``(rows, columns)``; others pass."""
    stated = _jpeg2000_shape(frame) or _jpeg_shape(frame)
    if stated is not None and stated != shape:
        raise ValueError(f"codestream of {stated[0]}×{stated[1]}, the header says {shape[0]}×{shape[1]}")


def _jpeg2000_shape(frame: bytes) -> tuple[int, int] | None:
    start = frame.find(_JPEG2000_START) if frame.startswith(_JP2_BOX) else 0
    if start < 0 or frame[start : start + 4] != _JPEG2000_START:
        return None
    width, height, left, top = struct.unpack_from(">4I", frame, start + 8)
    return height - top, width - left


def _jpeg_shape(frame: bytes) -> tuple[int, int] | None:
    if not frame.startswith(_JPEG_START):
        return None
    position = 2
    while position + 9 <= len(frame):
        marker = frame[position + 1]
        if frame[position] != 0xFF:
            return None
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", frame, position + 5)
            return height, width
        else:
            position += 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
    return None

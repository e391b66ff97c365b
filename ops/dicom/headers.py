"""One DICOM file's bytes → the few attributes that grouping, geometry and decoding need.

The parser stops before the pixels and notes where they are, so that a second look at the same bytes goes straight
to them. Values are decoded from the raw elements: an unreadable value counts as absent, never as an exception.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from blake3 import blake3
from pydicom.datadict import dictionary_has_tag, tag_for_keyword
from pydicom.dataset import FileDataset
from pydicom.filereader import read_partial
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from ops.dicom.elements import RawElements, numbers, raw_elements, text, texts
from ops.dicom.functional_groups import FrameAttributes, frame_attributes

UNDEFINED_LENGTH = 0xFFFFFFFF
# A deflated data set may grow this much: CT deflates to a third or so, a bomb to a thousandth.
MAX_INFLATION = 100
PREFIX_OFFSET = 128
PREFIX = b"DICM"
# A misplaced prefix is looked for in this many bytes: preambles of a wrong length occur.
PREFIX_SEARCH = 1024
SNIFF_LENGTH = PREFIX_SEARCH
_PIXEL_GROUP = 0x7FE0
_PIXEL_ELEMENTS = {0x0010: "PixelData", 0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData"}
_PIXEL_TAGS = frozenset(_PIXEL_GROUP << 16 | element for element in _PIXEL_ELEMENTS)
_FIRST_GROUPS = (0x0002, 0x0008)
_DEFLATED = DeflatedExplicitVRLittleEndian.encode()

_TEXTS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "PatientID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "SeriesDescription",
    "PhotometricInterpretation",    "ConvolutionKernel", "RescaleType", "Units", "BodyPartExamined", "AcquisitionTime",
)  # fmt: skip
_NUMBERS = {  # keyword → VR in the data dictionary, for files that do not give it
    "SeriesNumber": "IS", "InstanceNumber": "IS", "AcquisitionNumber": "IS", "TemporalPositionIdentifier": "IS",
    "EchoTime": "DS", "TriggerTime": "DS", "NominalPercentageOfCardiacPhase": "FL", "RescaleSlope": "DS",
    "RescaleIntercept": "DS", "NumberOfFrames": "IS", "DiffusionBValue": "FD",
}  # fmt: skip
_UNSIGNED = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
)  # fmt: skip
_VECTORS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_SEQUENCES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_KEYWORDS = (*_TEXTS, *_NUMBERS, *_UNSIGNED, *_VECTORS, "ImageType", *_SEQUENCES)
_TAGS = [tag for keyword in _KEYWORDS if (tag := tag_for_keyword(keyword)) is not None]


class UnreadableDicomError(ValueError):
    """Bytes that look like DICOM but cannot be used. ``reason`` is a stable code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PixelPayload:
    """Where the pixel data lie in the (inflated, prefix-corrected) bytes of a file.

    Attributes
    ----------
    keyword
        ``PixelData``, ``FloatPixelData`` or ``DoubleFloatPixelData``.
    offset
        First byte of the value.
    length
        Bytes present (native), or to the end of the file when encapsulated.
    declared
        Length as declared by the element; `UNDEFINED_LENGTH` when encapsulated.
    """

    keyword: str
    offset: int
    length: int
    declared: int

    @property
    def encapsulated(self) -> bool:
        """True for pixel data in fragments."""
        return self.declared == UNDEFINED_LENGTH


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """What is kept of one SOP instance. Texts are stripped; absent is ``""``, ``None`` or an empty tuple.

    Attributes
    ----------
    source
        Name under which the bytes can be fetched again.
    digest
        blake3 of the file.
    payload_digest
        blake3 of the bytes from the pixel data on.
    transfer_syntax
        As in the file meta, or as detected.
    little_endian
        Byte order of the data set.
    values
        Keyword → text, number or tuple.
    frames
        Per-frame attributes of a multi-frame instance with functional groups.
    payload
        None when there are no pixel data.
    """

    source: str
    digest: str
    payload_digest: str
    transfer_syntax: str
    little_endian: bool
    values: dict[str, Any]
    frames: tuple[FrameAttributes, ...]
    payload: PixelPayload | None

    def text(self, keyword: str) -> str:
        """Text value, ``""`` when absent."""
        return str(self.values.get(keyword, ""))

    def number(self, keyword: str) -> float | None:
        """Return a number, None when absent or unreadable."""
        value = self.values.get(keyword)
        return None if value is None else float(value)

    def vector(self, keyword: str, size: int) -> tuple[float, ...] | None:
        """Tuple of ``size`` finite numbers, None when absent, unreadable or of another size."""
        value = self.values.get(keyword, ())
        return tuple(value) if len(value) == size else None

    @property
    def image_type(self) -> tuple[str, ...]:
        """ImageType components, upper case."""
        return tuple(self.values.get("ImageType", ()))

    @property
    def frame_count(self) -> int:
        """NumberOfFrames, 1 when absent."""
        return int(self.values.get("NumberOfFrames", 1))


def looks_like_dicom(head: bytes, name: str = "") -> bool:
    """Judge by the first `SNIFF_LENGTH` bytes and the file name whether a file claims to be DICOM.

    Without the prefix, a data set is recognised by its first element: group 0002 or 0008 with a plausible VR or
    length (PS3.5 §7.1), in either byte order.
    """
    if PREFIX in head[:PREFIX_SEARCH] or name.lower().endswith((".dcm", ".dicom", ".ima")):
        return True
    return len(head) >= 8 and any(_starts_data_set(head, order) for order in ("<", ">"))


def _starts_data_set(head: bytes, order: str) -> bool:
    group, element, length = struct.unpack_from(order + "HHI", head)
    tag = group << 16 | element
    if group not in _FIRST_GROUPS or not (element == 0 or dictionary_has_tag(tag)):
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or length <= 1 << 16


def plain_bytes(data: bytes) -> bytes:
    """Bytes with a correctly placed prefix and an inflated data set: the form that payload offsets refer to.

    Raises
    ------
    UnreadableDicomError
        ``corrupt_deflate``: the deflated data set is damaged, or inflates more than `MAX_INFLATION` times.
    """
    position = data.find(PREFIX, 0, PREFIX_SEARCH)
    if position not in (-1, PREFIX_OFFSET):
        data = bytes(PREFIX_OFFSET) + data[position:]
    return _inflate(data) if _DEFLATED in data[:SNIFF_LENGTH] else data


def _inflate(data: bytes) -> bytes:
    """Inflate the data set, and say so in the file meta, whose length stays as it is."""
    # File meta starts with its own length (PS3.10 §7.1): tag, VR and length take 8 bytes, then 4 bytes of value.
    start = PREFIX_OFFSET + len(PREFIX)
    (meta_length,) = struct.unpack_from("<I", data, start + 8)
    meta_end = start + 12 + meta_length
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data_set = inflater.decompress(data[meta_end:], MAX_INFLATION * len(data))
    except zlib.error as error:
        raise UnreadableDicomError("corrupt_deflate", f"deflated data set cannot be inflated: {error}") from error
    if not inflater.eof:
        raise UnreadableDicomError("corrupt_deflate", "deflated data set is truncated or inflates beyond reason")
    explicit = ExplicitVRLittleEndian.encode().ljust(len(_DEFLATED), b"\0")
    return data[:meta_end].replace(_DEFLATED, explicit) + data_set


def read_header(data: bytes, source: str = "") -> InstanceHeader:
    """Parse the header of one file.

    Parameters
    ----------
    data
        The whole file.
    source
        Name under which the same bytes can be fetched again.

    Raises
    ------
    UnreadableDicomError
        ``unreadable_header``: no data set, or none that says what it is; ``corrupt_deflate``; ``dicomdir``: a directory
        of files, which is read itself no further.
    """
    plain = plain_bytes(data)
    stream = io.BytesIO(plain)
    try:
        dataset = read_partial(stream, _at_pixels, force=True, specific_tags=_TAGS)
        values = _values(raw_elements(dataset))
        frames = frame_attributes(dataset) if "PerFrameFunctionalGroupsSequence" in dataset else ()
    except Exception as error:  # a parser fed with anything at all may raise anything at all
        raise _unparsable(error) from error
    if text(raw_elements(dataset.file_meta), "MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        raise UnreadableDicomError("dicomdir", "a DICOMDIR: the files it lists are found by walking the folder")
    if not any(values.get(keyword) for keyword in ("SOPClassUID", "Modality", "Rows")):
        raise UnreadableDicomError("unreadable_header", "no SOPClassUID, Modality or Rows: truncated or not DICOM")
    little_endian = bool(dataset.original_encoding[1])
    offset = stream.tell()
    payload = _payload(plain, offset, bool(dataset.original_encoding[0]), little_endian)
    payload_digest = blake3(memoryview(plain)[offset:]).digest()
    return InstanceHeader(
        source=source,
        digest=blake3(plain[:offset] + payload_digest).hexdigest(),
        payload_digest=payload_digest.hex(),
        transfer_syntax=_transfer_syntax(dataset),
        little_endian=little_endian,
        values=values,
        frames=frames,
        payload=payload,
    )


def parse(data: bytes) -> FileDataset:
    """Parse a whole header up to the pixel data, for reading attributes from it.

    Raises
    ------
    UnreadableDicomError
        As `read_header`.
    """
    plain = plain_bytes(data)
    try:
        return read_partial(io.BytesIO(plain), _at_pixels, force=True)
    except Exception as error:
        raise _unparsable(error) from error


def _at_pixels(tag: int, _vr: str | None, _length: int) -> bool:
    return tag in _PIXEL_TAGS


def _unparsable(error: Exception) -> UnreadableDicomError:
    return UnreadableDicomError("unreadable_header", f"header cannot be parsed: {type(error).__name__}: {error}")


def _values(elements: RawElements) -> dict[str, Any]:
    values: dict[str, Any] = {keyword: text(elements, keyword) for keyword in _TEXTS}
    values["ImageType"] = tuple(part.upper() for part in texts(elements, "ImageType"))
    values |= {keyword: numbers(elements, keyword) for keyword in _VECTORS}
    for keyword, vr in [*((k, "US") for k in _UNSIGNED), *_NUMBERS.items()]:
        if found := numbers(elements, keyword, vr):
            values[keyword] = found[0]
    return {keyword: value for keyword, value in values.items() if value not in ("", ())}


def _transfer_syntax(dataset: FileDataset) -> str:
    declared = text(raw_elements(dataset.file_meta), "TransferSyntaxUID")
    if declared:
        return declared
    implicit, little_endian = dataset.original_encoding
    if not little_endian:
        return str(ExplicitVRBigEndian)
    return str(ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)


def _payload(plain: bytes, offset: int, implicit: bool, little_endian: bool) -> PixelPayload | None:
    """Read the element header at which the parser stopped (PS3.5 §7.1.2)."""
    order = "<" if little_endian else ">"
    head = 8 if implicit else 12
    if len(plain) < offset + head:
        return None
    group, element = struct.unpack_from(order + "HH", plain, offset)
    if group != _PIXEL_GROUP or element not in _PIXEL_ELEMENTS:
        return None
    (declared,) = struct.unpack_from(order + "I", plain, offset + head - 4)
    start = offset + head
    available = len(plain) - start
    return PixelPayload(_PIXEL_ELEMENTS[element], start, min(declared, available), declared)

"""Raw DICOM elements → plain values. A value that cannot be read counts as absent."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

# Longer texts are never identifiers; a 64 KB "SeriesDescription" must not travel with every header.
MAX_TEXT = 1024
_BINARY_FORMATS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}


RawElements = Mapping[int, RawDataElement]


def raw_elements(dataset: Dataset) -> RawElements:
    """Elements by tag, as parsed and not converted: looking them up in the data set itself costs ten times as much."""
    return {int(tag): element for tag, element in dataset.items()}  # type: ignore[misc]  # read alike: value, VR


def text(elements: RawElements, keyword: str) -> str:
    r"""Text of an element without padding, ``""`` when absent; the values of a multi-valued one joined by ``\``."""
    element = elements.get(_tag(keyword))
    if element is None or element.value is None:
        return ""
    value = element.value
    decoded = value[:MAX_TEXT].decode("latin-1") if isinstance(value, bytes) else str(value)
    return decoded.strip(" \0")[:MAX_TEXT]


def texts(elements: RawElements, keyword: str) -> tuple[str, ...]:
    """Components of a multi-valued text, each stripped."""
    joined = text(elements, keyword)
    return tuple(part.strip(" \0") for part in joined.split("\\")) if joined else ()


def numbers(elements: RawElements, keyword: str, implicit_vr: str = "DS") -> tuple[float, ...]:
    """Finite numbers of an element; empty when absent, or when any of them cannot be read.

    Parameters
    ----------
    elements
        From `raw_elements`.
    keyword
        DICOM keyword.
    implicit_vr
        VR to assume where the file does not give one (implicit VR, or ``UN``).
    """
    element = elements.get(_tag(keyword))
    if element is None or element.value is None:
        return ()
    try:
        values = _decode_numbers(element, implicit_vr)
    except (ValueError, TypeError, struct.error):
        return ()
    return values if all(map(math.isfinite, values)) else ()


def _decode_numbers(element: RawDataElement, implicit_vr: str) -> tuple[float, ...]:
    value: Any = element.value
    if not isinstance(value, bytes):
        return tuple(float(v) for v in (value if isinstance(value, (list, tuple)) else [value]))
    vr = implicit_vr if element.VR in (None, "UN") else element.VR
    if vr in _BINARY_FORMATS:
        order = "<" if element.is_little_endian else ">"
        code = _BINARY_FORMATS[vr]
        return struct.unpack(f"{order}{len(value) // struct.calcsize(code)}{code}", value)
    parts = value.decode("ascii").strip(" \0").split("\\")
    return tuple(float(part) for part in parts) if parts != [""] else ()


@cache
def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(f"{keyword} is no DICOM keyword")
    return int(tag)

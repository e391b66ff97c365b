"""What a series is, before asking where it lies: image or not, grey or colour, readable or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ops.dicom.decode import SUPPORTED_TRANSFER_SYNTAXES
from ops.dicom.headers import InstanceHeader
from ops.dicom.series import is_localiser, is_screen

SECONDARY_CAPTURE_CLASS = "1.2.840.10008.5.1.4.1.1.7"
# Objects with pixels that are no acquired image: segmentations, dose grids, real-world value and parametric maps.
_NOT_IMAGES = ("1.2.840.10008.5.1.4.1.1.66.", "1.2.840.10008.5.1.4.1.1.481.", "1.2.840.10008.5.1.4.1.1.30")
_PROJECTION_MODALITIES = frozenset({"CR", "DX", "MG", "XA", "RF", "IO", "PX", "RG"})
SUPPORTED_ALLOCATIONS = (8, 16, 32)
# No single volume is larger; a header that claims so is damaged or hostile (the largest CT known here: 1.5 GiB).
MAX_VOLUME_BYTES = 16 << 30


class RefusedSeriesError(ValueError):
    """A series that is not one readable, regular stack. ``reason`` is a stable code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def check_image(instances: tuple[InstanceHeader, ...]) -> None:
    """Raise unless every instance is an acquired grey-scale image with patient geometry to be expected.

    Raises
    ------
    RefusedSeriesError
        ``not_an_image``, ``no_pixel_data``, ``secondary_capture``, ``localiser``, ``colour_image``, ``monochrome1``,
        ``projection_image``, ``mixed_sop_classes``.
    """
    _refuse(instances, "not_an_image", _is_no_image, _class_and_modality)
    _refuse(instances, "no_pixel_data", lambda h: h.payload is None, lambda h: "no pixel data element; truncated?")
    _refuse(instances, "secondary_capture", _is_capture, _image_type)
    _refuse(instances, "localiser", is_localiser, _image_type)
    _refuse(instances, "colour_image", _is_colour, lambda h: f"PhotometricInterpretation {_photometric(h) or 'absent'}")
    _refuse(instances, "monochrome1", lambda h: _photometric(h) == "MONOCHROME1", lambda h: "inverted grey scale")
    _refuse(instances, "projection_image", _is_projection, lambda h: f"modality {h.text('Modality')} has no slices")
    _refuse(
        instances,
        "multi_frame_unsupported",
        lambda h: h.frame_count != 1 and not h.frames,
        lambda h: f"{h.frame_count} frames without per-frame functional groups",
    )


def check_pixels(instances: tuple[InstanceHeader, ...]) -> None:
    """Raise unless the pixels of all instances can be read into one array.

    Raises
    ------
    RefusedSeriesError
        ``unsupported_transfer_syntax``, ``invalid_pixel_description``, ``mixed_sizes``, ``volume_too_large``,
        ``truncated_pixel_data``, ``mixed_frame_of_reference``.
    """
    _refuse(
        instances,
        "unsupported_transfer_syntax",
        lambda h: h.transfer_syntax not in SUPPORTED_TRANSFER_SYNTAXES,
        lambda h: f"transfer syntax {h.transfer_syntax}",
    )
    _refuse(instances, "invalid_pixel_description", lambda h: not _is_described(h), _description)
    sizes = {(header.values["Rows"], header.values["Columns"]) for header in instances}
    if len(sizes) > 1:
        shown = ", ".join(f"{rows:.0f}×{columns:.0f}" for rows, columns in sorted(sizes)[:4])
        raise RefusedSeriesError("mixed_sizes", f"slices of {len(sizes)} sizes in one series: {shown}")
    total = sum(native_size(header) for header in instances)
    if total > MAX_VOLUME_BYTES:
        raise RefusedSeriesError("volume_too_large", f"headers claim {total} bytes of pixels")
    _refuse(instances, "truncated_pixel_data", _is_truncated, _truncation)
    frames_of_reference = {uid for header in instances if (uid := header.text("FrameOfReferenceUID"))}
    if len(frames_of_reference) > 1:
        detail = f"{len(frames_of_reference)} frames of reference in one series: their positions cannot be compared"
        raise RefusedSeriesError("mixed_frame_of_reference", detail)


def native_size(header: InstanceHeader) -> int:
    """Bytes that the decoded pixels of an instance take."""
    values = header.values
    return int(values["Rows"] * values["Columns"] * values["BitsAllocated"]) // 8 * header.frame_count


def _refuse(
    instances: Iterable[InstanceHeader],
    reason: str,
    bad: Callable[[InstanceHeader], bool],
    describe: Callable[[InstanceHeader], str],
) -> None:
    found = [header for header in instances if bad(header)]
    if found:
        raise RefusedSeriesError(reason, f"{found[0].source}: {describe(found[0])} ({len(found)} such instances)")


def _class_and_modality(header: InstanceHeader) -> str:
    return f"SOP class {header.text('SOPClassUID') or 'absent'}, modality {header.text('Modality') or 'absent'}"


def _image_type(header: InstanceHeader) -> str:
    return f"ImageType {'/'.join(header.image_type) or 'absent'}, {_class_and_modality(header)}"


def _photometric(header: InstanceHeader) -> str:
    return header.text("PhotometricInterpretation").upper()


def _is_no_image(header: InstanceHeader) -> bool:
    return header.text("SOPClassUID").startswith(_NOT_IMAGES) or (
        header.payload is None and "Rows" not in header.values
    )


def _is_capture(header: InstanceHeader) -> bool:
    sop_class = header.text("SOPClassUID")
    captured = sop_class == SECONDARY_CAPTURE_CLASS or sop_class.startswith(SECONDARY_CAPTURE_CLASS + ".")
    return captured or is_screen(header)


def _is_colour(header: InstanceHeader) -> bool:
    return header.values.get("SamplesPerPixel", 1) != 1 or not _photometric(header).startswith("MONOCHROME")


def _is_projection(header: InstanceHeader) -> bool:
    return header.text("Modality") in _PROJECTION_MODALITIES and "ImageOrientationPatient" not in header.values


def _is_described(header: InstanceHeader) -> bool:
    """PS3.3 C.7.6.3.1: sizes positive, stored bits within the allocated ones and ending at the high bit or below."""
    values = header.values
    try:
        rows, columns = values["Rows"], values["Columns"]
        allocated, stored = values["BitsAllocated"], values["BitsStored"]
        high, signed = values.get("HighBit", stored - 1), values["PixelRepresentation"]
    except KeyError:
        return False
    sizes = rows > 0 and columns > 0 and header.frame_count > 0
    bits = allocated in SUPPORTED_ALLOCATIONS and 0 < stored <= allocated and stored - 1 <= high < allocated
    integer = header.payload is not None and header.payload.keyword == "PixelData"
    return bool(sizes and bits and signed in (0, 1) and integer)


def _description(header: InstanceHeader) -> str:
    keywords = ("Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    return ", ".join(f"{keyword} {header.values.get(keyword, 'absent')}" for keyword in keywords)


def _is_truncated(header: InstanceHeader) -> bool:
    payload = header.payload
    return payload is None or (not payload.encapsulated and payload.length < native_size(header))


def _truncation(header: InstanceHeader) -> str:
    present = header.payload.length if header.payload else 0
    return f"{present} bytes of pixel data where {native_size(header)} are needed"

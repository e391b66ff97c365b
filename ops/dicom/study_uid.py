"""The study a file belongs to, from its first bytes: all that a watched folder asks of a file."""

from __future__ import annotations

import io

from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag

from ops.dicom.elements import raw_elements, text
from ops.dicom.headers import plain_bytes
from ops.dicom.uids import is_usable_key

_STUDY_UID = Tag("StudyInstanceUID")
# One of them is in whatever ingest reads, and they come before the study (see `ops.dicom.headers.read_header`).
_NAMED = ("SOPClassUID", "Modality")
_TAGS: list[BaseTag | int] = [_STUDY_UID, *map(Tag, _NAMED)]


def study_uid(data: bytes) -> str | None:
    """Read StudyInstanceUID from the beginning of a DICOM file.

    Parameters
    ----------
    data
        The file or a first part of it. A deflated file (PS3.5 §A.5) cannot be read in part.

    Returns
    -------
    str or None
        The UID as ingest would use it (see `ops.dicom.uids`); ``""`` when the file has none that can be used; None when
        ``data`` is no DICOM or ends before it can be said.
    """
    passed = False

    def is_past(tag: int, _vr: str | None, _length: int) -> bool:
        nonlocal passed
        passed = tag > int(_STUDY_UID)  # elements are in order of their tags, PS3.5 §7.1
        return passed

    try:
        dataset = read_partial(io.BytesIO(plain_bytes(data)), is_past, force=True, specific_tags=_TAGS)
        elements = raw_elements(dataset)
    except Exception:  # a parser fed with anything at all may raise anything at all, and so may the inflater
        return None
    uid = text(elements, "StudyInstanceUID")
    if not passed or not (uid or any(text(elements, keyword) for keyword in _NAMED)):
        return None
    return uid if is_usable_key(uid) else ""

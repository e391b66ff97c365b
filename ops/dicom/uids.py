"""DICOM unique identifiers: which are valid, which still serve as a key, and how missing ones are derived.

Policy
------
* A UID that is present and safe as a key (`is_usable_key`) stays the identifier of its study or series, even when
  the standard would not admit it (leading zeros, a root arc above 2): people search their archive for it.
* A UID that is missing or not safe is replaced by one derived from stable content (`derive_uid`).
* Whatever is published as DICOM carries `publishable_uid`: the UID itself when valid, else one derived from it.
"""

from __future__ import annotations

import hashlib
import re
import uuid

MAX_UID_LENGTH = 64  # PS3.5 §9.1
# PS3.5 §9.1 and annex B: numeric components without leading zeros; root arc 0–2.
_VALID_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")
# Safe in a path and in a URL on every store; dots alone would climb out of a folder.
_USABLE_KEY = re.compile(r"(?=.*[0-9A-Za-z])[0-9A-Za-z._-]+")
# Arcs 0 and 1 have at most 40 children (ITU-T X.660).
_MAX_SECOND_ARC = 39


def is_valid_uid(uid: str) -> bool:
    """Tell whether ``uid`` obeys PS3.5 §9.1."""
    if len(uid) > MAX_UID_LENGTH or not _VALID_UID.fullmatch(uid):
        return False
    root, second = uid.split(".")[:2]
    return root == "2" or int(second) <= _MAX_SECOND_ARC


def is_usable_key(uid: str) -> bool:
    """Tell whether ``uid`` can identify a study or series in the store, valid or not."""
    return len(uid) <= MAX_UID_LENGTH and ".." not in uid and _USABLE_KEY.fullmatch(uid) is not None


def derive_uid(*parts: object) -> str:
    """Deterministic UID ``2.25.…`` (PS3.5 §B.2) of the given parts: a UUID (version 8) from their SHA-256."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode("utf-8", "backslashreplace")).digest()
    value = int.from_bytes(digest[:16], "big")
    value = value & ~(0xF << 76) | 0x8 << 76  # version 8: custom content, RFC 9562 §5.8
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant RFC 9562
    return f"2.25.{uuid.UUID(int=value).int}"


def publishable_uid(uid: str) -> str:
    """Return ``uid`` when valid, else a valid UID derived from it alone."""
    return uid if is_valid_uid(uid) else derive_uid("uid", uid)

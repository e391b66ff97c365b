"""Which study a file belongs to, from its first bytes."""

from __future__ import annotations

import io
import warnings

import pytest
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from ops.dicom.study_uid import study_uid
from tests.ops.dicom.builders import STUDY_UID, instance, setting, to_bytes


def end_of_uid(data: bytes) -> int:
    """Where the value of (0020,000D), explicit little endian, ends."""
    return data.index(b"\x20\x00\x0d\x00UI") + 8 + len(STUDY_UID)


def test_the_beginning_of_a_file_is_enough() -> None:
    data = to_bytes(instance(0))
    assert study_uid(data) == STUDY_UID
    assert study_uid(data[: end_of_uid(data) + 40]) == STUDY_UID


def test_what_ends_before_the_uid_or_within_it_says_nothing() -> None:
    data = to_bytes(instance(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {study_uid(data[:length]) for length in range(end_of_uid(data))}
    assert found == {None}


@pytest.mark.parametrize("uid", [None, "", "../../etc", "x" * 65])
def test_a_uid_that_ingest_would_not_use_is_none(uid: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom says what it thinks of such UIDs
        assert study_uid(to_bytes(instance(0, change=setting(StudyInstanceUID=uid)))) == ""


def test_implicit_and_without_preamble() -> None:
    dataset = instance(0)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert study_uid(to_bytes(dataset)) == STUDY_UID
    bare = Dataset(dict(instance(0).items()))
    buffer = io.BytesIO()
    dcmwrite(buffer, bare, implicit_vr=True, little_endian=True)
    assert study_uid(buffer.getvalue()) == STUDY_UID


def test_a_deflated_file_needs_all_of_its_bytes() -> None:
    dataset = instance(0)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = to_bytes(dataset)
    assert study_uid(data) == STUDY_UID
    assert study_uid(data[:-20]) is None


def test_what_is_no_dicom() -> None:
    assert study_uid(b"") is None
    assert study_uid(b"DICM") is None
    assert study_uid(b"no DICOM whatever") is None

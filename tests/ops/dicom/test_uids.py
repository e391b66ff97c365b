from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from ops.dicom.uids import derive_uid, is_usable_key, is_valid_uid, publishable_uid


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2", "2.25.0", "0.39", "1.0", "2.999.1", "2." + "1" * 62])
def test_valid(uid: str) -> None:
    assert is_valid_uid(uid)


@pytest.mark.parametrize(
    "uid", ["", "1", "1.02.3", "3.1", "1.40", "1.2.", ".1.2", "1..2", "1.2a", "1.2 ", "1." + "1" * 63, "....", "１.2"]
)
def test_invalid(uid: str) -> None:
    assert not is_valid_uid(uid)


@pytest.mark.parametrize("uid", ["1.02.3", "4.1.2", "series-7", "1"])
def test_an_invalid_uid_still_serves_as_a_key(uid: str) -> None:
    assert is_usable_key(uid)


@pytest.mark.parametrize("uid", ["", ".", "..", "....", "1/2", "a\\b", "1.2\0", "1 2", "a/../b", "1" * 65, "1..2"])
def test_no_key_leaves_its_folder(uid: str) -> None:
    assert not is_usable_key(uid)


@given(st.lists(st.text(max_size=20), max_size=4))
def test_derived_uids_are_valid_and_repeatable(parts: list[str]) -> None:
    uid = derive_uid(*parts)
    assert is_valid_uid(uid)
    assert UID(uid).is_valid
    assert derive_uid(*parts) == uid


def test_derived_uids_tell_their_parts_apart() -> None:
    assert len({derive_uid("a", "b"), derive_uid("ab"), derive_uid("b", "a"), derive_uid("a", "b", "")}) == 4


def test_what_is_published_is_valid() -> None:
    assert publishable_uid("1.2.3") == "1.2.3"
    assert is_valid_uid(publishable_uid("1.02.3"))

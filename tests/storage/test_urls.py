from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from storage.urls import PARTIAL_MARK, Location


@pytest.fixture(params=["local", "memory", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "s3":
        found: Location = request.getfixturevalue("s3_location")
        return found
    return Location(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}")


def test_bytes_come_back(location: Location) -> None:
    file = location.child("a", "b/c.bin")
    assert not file.exists()
    file.write_bytes(b"one")
    file.write_bytes(b"two")
    assert file.read_bytes() == b"two"
    assert location.list() == ["a/b/c.bin"]
    assert location.child("a").exists()


def test_written_piece_by_piece_it_appears_when_it_is_whole(location: Location) -> None:
    file, pieces = location.child("a/big.bin"), [bytes([n]) * 2**20 for n in range(24)]  # S3 gets it in parts
    with file.writing() as stream:
        for piece in pieces:
            stream.write(piece)
        assert location.list() == []
    assert location.list() == ["a/big.bin"]
    assert file.read_bytes() == b"".join(pieces)


def test_a_block_that_fails_leaves_the_old_content(location: Location) -> None:
    location.child("f").write_bytes(b"old")

    def write_half() -> None:
        with location.child("f").writing() as stream:
            stream.write(b"new" * 2**20)
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert location.child("f").read_bytes() == b"old"
    assert location.list() == ["f"]


def test_delete_takes_a_folder_with_all_below_and_nothing_else(location: Location) -> None:
    for key in ("a/x", "a/y/z", "ab"):
        location.child(key).write_bytes(b"1")
    location.child("a").delete()
    location.child("a").delete()
    assert location.list() == ["ab"]


def test_nothing_there(location: Location) -> None:
    assert location.child("none").list() == []
    with pytest.raises(FileNotFoundError):
        location.child("none").read_bytes()


@pytest.mark.parametrize("key", ["", "..", "a/../b", "/a", "a//b", "."])
def test_no_key_reaches_outside(location: Location, key: str) -> None:
    with pytest.raises(ValueError, match="component"):
        location.child(key)


def test_travels_to_another_process() -> None:
    location = Location("s3://bucket/prefix", {"key": "k", "client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}})
    assert pickle.loads(pickle.dumps(location)) == location


def test_relative_and_home_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location("some/where").path == str(tmp_path / "some/where")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Location("~/x").path == str(tmp_path / "x")


def test_a_write_that_fails_leaves_the_old_content_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = Location(str(tmp_path))
    location.child("f").write_bytes(b"old")

    def full(_source: str, _target: str) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        location.child("f").write_bytes(b"new")
    assert location.child("f").read_bytes() == b"old"
    assert [name for name in os.listdir(tmp_path) if PARTIAL_MARK in name] == []

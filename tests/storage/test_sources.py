from __future__ import annotations

import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage import sources
from storage.sources import SourceReader, UnreadableFileError, is_archive, walk


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_walk_is_ordered_complete_and_without_repeats(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/z/deep", "top"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = list(walk([tmp_path / "b", tmp_path, tmp_path / "top"]))
    assert found == [str(tmp_path / name) for name in ("b/1", "b/2", "top", "a/z/deep")]


def test_pipes_and_dangling_and_circular_links_are_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"x")
    assert list(walk([tmp_path])) == [str(tmp_path / "file")]


def test_a_missing_path_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        next(walk([tmp_path, tmp_path / "absent"]))


def test_members_of_an_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"x/1": b"one" * 1000, "2": b"two"})
    with SourceReader() as reader:
        assert is_archive(reader.head(str(path), 4))
        names = reader.members(str(path))
        assert names == [f"{path}!/2", f"{path}!/x/1"]
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(reader.read, names * 20)) == {b"two", b"one" * 1000}


def test_more_archives_than_are_kept_open(tmp_path: Path) -> None:
    paths = [archive(tmp_path / f"{n}.zip", {"m": str(n).encode()}) for n in range(20)]
    with SourceReader() as reader:
        assert [reader.read(f"{path}!/m") for path in paths * 2] == [str(n).encode() for n in range(20)] * 2


@pytest.mark.parametrize("damage", ["cut", "flip", "nested"])
def test_damaged_and_nested_archives(tmp_path: Path, damage: str) -> None:
    path = archive(tmp_path / "a.zip", {"m": os.urandom(2000)})
    data = bytearray(path.read_bytes())
    data[100] ^= 255
    path.write_bytes(data[:500] if damage == "cut" else data)
    with SourceReader() as reader:
        look = reader.members if damage == "nested" else reader.read
        with pytest.raises(UnreadableFileError) as caught:
            look(f"{path}!/m")
    assert caught.value.reason == ("nested_archive" if damage == "nested" else "corrupt_archive")


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 10)
    (tmp_path / "big").write_bytes(bytes(11))
    bomb = archive(tmp_path / "bomb.zip", {"m": bytes(100_000)})
    with SourceReader() as reader:
        assert reader.head(str(tmp_path / "big"), 4) == bytes(4)
        for name in (str(tmp_path / "big"), f"{bomb}!/m"):
            with pytest.raises(UnreadableFileError) as caught:
                reader.read(name)
            assert caught.value.reason == "file_too_large"

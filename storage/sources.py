"""Files to ingest: any tree of folders and zip archives, read by a name that stays valid between runs.

A file's name is its absolute path; a member of an archive is ``/path/archive.zip!/member``.
"""

from __future__ import annotations

import errno
import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

MEMBER_MARK = "!/"
# A single DICOM file above this is read by nobody here: it would take that much memory, twice.
MAX_FILE_BYTES = 4 << 30
# Archives kept open at a time; the walk visits one after the other.
_OPEN_ARCHIVES = 8
_ZIP_START = b"PK\x03\x04"


def is_archive(head: bytes) -> bool:
    """Tell by its first bytes whether a file is a zip archive."""
    return head.startswith(_ZIP_START)


class UnreadableFileError(OSError):
    """A file or archive that cannot be read. ``reason`` is a stable code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def walk(paths: Iterable[str | Path]) -> Iterator[str]:
    """Yield the regular files below ``paths`` in a stable order, folder by folder; links to folders are not followed.

    Raises
    ------
    FileNotFoundError
        One of ``paths`` does not exist: raised before anything is yielded.
    """
    roots = [Path(path).expanduser().absolute() for path in paths]
    for root in roots:
        if not root.exists():
            raise FileNotFoundError(f"nothing at {root}")
    seen: set[str] = set()
    for root in roots:
        for name in _walk_one(root):
            if name not in seen:
                seen.add(name)
                yield name


def _walk_one(root: Path) -> Iterator[str]:
    if root.is_file():
        yield str(root)
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            # A pipe or a device would block or never end; a dangling link is not there.
            if os.path.isfile(path):
                yield path


class SourceReader:
    """Reads files and archive members by name. Safe to use from several threads; close it, or use it in ``with``."""

    def __init__(self) -> None:
        self._archives: OrderedDict[str, zipfile.ZipFile] = OrderedDict()
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all archives."""
        with self._lock:
            while self._archives:
                self._archives.popitem()[1].close()

    def members(self, name: str) -> list[str]:
        """Names of the files in the archive ``name``, in stable order.

        Raises
        ------
        UnreadableFileError
            ``unreadable_file``, ``corrupt_archive``, or ``nested_archive`` for an archive within an archive.
        """
        if MEMBER_MARK in name:
            raise UnreadableFileError("nested_archive", f"{name} is an archive within an archive: unpack it first")
        with self._lock:
            entries = self._archive(name).infolist()
        return sorted(f"{name}{MEMBER_MARK}{entry.filename}" for entry in entries if not entry.is_dir())

    def head(self, name: str, length: int) -> bytes:
        """Return the first ``length`` bytes; errors as in `read`."""
        return self._read(name, length)

    def read(self, name: str) -> bytes:
        """Return the whole file.

        Raises
        ------
        UnreadableFileError
            ``unreadable_file``, ``file_too_large``, ``corrupt_archive`` (damaged or encrypted).
        """
        return self._read(name, None)

    def _read(self, name: str, length: int | None) -> bytes:
        path, mark, member = name.partition(MEMBER_MARK)
        try:
            if not mark:
                with open(path, "rb") as file:
                    _require_size(name, os.fstat(file.fileno()).st_size if length is None else length)
                    return file.read(-1 if length is None else length)
            with self._lock:
                archive = self._archive(path)
                _require_size(name, archive.getinfo(member).file_size if length is None else length)
                with archive.open(member) as stream:
                    return stream.read(-1 if length is None else length)
        except UnreadableFileError:
            raise
        except OSError as error:
            raise UnreadableFileError("unreadable_file", f"{name}: {error}") from error
        except Exception as error:  # a damaged member makes zipfile raise RuntimeError, KeyError, zlib.error …
            raise UnreadableFileError("corrupt_archive", f"{name}: {type(error).__name__}: {error}") from error

    def _archive(self, path: str) -> zipfile.ZipFile:
        if path not in self._archives:
            try:
                self._archives[path] = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError, ValueError) as error:
                reason = "unreadable_file" if _is_outage(error) else "corrupt_archive"
                raise UnreadableFileError(reason, f"{path}: {error}") from error
            if len(self._archives) > _OPEN_ARCHIVES:
                self._archives.popitem(last=False)[1].close()
        self._archives.move_to_end(path)
        return self._archives[path]


def _is_outage(error: Exception) -> bool:
    """Tell a file that could not be read from an archive that is damaged."""
    # zipfile makes a BadZipFile of what fails at the file's end; EINVAL is a seek to where a damaged directory points.
    first = error if isinstance(error, OSError) else error.__context__
    return isinstance(first, OSError) and first.errno != errno.EINVAL


def _require_size(name: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise UnreadableFileError("file_too_large", f"{name} has {size} bytes, more than {MAX_FILE_BYTES}")

"""One door to local paths, ``memory://`` and ``s3://``: a location is an fsspec URL and its options."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import fsspec
from fsspec.core import url_to_fs

# Half-written local files carry this in their name until they are renamed; listings leave them out.
PARTIAL_MARK = ".partial-"


@dataclass(frozen=True)
class Location:
    """A file or folder on any file system that fsspec knows. Picklable: only the URL and its options travel.

    Parameters
    ----------
    url
        Local path (``~`` is expanded), ``file://``, ``memory://`` or ``s3://bucket/key``.
    storage_options
        Passed to fsspec, for example ``{"key": …, "secret": …, "client_kwargs": {"endpoint_url": …}}`` for S3.
    """

    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        url = os.fspath(self.url)
        if "://" not in url:
            url = os.path.abspath(os.path.expanduser(url))
        object.__setattr__(self, "url", url.rstrip("/") if not url.endswith("://") else url)
        object.__setattr__(self, "storage_options", dict(self.storage_options))

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The file system (fsspec keeps one instance per set of options)."""
        return url_to_fs(self.url, **self.storage_options)[0]

    @property
    def path(self) -> str:
        """The path inside :attr:`fs`, without the protocol."""
        return str(url_to_fs(self.url, **self.storage_options)[1])

    @property
    def is_local(self) -> bool:
        """True for a path on this machine's file system."""
        return isinstance(self.fs, fsspec.get_filesystem_class("file"))

    def child(self, *parts: str) -> Location:
        """Location below this one. A part may hold ``/``; ``..`` and empty components are refused.

        Raises
        ------
        ValueError
            A component is empty, ``.`` or ``..``, so that no key can reach outside its store.
        """
        components = [component for part in parts for component in part.split("/")]
        if not components or any(component in ("", ".", "..") for component in components):
            raise ValueError(f"key {'/'.join(parts)!r} has an empty, '.' or '..' component")
        return Location("/".join([self.url.removesuffix("/"), *components]), self.storage_options)

    def exists(self) -> bool:
        """Tell whether a file or folder is there now (cached listings are not trusted)."""
        fs = self.fs
        fs.invalidate_cache()
        return bool(fs.exists(self.path))

    def read_bytes(self) -> bytes:
        """Return the whole file.

        Raises
        ------
        FileNotFoundError
            Nothing is there.
        """
        return bytes(self.fs.cat_file(self.path))

    def write_bytes(self, data: bytes) -> None:
        """Write the whole file, atomically: a reader sees the old content or the new, never a part.

        An object store's PUT is atomic already; a local file is written beside its place and renamed.
        """
        if not self.is_local:
            self.fs.pipe_file(self.path, data)
            return
        with self.writing() as file:
            file.write(data)

    @contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """Open a file to write piece by piece; it takes its place, atomically, when the block ends without an error.

        What goes to an object store waits in a temporary file: fsspec publishes what was written so far even when the
        block that wrote it fails.
        """
        if self.is_local:
            with _replacing(self.path) as file:
                yield file
            return
        with tempfile.NamedTemporaryFile(prefix="popscan-") as file:
            yield file
            file.flush()
            self.fs.put_file(file.name, self.path)

    def list(self) -> list[str]:
        """List the keys of all files below this location, relative to it, sorted; empty when nothing is there."""
        fs, path = self.fs, self.path
        fs.invalidate_cache()
        prefix = path.rstrip("/") + "/"
        # Some S3 servers answer for an emptied folder with the folder itself: it is not a file below.
        names = [name for name in fs.find(path) if name.startswith(prefix) and PARTIAL_MARK not in name]
        return sorted(name.removeprefix(prefix) for name in names)

    def delete(self) -> None:
        """Remove the file or the folder with all below it; nothing happens when nothing is there."""
        if self.exists():
            self.fs.rm(self.path, recursive=True)


@contextmanager
def _replacing(path: str) -> Iterator[IO[bytes]]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}{PARTIAL_MARK}{uuid.uuid4().hex}"
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.remove(partial)
        raise

"""Published objects: pictures, DICOM SEG and anything else that is one file, by key."""

from __future__ import annotations

from storage.urls import Location


class ObjectStore:
    """Files by key below one location. Keys are ``/``-separated, e.g. ``calcium-1f2e/axial.png``.

    Parameters
    ----------
    location
        Folder, ``memory://…`` or ``s3://bucket/prefix``.
    """

    def __init__(self, location: Location) -> None:
        self.location = location

    def write(self, key: str, data: bytes) -> None:
        """Store ``data`` under ``key``, replacing what is there: a reader sees the old bytes or the new.

        Raises
        ------
        ValueError
            The key has an empty, ``.`` or ``..`` component.
        """
        self.location.child(key).write_bytes(data)

    def read(self, key: str) -> bytes:
        """Return the bytes under ``key``.

        Raises
        ------
        KeyError
            There is no such object.
        """
        try:
            return self.location.child(key).read_bytes()
        except FileNotFoundError:
            raise KeyError(f"no object {key!r} in {self.location.url}") from None

    def exists(self, key: str) -> bool:
        """Tell whether an object has this key."""
        return self.location.child(key).exists()

    def keys(self) -> list[str]:
        """List the keys of all objects, sorted."""
        return self.location.list()

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens when there is none."""
        self.location.child(key).delete()

"""The watched folder: what is new, what has changed, what is gone since the last look.

DICOM has no "series complete", and a file system no "file complete". A file is taken in when its size and time were the
same at two looks in a row; its study has settled when nothing of it was taken in for a while (see
`storage.arrivals.Arrivals.settled`). Only what is new or changed is opened, for its first bytes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ops.dicom.headers import looks_like_dicom
from ops.dicom.study_uid import study_uid
from storage.arrivals import ArrivalRecord, FileState
from storage.ledger import Ledger
from storage.records import utc_now
from storage.sources import SourceReader, UnreadableFileError, is_archive

TEMPORARY_SUFFIXES = (".part", ".partial", ".filepart", ".tmp", ".crdownload")
"""Names of files that are still being written by WinSCP, curl, wget and browsers; rsync's begin with a dot."""

FIRST_BYTES = 32 << 10
"""Read of a new file: StudyInstanceUID comes within some kilobytes, but for large private elements before it."""

MORE_BYTES = 16 << 20
"""Read where that was not enough, as for a deflated file. Beyond this a file is a unit of its own."""

READ_THREADS = 4
"""Opening a file waits for the disk or the network, not for the processor."""

COMMIT_EVERY = 1_000
"""Files a transaction: the most that a look which is interrupted has to open again."""


@dataclass(frozen=True)
class Seen:
    """What one look has met, in files.

    Attributes
    ----------
    new, changed
        Taken in, and now on record to be ingested.
    gone
        No longer there, and no longer on record.
    lost
        Those of ``gone`` that had not been ingested.
    waiting
        Still being written, as far as can be told: taken in later.
    """

    new: int = 0
    changed: int = 0
    gone: int = 0
    lost: int = 0
    waiting: int = 0


class Watch:
    """A watched folder, and what of it was different from the ledger at the last look.

    Parameters
    ----------
    folder
        Looked through with all folders below it, but for links and those whose names begin with a dot.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(Path(folder).expanduser().absolute())
        self._last: dict[str, FileState] = {}

    def look(self, ledger: Ledger) -> Seen:
        """Compare the folder with the ledger and record what is new, changed or gone.

        Raises
        ------
        OSError
            The folder is not there or cannot be read, or it is empty while files of it are on record, as the mount
            point of a share is that went away: nothing is forgotten then.
        """
        known = ledger.arrivals.known(self.folder)
        scan = _Scan(self.folder)
        different: dict[str, FileState] = {}
        new: set[str] = set()
        for path, state in scan:
            before = known.pop(path, None)
            if before != state:
                different[path] = state
                if before is None:
                    new.add(path)
        if known and not scan.entries:
            raise OSError(f"{self.folder} is empty, and {len(known)} files of it are on record: is it not mounted?")
        still = {path: state for path, state in different.items() if self._last.get(path) == state}
        self._last = different
        _take_in(still, ledger)
        gone = [path for path in known if not path.startswith(tuple(scan.unreadable))]
        return Seen(
            new=len(still.keys() & new),
            changed=len(still.keys() - new),
            gone=len(gone),
            lost=ledger.arrivals.forget(gone),
            waiting=len(different) - len(still) + scan.temporary,
        )


class _Scan:
    """Iterates over (path, state) of the regular files below a folder, as `storage.sources.walk` finds them."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.entries = 0
        self.temporary = 0
        self.unreadable: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, FileState]]:
        folders = [self._folder]
        while folders:
            folder = folders.pop()
            for entry in self._entries(folder):
                self.entries += 1
                if is_temporary(entry.name):
                    self.temporary += not entry.is_dir(follow_symlinks=False)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif state := self._state(entry):
                    yield entry.path, state

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except OSError as error:
            if folder == self._folder:
                raise
            self._note(error, f"{folder}/")
            return []

    def _state(self, entry: os.DirEntry[str]) -> FileState | None:
        """Size and time of a regular file or of the one a link points to; None for anything else."""
        try:
            if not entry.is_file():
                return None
            found = entry.stat()
        except OSError as error:
            self._note(error, entry.path)
            return None
        return found.st_size, found.st_mtime_ns

    def _note(self, error: OSError, path: str) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # these say that it is gone
            self.unreadable.append(path)


def is_temporary(name: str) -> bool:
    """Tell whether a file or folder of this name is one of a copy that is not finished, or is hidden."""
    return name.startswith(".") or name.lower().endswith(TEMPORARY_SUFFIXES)


def _take_in(files: dict[str, FileState], ledger: Ledger) -> None:
    items = sorted(files.items())
    with SourceReader() as reader, ThreadPoolExecutor(READ_THREADS) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of every oddity; ingest makes reason codes of those that matter
        for first in range(0, len(items), COMMIT_EVERY):
            some = items[first : first + COMMIT_EVERY]
            units = pool.map(lambda item: _study_or_folder(item[0], item[1], reader), some)
            now = utc_now()
            ledger.arrivals.record(
                ArrivalRecord(path, *state, study_uid=unit, changed_at=now)
                for (path, state), unit in zip(some, units, strict=True)
            )


def _study_or_folder(path: str, state: FileState, reader: SourceReader) -> str | None:
    """Name what the file belongs to, see `storage.arrivals`; None for a file on its own."""
    size, _ = state
    try:
        head = reader.head(path, FIRST_BYTES)
        if is_archive(head) or not looks_like_dicom(head, path):
            return None
        uid = study_uid(head)
        if uid is None and size > FIRST_BYTES:
            uid = study_uid(reader.head(path, MORE_BYTES))
    except UnreadableFileError:
        return None
    return f"{os.path.dirname(path)}/" if uid == "" else uid

"""The header pass of ingest: what each file turns out to be, a few files ahead of the one being looked at."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ops.dicom.headers import SNIFF_LENGTH, InstanceHeader, UnreadableDicomError, looks_like_dicom, read_header
from storage.records import RejectedFileRecord, storable_text
from storage.sources import SourceReader, UnreadableFileError, is_archive

# Reading and digesting release the interpreter lock; parsing does not.
SCAN_THREADS = 2
# Files read ahead of the one being grouped.
_READ_AHEAD = 8


@dataclass(frozen=True)
class Seen:
    """What one file turned out to be: an instance, an archive with members, rejected, or (none of these) not DICOM."""

    name: str
    header: InstanceHeader | None = None
    rejected: RejectedFileRecord | None = None
    members: tuple[str, ...] = ()


def scan(names: Sequence[str], reader: SourceReader) -> Iterator[Seen]:
    """Look at every file, a few ahead, in order; members of an archive follow the archive."""
    waiting, running = deque(names), deque[Future[Seen]]()
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        while waiting or running:
            while waiting and len(running) < _READ_AHEAD:
                running.append(pool.submit(look, waiting.popleft(), reader))
            seen = running.popleft().result()
            waiting.extendleft(reversed(seen.members))
            yield seen


def look(name: str, reader: SourceReader) -> Seen:
    """Read one file and tell what it is; whatever is wrong with it is in the answer."""
    try:
        head = reader.head(name, SNIFF_LENGTH)
        if is_archive(head):
            return Seen(name, members=tuple(reader.members(name)))
        if not looks_like_dicom(head, name):
            return Seen(name)
        return Seen(name, header=read_header(reader.read(name), name))
    except UnreadableDicomError as error:
        if error.reason == "dicomdir":
            return Seen(name)
        return Seen(name, rejected=rejected_file(name, error.reason, str(error)))
    except UnreadableFileError as error:
        return Seen(name, rejected=rejected_file(name, error.reason, str(error)))
    except MemoryError:
        return Seen(name, rejected=rejected_file(name, "unreadable_file", f"{name}: not enough memory to read it"))


def rejected_file(name: str, reason: str, detail: str) -> RejectedFileRecord:
    """Record of a file that cannot be used, for a reason code."""
    return RejectedFileRecord(storable_text(name), reason, storable_text(detail))

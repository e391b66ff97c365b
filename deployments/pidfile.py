"""Who is up in a home: a file with a process number, locked for as long as that process lives.

The lock is what counts. A number alone outlives its process, and the system gives it to another one.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PID_FILE = "up.pid"

TRIES = 5


@contextmanager
def claimed(home: Path) -> Iterator[bool]:
    """Claim a home for as long as the block; yields False when another process has it."""
    with open(home / PID_FILE, "a+", encoding="ascii") as file:
        if not _locked(file):
            yield False
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield True


def _locked(file: IO[str]) -> bool:
    """Lock a file; tried for a moment, because whoever asks for the owner holds it for an instant."""
    for _ in range(TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.05)
    return False


def owner(home: Path) -> int | None:
    """Process that has claimed a home; None when there is none."""
    with suppress(OSError, ValueError), open(home / PID_FILE, encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read())
    return None

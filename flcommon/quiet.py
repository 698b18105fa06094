"""Quiet moments: the server holds the experiment between two rounds while a controller that watches pulls the logs.

Files in the server's directory carry the word: a watcher holds a lock on `watched`; the server writes `paused` for as
long as it waits; the controller writes the number of the pause that may end to `resume`. Nothing crosses the network
on behalf of the server, and without a watcher nothing is held up.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WATCHED_FILE = "watched"
PAUSED_FILE = "paused"
RESUME_FILE = "resume"


@contextmanager
def watching(directory: Path) -> Iterator[None]:
    """Be a watcher of this directory's process; ends with this process, however that ends."""
    with (directory / WATCHED_FILE).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        os.utime(lock.fileno(), ns=(time.time_ns(),) * 2)  # the kernel's own stamp may be 4 ms old
        yield


def is_watched(directory: Path, since_s: float = 0.0) -> bool:
    """Whether somebody watches this directory's process who has come after a moment (`time.time()`)."""
    try:
        if (directory / WATCHED_FILE).stat().st_mtime <= since_s:
            return False
        with (directory / WATCHED_FILE).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def paused(directory: Path, number: int) -> Iterator[None]:
    """Say that pause `number` is on while the with-block lasts."""
    (directory / PAUSED_FILE).write_text(f"{number}")
    try:
        yield
    finally:
        (directory / PAUSED_FILE).unlink(missing_ok=True)


def is_paused(directory: Path, number: int) -> bool:
    """Whether pause `number` is on right now."""
    return _number(directory / PAUSED_FILE) == number


def resume(directory: Path, number: int) -> None:
    """Let pause `number` end."""
    draft = directory / f".{RESUME_FILE}"
    draft.write_text(f"{number}")
    draft.replace(directory / RESUME_FILE)


def may_resume(directory: Path, number: int) -> bool:
    """Whether the controller has let pause `number` end."""
    return _number(directory / RESUME_FILE) >= number


def _number(path: Path) -> int:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return -1

"""The host's end of a conversation with its controller: every word is answered by when it came and went, by our clocks.

A word says that the controller is there (`flcommon.lease`). Ends with the input, or when nothing is said for too long.
"""

from __future__ import annotations

import gc
import os
import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from flcommon.lease import CONTROL_FILE, LEASE_S, leave, renew

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEAVE = b"leave"
"""The word by which a controller leaves the campaign running; it is answered, as it is, once that is written down."""
SILENCE_S = 3 * LEASE_S
"""After so long without a word nobody is at the other end of the connection, even where it is not closed."""
_PIECE_BYTES = 4096


def converse(directory: Path, heard: int = 0, silence_s: float = SILENCE_S) -> Iterator[bytes]:
    """Answer each line that comes from the file descriptor `heard`, for the process in a directory.

    An answer is the line itself, then when it was received and when it was answered, each by the monotonic and by the
    wall clock, in ns. Before the directory is there, moments are all that a controller gets.
    """
    control = directory / CONTROL_FILE
    gc.disable()  # a collection would stand between a line and its stamp; nothing here makes cycles
    rest = b""
    while select.select([heard], [], [], silence_s)[0] and (piece := os.read(heard, _PIECE_BYTES)):
        came = _now()
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line == LEAVE:
                with suppress(FileNotFoundError):
                    leave(control)
                yield LEAVE + b"\n"
            else:
                yield b"%s %d %d %d %d\n" % (line, *came, *_now())
                with suppress(FileNotFoundError):  # after the answer, which shall not wait for a disk
                    renew(control)


def _now() -> tuple[int, int]:
    return time.monotonic_ns(), time.time_ns()

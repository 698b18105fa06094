"""Where an events.jsonl file ends: the number of its last event, and whether a line was cut off. Cheap to import."""

from __future__ import annotations

import os
from typing import NamedTuple

import msgspec

from flcommon.decoding import decoded

_FIRST_BYTES = 64 * 1024
"""How far back to look at first; further only where no event ends within that."""


class LogEnd(NamedTuple):
    """`number` of the last event that is whole, -1 if there is none; `torn`: the last line has no end."""

    number: int
    torn: bool


class _Head(msgspec.Struct):
    seq: int


def log_end(descriptor: int) -> LogEnd:
    """Look at the end of a log that is open for reading, and that nobody writes to.

    A last line without its end is whole if it is an event: then only the end of the line is missing.
    """
    size = os.fstat(descriptor).st_size
    span = _FIRST_BYTES
    while True:
        start = max(0, size - span)
        tail = os.pread(descriptor, size - start, start)
        found = _last_number(tail, whole=start == 0)
        if found is not None or start == 0:
            return LogEnd(-1 if found is None else found, torn=not tail.endswith(b"\n") and size > 0)
        span *= 4


def _last_number(tail: bytes, *, whole: bool) -> int | None:
    """Return the number of the last event in these bytes; unless they are the `whole` log, their first line is none."""
    decoder = msgspec.json.Decoder(_Head)
    lines = tail.split(b"\n")
    for line in reversed(lines if whole else lines[1:]):
        try:
            return decoded(decoder.decode, line).seq
        except msgspec.MsgspecError:
            continue
    return None

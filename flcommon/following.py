"""Follows what a process writes, line by line, until it has ended; one that is started again meanwhile goes on."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from flcommon.decoding import decoded
from flcommon.process import EVENTS_FILE, Exit, alive, alone, read_exit, read_identity
from flcommon.quiet import watching

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_LOOK_S = 0.05
"""How often a watcher looks at the log's size: a stat(2) that costs microseconds."""
_PIECE_BYTES = 1 << 20


class _Head(msgspec.Struct):
    name: str
    seq: int = 0


def watch(directory: Path, names: Sequence[str], after: int = -1) -> Iterator[bytes]:
    """Yield the event lines of these names as they come, and at the end one line that is an `Exit`.

    `after` is the sequence number of the last event that the caller has already, whatever its name.
    Raises SystemExit where nothing was started.
    """
    _refuse_empty(directory)
    wanted = frozenset(names)
    decoder = msgspec.json.Decoder(_Head)
    with watching(directory):
        for line in lines(directory, EVENTS_FILE):
            with suppress(msgspec.MsgspecError):
                head = decoded(decoder.decode, line)
                if head.name in wanted and head.seq > after:
                    yield line
        yield msgspec.json.encode(read_exit(directory) or Exit(None)) + b"\n"


def lines(directory: Path, name: str, offset: int = 0) -> Iterator[bytes]:
    """Yield the lines of one of a process's files from an offset on, as they come, until the process has ended.

    A last line without its end comes too, once nothing more can come.
    """
    rest = b""
    while True:
        ended = _has_ended(directory)
        while new := read_from(directory / name, offset, _PIECE_BYTES):
            offset += len(new)
            *complete, rest = (rest + new).split(b"\n")
            yield from (line + b"\n" for line in complete)
        if ended:
            if rest:
                yield rest + b"\n"
            return
        time.sleep(_LOOK_S)


def read_from(path: Path, offset: int, most: int = -1) -> bytes:
    """Return what a growing file holds from an offset on, `most` bytes at most; nothing if there is no file yet."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(most)
    except FileNotFoundError:
        return b""


def print_lines(told: Iterable[bytes]) -> None:
    """Write lines to standard output, each at once."""
    for line in told:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def _refuse_empty(directory: Path) -> None:
    """Raise SystemExit where nothing was started; a start that is under way is waited for."""
    if read_identity(directory) is None:
        with alone(directory.parents[1]):
            if read_identity(directory) is None:
                raise SystemExit(f"{directory}: nothing was started there")


def _has_ended(directory: Path) -> bool:
    """Whether the process has ended and none is being started in its place; waits for its exit file."""
    who = read_identity(directory)
    if who is None or alive(who):
        return False
    _await_exit(directory)
    if read_exit(directory) is not None:
        return read_identity(directory) == who
    with alone(directory.parents[1]):  # no exit file: one may be starting, which begins by removing it
        return read_identity(directory) == who


def _await_exit(directory: Path) -> None:
    """Give the supervisor a moment to write the exit file of a process that has just gone."""
    deadline = time.monotonic() + 1.0
    while read_exit(directory) is None and time.monotonic() < deadline:
        time.sleep(_LOOK_S / 5)

"""How the processes of a host stand, and the end of what they write. Changes nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from flcommon.following import lines, read_from
from flcommon.process import EVENTS_FILE, PROCESS_FILE, alive, read_exit, read_identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LATEST = 5
"""Processes that are told of; a host keeps those of every campaign it ever had."""
_TAIL_BYTES = 64 * 1024


class Status(msgspec.Struct, frozen=True):
    """One process: alive, or its exit status (None: nobody saw it end), and the last trial and round in its log.

    `age_s` is how many seconds ago it started, by the host's clock.
    """

    directory: str
    alive: bool
    exit: int | None
    age_s: float
    trial: int | None = None
    round: int | None = None


class _Place(msgspec.Struct):
    trial: int | None = None
    round: int | None = None


def statuses(below: Path, now_s: float) -> list[Status]:
    """Return how the latest processes in a host's campaigns directory stand, the latest first."""
    files = sorted(below.glob(f"*/*/{PROCESS_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [_status(path, now_s) for path in files[:LATEST]]


def tail(directory: Path, name: str, count: int, *, follow: bool) -> Iterator[bytes]:
    """Yield the last lines of one of a process's files; with `follow`, then what is added until it has ended."""
    path = directory / name
    start = _start_of_last(path, count)
    return lines(directory, name, start) if follow else iter(read_from(path, start).splitlines(keepends=True))


def _status(file: Path, now_s: float) -> Status:
    directory = file.parent
    who, ended, place = read_identity(directory), read_exit(directory), _last_place(directory / EVENTS_FILE)
    return Status(
        directory=str(directory),
        alive=who is not None and alive(who),
        exit=ended.status if ended else None,
        age_s=now_s - file.stat().st_mtime,
        trial=place.trial,
        round=place.round,
    )


def _last_place(log: Path) -> _Place:
    """Return the trial and round of the last event that has both."""
    decoder = msgspec.json.Decoder(_Place)
    size = log.stat().st_size if log.exists() else 0
    for line in reversed(read_from(log, max(0, size - _TAIL_BYTES)).splitlines()):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            place = decoder.decode(line)
            if place.round is not None:
                return place
    return _Place()


def _start_of_last(path: Path, count: int) -> int:
    """Return where the last `count` lines begin, looking no further back than 64 KiB."""
    size = path.stat().st_size if path.exists() else 0
    start = max(0, size - _TAIL_BYTES)
    ends = [place for place, byte in enumerate(read_from(path, start)[: size - start]) if byte == ord("\n")]
    # The end of the line before them; a last line without its end counts as one.
    before = count + 1 if ends and ends[-1] == size - start - 1 else count
    return start + ends[-before] + 1 if len(ends) >= before else start

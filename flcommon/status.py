"""How the processes of a host stand, and the end of what they write. Changes nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from flcommon.decoding import decoded
from flcommon.following import lines, read_from
from flcommon.process import EVENTS_FILE, PROCESS_FILE, alive, read_exit, read_identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LATEST = 5
"""Processes that are told of; a host keeps those of every campaign it ever had."""
_TAIL_BYTES = 64 * 1024
_LATELY_BYTES = 1 << 20
"""How much of a log's end is searched for what went wrong."""
_LONGEST_BYTES = 1 << 26
"""And how much at most for where it stands: an hour's samples of 30 clients."""
_GONE = {"client-lost": "lost", "client-given-up": "given up"}


class Status(msgspec.Struct, frozen=True):
    """One process: alive, or its exit status (None: nobody saw it end), and the last trial and round in its log.

    `age_s` is how many seconds ago it started, by the host's clock; `start` counts the starts in its directory. By the
    last MiB of its log: clients that are `missing` (a server's), and the last error that the app `raised` (a client's).
    """

    directory: str
    alive: bool
    exit: int | None
    age_s: float
    trial: int | None = None
    round: int | None = None
    start: int = 1
    missing: dict[str, str] = {}
    raised: str | None = None


class _Word(msgspec.Struct):
    name: str
    client: str = ""
    error: str | None = None


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
    missing, raised = _lately(directory / EVENTS_FILE)
    return Status(
        directory=str(directory),
        alive=who is not None and alive(who),
        exit=ended.status if ended else None,
        age_s=now_s - file.stat().st_mtime,
        trial=place.trial,
        round=place.round,
        start=who.start if who is not None else 1,
        missing=missing,
        raised=raised,
    )


def _lately(log: Path) -> tuple[dict[str, str], str | None]:
    """Return which clients are lost or given up, and the last error that an app raised."""
    decoder = msgspec.json.Decoder(_Word)
    missing: dict[str, str] = {}
    raised = None
    for line in read_from(log, _start_of_end(log, _LATELY_BYTES)).splitlines():
        if b'"name":"client-' not in line and b'"name":"app-raised"' not in line:
            continue
        with suppress(msgspec.MsgspecError):
            word = decoded(decoder.decode, line)
            if word.name in _GONE:
                missing[word.client] = _GONE[word.name]
            elif word.name == "app-raised":
                raised = word.error
            else:
                missing.pop(word.client, None)
    return missing, raised


def _start_of_end(path: Path, most: int) -> int:
    """Return where the last `most` bytes of a file begin."""
    return max(0, path.stat().st_size - most) if path.exists() else 0


def _last_place(log: Path) -> _Place:
    """Return the trial and round of the last event that has both; samples of a long round may stand behind it."""
    decoder = msgspec.json.Decoder(_Place)
    for most in (_TAIL_BYTES, _LATELY_BYTES, _LONGEST_BYTES):
        start = _start_of_end(log, most)
        for line in reversed(read_from(log, start).splitlines()):
            if b'"round":' not in line:
                continue
            with suppress(msgspec.MsgspecError):
                place = decoded(decoder.decode, line)
                if place.round is not None:
                    return place
        if start == 0:
            break
    return _Place()


def _start_of_last(path: Path, count: int) -> int:
    """Return where the last `count` lines begin, looking no further back than 64 KiB."""
    size = path.stat().st_size if path.exists() else 0
    start = max(0, size - _TAIL_BYTES)
    ends = [place for place, byte in enumerate(read_from(path, start)[: size - start]) if byte == ord("\n")]
    # The end of the line before them; a last line without its end counts as one.
    before = count + 1 if ends and ends[-1] == size - start - 1 else count
    return start + ends[-before] + 1 if len(ends) >= before else start

"""Writes and reads the append-only timing logs (events.jsonl).

The instrument must cost less than what it measures: a caller takes the moment first (`now`), does its work, and
writes afterwards; a write is one `write(2)` of one line to the page cache, a few microseconds, and touches no network.

A process that is started again goes on in the log of the one before it: numbers go on, a line that was torn by a power
failure is closed, and its own `job` line says where its monotonic clock begins, which is another after a reboot.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from flcommon.decoding import decoded
from flcommon.events import SCHEMA_VERSION, AnyEvent, Event, JobAccepted, Stamp
from flcommon.logend import log_end

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_encoder = msgspec.json.Encoder()
_stamp_decoder = msgspec.json.Decoder(Stamp)
_event_decoder = msgspec.json.Decoder(AnyEvent)


class Moment(NamedTuple):
    """One instant on the two clocks of this host, in nanoseconds."""

    mono_ns: int
    wall_ns: int

    def until_s(self, later: Moment) -> float:
        """Return the seconds from this moment to `later`, by the monotonic clock."""
        return (later.mono_ns - self.mono_ns) / 1e9


def now() -> Moment:
    """Return this instant."""
    return Moment(time.monotonic_ns(), time.time_ns())


class EventLog:
    """An events.jsonl file that one process appends to, from any of its threads; it goes on behind an earlier one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._lock = threading.Lock()
        end = log_end(self._fd)
        if end.torn:
            os.write(self._fd, b"\n")
        self._seq = end.number + 1

    def write(self, event: Event, at: Moment | None = None) -> Moment:
        """Append one event that happened `at` a moment (default: now) and return that moment.

        Raises OSError when the line cannot be written whole, for example on a full disk.
        """
        moment = at or now()
        self.write_all([(event, moment)])
        return moment

    def write_all(self, entries: Sequence[tuple[Event, Moment]]) -> None:
        """Append events that belong together, at the price of one; raises as `write` does."""
        bodies = [(moment, _encoder.encode(event)) for event, moment in entries]
        with self._lock:
            lines = b"".join(
                [
                    b'{"v":%d,"seq":%d,"mono_ns":%d,"wall_ns":%d,%b\n'
                    % (SCHEMA_VERSION, number, moment.mono_ns, moment.wall_ns, body[1:])
                    for number, (moment, body) in enumerate(bodies, self._seq)
                ]
            )
            # Before the write: whatever interrupts it, a signal or a full disk, no number is given twice.
            self._seq += len(bodies)
            written = os.write(self._fd, lines)
            while written < len(lines):
                written += os.write(self._fd, lines[written:])

    def close(self) -> None:
        """Close the file; writing afterwards is an error."""
        os.close(self._fd)


@dataclass(frozen=True)
class Reading:
    """What a log file held: the events in file order, and one sentence for each line that could not be used."""

    events: list[tuple[Stamp, AnyEvent]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def parse_line(line: bytes) -> tuple[Stamp, AnyEvent]:
    """Decode one line; raises msgspec.MsgspecError when it is not an event of this schema."""
    return decoded(_stamp_decoder.decode, line), decoded(_event_decoder.decode, line)


def read_log(path: Path) -> Reading:
    """Read a log, tolerating torn lines (the last of a process) and gaps: both are reported, neither is fatal."""
    reading = Reading()
    expected, unusable = 0, 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            stamp = decoded(_stamp_decoder.decode, line)
            if stamp.seq != expected:
                reading.problems.append(f"{path.name}:{number}: {_jump(expected, stamp.seq)}")
            expected = stamp.seq + 1
            event = decoded(_event_decoder.decode, line)
            reading.events.append((stamp, event))
            if isinstance(event, JobAccepted) and unusable == number - 1 > 0:
                reading.problems[-1] = f"{path.name}:{unusable}: torn"
        except msgspec.MsgspecError as error:
            unusable = number
            what = f"unusable ({error})" if line.endswith(b"\n") else "torn"
            reading.problems.append(f"{path.name}:{number}: {what}")
    return reading


def processes(events: Iterable[tuple[Stamp, AnyEvent]]) -> list[list[tuple[Stamp, AnyEvent]]]:
    """Return the events of each process that wrote a log, in order: durations are known only within one of them."""
    found: list[list[tuple[Stamp, AnyEvent]]] = []
    for stamp, event in events:
        if not found or isinstance(event, JobAccepted):
            found.append([])
        found[-1].append((stamp, event))
    return found


def _jump(expected: int, found: int) -> str:
    """Say in words what a sequence number tells that is not the next one."""
    if found < expected:
        return f"event {found} stands where event {expected} should"
    return f"events {expected} to {found - 1} are missing"

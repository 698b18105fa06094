"""What one side of a stream has to say: numbered, kept until the other side has heard it, said again where it must be.

An outbox outlives connections. `connect` begins a new one at the place up to which the other side has heard; `messages`
are what goes into gRPC for it. Used from many threads.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from flcommon import wire
from flcommon.eventlog import Moment, now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Offered:
    """How a frame went into gRPC: when its first byte was offered, when gRPC had taken the last, and bytes in all."""

    first: Moment
    last: Moment
    wire_bytes: int


class Watch(Protocol):
    """Who is told what becomes of a frame, from the connection's thread."""

    def offered(self, how: Offered) -> None:
        """All of it has gone into gRPC."""

    def redelivered(self, start: int, size_bytes: int) -> None:
        """It goes into a new connection, from byte `start` of its body's `size_bytes` on."""


@dataclass
class _Entry:
    """A frame in the outbox. Number 0: it may be lost with its connection. `begun`: a part of it went into gRPC."""

    number: int
    frame: wire.Frame
    body: tuple[bytes, ...]
    watch: Watch | None
    begun: bool = False

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.body))


@dataclass(frozen=True)
class Wire:
    """One connection's share of an outbox: its queue; None in it ends the connection's messages."""

    queue: SimpleQueue[tuple[_Entry, int] | None] = field(default_factory=SimpleQueue)


class Outbox:
    """Frames to the other side. `heard` says which of its numbers have arrived here, for every envelope to tell."""

    def __init__(self, heard: Callable[[], int]) -> None:
        self._heard = heard
        self._lock = threading.Lock()
        self._kept: deque[_Entry] = deque()
        self._number = 0
        self._wire: Wire | None = None
        self._waiting = 0

    def post(self, frame: wire.Frame, body: tuple[bytes, ...] = (), watch: Watch | None = None) -> None:
        """Say something that must arrive, now or by a later connection."""
        with self._lock:
            self._number += 1
            entry = _Entry(self._number, frame, body, watch)
            self._kept.append(entry)
            self._put(entry)

    def mention(self, frame: wire.Frame) -> None:
        """Say something that may be lost; without a connection it is."""
        with self._lock:
            self._put(_Entry(0, frame, (), None))

    def _put(self, entry: _Entry) -> None:
        if self._wire is not None:
            self._waiting += 1
            self._wire.queue.put((entry, 0))

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way into gRPC."""
        return self._waiting == 0

    def connect(self, wire_: Wire, heard: wire.Place) -> None:
        """Go on by a new connection, for which `messages` runs or will run, where the other side has stopped hearing.

        Raises ProtocolError where that is a place that cannot be.
        """
        with self._lock:
            self._confirm(heard.number)
            self._end_wire()
            self._check(heard)
            self._wire = wire_
            self._waiting = len(self._kept)
            for entry in self._kept:
                wire_.queue.put((entry, heard.filled if entry.number == heard.number + 1 else 0))

    def _check(self, heard: wire.Place) -> None:
        first = self._kept[0] if self._kept else None
        size = first.size_bytes if first else 0
        if heard.number > self._number or heard.filled > size or (first and first.number != heard.number + 1):
            raise wire.ProtocolError(f"it has heard up to frame {heard.number}, byte {heard.filled} of the next")

    def disconnect(self, wire_: Wire) -> None:
        """End a connection's messages; what it has not got across is kept for the next."""
        with self._lock:
            if self._wire is wire_:
                self._end_wire()
            else:
                wire_.queue.put(None)

    def _end_wire(self) -> None:
        if self._wire is not None:
            self._wire.queue.put(None)
        self._wire, self._waiting = None, 0

    def finish(self) -> None:
        """End the connection's messages after what is there already."""
        with self._lock:
            self._end_wire()

    def confirm(self, number: int) -> None:
        """Let go of what the other side has heard."""
        if self._kept:  # looked at without the lock: a confirmation that comes too early for this one comes again
            with self._lock:
                self._confirm(number)

    def _confirm(self, number: int) -> None:
        while self._kept and self._kept[0].number <= number:
            self._kept.popleft()

    def reset(self) -> None:
        """Forget everything: the other side knows nothing of this outbox, and numbers begin anew."""
        with self._lock:
            self._end_wire()
            self._kept.clear()
            self._number = 0

    def messages(self, wire_: Wire) -> Iterator[bytes]:
        """Yield one connection's gRPC messages as there is something to say, until the connection is ended.

        gRPC asks for the next message when it has taken the one before.
        """
        while (next_ := wire_.queue.get()) is not None:
            entry, start = next_
            if entry.begun and entry.watch is not None:
                entry.watch.redelivered(start, entry.size_bytes)
            entry.begun = True
            yield from self._one(wire_, entry, start)
            del next_, entry  # its body, which would be held here until there is something else to say

    def _one(self, wire_: Wire, entry: _Entry, start: int) -> Iterator[bytes]:
        first = now()
        header = wire.pack(
            wire.Envelope(
                entry.number,
                self._heard(),
                wire.Clocks(*first),
                entry.frame,
                tuple(map(len, entry.body)),
                start,
            )
        )
        size = 0
        for message in wire.messages(header, entry.body, start):
            size += len(message) + wire.GRPC_PREFIX_BYTES
            yield message
        if entry.watch is not None:
            entry.watch.offered(Offered(first, now(), size))
        with self._lock:
            if self._wire is wire_:
                self._waiting -= 1

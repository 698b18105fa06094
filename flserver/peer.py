"""One client as the server knows it, across all its connections and processes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from flcommon import wire
from flcommon.eventlog import Moment, now
from flcommon.inbox import Heard, Inbox
from flcommon.outbox import Outbox, Watch, Wire
from flcommon.sockets import Address, peer_address
from flserver.probes import Probes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import grpc


MOST_LOSSES = 10
"""A client that comes and goes so often, without a whole frame in between and without staying, is given up."""
STEADY_S = 30.0
"""A connection that has lasted so long is no coming and going."""


@dataclass(eq=False)
class Line:
    """One connection of a client: gRPC's stream, what is said on it, and why it ends, if it ends by an error."""

    context: grpc.ServicerContext
    wire: Wire = field(default_factory=Wire)
    reason: str = "its connection broke"
    since: Moment = field(default_factory=now)

    @property
    def address(self) -> str:
        """Where the client is, in gRPC's words: `ipv4:192.0.2.21:50123`."""
        return str(self.context.peer())

    @cached_property
    def peer(self) -> Address | None:
        """The same as the kernel has it, None of what is no IP address."""
        return peer_address(self.address)


@dataclass(frozen=True)
class Parcel:
    """An instruction with all that it takes to send it again; `tried`: its client was connected when it was sent."""

    frame: wire.Instruction
    body: tuple[bytes, ...]
    watch: Watch
    tried: bool = False


class Peer:
    """A client of the campaign. `on_progress` hears of long transfers.

    Everything but posting is under the roster's lock; what a connection hears, under the peer's own, so that a
    connection that has been replaced is not heard any more.
    """

    def __init__(self, name: str, node_id: int, on_progress: Callable[[str, wire.Frame, int, int], None]) -> None:
        self.name = name
        self.node_id = node_id
        self.session: str | None = None
        self.line: Line | None = None
        self.lost_at: Moment | None = None
        self.reason = ""
        self.given_up: str | None = None
        self.banned = False
        self.joined = False
        self.losses = 0
        self.heard_at = now()
        self.prepared: set[int] = set()
        self.switched: wire.Switched | None = None
        self.measured: str | None = None
        self.errand: wire.Frame | None = None
        """What it was asked for outside a trial, until that is done: a process that takes its place is asked anew."""
        self.unanswered: dict[str, Parcel] = {}
        self.reading = threading.Lock()
        self.outbox = Outbox(lambda: self.inbox.number)
        self.probes = Probes(name, self.outbox)
        self.inbox: Inbox[wire.FromClient] = Inbox(
            wire.from_client,
            self.outbox.confirm,
            lambda frame, filled, size: on_progress(name, frame, filled, size),
        )

    @property
    def connected(self) -> bool:
        """Whether a connection of it is open, as far as is known."""
        return self.line is not None

    @property
    def idle(self) -> bool:
        """Whether it is connected and nothing is on its way in either direction."""
        return self.connected and self.outbox.idle and self.inbox.idle

    def hear(self, line: Line, data: bytes, at: Moment) -> Heard[wire.FromClient] | None:
        """Take in what came on a connection, unless that has been replaced; raises ProtocolError."""
        with self.reading:
            if self.line is not line:
                return None
            self.heard_at = at
            heard = self.inbox.take(data, at)
        if heard is not None and heard.number:
            self.losses = 0
            if heard.size_bytes >= wire.LONG_BYTES:
                self.outbox.mention(wire.Confirm())
        return heard

    def take_line(self, line: Line) -> wire.Place:
        """Be heard by a new connection from now on; return up to where the client has been heard already."""
        with self.reading:
            before, self.line, self.heard_at = self.line, line, now()
            self.inbox.connect()
            if before is not None:
                self.outbox.disconnect(before.wire)
            return self.inbox.heard

    def drop_line(self, line: Line) -> bool:
        """End a connection; False if it has been replaced already."""
        with self.reading:
            current = self.line is line
            if current:
                self.line = None
        self.outbox.disconnect(line.wire)
        return current

    def begin_anew(self, session: str, state: Sequence[wire.Frame]) -> None:
        """Begin with a process that knows nothing: it gets the campaign's `state`, and what it has not answered."""
        with self.reading:
            self.line, self.session = None, session
            self.prepared.clear()
            self.switched = None
            self.inbox.reset()
            self.outbox.reset()
        for frame in (*state, self.errand):
            if frame is not None:
                self.outbox.post(frame)
        for parcel in self.unanswered.values():
            if parcel.tried:
                parcel.watch.redelivered(0, sum(map(len, parcel.body)))
            self.outbox.post(parcel.frame, parcel.body, parcel.watch)

    def note(self, done: wire.Prepared | wire.Switched | wire.Measured) -> None:
        """Remember what the client has done, for who waits for it."""
        match done:
            case wire.Prepared(trial):
                self.prepared.add(trial)
            case wire.Switched():
                self.switched = done
            case wire.Measured(stage):
                self.measured = stage

    def instruct(self, parcel: Parcel) -> None:
        """Send an instruction, and keep it until it is answered."""
        self.unanswered[parcel.frame.message] = replace(parcel, tried=self.connected)
        self.outbox.post(parcel.frame, parcel.body, parcel.watch)

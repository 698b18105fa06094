"""What one side of a connection wrote about its messages: sent, received, sent again, and what the kernel said beside.

Moments are of that side's monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flcommon.events import (
    ComputeEnded,
    ComputeStarted,
    Delayed,
    MessageReceived,
    MessageSent,
    Redelivered,
    ReplyReceived,
    ReplySent,
    TcpSampled,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flcommon.events import AnyEvent, Stamp


@dataclass
class Tcp:
    """One side's samples of a connection, in order of time."""

    samples: list[TcpSampled] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)

    def note(self, event: TcpSampled) -> None:
        """Take in the next sample."""
        if event.message is not None:
            self.places.setdefault(event.message, []).append(len(self.samples))
        self.samples.append(event)

    def beside(self, message: str) -> TcpSampled | None:
        """Return the last sample beside a message."""
        return self.samples[self.places[message][-1]] if message in self.places else None

    def retransmitted(self, message: str) -> int | None:
        """Return the segments sent again since the sample before; None after a new connection, which counts anew."""
        places = self.places.get(message, [])
        if not places or places[-1] == 0:
            return None
        before = places[0] if len(places) > 1 else places[0] - 1
        old, new = (self.samples[place].tcp.retransmitted for place in (before, places[-1]))
        return new - old if old is not None and new is not None and new >= old else None


@dataclass
class Side:
    """What one side knows of its messages: where it sent one several times, all of them; received, the last."""

    sent: dict[str, list[tuple[int, MessageSent | ReplySent]]] = field(default_factory=dict)
    received: dict[str, tuple[int, MessageReceived | ReplyReceived]] = field(default_factory=dict)
    redelivered: set[str] = field(default_factory=set)
    delays: dict[str, float] = field(default_factory=dict)
    started: dict[str, int] = field(default_factory=dict)
    ended: dict[str, tuple[int, ComputeEnded]] = field(default_factory=dict)
    delayed: dict[str, tuple[int, Delayed]] = field(default_factory=dict)
    tcp: dict[tuple[str, bool], Tcp] = field(default_factory=dict)

    def connection(self, client: str) -> Tcp:
        """Return the samples of what leads to the other host: a relay's connection, where there is one."""
        return self.tcp.get((client, True)) or self.tcp.get((client, False)) or Tcp()


def side_of(told: Iterable[tuple[Stamp, AnyEvent]]) -> Side:
    """Read one process's events."""
    side = Side()
    for stamp, event in told:
        match event:
            case MessageSent() | ReplySent():
                side.sent.setdefault(event.message, []).append((stamp.mono_ns, event))
            case MessageReceived() | ReplyReceived():
                side.received[event.message] = (stamp.mono_ns, event)
            case Redelivered():
                side.redelivered.add(event.message)
            case Delayed():
                side.delays[event.message] = event.measured_s
                side.delayed[event.message] = (stamp.mono_ns, event)
            case ComputeStarted():
                side.started[event.message] = stamp.mono_ns
            case ComputeEnded():
                side.ended[event.message] = (stamp.mono_ns, event)
            case TcpSampled():
                side.tcp.setdefault((event.client, event.relay), Tcp()).note(event)
            case _:
                pass
    return side

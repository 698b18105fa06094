"""Measures the path to the server through the stream itself: one-way differences, round trips, goodput.

The server pings and answers (`flserver.probes`); what is asked and what follows from it is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from flcommon import wire
from flcommon.errors import FieldlabError

if TYPE_CHECKING:
    from flclient.connection import Connection
    from flcommon.inbox import Heard

TIMEOUT_S = 300.0
LOADS = 3
"""Loads in each direction; the first fills the path, and the time from its end to the last one's counts."""
F = TypeVar("F", wire.Found, wire.Load)


class Interrupted(FieldlabError):
    """The connection was begun anew, or the campaign has ended: what was being measured is of no use any more."""


@dataclass(frozen=True)
class Pings:
    """Pings that came back: raw one-way differences in seconds, each off by the clocks' offset, which cancels in sums.

    `down_s` receiver's minus sender's monotonic clock on the way to the client, `up_s` on the way to the server.
    """

    down_s: tuple[float, ...]
    up_s: tuple[float, ...]

    @property
    def rtt_s(self) -> tuple[float, ...]:
        """Each ping's round trip, without the time that the client took to answer."""
        return tuple(down + up for down, up in zip(self.down_s, self.up_s, strict=True))


@dataclass(frozen=True)
class Goodput:
    """Payload in each direction in Mbit/s; None where the clock was too coarse to tell."""

    up_mbit: float | None
    down_mbit: float | None


class Prober:
    """Leads the probes of one client, one after the other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._probe = 0

    def pings(self, count: int, every_ms: float) -> Pings:
        """Have the server ping `count` times, one each `every_ms`; raises Interrupted."""
        self._begin(wire.Ask(self._next(), count, every_ms))
        found = self._await(wire.Found).frame
        return Pings(tuple(ns / 1e9 for ns in found.down_ns), tuple(ns / 1e9 for ns in found.up_ns))

    def goodput(self, size_bytes: int) -> Goodput:
        """Send loads of this size to the server, then have as many sent here; raises Interrupted."""
        self._begin(wire.Ask(self._next(), 0, 0.0, LOADS, size_bytes))
        body = (bytes(size_bytes),)
        for index in range(LOADS):
            self._connection.send(wire.Load(self._probe, index), body)
        down_ns = [self._await(wire.Load).last.mono_ns for _ in range(LOADS)]
        found = self._await(wire.Found).frame
        return Goodput(_mbit(size_bytes, found.loads_ns), _mbit(size_bytes, down_ns))

    def _next(self) -> int:
        self._probe += 1
        return self._probe

    def _begin(self, ask: wire.Ask) -> None:
        self._connection.forget_probes()
        self._connection.send(ask)

    def _await(self, kind: type[F]) -> Heard[F]:
        """Return the next frame of this probe of this kind; frames of a probe that was given up are passed over."""
        while (heard := self._connection.probed(TIMEOUT_S)) is not None:
            if isinstance(heard.frame, kind) and heard.frame.probe == self._probe:
                return cast("Heard[F]", heard)
        raise Interrupted("a probe was interrupted")


def _mbit(size_bytes: int, ends_ns: list[int] | tuple[int, ...]) -> float | None:
    """Return the goodput of all loads but the first, from when each was there whole."""
    if len(ends_ns) < LOADS or ends_ns[-1] <= ends_ns[0]:
        return None
    return 8 * size_bytes * (len(ends_ns) - 1) / (ends_ns[-1] - ends_ns[0]) * 1000

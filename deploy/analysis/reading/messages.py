"""Each message in each direction on the server's clock: how long it took, how much of it was injected, how sure it is.

What a log does not tell is None, and what must not be used without a thought is flagged. `natural_s` is `transfer_s`
minus `injected_s`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from deploy.analysis.clocks.injected import Direction, Injected, Shaped
from deploy.analysis.reading.sides import Side, side_of
from flcommon.events import MessageReceived, MessageSent, ReplyReceived, ReplySent, RoundStarted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.analysis.clocks.clock import ClientProcess, ClockMap
    from deploy.analysis.clocks.exchanges import Process
    from deploy.analysis.reading.sides import Tcp
    from deploy.manifest import Manifest
    from flcommon.events import OfMessage

WINDOW_BYTES = {"kernel": 14480, "relay": 4 << 20}
"""What is sent before an answer is waited for: a delay counts again for all that is longer.

For TCP, after a pause too, ten segments (RFC 6928); a relay ends TCP, and holds as many bytes of a connection.
"""

RESENT = "resent"
CHANGED = "link changed"
LIFTED = "link lifted"
BELOW = "below uncertainty"
LOSSY = "loss injected"
WINDOW = "longer than the first window"
UNFIT = frozenset({RESENT, CHANGED, LIFTED})
"""With such a flag a time says nothing about the network or the link."""
INSEPARABLE = frozenset({*UNFIT, LOSSY, WINDOW})
"""With such a flag its natural part does not."""


class MessageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One message in one direction: down is the instruction, up the reply. None: not known.

    `sent_ns` (first byte) and `received_ns` (whole) are moments of the server's monotonic clock, `uncertainty_s` is
    what `transfer_s` between them may be off by. `round_trip_s` is the server's, from the instruction's first byte to
    the whole reply; `client_s` the client's in between; their difference `network_s`, both directions, needs no common
    clock. `injected_s` is the link's: `applied_ms` or, where the layer measured it, `held_ms`, and with a rate
    `serialisation_s`. `app_delay_s` was injected by the app before a reply was sent. `natural_uncertainty_s` holds
    jitter that nobody measured. A time flagged as below its uncertainty may be used in a median, from which leaving it
    out would leave the longer ones, with the uncertainty beside it. `retransmitted`, `rtt_ms` and `rtt_min_ms` are the
    sending kernel's.
    """

    trial: int
    round: int
    message: str
    client: str
    kind: str
    direction: Direction
    control: bool
    size_bytes: int | None = None
    wire_bytes: int | None = None
    sent_ns: int | None = None
    received_ns: int | None = None
    transfer_s: float | None = None
    uncertainty_s: float | None = None
    round_trip_s: float | None = None
    client_s: float | None = None
    network_s: float | None = None
    layer: str | None = None
    requested_ms: float | None = None
    applied_ms: float | None = None
    held_ms: float | None = None
    rate_mbit: float | None = None
    serialisation_s: float | None = None
    injected_s: float | None = None
    app_delay_s: float | None = None
    natural_s: float | None = None
    natural_uncertainty_s: float | None = None
    retransmitted: int | None = None
    overflowed: int | None = None
    rtt_ms: float | None = None
    rtt_min_ms: float | None = None
    flags: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether `transfer_s` may be used."""
        return self.transfer_s is not None and not UNFIT.intersection(self.flags)

    @property
    def separable(self) -> bool:
        """Whether `natural_s` may be used."""
        return self.natural_s is not None and not INSEPARABLE.intersection(self.flags)


@dataclass(frozen=True)
class OneClient:
    """One process of a client."""

    side: Side
    link: Shaped
    clock: ClockMap | None


def message_rows(
    manifest: Manifest, servers: Sequence[Process], clients: Sequence[ClientProcess]
) -> Iterator[MessageRow]:
    """Yield the messages that the server's processes tell of, in the order in which they were sent."""
    linked = {(trial.index, client) for trial in manifest.trials for client in trial.links}
    for server in servers:
        side = side_of(server.told)
        control = {(e.trial, e.round) for _, e in server.told if isinstance(e, RoundStarted) and e.control}
        own = clients_of(server, clients)
        for message, sent in side.sent.items():
            event = sent[-1][1]
            client = client_of(message, own.get(event.client, []))
            yield from _Message(event, side, client, (event.trial, event.client) in linked).rows(
                control=(event.trial, event.round) in control
            )


def clients_of(server: Process, clients: Sequence[ClientProcess]) -> dict[str, list[OneClient]]:
    """Return what the processes of each client that belong to a server's process have told, in order."""
    own: dict[str, list[OneClient]] = {}
    for each in clients:
        if each.server is server:
            own.setdefault(each.process.host, []).append(OneClient(side_of(each.process.told), each.link, each.clock))
    return own


def client_of(message: str, clients: Sequence[OneClient]) -> OneClient | None:
    """Return the last process of a client that had to do with a message."""
    return next(
        (each for each in reversed(clients) if message in each.side.received or message in each.side.sent), None
    )


@dataclass(frozen=True)
class _Message:
    """One instruction and its reply. `linked`: the plan has a link for this client in this trial."""

    event: OfMessage
    server: Side
    client: OneClient | None
    linked: bool

    def rows(self, *, control: bool) -> Iterator[MessageRow]:
        """Yield the row of the instruction and, if one was sent, that of the reply."""
        event = self.event
        whole = MessageRow(
            trial=event.trial,
            round=event.round,
            message=event.message,
            client=event.client,
            kind=event.kind,
            direction="down",
            control=control,
        )
        whole = self._without_clock(whole)
        yield self._down(whole)
        if event.message in self.server.received or (self.client and event.message in self.client.side.sent):
            yield self._up(msgspec.structs.replace(whole, direction="up"))

    def _without_clock(self, row: MessageRow) -> MessageRow:
        """Add the times that need no common clock."""
        message, side = row.message, self.client.side if self.client else Side()
        trip = _between(self.server.sent[message][0], self.server.received.get(message))
        sent = side.sent.get(message)
        at_client = _between(side.received.get(message), sent[-1] if sent else None)
        return msgspec.structs.replace(
            row,
            round_trip_s=trip,
            client_s=at_client,
            network_s=trip - at_client if trip is not None and at_client is not None else None,
        )

    def _down(self, row: MessageRow) -> MessageRow:
        sent = self.server.sent[row.message]
        here = self.client.side.received.get(row.message) if self.client else None
        first, last = sent[-1]
        row = _sized(row, last)
        if self.client is None or here is None:
            return msgspec.structs.replace(row, sent_ns=first)
        again = len(sent) > 1 or row.message in self.server.redelivered
        if (clock := self.client.clock) is None:
            return self._explained(msgspec.structs.replace(row, sent_ns=first), (None, here[0]), again=again)
        received_ns, uncertainty_s = clock.on_server(here[0])
        row = _timed(row, first, received_ns, uncertainty_s)
        return self._explained(row, (here[0] - (received_ns - first), here[0]), again=again)

    def _up(self, row: MessageRow) -> MessageRow:
        side = self.client.side if self.client else Side()
        sent, here = side.sent.get(row.message), self.server.received.get(row.message)
        row = _sized(row, sent[-1][1] if sent else here[1] if here else None)
        row = msgspec.structs.replace(row, app_delay_s=side.delays.get(row.message), received_ns=here and here[0])
        if self.client is None or sent is None:
            return row
        again = len(sent) > 1 or row.message in side.redelivered
        first = sent[-1][0]
        if (clock := self.client.clock) is None:
            return self._explained(row, (first, first), again=again)
        sent_ns, uncertainty_s = clock.on_server(first)
        if here is None:
            return msgspec.structs.replace(row, sent_ns=sent_ns)
        row = _timed(row, sent_ns, here[0], uncertainty_s)
        return self._explained(row, (first, first + (here[0] - sent_ns)), again=again)

    def _explained(self, row: MessageRow, own_ns: tuple[int | None, int], *, again: bool) -> MessageRow:
        """Add what was injected, and what the kernel of the sending side says; moments of the client's clock."""
        assert self.client is not None  # noqa: S101 - its log is where this comes from
        link = self.client.link
        start_ns, end_ns = own_ns[0] if own_ns[0] is not None else own_ns[1], own_ns[1]
        injected = link.at(start_ns, row.direction) or (None if self.linked else Injected())
        row = _with_tcp(row, (self.client.side if row.direction == "up" else self.server).connection(row.client))
        flags = _flags(row, injected)
        flags += [RESENT] if again else []
        flags += [CHANGED] if link.changes(start_ns, end_ns, row.direction) else []
        flags += [LIFTED] if link.lifted(start_ns, end_ns) else []
        used = link.used.get((row.message, row.direction))
        row = msgspec.structs.replace(row, flags=tuple(flags), overflowed=used.overflowed if used else None)
        return _separated(row, injected, used.held_mean_ms if used else None)


def _between(start: tuple[int, OfMessage] | None, end: tuple[int, OfMessage] | None) -> float | None:
    return (end[0] - start[0]) / 1e9 if start and end else None


def _sized(row: MessageRow, event: MessageSent | ReplySent | MessageReceived | ReplyReceived | None) -> MessageRow:
    return msgspec.structs.replace(row, size_bytes=event.size_bytes, wire_bytes=event.wire_bytes) if event else row


def _timed(row: MessageRow, sent_ns: int, received_ns: int, uncertainty_s: float) -> MessageRow:
    return msgspec.structs.replace(
        row,
        sent_ns=sent_ns,
        received_ns=received_ns,
        transfer_s=(received_ns - sent_ns) / 1e9,
        uncertainty_s=uncertainty_s,
    )


def _with_tcp(row: MessageRow, tcp: Tcp) -> MessageRow:
    sample = tcp.beside(row.message)
    if sample is None:
        return row
    return msgspec.structs.replace(
        row,
        retransmitted=tcp.retransmitted(row.message),
        rtt_ms=sample.tcp.rtt_ms,
        rtt_min_ms=sample.tcp.rtt_min_ms,
    )


def _flags(row: MessageRow, injected: Injected | None) -> list[str]:
    """Return what the times and the link themselves give reason for."""
    flags = []
    if row.transfer_s is not None and row.transfer_s < (row.uncertainty_s or 0.0):
        flags.append(BELOW)
    if injected is not None and injected.lossy:
        flags.append(LOSSY)
    if injected is not None and injected.layer and injected.delay_ms:
        flags += [WINDOW] if (row.wire_bytes or 0) > WINDOW_BYTES[injected.layer] else []
    return flags


def _separated(row: MessageRow, injected: Injected | None, held_ms: float | None) -> MessageRow:
    """Add what was injected and what is left; where the rate holds bytes back, its arithmetic is better than a mean."""
    if injected is None:
        return row
    serialisation_s = injected.serialisation_s(row.wire_bytes or 0) if injected.rate_mbit else None
    measured = held_ms is not None and serialisation_s is None and injected.agrees(held_ms)
    held_ms = held_ms if measured else None
    delay_ms = (held_ms or 0.0) if measured else injected.delay_ms
    injected_s = delay_ms / 1000 + (serialisation_s or 0.0)
    jitter_s = 0.0 if measured else injected.way.jitter_ms / 1000
    return msgspec.structs.replace(
        row,
        layer=injected.layer,
        requested_ms=injected.way.delay_ms,
        applied_ms=injected.delay_ms,
        held_ms=held_ms,
        rate_mbit=injected.rate_mbit,
        serialisation_s=serialisation_s,
        injected_s=injected_s,
        natural_s=None if row.transfer_s is None else row.transfer_s - injected_s,
        natural_uncertainty_s=None if row.uncertainty_s is None else row.uncertainty_s + jitter_s,
    )

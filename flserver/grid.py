"""`GrpcGrid`: Flower's public `Grid` over one bidirectional gRPC stream per client, for one campaign.

A ServerApp runs on it unmodified. Replies come back in the order in which their instructions were sent, not in the
order of arrival: floating-point sums depend on order, and the same trial has to give the same accuracies.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import DEFAULT_TTL, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from flcommon import flower, wire
from flcommon.eventlog import EventLog, now
from flcommon.events import (
    ClockExchange,
    MessageSent,
    Place,
    ReplyMetrics,
    ReplyReceived,
    Transferring,
)
from flcommon.job import PREPARE_TIMEOUT_S, Transport
from flcommon.sampling import Sampler
from flcommon.sending import Sending
from flserver.errors import ServerError
from flserver.exchange import Exchange
from flserver.peer import Parcel
from flserver.rounds import Rounds, round_of
from flserver.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flcommon.inbox import Heard


PROBE_BYTES, MOST_PROBE_BYTES = 250_000, 4_000_000
"""How large a probe's loads are before any message has been sent (as the study's model), and at most."""
PROBE_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class _Asked:
    """An instruction that waits for its reply, until `expires_s` of the monotonic clock: Flower's time to live."""

    place: Place
    message: Message
    expires_s: float


class GrpcGrid(Grid):
    """Flower's Grid on the streams of one campaign; `begin` says which trial it works for."""

    def __init__(
        self,
        campaign: str,
        clients: Sequence[str],
        log: EventLog,
        transport: Transport | None = None,
        sample_every_s: float = 0.0,
    ) -> None:
        self._transport = transport or Transport()
        self.streams = Streams(campaign, clients, self, log, self._transport)
        self.roster = self.streams.roster
        self.sampler = Sampler(sample_every_s, log, clients, self.roster.address_of)
        self._names = {node_id: client for client, node_id in self.roster.node_ids.items()}
        self._log = log
        self._exchange = Exchange()
        self._asked: dict[str, _Asked] = {}
        self._numbers = itertools.count(1)
        self._trial = -1
        self._rounds: Rounds | None = None
        self._run = flower.empty_run(0)
        self._idle_since: float | None = None
        self._arrived_bytes = 0
        self._largest_bytes = 0
        self.prepare_timeout_s = PREPARE_TIMEOUT_S
        """How long the clients have for making ready for a trial."""

    def begin(self, trial: int, rounds: Rounds) -> None:
        """Work for this trial from now on: what an earlier one left unanswered is forgotten."""
        self._exchange.forget()
        self._asked.clear()
        self._idle_since = None
        self._trial, self._rounds = trial, rounds
        run = flower.empty_run(flower.run_id(trial))
        self.set_run(run)
        flower.set_identity(run.run_id, flower.SERVER_NODE_ID)

    def probe(self, stage: str) -> None:
        """Let the clients look at their natural paths, with loads as large as the largest message so far."""
        size_bytes = min(self._largest_bytes or PROBE_BYTES, MOST_PROBE_BYTES)
        self.roster.measure(stage, size_bytes, PROBE_TIMEOUT_S)

    # --- flwr.serverapp.Grid -----------------------------------------------------------------------------------------

    def set_run(self, run: flower.Run) -> None:
        """Set the Flower run that messages belong to."""
        self._run = run

    @property
    def run(self) -> flower.Run:
        """The Flower run of the current trial."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create an instruction (deprecated by Flower in favour of `Message(...)`)."""
        return Message(content, dst_node_id, message_type, ttl=ttl or DEFAULT_TTL, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the node ids of the clients that are not given up, in the order of the job.

        Raises ServerError when the app keeps asking, and so waits for clients that will not be back.
        """
        self._exchange.check()
        present = self.roster.present
        if len(present) < len(self._names):
            self._refuse_endless_waiting(len(present))
        return present

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send instructions; returns their ids, by which `pull_messages` finds the replies."""
        batch = list(messages)
        self._idle_since = None
        flower.let_go(self._arrived_bytes)
        self._arrived_bytes = 0
        # The ids are those of objects that `batch` keeps alive, so none is reused meanwhile.
        contents: dict[int, flower.Parts] = {}
        return [self._push(message, contents) for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have arrived; does not wait. One that is overdue by its ttl is Flower's error."""
        ids = list(message_ids)
        self._expire(ids)
        return self._exchange.take(ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send instructions and wait for the replies, or until `timeout` seconds have passed.

        What the app raised on a client is an error reply, as Flower has it, and so is that a client is given up. Raises
        ServerError when the campaign cannot go on, as when no client is left.
        """
        ids = self.push_messages(messages)
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        while True:
            expiry = min((asked.expires_s for one in ids if (asked := self._asked.get(one))), default=math.inf)
            left_s = min(deadline, expiry) - time.monotonic()
            self._exchange.wait(ids, None if left_s == math.inf else max(0.0, left_s))
            self._expire(ids)
            if time.monotonic() >= deadline or not any(one in self._asked for one in ids):
                return self._exchange.take(ids)

    # --- flserver.roster.Receiver ------------------------------------------------------------------------------------

    def replied(self, client: str, reply: wire.Reply, heard: Heard[wire.FromClient]) -> None:
        """Decode a reply, log it, and wake who waits for it; one that nobody expects any more is dropped."""
        asked = self._asked.get(reply.message)
        if asked is None or asked.place["client"] != client:
            return
        started = now()
        message = flower.decode(heard.body[0], heard.body[1:])
        decoded = now()
        if self._asked.pop(reply.message, None) is None or not self._exchange.deliver(reply.message, message):
            return
        event = ReplyReceived(
            **asked.place,
            size_bytes=heard.size_bytes,
            wire_bytes=heard.wire_bytes,
            receive_s=heard.first.until_s(heard.last),
            decode_s=started.until_s(decoded),
            error=message.error.reason if message.has_error() else None,
        )
        self.sampler.beside(event, heard.last)
        self._arrived_bytes += heard.size_bytes
        self._note_clocks(client, reply, heard)
        if message.has_content() and (values := _scalars(message)):
            self._log.write(ReplyMetrics(**asked.place, values=values))

    def compared(self, client: str, pong: wire.Pong, heard: Heard[wire.FromClient]) -> None:
        """Log the clocks of an idle connection."""
        self._note_clocks(client, pong, heard)

    def unavailable(self, client: str, messages: Sequence[str], reason: str) -> None:
        """Answer a client's instructions by Flower's error."""
        for message_id in messages:
            if (asked := self._asked.pop(message_id, None)) is not None:
                self._exchange.deliver(message_id, flower.unavailable(asked.message, f"{client}: {reason}"))

    def arriving(self, client: str, message: str, filled: int, size: int) -> None:
        """Log how far a long reply is."""
        asked = self._asked.get(message)
        if asked is not None and asked.place["client"] == client:
            self._log.write(Transferring(**asked.place, received_bytes=filled, size_bytes=size))

    def failed(self, failure: ServerError) -> None:
        """Wake everybody with the failure."""
        self._exchange.fail(failure)

    # --- own ---------------------------------------------------------------------------------------------------------

    def _round(self) -> int:
        return self._rounds.number if self._rounds else 0

    def _push(self, message: Message, contents: dict[int, flower.Parts]) -> str:
        if self._rounds is not None:
            self._rounds.enter(round_of(message))
        built = now()
        message_id = f"{self._trial}-{next(self._numbers)}"
        flower.set_message_id(message, message_id)
        place = self._place(message, message_id)
        content = contents.get(id(message.content))
        if content is None:
            content = contents[id(message.content)] = flower.encode_content(message.content)
        parts = flower.Parts(flower.encode_head(message) + content.skeleton, content.segments)
        self._asked[message_id] = _Asked(place, message, time.monotonic() + message.metadata.ttl)
        self._exchange.expect(message_id)
        frame = wire.Instruction(message_id, place["trial"], place["round"])
        watch = Sending(MessageSent, place, self._log, self.sampler, parts.size_bytes, built, now())
        self._largest_bytes = max(self._largest_bytes, parts.size_bytes)
        parcel = Parcel(frame, (parts.skeleton, *parts.segments), watch)
        given_up = self.roster.instruct(message.metadata.dst_node_id, parcel)
        if given_up is not None:
            self.unavailable(place["client"], [message_id], given_up)
        return message_id

    def _expire(self, message_ids: Iterable[str]) -> None:
        """Answer what is older than its time to live by Flower's error."""
        at = time.monotonic()
        for one in message_ids:
            asked = self._asked.get(one)
            if asked is not None and asked.expires_s <= at and self._asked.pop(one, None) is not None:
                self._exchange.deliver(one, flower.expired(asked.message))

    def _note_clocks(self, client: str, told: wire.Reply | wire.Pong, heard: Heard[wire.FromClient]) -> None:
        event = ClockExchange(
            client=client,
            server_sent_mono_ns=told.asked.mono_ns,
            server_sent_wall_ns=told.asked.wall_ns,
            client_received_mono_ns=told.received.mono_ns,
            client_received_wall_ns=told.received.wall_ns,
            client_sent_mono_ns=heard.sent.mono_ns,
            client_sent_wall_ns=heard.sent.wall_ns,
            message=told.message if isinstance(told, wire.Reply) else None,
        )
        self._log.write(event, heard.header)

    def _refuse_endless_waiting(self, present: int) -> None:
        """Raise ServerError when nothing was sent for the rejoin time-out since the app first asked for nodes."""
        at = time.monotonic()
        self._idle_since = self._idle_since or at
        if at - self._idle_since >= self._transport.rejoin_timeout_s:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.roster.absent.items())
            raise ServerError(
                f"round {self._round()}",
                f"the app waits for more clients than the {present} of {len(self._names)} that are left ({why})",
            )

    def _place(self, message: Message, message_id: str) -> Place:
        node_id = message.metadata.dst_node_id
        return Place(
            trial=self._trial,
            round=self._round(),
            message=message_id,
            client=self._names.get(node_id, str(node_id)),
            kind=message.metadata.message_type,
        )


def _scalars(message: Message) -> dict[str, float]:
    """Return a reply's scalar metrics that are finite, by record and name."""
    # Not `content.metric_records`: it is a cycle that holds the content, arrays and all, until garbage is collected.
    return {
        f"{record}.{name}": float(value)
        for record, metrics in message.content.items()
        if isinstance(metrics, MetricRecord)
        for name, value in metrics.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }

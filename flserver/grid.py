"""`GrpcGrid`: Flower's public `Grid` over one bidirectional gRPC stream per client, for one campaign.

A ServerApp runs on it unmodified. Replies come back in the order in which their instructions were sent, not in the
order of arrival: floating-point sums depend on order, and the same trial has to give the same accuracies.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from flwr.app import DEFAULT_TTL, Message, RecordDict
from flwr.serverapp import Grid

from flcommon import flower, wire
from flcommon.eventlog import EventLog, Moment, now
from flcommon.events import MessageSent, Place, ReplyReceived
from flserver.exchange import Exchange
from flserver.rounds import Rounds, round_of
from flserver.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flserver.errors import ServerError


class GrpcGrid(Grid):
    """Flower's Grid on the streams of one campaign; `begin` says which trial it works for."""

    def __init__(self, campaign: str, clients: Sequence[str], log: EventLog) -> None:
        self.streams = Streams(campaign, clients, self, log)
        self._names = {node_id: client for client, node_id in self.streams.node_ids.items()}
        self._log = log
        self._exchange = Exchange()
        self._sent: dict[str, Place] = {}
        self._numbers = itertools.count(1)
        self._trial = -1
        self._rounds: Rounds | None = None
        self._run = flower.empty_run(0)

    def begin(self, trial: int, rounds: Rounds) -> None:
        """Work for this trial from now on: what an earlier one left unanswered is forgotten."""
        self._exchange.forget()
        self._sent.clear()
        self._trial, self._rounds = trial, rounds
        run = flower.empty_run(flower.run_id(trial))
        self.set_run(run)
        flower.set_identity(run.run_id, flower.SERVER_NODE_ID)

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
        """Return the node ids of the campaign's clients, in the order of the job."""
        self._exchange.check()
        return list(self._names)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send instructions; returns their ids, by which `pull_messages` finds the replies."""
        batch = list(messages)
        # The ids are those of objects that `batch` keeps alive, so none is reused meanwhile.
        contents: dict[int, bytes] = {}
        return [self._push(message, contents) for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have arrived; does not wait."""
        return self._exchange.take(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send instructions and wait for the replies, or until `timeout` seconds have passed.

        Raises ServerError when a client is lost. What the app raised on a client is an error reply, as Flower has it.
        """
        ids = self.push_messages(messages)
        self._exchange.wait(ids, timeout)
        return self._exchange.take(ids)

    # --- flserver.streams.Receiver -----------------------------------------------------------------------------------

    def replied(self, client: str, message_id: str, payload: memoryview, at: Moment) -> None:
        """Decode a reply, log it, and wake who waits for it."""
        reply = flower.decode(payload)
        place = self._sent.pop(message_id, None)
        if place is None or place["client"] != client or not self._exchange.deliver(message_id, reply):
            return
        error = reply.error.reason if reply.has_error() else None
        self._log.write(ReplyReceived(**place, size_bytes=len(payload), error=error), at)

    def lost(self, failure: ServerError) -> None:
        """Wake everybody with the failure."""
        self._exchange.fail(failure)

    # --- own ---------------------------------------------------------------------------------------------------------

    def _round(self) -> int:
        return self._rounds.number if self._rounds else 0

    def _push(self, message: Message, contents: dict[int, bytes]) -> str:
        if self._rounds is not None:
            self._rounds.enter(round_of(message))
        started = now()
        message_id = f"{self._trial}-{next(self._numbers)}"
        flower.set_message_id(message, message_id)
        place = self._place(message, message_id)
        content = contents.get(id(message.content))
        if content is None:
            content = contents[id(message.content)] = flower.encode_content(message.content)
        self._sent[message_id] = place
        self._exchange.expect(message_id)
        frame = wire.Instruction(message_id, place["trial"], place["round"])
        size, at = self.streams.send(message.metadata.dst_node_id, frame, flower.encode_head(message), content)
        self._log.write(MessageSent(**place, size_bytes=size, encode_s=started.until_s(at)), at)
        return message_id

    def _place(self, message: Message, message_id: str) -> Place:
        node_id = message.metadata.dst_node_id
        return Place(
            trial=self._trial,
            round=self._round(),
            message=message_id,
            client=self._names.get(node_id, str(node_id)),
            kind=message.metadata.message_type,
        )

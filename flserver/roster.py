"""The campaign's clients: who is there, who is lost and for how long, who may join, and who is given up.

No gRPC here: `flserver.streams` brings connections and what is heard on them.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Protocol

from flcommon import wire
from flcommon.eventlog import EventLog, now
from flcommon.events import ClientBack, ClientGivenUp, ClientJoined, ClientLeft, ClientLost
from flserver.dumb import dumb_lines
from flserver.errors import ClientsLost, ServerError
from flserver.peer import MOST_LOSSES, STEADY_S, Line, Parcel, Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flcommon.inbox import Heard
    from flcommon.job import Transport
    from flcommon.sockets import Address

FIRST_NODE_ID = 1001
"""Clients get node ids from here on, in the order of the job; 1 is Flower's SuperLink."""


class Receiver(Protocol):
    """Who is told what becomes of instructions (called from the streams' threads)."""

    def replied(self, client: str, reply: wire.Reply, heard: Heard[wire.FromClient]) -> None:
        """A complete reply is here."""

    def compared(self, client: str, pong: wire.Pong, heard: Heard[wire.FromClient]) -> None:
        """A ping has come back."""

    def unavailable(self, client: str, messages: Sequence[str], reason: str) -> None:
        """A client is given up, and these instructions will not be answered."""

    def arriving(self, client: str, message: str, filled: int, size: int) -> None:
        """A long reply is on its way."""

    def failed(self, failure: ServerError) -> None:
        """The campaign cannot go on."""


class Refused(ServerError):
    """Somebody may not join; `again`: not now, but perhaps later."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        self.again = again
        super().__init__("join", reason)


class Roster:
    """All clients of one campaign, by their names; `node_ids` maps names to Flower's node ids."""

    def __init__(
        self, campaign: str, clients: Sequence[str], transport: Transport, receiver: Receiver, log: EventLog
    ) -> None:
        self._campaign = campaign
        self._transport = transport
        self._receiver = receiver
        self._log = log
        self._changed = threading.Condition()
        self._peers = {name: Peer(name, FIRST_NODE_ID + i, self._progress) for i, name in enumerate(clients)}
        self._by_node = {peer.node_id: peer for peer in self._peers.values()}
        self._state: list[wire.Frame] = []
        """What a client must know that comes late: the open trial, and whether to inject now, where that was said."""
        self._failure: ServerError | None = None
        self._goodbye: wire.Goodbye | None = None
        self._pinged = now()

    @property
    def node_ids(self) -> dict[str, int]:
        """Every client's node id, in the order of the job."""
        return {peer.name: peer.node_id for peer in self._peers.values()}

    @property
    def present(self) -> list[int]:
        """The node ids of all clients that are not given up."""
        return [peer.node_id for peer in self._peers.values() if peer.given_up is None]

    @property
    def absent(self) -> dict[str, str]:
        """Why clients are given up, by name."""
        return {peer.name: peer.given_up for peer in self._peers.values() if peer.given_up is not None}

    def address_of(self, client: str) -> Address | None:
        """Where a client's connection comes from, None while there is none. Asks for no lock: it is asked often."""
        line = self._peers[client].line
        return line.peer if line is not None else None

    # --- what the campaign says ---------------------------------------------------------------------------------------

    def wait_joined(self, timeout_s: float | None) -> None:
        """Return when all clients are connected; raises ServerError that names who is missing."""
        missing = self._wait(lambda: [one.name for one in self._peers.values() if not one.connected], timeout_s)
        if missing:
            raise ServerError("join", f"{', '.join(missing)} did not connect within {timeout_s:g} s")

    def wait_prepared(self, trial: int, timeout_s: float | None) -> None:
        """Return when all clients that are left have prepared for the trial; raises ServerError."""
        self._await("prepare trial: prepared", lambda one: trial in one.prepared, timeout_s)

    def open_trial(self, trial: int) -> None:
        """Tell all clients, also those that will be back later, to make fresh state."""
        with self._changed:
            self._state = [wire.OpenTrial(trial)]
            for peer in self._peers.values():
                peer.prepared.clear()
                peer.unanswered.clear()
            self._say(wire.OpenTrial(trial))

    def close_trial(self, trial: int, *, ok: bool) -> None:
        """Tell all clients that the trial is over; what they have not answered is nobody's any more."""
        with self._changed:
            self._state = []
            for peer in self._peers.values():
                peer.unanswered.clear()
            self._say(wire.CloseTrial(trial, ok))

    def switch(self, trial: int, number: int, timeout_s: float, *, inject: bool) -> None:
        """Tell all clients whether to inject from now on, and wait until they do; raises ServerError."""
        told = wire.Switch(trial, number, inject)
        with self._changed:
            self._state = [*self._state[:1], told]
            self._say(told)
        done = wire.Switched(trial, number)
        self._await("control round: switched", lambda one: one.switched == done, timeout_s)

    def measure(self, stage: str, size_bytes: int, timeout_s: float) -> None:
        """Let each client look at its natural path, one after the other: they may share it. Raises ServerError."""
        for peer in self._peers.values():
            with self._changed:
                if peer.given_up is not None:
                    continue
                peer.errand = wire.Measure(stage, size_bytes)
                peer.outbox.post(peer.errand)
            self._await("probe: measured", _has_measured(peer, stage), timeout_s)
            peer.errand = None

    def instruct(self, node_id: int, parcel: Parcel) -> str | None:
        """Send an instruction; returns why not, if the client is given up. Raises ServerError for an unknown node."""
        with self._changed:
            peer = self._by_node.get(node_id)
            if peer is None:
                raise ServerError("send", f"no client has the node id {node_id}")
            if peer.given_up is None:
                peer.instruct(parcel)
            return peer.given_up

    def begin_end(self, error: str | None) -> None:
        """Say goodbye to everybody; from now on, leaving is expected."""
        with self._changed:
            self._goodbye = wire.Goodbye(error)
            self._say(self._goodbye)
            for peer in self._peers.values():
                peer.outbox.finish()

    def wait_gone(self, timeout_s: float, lost_s: float) -> None:
        """Return when all clients have heard the goodbye and are gone.

        Those who have to come back for it get `lost_s`: who was stopped together with the server will not come.
        """

        def gone(peer: Peer) -> bool:
            return not peer.connected and (peer.lost_at is None or peer.given_up is not None)

        with self._changed:
            self._changed.wait_for(lambda: all(gone(peer) for peer in self._peers.values()), lost_s)
            self._changed.wait_for(lambda: not any(peer.connected for peer in self._peers.values()), timeout_s - lost_s)

    def _say(self, frame: wire.Frame) -> None:
        for peer in self._peers.values():
            if peer.given_up is None:
                peer.outbox.post(frame)

    def _await(self, what: str, done: Callable[[Peer], bool], timeout_s: float | None) -> None:
        """Wait until all clients that are not given up have done something; raises ServerError that names the others.

        `what` is the step, a colon, and what they are then.
        """
        step, _, state = what.partition(": ")
        missing = self._wait(
            lambda: [one.name for one in self._peers.values() if one.given_up is None and not done(one)], timeout_s
        )
        if missing:
            raise ServerError(step, f"{', '.join(sorted(missing))} not {state} within {timeout_s:g} s")

    def _wait(self, missing: Callable[[], list[str]], timeout_s: float | None) -> list[str]:
        with self._changed:
            self._changed.wait_for(lambda: not missing() or self._failure is not None, timeout_s)
            if self._failure is not None:
                raise self._failure
            return missing()

    # --- what connections bring ---------------------------------------------------------------------------------------

    def admit(self, hello: wire.Hello, line: Line) -> tuple[Peer, wire.Welcome]:
        """Let a client in by a new connection; raises Refused, or ProtocolError (of a client that is then given up)."""
        with self._changed:
            peer = self._known(hello)
            resumed = peer.session == hello.session and peer.given_up is None
            if peer.connected and not resumed:
                raise Refused(f"{hello.client} is connected already", again=True)
            restarted = peer.session not in {None, hello.session}
            if not resumed:
                peer.begin_anew(hello.session, self._state)
                if self._goodbye is not None:
                    peer.outbox.post(self._goodbye)
            heard = peer.take_line(line)
            self._note_arrival(peer, line, restarted=restarted)
            try:
                peer.outbox.connect(line.wire, hello.heard if resumed else wire.Place())
            except wire.ProtocolError as error:
                self._ban(peer, line, str(error))
                raise
            if self._goodbye is not None:
                peer.outbox.finish()
            self._changed.notify_all()
            return peer, wire.Welcome(peer.node_id, resumed, heard)

    def take(self, peer: Peer, heard: Heard[wire.FromClient]) -> None:
        """Act on what a client has said; raises ProtocolError."""
        match heard.frame:
            case wire.Reply() as reply:
                if not heard.body:
                    raise wire.ProtocolError("a reply that is not a Flower message")
                self._receiver.replied(peer.name, reply, heard)
                with self._changed:  # not before: one that cannot be read leaves its instruction unanswered
                    peer.unanswered.pop(reply.message, None)
            case wire.Prepared() | wire.Switched() | wire.Measured() as done:
                with self._changed:
                    peer.note(done)
                    self._changed.notify_all()
            case wire.Ask() as ask:
                peer.probes.ask(ask)
            case wire.Load() as load:
                peer.probes.load(load, heard)
            case wire.Pong() as pong:
                peer.probes.pong(pong, heard)
                if self._transport.clock_every_s or pong.probe:  # else it was a sign of life and nothing more
                    self._receiver.compared(peer.name, pong, heard)
            case wire.Leave() as leave:
                self._let_leave(peer, leave)
            case wire.Hello():
                raise wire.ProtocolError("a second hello")

    def _let_leave(self, peer: Peer, leave: wire.Leave) -> None:
        if leave.fatal:
            self.fail(ServerError("run", f"{peer.name}: {leave.reason}"))
        with self._changed:
            self._give_up(peer, f"it left: {leave.reason}")

    def leave(self, peer: Peer, line: Line, reason: str, *, banned: bool = False) -> None:
        """A connection has ended; the client has the rejoin time-out to come back, unless it is `banned`."""
        with self._changed:
            if banned:
                self._ban(peer, line, reason)
            elif peer.drop_line(line):
                self._lose(peer, line, reason)
            self._changed.notify_all()

    def tick(self) -> list[Line]:
        """Give up who has been lost for too long, ping who is idle; return the connections that have gone dumb.

        `due_s` says when to do so again.
        """
        with self._changed:
            at = now()
            for peer in self._awaited:
                if peer.lost_at and peer.lost_at.until_s(at) >= self._transport.rejoin_timeout_s:
                    patience = f"{self._transport.rejoin_timeout_s:g} s"
                    self._give_up(peer, f"{peer.reason}, and it did not come back within {patience}")
            if self._pinged.until_s(at) >= self._ping_every_s:
                self._pinged = at
                for peer in self._peers.values():
                    if peer.idle:
                        peer.outbox.mention(wire.Ping())
            return dumb_lines(self._peers.values(), self._transport.patience_s, at)

    @property
    def due_s(self) -> float:
        """Seconds until `tick` may have something to do, as things stand."""
        with self._changed:
            at = now()
            waits = [self._transport.rejoin_timeout_s - one.lost_at.until_s(at) for one in self._awaited if one.lost_at]
            return max(0.0, min([*waits, self._ping_every_s - self._pinged.until_s(at)]))

    @property
    def _awaited(self) -> list[Peer]:
        """Who is lost, and may be back in time."""
        waits = self._goodbye is None
        return [peer for peer in self._peers.values() if waits and peer.lost_at and peer.given_up is None]

    @property
    def _ping_every_s(self) -> float:
        return min(self._transport.clock_every_s or math.inf, self._transport.keepalive_s)

    def wait_change(self, timeout_s: float) -> None:
        """Sleep until something changes, or the time is up."""
        with self._changed:
            self._changed.wait(timeout_s)

    def wake(self) -> None:
        """End `wait_change`."""
        with self._changed:
            self._changed.notify_all()

    # --- inside, under the lock ---------------------------------------------------------------------------------------

    def _known(self, hello: wire.Hello) -> Peer:
        for what, got, wanted in (
            ("protocol", hello.protocol, wire.PROTOCOL),
            ("campaign", hello.campaign, self._campaign),
        ):
            if got != wanted:
                raise Refused(f"{hello.client} speaks {what} {got}, this server {wanted}")
        peer = self._peers.get(hello.client)
        if peer is None:
            raise Refused(f"{hello.client} is not a client of this campaign")
        if peer.banned:
            raise Refused(f"{hello.client} has broken the protocol before")
        return peer

    def _note_arrival(self, peer: Peer, line: Line, *, restarted: bool) -> None:
        """Write down who has come, or come back."""
        if peer.lost_at is not None:
            after_s = peer.lost_at.until_s(now())
            event = ClientBack(client=peer.name, peer=line.address, after_s=after_s, restarted=restarted)
            peer.lost_at, peer.given_up = None, None
            self._log.write(event)
        elif not peer.joined:
            peer.joined = True
            self._log.write(ClientJoined(client=peer.name, node_id=peer.node_id, peer=line.address))
        else:  # it has noticed the loss of its connection before this side has
            at = now()
            self._log.write(ClientLost(client=peer.name, reason="it has connected anew"), at)
            self._log.write(ClientBack(client=peer.name, peer=line.address, after_s=0.0, restarted=restarted), at)

    def _lose(self, peer: Peer, line: Line, reason: str) -> None:
        if self._goodbye is not None:
            self._log.write(ClientLeft(client=peer.name, reason=reason))
            return
        if peer.given_up is not None:
            return
        peer.lost_at, peer.reason = now(), reason
        peer.losses = 1 if line.since.until_s(peer.lost_at) > STEADY_S else peer.losses + 1
        self._log.write(ClientLost(client=peer.name, reason=reason), peer.lost_at)
        if peer.losses > MOST_LOSSES:
            self._give_up(peer, f"{reason}, for the {peer.losses}th time without a word in between")

    def _give_up(self, peer: Peer, reason: str) -> None:
        if peer.given_up is not None or self._goodbye is not None:
            return
        peer.given_up, peer.lost_at = reason, peer.lost_at or now()
        self._log.write(ClientGivenUp(client=peer.name, reason=reason))
        messages = tuple(peer.unanswered)
        peer.unanswered.clear()
        self._receiver.unavailable(peer.name, messages, reason)
        if not self.present:
            self.fail(ClientsLost(self.absent))
        self._changed.notify_all()

    def _ban(self, peer: Peer, line: Line, reason: str) -> None:
        if peer.drop_line(line) and self._goodbye is None:
            self._log.write(ClientLost(client=peer.name, reason=reason))
            peer.banned = True
            self._give_up(peer, reason)

    def fail(self, failure: ServerError) -> None:
        """End the campaign; the first failure stays."""
        with self._changed:
            self._failure = self._failure or failure
            self._receiver.failed(self._failure)
            self._changed.notify_all()

    def _progress(self, client: str, frame: wire.Frame, filled: int, size: int) -> None:
        if isinstance(frame, wire.Reply):
            self._receiver.arriving(client, frame.message, filled, size)


def _has_measured(peer: Peer, stage: str) -> Callable[[Peer], bool]:
    return lambda one: one is not peer or one.measured == stage

"""The server's end of the gRPC streams: who is connected, and frames to and from each client.

One bidirectional stream per client (flcommon.wire). gRPC's synchronous server spends a thread on each stream's answers;
a second one reads. Blocking reads and queues throughout: nothing polls.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

import grpc
import msgspec

from flcommon import wire
from flcommon.eventlog import EventLog, Moment, now
from flcommon.events import ClientJoined, ClientLeft
from flserver.errors import ClientLost, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FIRST_NODE_ID = 1001
"""Clients get node ids from here on, in the order of the job; 1 is Flower's SuperLink."""

SERVER_OPTIONS = (
    # Without this, two servers may listen on one port, and each gets some of the clients.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


class Receiver(Protocol):
    """Who is told what arrives on the streams (called from the streams' threads)."""

    def replied(self, client: str, message_id: str, payload: memoryview, at: Moment) -> None:
        """A complete reply is here."""

    def lost(self, failure: ServerError) -> None:
        """A client is gone before the campaign's end."""


@dataclass(frozen=True)
class _Stream:
    """One connected client; None in `outgoing` ends the stream."""

    client: str
    node_id: int
    peer: str
    outgoing: SimpleQueue[bytes | None] = field(default_factory=SimpleQueue)


class Streams(grpc.GenericRpcHandler):
    """All clients' streams of one campaign. Clients are expected by name; `node_ids` maps names to node ids."""

    def __init__(self, campaign: str, clients: Sequence[str], receiver: Receiver, log: EventLog) -> None:
        self.node_ids = {client: FIRST_NODE_ID + i for i, client in enumerate(clients)}
        self._campaign = campaign
        self._receiver = receiver
        self._log = log
        self._changed = threading.Condition()
        self._streams: dict[int, _Stream] = {}
        self._prepared: set[tuple[str, int]] = set()
        self._failure: ServerError | None = None
        self._ending = False
        self._threads = ThreadPoolExecutor(max_workers=len(clients) + 2, thread_name_prefix="stream")
        self._server = grpc.server(self._threads, handlers=[self], options=SERVER_OPTIONS)

    def listen(self, address: str) -> str:
        """Accept clients on `address:port` and return it with the port that was taken; raises ServerError."""
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ServerError(
                "listen", f"cannot listen on {address}: the port is in use, or the address is not this host's"
            ) from error
        self._server.start()
        return f"{address.rpartition(':')[0]}:{port}"

    def wait_joined(self, timeout_s: float) -> None:
        """Return when all clients are connected; raises ServerError that names who is missing."""
        self._wait(lambda: len(self._streams) == len(self.node_ids), timeout_s)
        missing = [name for name, node in self.node_ids.items() if node not in self._streams]
        if missing:
            raise ServerError("join", f"{', '.join(missing)} did not connect within {timeout_s:g} s")

    def wait_prepared(self, trial: int, timeout_s: float) -> None:
        """Return when all clients have said that they are prepared for the trial; raises ServerError."""
        wanted = {(client, trial) for client in self.node_ids}
        self._wait(lambda: wanted <= self._prepared, timeout_s)
        missing = [client for client, _ in sorted(wanted - self._prepared)]
        if missing:
            raise ServerError("prepare trial", f"{', '.join(missing)} not prepared within {timeout_s:g} s")

    def send(self, node_id: int, frame: wire.Frame, *payload: bytes) -> tuple[int, Moment]:
        """Offer a frame to a client's stream; returns its size in bytes, and when; raises ServerError if there is none.

        The moment is taken before the frame is handed over: afterwards the reply may be here first, on a busy host.
        """
        stream = self._streams.get(node_id)
        if stream is None:
            raise ServerError("send", f"no client with node id {node_id} is connected")
        data = wire.pack(frame, *payload)
        at = now()
        stream.outgoing.put(data)
        return len(data), at

    def broadcast(self, frame: wire.Frame) -> None:
        """Offer a frame without payload to every connected client."""
        data = wire.pack(frame)
        for stream in list(self._streams.values()):
            stream.outgoing.put(data)

    def close(self, error: str | None = None, grace_s: float = 5.0) -> None:
        """Say goodbye to all clients, wait for their streams to end, and stop listening."""
        self._ending = True
        self.broadcast(wire.Goodbye(error))
        for stream in list(self._streams.values()):
            stream.outgoing.put(None)
        with self._changed:
            self._changed.wait_for(lambda: not self._streams, grace_s)
        self._server.stop(0).wait()
        self._threads.shutdown(wait=False)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Tell gRPC which method this is (grpc.GenericRpcHandler)."""
        if handler_call_details.method != f"/{wire.SERVICE}/{wire.METHOD}":
            return None
        return grpc.stream_stream_rpc_method_handler(self._serve)

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._failure is not None, timeout_s)
        if self._failure is not None:
            raise self._failure

    def _serve(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Run one client's stream: everything that this generator yields goes to the client."""
        try:
            stream = self._admit(next(frames), context.peer())
        except (ServerError, msgspec.MsgspecError, StopIteration, grpc.RpcError) as error:
            yield wire.pack(wire.Goodbye(f"refused: {error}"))
            return
        threading.Thread(target=self._read, args=(stream, frames), name=f"read-{stream.client}").start()
        yield wire.pack(wire.Welcome(stream.node_id))
        yield from iter(stream.outgoing.get, None)

    def _admit(self, first: bytes, peer: str) -> _Stream:
        hello, _ = wire.unpack_from_client(first)
        if not isinstance(hello, wire.Hello):
            raise ServerError("join", "the first frame is not a hello")
        self._check(hello)
        stream = _Stream(hello.client, self.node_ids[hello.client], peer)
        with self._changed:
            if stream.node_id in self._streams:
                raise ServerError("join", f"{hello.client} is connected already")
            self._streams[stream.node_id] = stream
            self._log.write(ClientJoined(client=stream.client, node_id=stream.node_id, peer=peer))
            self._changed.notify_all()
        return stream

    def _check(self, hello: wire.Hello) -> None:
        for what, got, wanted in (
            ("protocol", hello.protocol, wire.PROTOCOL),
            ("campaign", hello.campaign, self._campaign),
        ):
            if got != wanted:
                raise ServerError("join", f"{hello.client} speaks {what} {got}, this server {wanted}")
        if hello.client not in self.node_ids:
            raise ServerError("join", f"{hello.client} is not a client of this campaign")

    def _read(self, stream: _Stream, frames: Iterator[bytes]) -> None:
        """Take a client's frames until its stream ends, however it ends."""
        reason = "its connection was closed"
        try:
            for data in frames:
                at = now()
                frame, payload = wire.unpack_from_client(data)
                self._take(stream, frame, payload, at)
        except grpc.RpcError:
            reason = "its connection broke"
        except msgspec.MsgspecError as error:
            reason = f"it sent a frame that cannot be read ({error})"
        except Exception as error:  # noqa: BLE001 - a thread's error must reach the campaign, whatever it is
            reason = f"its frame could not be handled ({type(error).__name__}: {error})"
        self._leave(stream, reason)

    def _take(self, stream: _Stream, frame: wire.FromClient, payload: memoryview, at: Moment) -> None:
        match frame:
            case wire.Reply(message):
                self._receiver.replied(stream.client, message, payload, at)
            case wire.Prepared(trial):
                with self._changed:
                    self._prepared.add((stream.client, trial))
                    self._changed.notify_all()
            case wire.Hello():
                raise ServerError("join", "a second hello")

    def _leave(self, stream: _Stream, reason: str) -> None:
        try:
            self._log.write(ClientLeft(client=stream.client, reason=reason, expected=self._ending))
        finally:  # a log that cannot be written must not leave the campaign waiting
            if not self._ending:
                self._failure = ClientLost(stream.client, "run", reason)
                self._receiver.lost(self._failure)
            with self._changed:
                self._streams.pop(stream.node_id, None)
                self._changed.notify_all()
            stream.outgoing.put(None)

"""The server's end of the gRPC streams: connections come and go here, `flserver.roster` knows whose they are.

One bidirectional stream per client (flcommon.wire). gRPC's synchronous server spends a thread on each stream's answers;
a second one reads. Blocking reads and queues throughout: no message waits for a poll.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc

from flcommon import flower, wire
from flcommon.eventlog import EventLog, now
from flcommon.events import Refused as RefusedEvent
from flserver.credentials import peer_name
from flserver.errors import ServerError
from flserver.peer import Line
from flserver.roster import Receiver, Refused, Roster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flcommon.job import Transport
    from flserver.peer import Peer

HELLO_TIMEOUT_S = 10.0
"""A connection that has not said who it is after this long is ended."""
GRACE_S, LOST_S = 3.0, 1.0
"""How long clients have for leaving, and lost ones for coming back first; a server that is stopped has 5 s in all."""
_LOOK_S = 1.0
_SPARE_STREAMS = 32
"""Streams beyond one for each client: for those who connect anew, and for strangers."""


def server_options(transport: Transport, streams: int) -> list[tuple[str, int]]:
    """Return gRPC's options (grpc_types.h): keepalive, and no message longer than a piece of ours."""
    return [
        # Without this, two servers may listen on one port, and each gets some of the clients.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", wire.MAX_PIECE_BYTES + wire.PIECE_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", streams),
        ("grpc.keepalive_time_ms", round(1000 * transport.keepalive_s)),
        ("grpc.keepalive_timeout_ms", round(1000 * transport.keepalive_timeout_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A client may ask as often as its own keepalive says; gRPC counts that as abuse by default.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
        ("grpc.http2.max_ping_strikes", 0),
        # Who connects and says nothing holds a descriptor so long; gRPC's own patience is two minutes.
        ("grpc.server_handshake_timeout_ms", round(1000 * HELLO_TIMEOUT_S)),
    ]


class Streams(grpc.GenericRpcHandler):
    """All clients' streams of one campaign."""

    def __init__(
        self, campaign: str, clients: Sequence[str], receiver: Receiver, log: EventLog, transport: Transport
    ) -> None:
        self.roster = Roster(campaign, clients, transport, receiver, log)
        self._log = log
        self._pending: dict[grpc.ServicerContext, float] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        streams = 2 * len(clients) + _SPARE_STREAMS
        self._threads = ThreadPoolExecutor(max_workers=streams, thread_name_prefix="stream")
        options = server_options(transport, streams)
        self._server = grpc.server(self._threads, handlers=[self], options=options, maximum_concurrent_rpcs=streams)
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> str:
        """Accept clients on `address:port` and return it with the port that was taken; raises ServerError."""
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ServerError(
                "listen", f"cannot listen on {address}: the port is in use, or the address is not this host's"
            ) from error
        self._server.start()
        self._keeper.start()
        return f"{address.rpartition(':')[0]}:{port}"

    def close(self, error: str | None = None, grace_s: float = GRACE_S, lost_s: float = LOST_S) -> None:
        """Say goodbye to all clients, wait for them to leave (lost ones: to come back for it), and stop listening."""
        self.roster.begin_end(error)
        self.roster.wait_gone(grace_s, min(lost_s, grace_s))
        self._closed.set()
        self.roster.wake()
        self._server.stop(0).wait()
        self._threads.shutdown(wait=False)
        if self._keeper.is_alive():
            self._keeper.join()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Tell gRPC which method this is (grpc.GenericRpcHandler)."""
        if handler_call_details.method != f"/{wire.SERVICE}/{wire.METHOD}":
            return None
        return grpc.stream_stream_rpc_method_handler(self._serve)

    # --- one connection -----------------------------------------------------------------------------------------------

    def _serve(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Run one client's connection: everything that this generator yields goes to the client."""
        line = Line(context)
        if not context.add_callback(lambda: line.wire.queue.put(None)):
            return
        try:
            peer, welcome = self._admit(frames, line)
        except (Refused, wire.ProtocolError) as error:
            self._log.write(RefusedEvent(reason=_reason(error), peer=line.address))
            yield _unnumbered(wire.Refusal(_reason(error), again=isinstance(error, Refused) and error.again))
            return
        except (StopIteration, grpc.RpcError):
            return
        threading.Thread(target=self._read, args=(peer, line, frames), name=f"read-{peer.name}").start()
        yield _unnumbered(welcome)
        yield from peer.outbox.messages(line.wire)

    def _admit(self, frames: Iterator[bytes], line: Line) -> tuple[Peer, wire.Welcome]:
        """Wait for a hello, not for ever, and let its sender in; raises Refused, ProtocolError, or what gRPC raises."""
        with self._lock:
            self._pending[line.context] = time.monotonic() + HELLO_TIMEOUT_S
        self.roster.wake()
        try:
            envelope, _ = wire.unpack(wire.from_client, next(frames))
        finally:
            with self._lock:
                del self._pending[line.context]
        hello = envelope.frame
        if not isinstance(hello, wire.Hello):
            raise wire.ProtocolError("the first frame is not a hello")
        proved = peer_name(line.context)
        if proved is not None and proved != hello.client:
            raise Refused(f"it says it is {hello.client}, and its certificate is that of {proved or 'no client'}")
        return self.roster.admit(hello, line)

    def _read(self, peer: Peer, line: Line, frames: Iterator[bytes]) -> None:
        """Take a client's frames until its connection ends, however it ends."""
        reason, banned = "its connection was closed", False
        try:
            for data in frames:
                heard = peer.hear(line, data, now())
                if heard is not None:
                    self.roster.take(peer, heard)
        except grpc.RpcError:
            reason = line.reason
        except (wire.ProtocolError, flower.MessageError) as error:
            reason, banned = f"it broke the protocol: {error}", True
        except Exception as error:  # noqa: BLE001 - a thread's error must reach the campaign, whatever it is
            self.roster.fail(_unhandled(f"a frame of {peer.name}", error))
        self._guarded(lambda: self.roster.leave(peer, line, reason, banned=banned), f"the end of {peer.name}")

    # --- all connections ----------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Do what is due at some time: give up lost clients, ping idle ones, end connections without a hello."""
        while not self._closed.is_set():
            self._guarded(self._tick, "the clients' time-outs")
            # Not longer, as a change that comes in between would wake nobody.
            self.roster.wait_change(min(self._end_silent(), self.roster.due_s, _LOOK_S))

    def _tick(self) -> None:
        for line in self.roster.tick():
            line.reason = "it does not answer"
            line.context.cancel()

    def _end_silent(self) -> float:
        """End connections that are overdue with their hello; return the seconds until the next one may be."""
        at = time.monotonic()
        with self._lock:
            overdue = [context for context, deadline in self._pending.items() if deadline <= at]
            left = [deadline - at for deadline in self._pending.values() if deadline > at]
        for context in overdue:
            context.cancel()
        return min(left, default=_LOOK_S)

    def _guarded(self, work: Callable[[], None], what: str) -> None:
        """Do something in a thread of this module; what goes wrong, as with a full disk, ends the campaign."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a thread's error must reach the campaign, whatever it is
            self.roster.fail(_unhandled(what, error))


def _unhandled(what: str, error: Exception) -> ServerError:
    said = error.strerror if isinstance(error, OSError) else str(error)
    return ServerError("run", f"{what} could not be handled ({type(error).__name__}: {said})")


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, ServerError) else str(error)


def _unnumbered(frame: wire.Frame) -> bytes:
    """Return a frame that a connection begins with."""
    return wire.pack(wire.Envelope(0, 0, wire.Clocks(*now()), frame))

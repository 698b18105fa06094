"""The client's end of its stream to the server, which outlives connections: what breaks is taken up again.

A thread of its own reads, so that the clock is compared and connections are made again while the app computes. The
session sees whole frames, each once and in order, and one `Welcome` whenever what it knows is void.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Self

import grpc

from flclient import credentials
from flclient.link.shaper import ShapingFailed
from flcommon import wire
from flcommon.errors import FieldlabError, StepError
from flcommon.eventlog import EventLog, Moment, now
from flcommon.events import ConnectionBack, ConnectionLost
from flcommon.inbox import Heard, Inbox
from flcommon.outbox import Outbox, Watch, Wire
from flcommon.sampling import Sampler
from flcommon.sockets import Address, connections, dialled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from flcommon.job import ClientJob, Transport

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
ATTEMPT_S = 5.0
"""An attempt to connect is given up after this long, also where the network says nothing at all."""
PATIENCE = 2.0
"""A client tries for this many times as long as the server waits for it: it may come back late, and be let in."""


class ConnectionFailed(StepError):
    """The server cannot be reached, refused this client, or is gone."""


class _Refused(FieldlabError):
    """The server does not want this client, now (`again`) or at all."""

    def __init__(self, refusal: wire.Refusal) -> None:
        self.reason, self.again = refusal.reason, refusal.again
        super().__init__(refusal.reason)


class _Broken(FieldlabError):
    """A connection could not be made, or has ended without a goodbye."""


class Connection:
    """The stream of one client process. Use it as a context manager: it is joined inside.

    `address`: where to connect to instead of the server's own address, a relay's.
    """

    def __init__(
        self,
        job: ClientJob,
        log: EventLog,
        on_progress: Callable[[wire.Instruction, int, int], None],
        address: str = "",
    ) -> None:
        self._job = job
        self._address = address or job.server_address
        self._log = log
        self._on_progress = on_progress
        self._session = secrets.token_hex(8)
        self._frames: SimpleQueue[Heard[wire.FromServer] | ConnectionFailed | None] = SimpleQueue()
        self._probes: SimpleQueue[Heard[wire.FromServer] | None] = SimpleQueue()
        self._outbox = Outbox(lambda: self._inbox.number)
        self._inbox: Inbox[wire.FromServer] = Inbox(wire.from_server, self._outbox.confirm, self._progress)
        self._leaving = threading.Event()
        self._line: _Line | None = None
        self._server = dialled(job.server_address)
        self.sampler = Sampler(job.sample_every_s, log, (job.host,), self._peer)
        self._joined = False
        self._lost: Moment | None = None
        self._attempts = 0
        # The app's own `random` is seeded by the trial: its stream is not ours to draw from.
        self._jitter = random.SystemRandom()
        self._heard_at = now()
        self._reader = threading.Thread(target=self._run, name="reader", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> Self:
        """Begin to connect; `frames` tells how it goes."""
        self._reader.start()
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the stream; if for an error, the server is told that it need not wait.

        Who is stopped from outside says nothing: a host that reboots stops its processes, and will be back.
        """
        if isinstance(error, Exception) and not isinstance(error, ConnectionFailed):
            reason = str(error) if isinstance(error, StepError) else f"{type(error).__name__}: {error}"
            self._outbox.mention(wire.Leave(reason[:500], fatal=isinstance(error, ShapingFailed)))
        self._leaving.set()
        self._outbox.finish()
        if (line := self._line) is not None:
            line.end_within(ATTEMPT_S)
        self._reader.join(ATTEMPT_S)
        self._watcher.join(ATTEMPT_S)

    def send(self, frame: wire.Frame, body: tuple[bytes, ...] = (), watch: Watch | None = None) -> None:
        """Say something to the server, now or when it can be reached again."""
        self._outbox.post(frame, body, watch)

    def frames(self) -> Iterator[Heard[wire.FromServer]]:
        """Yield what the server says, until it says goodbye; raises ConnectionFailed when it cannot be reached."""
        while (told := self._frames.get()) is not None:
            if isinstance(told, ConnectionFailed):
                raise told
            yield told
            del told  # with its body, before the next one is here

    def probed(self, timeout_s: float) -> Heard[wire.FromServer] | None:
        """Return what comes next of a probe; None if it was interrupted. Raises ConnectionFailed if nothing comes."""
        try:
            return self._probes.get(timeout=timeout_s)
        except Empty:
            raise ConnectionFailed("probe", f"nothing came from the server for {timeout_s:g} s") from None

    def forget_probes(self) -> None:
        """Let go of what has come of earlier probes."""
        while not self._probes.empty():
            self._probes.get()

    @property
    def over(self) -> bool:
        """Whether nothing more will come from the server."""
        return not self._reader.is_alive()

    def _peer(self, _client: str) -> Address | None:
        """Where the server is, while it is reached: nowhere to look if a relay is between, which looks itself."""
        reached = self._joined and self._lost is None and self._address == self._job.server_address
        return self._server if reached else None

    # --- the reader's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Hold connections until the server says goodbye, this side leaves, or time is up."""
        began = time.monotonic()
        pause_s = FIRST_PAUSE_S
        try:
            while not self._leaving.is_set():
                self._attempts += 1
                try:
                    self._hold()
                except (_Broken, _Refused) as error:
                    if self._joined and self._lost is None:
                        began, pause_s = time.monotonic(), FIRST_PAUSE_S
                        self._note_loss(str(error))
                    self._give_up_after(began, error)
                    self._leaving.wait(self._jitter.uniform(0.5, 1.0) * pause_s)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                else:
                    break
        except ConnectionFailed as failure:
            self._frames.put(failure)
        except Exception as error:  # noqa: BLE001 - a thread's error must reach the session, whatever it is
            self._frames.put(ConnectionFailed("run", f"{type(error).__name__}: {error}"))
        self._frames.put(None)
        self._probes.put(None)

    def _give_up_after(self, began: float, error: _Broken | _Refused) -> None:
        """Raise ConnectionFailed if the server has refused for good, or has been away for too long."""
        waited_s = time.monotonic() - began
        if isinstance(error, _Refused) and not error.again:
            raise ConnectionFailed("run" if self._joined else "connect", f"refused: {error.reason}") from error
        if not self._joined and waited_s >= self._job.connect_timeout_s:
            raise ConnectionFailed("connect", _unreached(self._job, self._job.connect_timeout_s, error)) from error
        if self._joined and waited_s >= self._patience_s:
            raise ConnectionFailed("run", _unreached(self._job, self._patience_s, error)) from error

    @property
    def _patience_s(self) -> float:
        return PATIENCE * self._job.transport.rejoin_timeout_s

    def _hold(self) -> None:
        """Make a connection and read until the goodbye; raises _Broken or _Refused for any other end."""
        line = self._line = _Line(self._job, self._address)
        over = False
        try:
            self._inbox.connect()
            hello = wire.Hello(wire.PROTOCOL, self._job.campaign, self._job.host, self._session, self._inbox.heard)
            messages = line.join(hello, self._outbox)
            self._welcome(line, next(messages, b""))
            for data in messages:
                self._heard_at = now()
                over = self._pass_on(self._inbox.take(data, self._heard_at)) or over
        except wire.ProtocolError as error:
            raise _Broken(f"the server's word cannot be understood: {error}") from error
        except grpc.RpcError as error:
            raise _Broken(line.why(error)) from error
        finally:
            self._outbox.disconnect(line.wire)
            line.close()
        if not over and not self._leaving.is_set():
            raise _Broken("the server closed the stream without a goodbye")

    def _watch(self) -> None:
        """End a connection on which nothing comes any more: an idle one is pinged, so silence says that it is dead.

        gRPC's own keepalive would take a minute where this side's buffers are full (grpc.http2.ping_timeout_ms).
        """
        patience_s = self._job.transport.patience_s
        port = int(self._address.rpartition(":")[2])
        while not self._leaving.wait(patience_s / 4):
            line = self._line
            if line is None or self._heard_at.until_s(now()) < patience_s:
                continue
            silences = [one.silent_s for one in connections() if one.peer[1] == port]
            if silences and min(silences) >= patience_s:
                line.reason = "the server does not answer"
                line.close()

    def _welcome(self, line: _Line, first: bytes) -> None:
        """Go on where the connection before has ended, or begin anew."""
        if not first:
            raise _Broken("the server closed the stream without a word")
        envelope, _ = wire.unpack(wire.from_server, first)
        at = self._heard_at = now()
        match envelope.frame:
            case wire.Refusal() as refusal:
                raise _Refused(refusal)
            case wire.Welcome() as welcome:
                pass
            case _:
                raise wire.ProtocolError("the first frame is not a welcome")
        if not welcome.resumed:
            self._begin_anew(welcome, envelope.sent, at)
        self._outbox.connect(line.wire, welcome.heard)
        if self._lost is not None:
            self._log.write(ConnectionBack(after_s=self._lost.until_s(at), attempts=self._attempts), at)
        self._joined, self._lost, self._attempts = True, None, 0

    def _begin_anew(self, welcome: wire.Welcome, sent: wire.Clocks, at: Moment) -> None:
        """Forget what was said and heard, and let the session do so."""
        self._inbox.reset()
        self._outbox.reset()
        while not self._frames.empty():
            self._frames.get()
        self._frames.put(Heard(welcome, (), 0, sent, at, at, at, 0))
        self._probes.put(None)

    def _pass_on(self, heard: Heard[wire.FromServer] | None) -> bool:
        """Pass a frame on to the session, or act on it; True if it was the last, and the stream ends in good order."""
        if heard is None:
            return False
        match heard.frame:
            case wire.Ping(probe):
                self._outbox.mention(wire.Pong(heard.sent, wire.Clocks(*heard.header), probe))
                return False
            case wire.Confirm():
                return False
            case wire.Found() | wire.Load():
                self._probes.put(heard)
            case _:
                self._frames.put(heard)
        if heard.size_bytes >= wire.LONG_BYTES:
            self._outbox.mention(wire.Confirm())
        if not isinstance(heard.frame, wire.Goodbye):
            return False
        self._probes.put(None)
        self._outbox.finish()
        return True

    def _note_loss(self, reason: str) -> None:
        self._lost, self._attempts = now(), 0
        self._log.write(ConnectionLost(reason=reason), self._lost)

    def _progress(self, frame: wire.FromServer, filled: int, size: int) -> None:
        if isinstance(frame, wire.Instruction):
            self._on_progress(frame, filled, size)


class _Line:
    """One gRPC channel and its stream."""

    def __init__(self, job: ClientJob, address: str) -> None:
        self.wire = Wire()
        self.reason = ""
        self._tls = job.tls
        options = channel_options(job.transport)
        if job.tls is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            trusted = credentials.channel_options(job.tls)
            self._channel = grpc.secure_channel(address, credentials.channel_credentials(job.tls), (*options, *trusted))
        self._ended = threading.Event()

    def join(self, hello: wire.Hello, outbox: Outbox) -> Iterator[bytes]:
        """Connect, say hello, and return what the server says; iterating raises grpc.RpcError where that fails."""
        join: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            f"/{wire.SERVICE}/{wire.METHOD}"
        )

        def said() -> Iterator[bytes]:
            yield wire.pack(wire.Envelope(0, hello.heard.number, wire.Clocks(*now()), hello))
            yield from outbox.messages(self.wire)

        return iter(join(said()))

    def why(self, error: grpc.RpcError) -> str:
        """Return why there is no connection, or no longer one."""
        if self.reason:
            return self.reason
        asked = getattr(error, "details", None)  # what the stream raises is a grpc.Call too, other errors are not
        details = str(asked() if asked else error)
        return credentials.why_refused(details, self._tls) or details

    def end_within(self, seconds: float) -> None:
        """Let what has been said arrive, then end the stream."""
        self._ended.wait(seconds)
        self.close()

    def close(self) -> None:
        """End the stream at once."""
        self._channel.close()
        self._ended.set()


def channel_options(transport: Transport) -> list[tuple[str, int]]:
    """Return gRPC's options (grpc_types.h) for a client."""
    return [
        ("grpc.max_receive_message_length", wire.MAX_PIECE_BYTES + wire.PIECE_BYTES),
        ("grpc.max_send_message_length", -1),
        # A client and its server are on one lab's network; a proxy from the environment is not part of the experiment.
        ("grpc.enable_http_proxy", 0),
        # Each attempt is a connection of its own, and this module says when the next one is due.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.min_reconnect_backoff_ms", round(1000 * ATTEMPT_S)),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.keepalive_time_ms", round(1000 * transport.keepalive_s)),
        ("grpc.keepalive_timeout_ms", round(1000 * transport.keepalive_timeout_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _unreached(job: ClientJob, seconds: float, error: Exception) -> str:
    return f"no answer from the server at {job.server_address} within {seconds:g} s ({error})"

"""The client's end of its gRPC stream: frames in, frames out, both blocking."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING, Self

import grpc

from flcommon import wire
from flcommon.errors import StepError
from flcommon.eventlog import Moment, now

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A client and its server are on one lab's network; a proxy from the environment is not part of the experiment.
    ("grpc.enable_http_proxy", 0),
)


class ConnectionFailed(StepError):
    """The server cannot be reached, refused this client, or is gone."""


class Connection:
    """A stream to the server at `address`. Use it as a context manager."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)

    def __enter__(self) -> Self:
        """Wait until the server accepts connections; raises ConnectionFailed after the time-out."""
        try:
            grpc.channel_ready_future(self._channel).result(self._timeout_s)
        except grpc.FutureTimeoutError as error:
            self._channel.close()
            raise ConnectionFailed(
                "connect", f"no answer from the server at {self._address} within {self._timeout_s:g} s"
            ) from error
        join: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            f"/{wire.SERVICE}/{wire.METHOD}"
        )
        self._incoming = join(iter(self._outgoing.get, None))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the stream."""
        self._outgoing.put(None)
        self._channel.close()

    def send(self, frame: wire.Frame, *payload: bytes) -> Moment:
        """Offer a frame to gRPC and return when: the moment before, for afterwards it may have arrived already."""
        data = wire.pack(frame, *payload)
        at = now()
        self._outgoing.put(data)
        return at

    def receive(self) -> Iterator[bytes]:
        """Yield the server's frames as they arrive; raises ConnectionFailed when the stream breaks."""
        try:
            yield from self._incoming
        except grpc.RpcError as error:
            raise ConnectionFailed("run", f"the stream to the server at {self._address} broke") from error

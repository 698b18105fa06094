"""What one side of a stream hears: gRPC messages put together to whole frames, each exactly once and in order.

An inbox outlives connections: a frame that had arrived in part is filled up by the next one.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from flcommon import wire
from flcommon.wire import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from flcommon.eventlog import Moment

F = TypeVar("F", bound=wire.Frame)

PROGRESS_NS = 2_000_000_000
"""How often a long transfer is told of."""


@dataclass(frozen=True)
class Heard(Generic[F]):
    """A whole frame: when its sender offered it (its clocks), when its first and its last byte were here, bytes in all.

    Of one that took several connections, `sent` and `header` are of the last, and belong together.
    """

    frame: F
    body: tuple[bytes, ...]
    number: int
    sent: wire.Clocks
    header: Moment
    first: Moment
    last: Moment
    wire_bytes: int

    @property
    def size_bytes(self) -> int:
        """The length of the body."""
        return sum(map(len, self.body))


@dataclass
class _Body:
    """A body as it fills. A segment that arrives as one gRPC message is kept as it is; others are copied once."""

    sizes: tuple[int, ...]
    segments: list[bytes] = field(default_factory=list)
    filled: int = 0
    _open: io.BytesIO | None = None

    def __post_init__(self) -> None:
        self.size = sum(self.sizes)
        self._skip_empty()

    @property
    def complete(self) -> bool:
        return len(self.segments) == len(self.sizes)

    def add(self, data: bytes | memoryview) -> None:
        """Take in the next bytes; raises ProtocolError if they are more than were announced."""
        view = memoryview(data)
        if len(view) > self.size - self.filled:
            raise ProtocolError(f"more bytes than the {self.size} that were announced")
        self.filled += len(view)
        while view:
            missing = self.sizes[len(self.segments)] - (self._open.tell() if self._open else 0)
            self._take(data if len(view) == len(data) else view[:missing], view[:missing], missing)
            view = view[missing:]

    def _take(self, whole: bytes | memoryview, part: memoryview, missing: int) -> None:
        """Add a part to the segment that is being filled; `whole` is what it came in, maybe the very segment."""
        if self._open is None and len(part) == missing:
            self.segments.append(whole if isinstance(whole, bytes) and len(whole) == missing else bytes(part))
        else:
            self._open = self._open or io.BytesIO()
            self._open.write(part)
            if len(part) == missing:
                # CPython hands out BytesIO's own buffer here, shrunk in place: no copy.
                self.segments.append(self._open.getvalue())
                self._open = None
        self._skip_empty()

    def _skip_empty(self) -> None:
        while len(self.segments) < len(self.sizes) and self.sizes[len(self.segments)] == 0:
            self.segments.append(b"")


@dataclass
class _Partial(Generic[F]):
    """A frame whose body has not arrived whole."""

    envelope: wire.Envelope[F]
    body: _Body
    header: Moment
    first: Moment
    wire_bytes: int = 0


class Inbox(Generic[F]):
    """Frames from the other side; used from the one thread that reads. `on_progress` gets (frame, bytes, of)."""

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[wire.Envelope[F]],
        on_confirm: Callable[[int], None],
        on_progress: Callable[[F, int, int], None] = lambda _frame, _filled, _size: None,
    ) -> None:
        self._decoder = decoder
        self._on_confirm = on_confirm
        self._on_progress = on_progress
        self._partial: _Partial[F] | None = None
        self._in_body = False
        self._told_ns = 0
        self.number = 0
        """The last number that has arrived whole."""

    @property
    def heard(self) -> wire.Place:
        """Where the other side shall go on, in a new connection."""
        return wire.Place(self.number, self._partial.body.filled if self._partial else 0)

    @property
    def idle(self) -> bool:
        """Whether no frame is arriving."""
        return not self._in_body

    def connect(self) -> None:
        """Begin a new connection: its first message is a header."""
        self._in_body = False

    def reset(self) -> None:
        """Forget everything: the other side begins anew."""
        self._partial, self._in_body, self.number = None, False, 0

    def take(self, data: bytes, at: Moment) -> Heard[F] | None:
        """Take in a gRPC message that came `at` a moment; return the frame that it completes, if it does.

        Raises ProtocolError for what no outbox would send.
        """
        partial = self._partial if self._in_body else None
        if partial is None:
            partial, rest = self._begin(data, at)
            partial.body.add(rest)
        elif not data:
            raise ProtocolError("an empty piece of a body")
        else:
            partial.body.add(data)
        partial.wire_bytes += len(data) + wire.GRPC_PREFIX_BYTES
        if not partial.body.complete:
            self._progress(partial, at)
            return None
        return self._complete(partial, at)

    def _begin(self, data: bytes, at: Moment) -> tuple[_Partial[F], memoryview]:
        envelope, rest = wire.unpack(self._decoder, data)
        self._on_confirm(envelope.heard)
        if envelope.number == 0 and envelope.segments:
            raise ProtocolError("a body without a number")
        if envelope.number not in {0, self.number + 1}:
            raise ProtocolError(f"frame {envelope.number} where {self.number + 1} was due")
        partial = self._resumed(envelope, at) or _Partial(envelope, _Body(envelope.segments), at, at)
        if envelope.number:
            self._partial, self._in_body, self._told_ns = partial, True, at.mono_ns
        return partial, rest

    def _resumed(self, envelope: wire.Envelope[F], at: Moment) -> _Partial[F] | None:
        """Return the partial frame that goes on, None if a frame begins; raises ProtocolError if it is another."""
        if envelope.start == 0:
            return None
        begun = self._partial
        if begun is None or begun.body.sizes != envelope.segments or begun.body.filled != envelope.start:
            raise ProtocolError(f"a frame from byte {envelope.start} on, whose beginning is not here")
        return _Partial(envelope, begun.body, at, begun.first, begun.wire_bytes)

    def _complete(self, partial: _Partial[F], at: Moment) -> Heard[F]:
        envelope = partial.envelope
        if envelope.number:
            self.number, self._partial, self._in_body = envelope.number, None, False
        return Heard(
            frame=envelope.frame,
            body=tuple(partial.body.segments),
            number=envelope.number,
            sent=envelope.sent,
            header=partial.header,
            first=partial.first,
            last=at,
            wire_bytes=partial.wire_bytes,
        )

    def _progress(self, partial: _Partial[F], at: Moment) -> None:
        if at.mono_ns - self._told_ns >= PROGRESS_NS:
            self._told_ns = at.mono_ns
            self._on_progress(partial.envelope.frame, partial.body.filled, partial.body.size)

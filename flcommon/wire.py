"""The frames on the stream between flserver and flclient, and their encoding.

A frame is a header and a body of any number of segments. On the stream it is one gRPC message or several: the first
holds a 4-byte big-endian length, a msgpack `Envelope` of that length, and the beginning of the body; further ones hold
nothing but the rest of it, however it was cut. For instructions and replies the first segment is Flower's protobuf
`Message` without its arrays, and each further one the data of an array. Why not a .proto: docs/decisions/0001; why the
arrays are outside: docs/decisions/0011. gRPC carries frames on one bidirectional stream, method `METHOD`, with no
serializer of its own.

Instructions, replies and all else that must arrive have a number, one after the other without gaps in each direction
(`flcommon.outbox`, `flcommon.inbox`); number 0 is for what may be lost with its connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Generic, NamedTuple, TypeVar

import msgspec

from flcommon.decoding import decoded
from flcommon.errors import FieldlabError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SERVICE = "fieldlab.Experiment"
METHOD = "Join"
PROTOCOL = 3
PIECE_BYTES = 1 << 20
"""A body is cut into gRPC messages of about this size: gRPC copies each, and holds each whole at either end."""
MAX_PIECE_BYTES = 4 * PIECE_BYTES
"""No gRPC message on the stream is longer."""
LONG_BYTES = PIECE_BYTES
"""A frame with such a body is long, and its header and its confirmation are worth gRPC messages of their own.

For a shorter one they would cost more than they are good for: 248 kB take 3 clients and a server 3.6 ms, with them 4.9.
"""
MAX_BODY_BYTES = 1 << 35
"""32 GiB: what is longer is no model but a mistake."""
GRPC_PREFIX_BYTES = 5
"""What gRPC puts before each message: a flag and a length (gRPC over HTTP/2, "Length-Prefixed-Message")."""

_LENGTH_BYTES = 4

Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_BODY_BYTES)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class ProtocolError(FieldlabError):
    """The other side has sent what no process of ours would."""


class Clocks(NamedTuple):
    """One instant on the two clocks of a host, in nanoseconds (`flcommon.eventlog.Moment`, as it travels)."""

    mono_ns: int
    wall_ns: int


class Place(msgspec.Struct, frozen=True):
    """How far one side has heard the other: the last number that is here whole, and bytes of the next one's body."""

    number: Count = 0
    filled: Size = 0


class Frame(msgspec.Struct, frozen=True, tag_field="frame"):
    """Base of all frames."""


class Hello(Frame, frozen=True, tag="hello"):
    """Client: the first frame of a connection. `session` names the process, so that its next connection goes on."""

    protocol: int
    campaign: str
    client: str
    session: str
    heard: Place = Place()


class Prepared(Frame, frozen=True, tag="prepared"):
    """Client: fresh state for a trial is ready."""

    trial: int


class Reply(Frame, frozen=True, tag="reply"):
    """Client: the reply to an instruction; when the instruction was sent (server's clocks) and received (client's)."""

    message: str
    asked: Clocks
    received: Clocks


class Pong(Frame, frozen=True, tag="pong"):
    """Client: the answer to a ping: when it was sent (server's clocks) and received (client's)."""

    asked: Clocks
    received: Clocks
    probe: Count = 0


class Switched(Frame, frozen=True, tag="switched"):
    """Client: what is injected is as the server has said."""

    trial: int
    round: int


class Ask(Frame, frozen=True, tag="ask"):
    """Client: measure the path with me: so many pings, one each `every_ms`, and then loads of a size each way.

    `probe` numbers a client's probes from 1. The client's own loads follow its question.
    """

    probe: Count
    pings: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    every_ms: Annotated[float, msgspec.Meta(ge=0, le=1000)]
    loads: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    size_bytes: Size = 0


class Measured(Frame, frozen=True, tag="measured"):
    """Client: it has looked at the path, as the server asked."""

    stage: str


class Load(Frame, frozen=True, tag="load"):
    """Both: bytes that mean nothing, the `index`-th of a probe."""

    probe: Count
    index: Count


class Leave(Frame, frozen=True, tag="leave"):
    """Client: it goes, and will not be back by itself; `fatal`: without it, what is measured is not what was asked."""

    reason: str
    fatal: bool = False


class Welcome(Frame, frozen=True, tag="welcome"):
    """Server: the client's Flower node id. Not `resumed`: what it knows of an earlier connection is void."""

    node_id: int
    resumed: bool
    heard: Place = Place()


class Refusal(Frame, frozen=True, tag="refusal"):
    """Server: the client may not join; `again`: it may, later."""

    reason: str
    again: bool = False


class OpenTrial(Frame, frozen=True, tag="open-trial"):
    """Server: make fresh state for this trial, then say Prepared."""

    trial: int


class Instruction(Frame, frozen=True, tag="instruction"):
    """Server: run the app on the body (Flower's Message) and reply."""

    message: str
    trial: int
    round: int


class CloseTrial(Frame, frozen=True, tag="close-trial"):
    """Server: the trial is over."""

    trial: int
    ok: bool


class Ping(Frame, frozen=True, tag="ping"):
    """Server: to be answered at once, for comparing clocks; `probe` 0: on the server's own account."""

    probe: Count = 0


class Switch(Frame, frozen=True, tag="switch"):
    """Server: before this round, inject what the trial says, or nothing; then say Switched."""

    trial: int
    round: int
    inject: bool


class Measure(Frame, frozen=True, tag="measure"):
    """Server: look at the natural path, with loads of this size, then say Measured."""

    stage: str
    size_bytes: Size


class Found(Frame, frozen=True, tag="found"):
    """Server: what a probe came to: differences of raw stamps in ns, receiver's monotonic clock minus sender's.

    `down_ns` and `up_ns` of each ping that came back; `loads_ns`: when each of the client's loads was here whole, by
    the server's monotonic clock.
    """

    probe: Count
    down_ns: tuple[int, ...]
    up_ns: tuple[int, ...]
    loads_ns: tuple[int, ...] = ()


class Confirm(Frame, frozen=True, tag="confirm"):
    """Both: what the envelope says has been heard need not be kept; sent where no other frame would say so soon."""


class Goodbye(Frame, frozen=True, tag="goodbye"):
    """Server: leave; `error` says why when it is not the campaign's regular end."""

    error: str | None = None


FromClient = Hello | Prepared | Reply | Pong | Switched | Ask | Load | Measured | Leave | Confirm
FromServer = (
    Welcome
    | Refusal
    | OpenTrial
    | Switch
    | Instruction
    | CloseTrial
    | Ping
    | Measure
    | Load
    | Found
    | Confirm
    | Goodbye
)

F = TypeVar("F")


class Envelope(msgspec.Struct, Generic[F], frozen=True, array_like=True):
    """The header of a frame: its number, the last number heard from the other side, when it was offered to gRPC.

    `segments` are the sizes of the body's segments; with `start` above 0, so many bytes of the body have arrived by an
    earlier connection, and the rest follows.
    """

    number: Count
    heard: Count
    sent: Clocks
    frame: F
    segments: tuple[Size, ...] = ()
    start: Size = 0


_encoder = msgspec.msgpack.Encoder()
from_client: msgspec.msgpack.Decoder[Envelope[FromClient]] = msgspec.msgpack.Decoder(Envelope[FromClient])
from_server: msgspec.msgpack.Decoder[Envelope[FromServer]] = msgspec.msgpack.Decoder(Envelope[FromServer])


def pack(envelope: Envelope[F]) -> bytes:
    """Encode a header, with its length before it."""
    header = _encoder.encode(envelope)
    return len(header).to_bytes(_LENGTH_BYTES, "big") + header


def unpack(decoder: msgspec.msgpack.Decoder[Envelope[F]], data: bytes) -> tuple[Envelope[F], memoryview]:
    """Decode the first gRPC message of a frame into header and beginning of the body; raises ProtocolError."""
    view = memoryview(data)
    end = _LENGTH_BYTES + int.from_bytes(view[:_LENGTH_BYTES], "big")
    if len(view) < _LENGTH_BYTES or end > len(view):
        raise ProtocolError("a frame shorter than its header")
    try:
        envelope = decoded(decoder.decode, view[_LENGTH_BYTES:end])
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"a frame that cannot be read: {error}") from error
    if sum(envelope.segments) > MAX_BODY_BYTES or envelope.start > sum(envelope.segments):
        raise ProtocolError(f"a frame of {sum(envelope.segments)} bytes, from byte {envelope.start} on")
    return envelope, view[end:]


def messages(header: bytes, body: Sequence[bytes], start: int = 0) -> Iterator[bytes]:
    """Cut a frame into gRPC messages: small segments are joined, large ones sliced, and those between sent as they are.

    A segment that is not cut is not copied either. The header of a long frame goes first, by itself: the other side
    knows at once what is coming, and when it was sent.
    """
    batch: list[bytes | memoryview] = [header]
    held = len(header)
    if sum(map(len, body)) - start >= LONG_BYTES:
        yield header
        batch, held = [], 0
    for segment in _from(body, start):
        if held + len(segment) <= PIECE_BYTES:
            batch.append(segment)
            held += len(segment)
            continue
        if batch:
            yield b"".join(batch)
        batch, held = [], 0
        if len(segment) <= PIECE_BYTES // 4:
            batch, held = [segment], len(segment)
        elif len(segment) <= MAX_PIECE_BYTES:
            yield segment if isinstance(segment, bytes) else bytes(segment)
        else:
            view = memoryview(segment)
            yield from (bytes(view[at : at + PIECE_BYTES]) for at in range(0, len(view), PIECE_BYTES))
    if batch:
        yield b"".join(batch)


def _from(body: Sequence[bytes], start: int) -> Iterator[bytes | memoryview]:
    """Yield the segments of a body from a byte on."""
    for segment in body:
        if start < len(segment):
            yield memoryview(segment)[start:] if start else segment
        start = max(0, start - len(segment))

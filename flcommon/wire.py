"""The frames on the stream between flserver and flclient, and their encoding.

A frame is a 4-byte big-endian length, a msgpack header of that length, and a payload to the end: for instructions and
replies Flower's own protobuf `Message`, untouched; empty otherwise. Why not a .proto: docs/decisions/0001.
gRPC carries frames on one bidirectional stream, method `METHOD`, with no serializer of its own.
"""

from __future__ import annotations

import msgspec

from flcommon.decoding import decoded

SERVICE = "fieldlab.Experiment"
METHOD = "Join"
PROTOCOL = 1
MAX_FRAME_BYTES = 2**31 - 1
"""gRPC's own bound on one message; what is longer needs chunks."""

_LENGTH_BYTES = 4


class Frame(msgspec.Struct, frozen=True, tag_field="frame"):
    """Base of all frame headers."""


class Hello(Frame, frozen=True, tag="hello"):
    """Client: the first frame; the app is imported and the client is ready."""

    protocol: int
    campaign: str
    client: str


class Prepared(Frame, frozen=True, tag="prepared"):
    """Client: fresh state for a trial is ready."""

    trial: int


class Reply(Frame, frozen=True, tag="reply"):
    """Client: the reply to an instruction; payload: Flower's Message."""

    message: str


class Welcome(Frame, frozen=True, tag="welcome"):
    """Server: the client is known, and this is its Flower node id."""

    node_id: int


class OpenTrial(Frame, frozen=True, tag="open-trial"):
    """Server: make fresh state for this trial, then say Prepared."""

    trial: int


class Instruction(Frame, frozen=True, tag="instruction"):
    """Server: run the app on the payload (Flower's Message) and reply."""

    message: str
    trial: int
    round: int


class CloseTrial(Frame, frozen=True, tag="close-trial"):
    """Server: the trial is over."""

    trial: int
    ok: bool


class Goodbye(Frame, frozen=True, tag="goodbye"):
    """Server: leave; `error` says why when it is not the campaign's regular end."""

    error: str | None = None


FromClient = Hello | Prepared | Reply
FromServer = Welcome | OpenTrial | Instruction | CloseTrial | Goodbye

_encoder = msgspec.msgpack.Encoder()
_from_client = msgspec.msgpack.Decoder(FromClient)
_from_server = msgspec.msgpack.Decoder(FromServer)


def pack(frame: Frame, *payload: bytes) -> bytes:
    """Encode a frame; the payload's parts are joined behind the header, in one copy."""
    header = _encoder.encode(frame)
    return b"".join((len(header).to_bytes(_LENGTH_BYTES, "big"), header, *payload))


def _split(data: bytes) -> tuple[memoryview, memoryview]:
    view = memoryview(data)
    if len(view) < _LENGTH_BYTES:
        raise msgspec.DecodeError("frame shorter than its length field")
    end = _LENGTH_BYTES + int.from_bytes(view[:_LENGTH_BYTES], "big")
    if end > len(view):
        raise msgspec.DecodeError("frame shorter than its header")
    return view[_LENGTH_BYTES:end], view[end:]


def unpack_from_client(data: bytes) -> tuple[FromClient, memoryview]:
    """Decode what a client sent into header and payload; raises msgspec.MsgspecError on anything else."""
    header, payload = _split(data)
    return decoded(_from_client.decode, header), payload


def unpack_from_server(data: bytes) -> tuple[FromServer, memoryview]:
    """Decode what the server sent into header and payload; raises msgspec.MsgspecError on anything else."""
    header, payload = _split(data)
    return decoded(_from_server.decode, header), payload

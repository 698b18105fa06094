"""The frames: each comes back as it was, and nothing that a network can deliver breaks the one who reads."""

from __future__ import annotations

from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flcommon import wire
from flcommon.wire import Clocks, Envelope, Place, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

COUNTS = st.integers(0, 2**63 - 1)
SIZES = st.integers(0, wire.MAX_BODY_BYTES)
CLOCKS = st.builds(Clocks, st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
PLAIN = {
    int: st.integers(-(2**63), 2**64 - 1),
    str: st.text(),
    bool: st.booleans(),
    type(None): st.none(),
    Clocks: CLOCKS,
    Place: st.builds(Place, COUNTS, SIZES),
}
SIDES = [(wire.FromClient, wire.from_client), (wire.FromServer, wire.from_server)]
DECODERS = [decoder for _, decoder in SIDES]
PIECE = wire.PIECE_BYTES


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return anything that may stand in a field of this type."""
    if get_origin(kind) is Annotated:
        number, bounds = get_args(kind)
        some = st.integers if number is int else st.floats
        return some(bounds.ge, 2**63 - 1 if bounds.le is None else bounds.le)
    if get_origin(kind) is UnionType:
        return st.one_of(map(values, get_args(kind)))
    if get_origin(kind) is tuple:
        return st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(tuple)
    return PLAIN[kind]


def frames(kinds: Sequence[type[wire.Frame]]) -> st.SearchStrategy[wire.Frame]:
    return st.one_of(
        st.builds(kind, **{field.name: values(field.type) for field in msgspec.structs.fields(kind)}) for kind in kinds
    )


def envelopes(side: Any) -> st.SearchStrategy[Envelope]:
    return st.builds(Envelope, COUNTS, COUNTS, CLOCKS, frames(get_args(side)), st.just(()), st.just(0))


def framed(header: bytes) -> bytes:
    return len(header).to_bytes(4, "big") + header


@pytest.mark.parametrize(("side", "decoder"), SIDES)
@given(data=st.data(), rest=st.binary())
def test_a_frame_comes_back_as_it_was(side: Any, decoder: Any, data: st.DataObject, rest: bytes) -> None:
    """Every frame of either side, with any beginning of a body behind it, which is looked at where it is."""
    envelope = data.draw(envelopes(side))
    whole = wire.pack(envelope) + rest
    header, body = wire.unpack(decoder, whole)
    assert header == envelope
    assert bytes(body) == rest
    assert body.obj is whole


def test_the_layout_is_a_contract_between_releases() -> None:
    """Length as four bytes big-endian, then a msgpack array: number, heard, sent, frame, segments, start."""
    assert wire.pack(Envelope(1, 2, Clocks(3, 4), wire.Prepared(trial=3))) == (
        b"\x00\x00\x00\x1f"
        b"\x96\x01\x02\x92\x03\x04" + b"\x82" + b"\xa5frame\xa8prepared" + b"\xa5trial\x03" + b"\x90\x00"
    )


@pytest.mark.parametrize("decoder", DECODERS)
@given(data=st.binary() | st.binary().map(framed))
def test_garbage_is_one_kind_of_error(decoder: Any, data: bytes) -> None:
    """Whatever bytes arrive, the only error is ProtocolError."""
    with pytest.raises(ProtocolError):
        wire.unpack(decoder, data)


@pytest.mark.parametrize(("side", "decoder"), SIDES)
@given(data=st.data())
def test_a_frame_that_is_cut_in_its_header_is_refused(side: Any, decoder: Any, data: st.DataObject) -> None:
    """A frame shorter than its length field, or than the header it announces, is an error and no other frame."""
    whole = wire.pack(data.draw(envelopes(side)))
    with pytest.raises(ProtocolError):
        wire.unpack(decoder, whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize(("side", "decoder"), SIDES)
@given(data=st.data())
def test_a_damaged_header_is_another_frame_or_an_error(side: Any, decoder: Any, data: st.DataObject) -> None:
    """One byte changed, anywhere: what comes out is a frame or ProtocolError."""
    damaged = bytearray(wire.pack(data.draw(envelopes(side))))
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    try:
        envelope, _ = wire.unpack(decoder, bytes(damaged))
    except ProtocolError:
        return
    assert isinstance(envelope.frame, get_args(side))


@pytest.mark.parametrize(
    "frame",
    [
        b"\x82\xa5frame\xa5leave\xa6reason\xa2\xff\xfe",
        b"\x83\xa5frame\xa5leave\xa6reason\xa11\xa1x" + b"\x91" * 100_000 + b"\x01",
        b"\x81\xa5frame\xa5leave",
        b"\x82\xa5frame\xa5leave\xa6reason\x01",
        b"\x81\xa5frame\xa5other",
        b"",
    ],
    ids=["not UTF-8", "endless nesting", "missing field", "wrong type", "unknown frame", "empty"],
)
def test_a_header_that_is_no_frame_is_refused(frame: bytes) -> None:
    """Also what msgspec answers with other errors than its own is ProtocolError here."""
    with pytest.raises(ProtocolError):
        wire.unpack(wire.from_client, framed(b"\x94\x00\x00\x92\x00\x00" + frame))


@pytest.mark.parametrize(
    ("frame", "decoder"),
    [(wire.Goodbye(), wire.from_client), (wire.Leave("enough"), wire.from_server)],
)
def test_each_side_takes_only_the_other_sides_frames(frame: wire.Frame, decoder: Any) -> None:
    """A client cannot end a campaign by saying what only a server says."""
    with pytest.raises(ProtocolError):
        wire.unpack(decoder, wire.pack(Envelope(1, 0, Clocks(0, 0), frame)))


@pytest.mark.parametrize(
    ("segments", "start"),
    [((-1,), 0), ((wire.MAX_BODY_BYTES + 1,), 0), ((wire.MAX_BODY_BYTES, 1), 0), ((5,), 6)],
    ids=["negative", "one too long", "too long together", "past its end"],
)
def test_a_body_that_cannot_be_is_refused(segments: tuple[int, ...], start: int) -> None:
    """Before a byte of it is kept."""
    with pytest.raises(ProtocolError):
        wire.unpack(wire.from_client, wire.pack(Envelope(1, 0, Clocks(0, 0), wire.Prepared(1), segments, start)))


# --- how a body is cut ------------------------------------------------------------------------------------------------

LENGTHS = st.sampled_from(
    [0, 1, 100, PIECE // 4, PIECE // 4 + 1, PIECE - 1, PIECE, 2 * PIECE, 4 * PIECE, 4 * PIECE + 1]
)


@given(lengths=st.lists(LENGTHS, max_size=6), cut=st.floats(0, 1))
def test_nothing_is_lost_by_cutting(lengths: list[int], cut: float) -> None:
    """The messages are header and body from a byte on, in order; none is empty or longer than gRPC is told to take."""
    body = [bytes([65 + place]) * length for place, length in enumerate(lengths)]
    start = round(cut * sum(lengths))
    messages = list(wire.messages(b"header", body, start))
    assert b"".join(messages) == b"header" + b"".join(body)[start:]
    assert all(0 < len(message) <= wire.MAX_PIECE_BYTES for message in messages)
    assert all(isinstance(message, bytes) for message in messages)


def test_what_need_not_be_cut_is_not_copied() -> None:
    """A model's large layers go to gRPC as the app made them."""
    layer = bytes(2 * PIECE)
    messages = list(wire.messages(b"header", [b"skeleton", layer, b"small"]))
    assert any(message is layer for message in messages)


def test_a_small_message_is_one() -> None:
    """The weights of the study's CNN, 248 kB in ten arrays, cost one gRPC message."""
    assert len(list(wire.messages(b"header", [bytes(24_802)] * 10))) == 1

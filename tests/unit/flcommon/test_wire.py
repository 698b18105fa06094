"""The frames: each comes back as it was, and nothing that a network can deliver breaks the one who reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flcommon import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FIELDS = {
    int: st.integers(-(2**63), 2**64 - 1),
    str: st.text(),
    bool: st.booleans(),
    str | None: st.none() | st.text(),
}
SIDES = [(wire.FromClient, wire.unpack_from_client), (wire.FromServer, wire.unpack_from_server)]
UNPACKERS = [unpack for _, unpack in SIDES]


def frames(kinds: Sequence[type[wire.Frame]]) -> st.SearchStrategy[wire.Frame]:
    return st.one_of(
        st.builds(kind, **{field.name: FIELDS[field.type] for field in msgspec.structs.fields(kind)}) for kind in kinds
    )


def framed(header: bytes) -> bytes:
    return len(header).to_bytes(4, "big") + header


@pytest.mark.parametrize(("side", "unpack"), SIDES)
@given(data=st.data(), parts=st.lists(st.binary(), max_size=3))
def test_a_frame_comes_back_as_it_was(side: type, unpack: Callable, data: st.DataObject, parts: list[bytes]) -> None:
    """Every frame of either side, with any payload in any number of parts: same header, parts joined, untouched."""
    frame = data.draw(frames(get_args(side)))
    header, payload = unpack(wire.pack(frame, *parts))
    assert header == frame
    assert bytes(payload) == b"".join(parts)


def test_the_length_is_four_bytes_big_endian() -> None:
    """The layout is a contract between releases: length, msgpack header, payload."""
    assert wire.pack(wire.Prepared(trial=3), b"xyz") == (
        b"\x00\x00\x00\x17" + b"\x82" + b"\xa5frame\xa8prepared" + b"\xa5trial\x03" + b"xyz"
    )


def test_a_payload_is_handed_on_without_a_copy() -> None:
    """A reply of many megabytes is looked at where it is."""
    data = wire.pack(wire.Reply("1"), b"payload")
    assert wire.unpack_from_client(data)[1].obj is data


@pytest.mark.parametrize("unpack", UNPACKERS)
@given(data=st.binary() | st.binary().map(framed))
def test_garbage_is_one_kind_of_error(unpack: Callable, data: bytes) -> None:
    """Whatever bytes arrive, the only error is msgspec.MsgspecError."""
    with pytest.raises(msgspec.MsgspecError):
        unpack(data)


@pytest.mark.parametrize(("side", "unpack"), SIDES)
@given(data=st.data())
def test_a_frame_that_is_cut_in_its_header_is_refused(side: type, unpack: Callable, data: st.DataObject) -> None:
    """A frame shorter than its length field, or than the header it announces, is an error and no other frame."""
    whole = wire.pack(data.draw(frames(get_args(side))))
    with pytest.raises(msgspec.MsgspecError):
        unpack(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize(("side", "unpack"), SIDES)
@given(data=st.data())
def test_a_damaged_header_is_another_frame_or_an_error(side: type, unpack: Callable, data: st.DataObject) -> None:
    """One byte changed, anywhere: what comes out is a frame or msgspec.MsgspecError."""
    damaged = bytearray(wire.pack(data.draw(frames(get_args(side)))))
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    try:
        header, _ = unpack(bytes(damaged))
    except msgspec.MsgspecError:
        return
    assert isinstance(header, get_args(side))


@pytest.mark.parametrize(
    "header",
    [
        b"\x82\xa5frame\xa5reply\xa7message\xa2\xff\xfe",
        b"\x83\xa5frame\xa5reply\xa7message\xa11\xa1x" + b"\x91" * 100_000 + b"\x01",
        b"\x81\xa5frame\xa5reply",
        b"\x82\xa5frame\xa5reply\xa7message\x01",
        b"\x81\xa5frame\xa5other",
        b"",
    ],
    ids=["not UTF-8", "endless nesting", "missing field", "wrong type", "unknown frame", "empty"],
)
def test_a_header_that_is_no_frame_is_refused(header: bytes) -> None:
    """Also what msgspec answers with other errors than its own is msgspec.MsgspecError here."""
    with pytest.raises(msgspec.MsgspecError):
        wire.unpack_from_client(framed(header))


@pytest.mark.parametrize(
    ("frame", "unpack"),
    [(wire.Goodbye(), wire.unpack_from_client), (wire.Hello(1, "c", "a"), wire.unpack_from_server)],
)
def test_each_side_takes_only_the_other_sides_frames(frame: wire.Frame, unpack: Callable) -> None:
    """A client cannot end a campaign by saying what only a server says."""
    with pytest.raises(msgspec.MsgspecError):
        unpack(wire.pack(frame))

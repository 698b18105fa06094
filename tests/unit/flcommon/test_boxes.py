"""Outbox and inbox: over connections that break anywhere, every frame arrives once, whole and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flcommon import wire
from flcommon.eventlog import Moment, now
from flcommon.inbox import PROGRESS_NS, Inbox
from flcommon.outbox import Offered, Outbox, Wire

if TYPE_CHECKING:
    from collections.abc import Sequence

PIECE = wire.PIECE_BYTES
SIZES = st.sampled_from([0, 1, 5, 1000, PIECE // 2, PIECE + 3, 5 * PIECE])
LAYOUTS = st.lists(st.lists(SIZES, max_size=4), min_size=1, max_size=5)
"""Of several frames, the sizes of the segments."""


class Notes:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self.offers: list[Offered] = []
        self.again: list[tuple[int, int]] = []

    def offered(self, how: Offered) -> None:
        self.offers.append(how)

    def redelivered(self, start: int, size_bytes: int) -> None:
        self.again.append((start, size_bytes))


class Pair:
    """A client's outbox and the server's inbox, and a network in between that the test holds."""

    def __init__(self) -> None:
        self.outbox = Outbox(lambda: 0)
        self.inbox: Inbox = Inbox(wire.from_client, lambda _number: None)
        self.heard: list[tuple[int, tuple[bytes, ...]]] = []

    def connect(self, messages: int | None) -> int:
        """Hold a connection until it has carried so many messages (None: all there are); return how many."""
        line = Wire()
        self.inbox.connect()
        self.outbox.connect(line, self.inbox.heard)
        self.outbox.finish()
        carried = 0
        stream = self.outbox.messages(line)
        while (messages is None or carried < messages) and (data := next(stream, None)) is not None:
            carried += 1
            if (heard := self.inbox.take(data, now())) is not None:
                self.heard.append((heard.frame.trial, heard.body))
        self.outbox.disconnect(line)
        return carried


def say(pair: Pair, bodies: Sequence[tuple[bytes, ...]]) -> list[Notes]:
    watches = [Notes() for _ in bodies]
    for number, (body, watch) in enumerate(zip(bodies, watches, strict=True)):
        pair.outbox.post(wire.Prepared(number), body, watch)
    return watches


@given(layouts=LAYOUTS, breaks=st.lists(st.integers(1, 3), max_size=8))
def test_every_frame_arrives_once_whole_and_in_order(layouts: list[list[int]], breaks: list[int]) -> None:
    """Wherever connections break, between frames or within a body."""
    bodies = [tuple(bytes([65 + place]) * size for place, size in enumerate(sizes)) for sizes in layouts]
    pair = Pair()
    say(pair, bodies)
    for messages in breaks:
        pair.connect(messages)
    pair.connect(None)
    assert pair.heard == list(enumerate(bodies))


def test_what_has_arrived_of_a_body_is_not_sent_again() -> None:
    """A model that was half through when the link went down goes on from there, and the log can say so."""
    pair = Pair()
    body = (bytes(10 * PIECE),)
    (watch,) = say(pair, [body])
    pair.connect(4)  # the header's, and three pieces
    assert pair.inbox.heard == wire.Place(0, 3 * PIECE)
    assert pair.connect(None) == 1 + 7
    assert watch.again == [(3 * PIECE, 10 * PIECE)]
    assert [how.wire_bytes > 7 * PIECE for how in watch.offers] == [True]
    assert pair.heard == [(0, body)]


def test_what_was_not_begun_is_not_said_to_be_delivered_again() -> None:
    """Frames that wait for their first connection are no redeliveries."""
    pair = Pair()
    watches = say(pair, [(b"a",), (b"b",)])
    pair.connect(1)
    pair.connect(None)
    assert [watch.again for watch in watches] == [[], []]


def test_what_is_confirmed_is_let_go() -> None:
    """Memory holds what the other side has not heard, and nothing else."""
    pair = Pair()
    say(pair, [(b"a",), (b"b",), (b"c",)])
    pair.outbox.confirm(2)
    assert [entry.frame.trial for entry in pair.outbox._kept] == [2]
    pair.outbox.confirm(1)
    assert len(pair.outbox._kept) == 1


def test_a_mention_is_lost_with_its_connection() -> None:
    """A ping of an hour ago is not for now."""
    outbox = Outbox(lambda: 7)
    outbox.mention(wire.Ping())
    line = Wire()
    outbox.connect(line, wire.Place())
    outbox.mention(wire.Confirm())
    outbox.finish()
    (data,) = outbox.messages(line)
    envelope, _ = wire.unpack(wire.from_server, data)
    assert (envelope.number, envelope.heard, envelope.frame) == (0, 7, wire.Confirm())


def test_a_connection_that_was_replaced_says_nothing_more() -> None:
    """Its messages end at once, and ending it again harms nobody."""
    outbox = Outbox(lambda: 0)
    first, second = Wire(), Wire()
    outbox.connect(first, wire.Place())
    outbox.connect(second, wire.Place())
    outbox.post(wire.Prepared(1))
    assert list(outbox.messages(first)) == []
    outbox.disconnect(first)
    assert not outbox.idle
    outbox.finish()
    assert len(list(outbox.messages(second))) == 1


@pytest.mark.parametrize(
    "place",
    [wire.Place(4, 0), wire.Place(0, 0), wire.Place(1, 2)],
    ids=["more than was said", "what was let go", "more of a body than there is"],
)
def test_a_place_that_cannot_be_is_refused(place: wire.Place) -> None:
    """Who says so is not the one who was there before."""
    pair = Pair()
    say(pair, [(b"a",), (b"b",), (b"c",)])
    pair.outbox.confirm(1)
    with pytest.raises(wire.ProtocolError):
        pair.outbox.connect(Wire(), place)


def packed(number: int, *sizes: int, frame: Any = None) -> bytes:
    return wire.pack(wire.Envelope(number, 3, wire.Clocks(1, 2), frame or wire.Prepared(0), sizes))


def test_moments_are_those_of_first_and_last_byte() -> None:
    """And of the header of the connection that carried the end, which belongs to the sender's stamp."""
    confirmed: list[int] = []
    inbox: Inbox = Inbox(wire.from_client, confirmed.append)
    assert inbox.take(packed(1, 2), Moment(10, 0)) is None
    assert not inbox.idle
    heard = inbox.take(b"ab", Moment(30, 0))
    assert heard is not None
    assert (heard.header.mono_ns, heard.first.mono_ns, heard.last.mono_ns) == (10, 10, 30)
    assert heard.sent == (1, 2)
    assert heard.wire_bytes == len(packed(1, 2)) + 2 + 2 * wire.GRPC_PREFIX_BYTES
    assert confirmed == [3]
    assert inbox.idle


def test_a_segment_that_arrives_as_one_is_not_copied() -> None:
    """What gRPC has made of it is what the app gets."""
    inbox: Inbox = Inbox(wire.from_client, lambda _number: None)
    layer = bytes(PIECE)
    inbox.take(packed(1, PIECE), now())
    heard = inbox.take(layer, now())
    assert heard is not None
    assert heard.body[0] is layer


def test_an_empty_piece_is_refused() -> None:
    """It would be an endless loop for free."""
    inbox: Inbox = Inbox(wire.from_client, lambda _number: None)
    inbox.take(packed(1, 5), now())
    with pytest.raises(wire.ProtocolError, match="an empty piece"):
        inbox.take(b"", now())


def test_long_transfers_are_told_of() -> None:
    """Every few seconds, with how much of it is here."""
    told: list[tuple[int, int]] = []
    inbox: Inbox = Inbox(wire.from_client, lambda _n: None, lambda _frame, filled, size: told.append((filled, size)))
    inbox.take(packed(1, 100), Moment(0, 0))
    for tenth in range(1, 9):
        inbox.take(bytes(10), Moment(tenth * PROGRESS_NS // 2, 0))
    assert told == [(20, 100), (40, 100), (60, 100), (80, 100)]

"""Flower's Grid over real streams: what is sent, what comes back, and what happens when it does not."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from flcommon import flower, wire
from flcommon.events import ClientGivenUp, ClockExchange, MessageSent, ReplyMetrics, ReplyReceived, RoundStarted
from flserver.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LONG_S = 20.0
REPLY = wire.Reply("0-2", wire.Clocks(0, 0), wire.Clocks(0, 0))
"""An answer to the second instruction of trial 0."""


def packed(frame: wire.Frame, number: int, segments: tuple[int, ...] = (), start: int = 0) -> bytes:
    return wire.pack(wire.Envelope(number, 0, wire.Clocks(0, 0), frame, segments, start))


def sources(replies: Sequence[Message]) -> list[int]:
    return [reply.metadata.src_node_id for reply in replies]


def values(replies: Sequence[Message]) -> list[int]:
    return [reply.content.metric_records["metrics"]["value"] for reply in replies]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_replies_come_in_the_order_of_sending(make_lab: Callable, order: tuple[int, ...]) -> None:
    """Sums of floats depend on order: whatever order clients answer in, the strategy sees the job's order."""
    lab = make_lab("a", "b", "c")
    lab.begin()
    hands = lab.join_all()
    asked = lab.ask()
    got = [hand.instruction() for hand in hands]
    for place in order:
        hands[place].reply(*got[place], value=place)
        # The server has taken this reply before the next one is sent.
        lab.grid._exchange.wait([got[place][0].message], LONG_S)
    replies = asked.result(LONG_S)
    assert sources(replies) == [1001, 1002, 1003]
    assert values(replies) == [0, 1, 2]
    lab.grid.streams.close()
    assert sorted(event.client for event in lab.events(MessageSent)) == ["a", "b", "c"]


def test_node_ids_follow_the_job(make_lab: Callable) -> None:
    """A client has the same node id whenever it connects."""
    lab = make_lab("z", "a")
    lab.join("a")
    lab.join("z")
    lab.grid.roster.wait_joined(LONG_S)
    assert lab.grid.get_node_ids() == [1001, 1002]
    assert lab.grid.roster.node_ids == {"z": 1001, "a": 1002}


def test_an_instruction_arrives_with_its_place(lab: Any) -> None:
    """The frame says trial, round and id; the message carries the id for the reply, and Flower's run of the trial."""
    lab.begin(3)
    a, b = lab.join_all()
    asked = lab.ask(server_round=2)
    frame, message = a.instruction()
    assert (frame.trial, frame.round) == (3, 2)
    assert frame.message == message.metadata.message_id
    assert message.metadata.run_id == flower.run_id(3) == lab.grid.run.run_id
    assert message.metadata.dst_node_id == 1001
    a.reply(frame, message)
    b.answer()
    assert len(asked.result(LONG_S)) == 2


def test_events_hold_the_sizes_on_the_wire(lab: Any) -> None:
    """message-sent and reply-received count Flower's message, and what went over gRPC for it; both name its place."""
    a, b = lab.join_all()
    asked = lab.ask()
    heard = a.hear_whole()
    frame = heard.frame
    a.reply(frame, flower.decode(heard.body[0], heard.body[1:]), value=7)
    b.answer()
    replies = asked.result(LONG_S)
    lab.grid.streams.close()
    sent = next(event for event in lab.events(MessageSent) if event.client == "a")
    assert (sent.trial, sent.round, sent.client, sent.kind) == (0, 1, "a", "train")
    assert sent.message == frame.message
    assert (sent.size_bytes, sent.wire_bytes) == (heard.size_bytes, heard.wire_bytes)
    assert sent.wire_bytes > sent.size_bytes > 0
    assert min(sent.encode_s, sent.queue_s, sent.send_s) >= 0
    received = next(event for event in lab.events(ReplyReceived) if event.client == "a")
    assert received.message == frame.message
    assert received.size_bytes == flower.encode(replies[0]).size_bytes
    assert received.wire_bytes > received.size_bytes
    assert min(received.receive_s, received.decode_s) >= 0
    assert received.error is None


def test_metrics_of_a_reply_are_in_the_log(lab: Any) -> None:
    """By record and name; what is no number, or no finite one, is left out."""
    a, b = lab.join_all()
    asked = lab.ask()
    frame, message = a.instruction()
    metrics = MetricRecord({"loss": 0.5, "bad": math.nan, "curve": [1.0, 2.0]})
    a.send(frame, Message(RecordDict({"metrics": metrics, "more": MetricRecord({"n": 3})}), reply_to=message))
    b.answer(2)
    asked.result(LONG_S)
    lab.grid.streams.close()
    found = {event.client: event.values for event in lab.events(ReplyMetrics)}
    assert found == {"a": {"metrics.loss": 0.5, "more.n": 3.0}, "b": {"metrics.value": 2.0}}


def test_clocks_are_compared_beside_each_message(lab: Any) -> None:
    """The four moments are those of the instruction and of its reply, in their order on one host."""
    a, b = lab.join_all()
    asked = lab.ask()
    for hand in (a, b):
        heard = hand.hear_whole()
        message = flower.decode(heard.body[0], heard.body[1:])
        parts = flower.encode(Message(RecordDict(), reply_to=message))
        hand.say(wire.Reply(heard.frame.message, heard.sent, wire.Clocks(*heard.header)), parts.skeleton)
    asked.result(LONG_S)
    lab.grid.streams.close()
    exchanges = [(stamp, event) for stamp, event in lab.reading.events if isinstance(event, ClockExchange)]
    assert sorted(event.client for _, event in exchanges) == ["a", "b"]
    for stamp, event in exchanges:
        moments = [event.server_sent_mono_ns, event.client_received_mono_ns, event.client_sent_mono_ns, stamp.mono_ns]
        assert moments == sorted(moments)
        assert event.message is not None


def test_many_megabytes_pass_both_ways(lab: Any) -> None:
    """Weights above gRPC's usual limit of 4 MB arrive bit-exact, there and back."""
    weights = ArrayRecord([np.random.default_rng(1).random(1_000_000)])
    content = RecordDict({"arrays": weights})
    messages = [Message(content, node, "train") for node in lab.grid.get_node_ids()]
    hands = lab.join_all()
    asked = lab.call(lab.grid.send_and_receive, messages)
    for hand in hands:
        frame, message = hand.instruction()
        hand.send(frame, Message(message.content, reply_to=message))
    for reply in asked.result(LONG_S):
        assert reply.content.array_records["arrays"] == weights


def test_push_and_pull(lab: Any) -> None:
    """Pull returns what is here, does not wait, and gives each reply once."""
    a, b = lab.join_all()
    ids = list(lab.grid.push_messages(lab.messages()))
    assert len(set(ids)) == 2
    assert lab.grid.pull_messages(ids) == []
    b.answer(2)
    lab.grid._exchange.wait([ids[1]], LONG_S)
    assert values(lab.grid.pull_messages(ids)) == [2]
    a.answer(1)
    lab.grid._exchange.wait(ids, LONG_S)
    assert values(lab.grid.pull_messages(ids)) == [1]
    assert lab.grid.pull_messages(ids) == []


def test_message_ids_are_never_given_twice(lab: Any) -> None:
    """Not in another round, and not in another trial."""
    lab.join_all()
    ids = list(lab.grid.push_messages(lab.messages(1))) + list(lab.grid.push_messages(lab.messages(2)))
    lab.begin(1)
    ids += lab.grid.push_messages(lab.messages(1))
    assert len(set(ids)) == 6


def test_flowers_older_way_to_make_a_message(lab: Any) -> None:
    """`create_message` and `set_run` are part of the Grid's interface still."""
    message = lab.grid.create_message(RecordDict(), "train", 1002, "4", ttl=9.0)
    assert (message.metadata.dst_node_id, message.metadata.group_id, message.metadata.ttl) == (1002, "4", 9.0)
    run = flower.empty_run(77)
    lab.grid.set_run(run)
    assert lab.grid.run is run


def test_rounds_begin_with_their_first_instruction(lab: Any) -> None:
    """Two rounds of instructions are two rounds in the log; the second call of a round begins nothing."""
    hands = lab.join_all()
    for number in (1, 1, 2):
        asked = lab.ask(number)
        for hand in hands:
            hand.answer()
        asked.result(LONG_S)
    assert [event.round for event in lab.events(RoundStarted)] == [1, 2]


# --- late -------------------------------------------------------------------------------------------------------------


def test_after_the_timeout_the_part_that_is_here_is_returned(lab: Any) -> None:
    """A straggler does not hold up those who are in time."""
    a, _ = lab.join_all()
    asked = lab.ask(timeout=1.0)
    a.answer(1)
    assert values(asked.result(LONG_S)) == [1]


def test_a_late_reply_is_not_taken_for_one_of_the_next_round(lab: Any) -> None:
    """Round 2 gets round 2's replies, also from a client that answers round 1 first."""
    a, b = lab.join_all()
    assert lab.ask(1, timeout=0.0).result(LONG_S) == []
    late = b.instruction()
    asked = lab.ask(2)
    a.instruction()
    b.reply(*late, value=-1)
    a.answer(1)
    b.answer(2)
    assert values(asked.result(LONG_S)) == [1, 2]


def test_a_reply_of_an_earlier_trial_is_dropped(lab: Any) -> None:
    """It is neither returned nor logged: the trial is over."""
    a, b = lab.join_all()
    assert lab.ask(timeout=0.0).result(LONG_S) == []
    late = a.instruction()
    b.instruction()
    lab.begin(1)
    a.reply(*late, value=-1)
    asked = lab.ask()
    a.answer(1)
    b.answer(2)
    assert values(asked.result(LONG_S)) == [1, 2]
    lab.grid.streams.close()
    assert {event.trial for event in lab.events(ReplyReceived)} == {1}


def test_a_reply_that_nobody_took_is_dropped_with_its_trial(lab: Any) -> None:
    """The next trial starts without what the one before has left, and can ask again."""
    hands = lab.join_all()
    ids = list(lab.grid.push_messages(lab.messages()))
    for hand in hands:
        hand.answer(-1)
    lab.grid._exchange.wait(ids, LONG_S)
    lab.begin(1)
    assert lab.grid.pull_messages(ids) == []


def test_a_reply_to_another_clients_instruction_is_dropped(lab: Any) -> None:
    """Nobody can answer for somebody else: b's word for a is not taken, and is not in the log."""
    a, b = lab.join_all()
    ids = list(lab.grid.push_messages(lab.messages()))
    frame, message = a.instruction()
    b.reply(frame, message, value=-1)
    b.answer(2)
    lab.grid._exchange.wait([ids[1]], LONG_S)
    assert values(lab.grid.pull_messages(ids)) == [2]
    lab.grid.streams.close()
    assert [event.client for event in lab.events(ReplyReceived)] == ["b"]


# --- failures ---------------------------------------------------------------------------------------------------------


def test_one_failing_app_does_not_stop_the_round(lab: Any) -> None:
    """The strategy gets Flower's error reply beside the good one; the event holds the reason."""
    a, b = lab.join_all()
    asked = lab.ask()
    a.fail("ValueError: no data")
    b.answer(2)
    bad, good = asked.result(LONG_S)
    assert bad.has_error()
    assert bad.error.reason == "ValueError: no data"
    assert values([good]) == [2]
    lab.grid.streams.close()
    assert {event.client: event.error for event in lab.events(ReplyReceived)} == {"a": "ValueError: no data", "b": None}


def test_all_apps_failing_is_the_strategys_to_judge(lab: Any) -> None:
    """The Grid hands on the error replies as Flower's does: an app that drives it may try again."""
    a, b = lab.join_all()
    asked = lab.ask(server_round=4)
    a.fail("ValueError: no data")
    b.fail("ValueError: no disk")
    assert [reply.error.reason for reply in asked.result(LONG_S)] == ["ValueError: no data", "ValueError: no disk"]


def test_a_straggler_is_not_said_to_have_failed(lab: Any) -> None:
    """One client failed and one is late: that is not every client."""
    a, _ = lab.join_all()
    asked = lab.ask(timeout=1.0)
    a.fail("ValueError: no data")
    (reply,) = asked.result(LONG_S)
    assert reply.has_error()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"garbage", "a frame shorter than its header"),
        (b"", "a frame shorter than its header"),
        (packed(wire.Goodbye(), 1), "a frame that cannot be read"),
        (packed(wire.Hello(1, "c1", "b", "s1"), 1), "a second hello"),
        (packed(wire.Prepared(0), 2), "frame 2 where 1 was due"),
        (packed(wire.Prepared(0), 0, (5,)), "a body without a number"),
        (packed(REPLY, 1, (1,)) + b"more", "more bytes than the 1 that were announced"),
        (packed(REPLY, 1, (wire.MAX_BODY_BYTES, 1)), "a frame of"),
        (packed(REPLY, 1, (9,), start=3), "whose beginning is not here"),
        (packed(REPLY, 1, (9,)) + b"\xff garbage", "not a Flower message"),
        (packed(REPLY, 1), "a reply that is not a Flower message"),
    ],
    ids=[
        "garbage",
        "nothing",
        "a server's frame",
        "a second hello",
        "out of order",
        "a body without a number",
        "more than announced",
        "too long",
        "a piece of something",
        "a reply that is no message",
        "an empty reply",
    ],
)
def test_a_client_that_breaks_the_rules_is_given_up(lab: Any, data: bytes, reason: str) -> None:
    """Whatever it sends, the round goes on without it, and it does not come in again."""
    a, b = lab.join_all()
    asked = lab.ask(timeout=None)
    a.answer(1)
    frame, _ = b.instruction()
    assert frame.message == REPLY.message
    b.say_bytes(data)
    good, bad = asked.result(LONG_S)
    assert values([good]) == [1]
    assert bad.error.code == ErrorCode.NODE_UNAVAILABLE
    assert bad.error.reason.startswith("b: it broke the protocol: ")
    (given_up,) = lab.events(ClientGivenUp)
    assert given_up.client == "b"
    assert reason in given_up.reason
    assert lab.grid.get_node_ids() == [1001]
    refusal = lab.hand().hello("b", session="s2").hear()
    assert refusal == wire.Refusal("b has broken the protocol before")


def test_a_message_longer_than_a_piece_is_not_taken_in(lab: Any) -> None:
    """GRPC ends the connection before it holds the message; the client may connect anew, and nobody else notices."""
    a, b = lab.join_all()
    asked = lab.ask()
    a.answer(1)
    frame, message = b.instruction()
    b.say_bytes(bytes(wire.MAX_PIECE_BYTES + 2 * wire.PIECE_BYTES))
    assert b.hear_end() in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED}
    again = lab.hand().hello("b")
    assert again.hear() == wire.Welcome(1002, resumed=True)
    assert again.hear().message == frame.message
    again.reply(frame, message, 2)
    assert values(asked.result(LONG_S)) == [1, 2]


def test_a_full_disk_does_not_leave_the_campaign_waiting(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When not even the loss can be written down, who waits is woken all the same."""
    a, b = lab.join_all()
    asked = lab.ask(timeout=None)
    a.instruction()
    b.instruction()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lab.log, "write", full)
    b.hang_up()
    failure = asked.exception(LONG_S)
    assert isinstance(failure, ServerError)
    assert "No space left on device" in str(failure)


def test_a_client_that_is_not_there_cannot_be_sent_to(lab: Any) -> None:
    """An instruction for a node that no client has is an error, not a wait without end."""
    lab.join_all()
    with pytest.raises(ServerError, match="no client has the node id 7"):
        lab.grid.push_messages([Message(RecordDict(), 7, "train")])

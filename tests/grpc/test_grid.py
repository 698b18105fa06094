"""Flower's Grid over real streams: what is sent, what comes back, and what happens when it does not."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict

from flcommon import flower, wire
from flcommon.events import ClientLeft, MessageSent, ReplyReceived, RoundStarted
from flserver.errors import ClientLost, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LONG_S = 20.0


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
    assert [event.client for event in lab.events(MessageSent)] == ["a", "b", "c"]


def test_node_ids_follow_the_job(make_lab: Callable) -> None:
    """A client has the same node id whenever it connects."""
    lab = make_lab("z", "a")
    lab.join("a")
    lab.join("z")
    lab.grid.streams.wait_joined(LONG_S)
    assert lab.grid.get_node_ids() == [1001, 1002]
    assert lab.grid.streams.node_ids == {"z": 1001, "a": 1002}


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
    """message-sent counts the frame, reply-received Flower's message; both name the message and its place."""
    a, b = lab.join_all()
    asked = lab.ask()
    data = a.hear_bytes()
    frame, payload = wire.unpack_from_server(data)
    a.reply(frame, flower.decode(payload), value=7)
    b.answer()
    replies = asked.result(LONG_S)
    sent = lab.events(MessageSent)[0]
    assert (sent.trial, sent.round, sent.client, sent.kind) == (0, 1, "a", "train")
    assert sent.message == frame.message
    assert sent.size_bytes == len(data)
    assert sent.encode_s >= 0
    lab.grid.streams.close()
    received = next(event for event in lab.events(ReplyReceived) if event.client == "a")
    assert received.message == frame.message
    assert received.size_bytes == len(flower.encode(replies[0]))
    assert received.error is None


def test_many_megabytes_pass_both_ways(lab: Any) -> None:
    """Weights above gRPC's usual limit of 4 MB arrive bit-exact, there and back."""
    weights = ArrayRecord([np.random.default_rng(1).random(1_000_000)])
    content = RecordDict({"arrays": weights})
    messages = [Message(content, node, "train") for node in lab.grid.get_node_ids()]
    hands = lab.join_all()
    asked = lab.call(lab.grid.send_and_receive, messages)
    for hand in hands:
        frame, message = hand.instruction()
        hand.say(wire.Reply(frame.message), flower.encode(Message(message.content, reply_to=message)))
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


def test_a_lost_client_wakes_the_waiter_at_once(lab: Any) -> None:
    """The wait has no time-out, so that only the loss can have ended it; it stays so for every later call."""
    a, b = lab.join_all()
    asked = lab.ask(timeout=None)
    a.answer()
    b.instruction()
    b.hang_up()
    lost = asked.exception(LONG_S)
    assert isinstance(lost, ClientLost)
    assert lost.client == "b"
    assert "b is gone: its connection" in str(lost)
    for call in (lab.grid.get_node_ids, lambda: lab.grid.pull_messages([]), lambda: lab.grid.streams.wait_joined(0)):
        with pytest.raises(ClientLost):
            call()


def test_a_client_lost_between_rounds_is_noticed_by_the_next(lab: Any) -> None:
    """Nobody waits when it happens: the next call says so."""
    a, _ = lab.join_all()
    a.hang_up()
    with pytest.raises(ClientLost, match="a is gone"):
        lab.grid.streams.wait_prepared(0, LONG_S)
    with pytest.raises(ClientLost, match="a is gone"):
        lab.grid.get_node_ids()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"garbage", "it sent a frame that cannot be read"),
        (b"", "it sent a frame that cannot be read"),
        (wire.pack(wire.Goodbye()), "it sent a frame that cannot be read"),
        (wire.pack(wire.Hello(1, "c1", "b")), "a second hello"),
        (wire.pack(wire.Reply("0-1"), b"\xff garbage"), r"its frame could not be handled \(DecodeError"),
    ],
    ids=["garbage", "nothing", "a server's frame", "a second hello", "a reply that is no message"],
)
def test_a_client_that_breaks_the_rules_is_lost(lab: Any, data: bytes, reason: str) -> None:
    """Whatever it sends, the server lives and says why it gives that client up."""
    a, b = lab.join_all()
    asked = lab.ask(timeout=None)
    a.answer()
    b.instruction()
    b.say_bytes(data)
    with pytest.raises(ClientLost, match=reason) as caught:
        asked.result(LONG_S)
    assert caught.value.client == "b"
    lab.grid.streams.close()
    (left,) = (event for event in lab.events(ClientLeft) if event.client == "b")
    assert not left.expected
    assert left.reason in str(caught.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
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
    assert isinstance(asked.exception(LONG_S), ClientLost)


def test_a_client_that_is_not_there_cannot_be_sent_to(lab: Any) -> None:
    """An instruction for a node that is not connected is an error, not a wait without end."""
    lab.join("a")
    with pytest.raises(ServerError, match="no client with node id 1002 is connected"):
        lab.grid.send_and_receive(lab.messages())

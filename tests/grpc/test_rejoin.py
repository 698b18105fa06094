"""Clients that go and come back, led by hand: who gets what again, who is given up, and when it is over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from flcommon import flower, wire
from flcommon.events import ClientBack, ClientGivenUp, ClientJoined, ClientLeft, ClientLost, ClockExchange, Redelivered
from flcommon.job import Transport
from flcommon.process import STOP_GRACE_S
from flserver.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable

LONG_S = 20.0
HASTY = Transport(keepalive_s=60.0, rejoin_timeout_s=0.3, clock_every_s=0.0)
"""Who is lost is given up soon."""


def until(what: Callable[[], Any]) -> Any:
    """Wait for what the log will tell."""
    deadline = time.monotonic() + LONG_S
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


@pytest.fixture
def hasty(make_lab: Callable) -> Any:
    """Return a grid for clients a and b that gives up soon, with trial 0 begun and opened."""
    lab = make_lab("a", "b", transport=HASTY)
    lab.begin()
    return lab


def back(lab: Any, name: str, heard: wire.Place, session: str = "s1") -> Any:
    """Connect anew as the same process, which has heard so much."""
    hand = lab.hand()
    hand.inbox.number = heard.number
    hand.say(wire.Hello(wire.PROTOCOL, "c1", name, session, heard), number=0)
    return hand


def test_an_instruction_that_was_not_heard_comes_again(lab: Any) -> None:
    """To the same process, by a new connection, with the same id; what was heard does not come again."""
    a, b = lab.join_all()
    asked = lab.ask(1)
    a.answer(1)
    b.instruction()
    b.hang_up()
    lost = until(lambda: lab.events(ClientLost))
    again = back(lab, "b", wire.Place(0))
    assert again.hear() == wire.Welcome(1002, resumed=True)
    again.answer(2)
    assert len(asked.result(LONG_S)) == 2
    assert [(event.client, event.reason) for event in lost] == [("b", lost[0].reason)]
    (returned,) = lab.events(ClientBack)
    assert (returned.client, returned.restarted) == ("b", False)
    assert [(event.client, event.offset) for event in lab.events(Redelivered)] == [("b", 0)]
    third = back(lab, "b", wire.Place(1))
    assert third.hear() == wire.Welcome(1002, resumed=True, heard=wire.Place(1))
    asked = lab.ask(2)
    a.answer(1)
    frame, message = third.instruction()
    assert frame.round == 2
    third.reply(frame, message, 2)
    assert len(asked.result(LONG_S)) == 2


def test_a_new_process_gets_the_open_trial_and_what_is_unanswered(lab: Any) -> None:
    """And nothing of what was said to the one before."""
    a, b = lab.join_all()
    lab.grid.roster.open_trial(0)
    asked = lab.ask(1)
    assert a.hear() == wire.OpenTrial(0)
    a.answer(1)
    assert b.hear() == wire.OpenTrial(0)
    frame, _ = b.instruction()
    b.hang_up()
    until(lambda: lab.events(ClientLost))
    again = lab.join("b", session="s2")
    assert again.hear() == wire.OpenTrial(0)
    repeated, message = again.instruction()
    assert repeated == frame
    again.reply(repeated, message, 2)
    assert len(asked.result(LONG_S)) == 2
    assert [event.restarted for event in lab.events(ClientBack)] == [True]
    assert len(lab.events(ClientJoined)) == 2


def test_what_is_sent_to_a_lost_client_waits_for_it(lab: Any) -> None:
    """Within the rejoin time-out a round may begin without it, and is answered when it is back."""
    a, b = lab.join_all()
    b.hang_up()
    until(lambda: lab.events(ClientLost))
    asked = lab.ask(1)
    a.answer(1)
    again = back(lab, "b", wire.Place(0))
    assert again.hear() == wire.Welcome(1002, resumed=True)
    again.answer(2)
    assert len(asked.result(LONG_S)) == 2
    assert lab.events(Redelivered) == []


def test_a_connection_that_is_replaced_is_heard_no_more(lab: Any) -> None:
    """A client may notice the loss first; what comes by the old connection then is nobody's."""
    a, b = lab.join_all()
    asked = lab.ask(1)
    a.answer(1)
    frame, message = b.instruction()
    again = back(lab, "b", wire.Place(1))
    assert again.hear() == wire.Welcome(1002, resumed=True)
    b.reply(frame, message, -1)
    again.reply(frame, message, 2)
    _, reply = asked.result(LONG_S)
    assert reply.content["metrics"]["value"] == 2
    assert [event.reason for event in lab.events(ClientLost)] == ["it has connected anew"]


def test_who_is_given_up_is_answered_for_by_flower(hasty: Any) -> None:
    """NODE_UNAVAILABLE with the reason; the node is not there any more, and can be back for the next round."""
    a, b = hasty.join_all()
    asked = hasty.ask(1)
    a.answer(1)
    b.instruction()
    b.hang_up()
    _, missing = asked.result(LONG_S)
    assert missing.error.code == ErrorCode.NODE_UNAVAILABLE
    assert missing.error.reason.startswith("b: its connection")
    assert missing.error.reason.endswith("and it did not come back within 0.3 s")
    assert missing.metadata.src_node_id == 1002
    assert hasty.grid.get_node_ids() == [1001]
    (late,) = hasty.grid.send_and_receive([Message(RecordDict(), 1002, "train")])
    assert late.error.code == ErrorCode.NODE_UNAVAILABLE
    again = back(hasty, "b", wire.Place(1))
    assert again.hear() == wire.Welcome(1002, resumed=False)
    again.inbox.reset()  # as a client does that is told so
    assert hasty.grid.get_node_ids() == [1001, 1002]
    asked = hasty.ask(2)
    a.answer(1)
    again.answer(2)
    assert [reply.has_error() for reply in asked.result(LONG_S)] == [False, False]


def test_who_leaves_is_given_up_at_once(lab: Any) -> None:
    """A client that cannot go on says so, and nobody waits."""
    a, b = lab.join_all()
    asked = lab.ask(1)
    a.answer(1)
    b.instruction()
    b.say(wire.Leave("ValueError: no disk"), number=0)
    _, missing = asked.result(LONG_S)
    assert missing.error.reason == "b: it left: ValueError: no disk"
    assert [event.client for event in lab.events(ClientGivenUp)] == ["b"]


def test_an_app_that_waits_for_clients_that_are_gone_ends(hasty: Any) -> None:
    """It may ask for a while, as Flower's strategies do; then the error says who is missing and why."""
    _, b = hasty.join_all()
    b.hang_up()
    until(lambda: hasty.events(ClientGivenUp))
    assert hasty.grid.get_node_ids() == [1001]

    def waits_too_long() -> ServerError | None:
        try:
            hasty.grid.get_node_ids()
        except ServerError as error:
            return error
        return None

    error = until(waits_too_long)
    assert "the app waits for more clients than the 1 of 2 that are left (b: its connection" in str(error)


def test_a_client_that_comes_and_goes_is_given_up(lab: Any) -> None:
    """Without a word in between it would be waited for again and again."""
    lab.join("a")
    lab.join("b").hang_up()
    for number in range(1, 11):
        until(lambda number=number: len(lab.events(ClientLost)) == number)
        again = back(lab, "b", wire.Place(0))
        assert again.hear() == wire.Welcome(1002, resumed=True)
        again.hang_up()
    (given_up,) = until(lambda: lab.events(ClientGivenUp))
    assert "for the 11th time without a word in between" in given_up.reason


def test_an_instruction_lives_as_long_as_flower_says(lab: Any) -> None:
    """A message that is not answered within its ttl is answered by Flower's error, also without a time-out."""
    a, _ = lab.join_all()
    messages = [Message(RecordDict(), node, "train", ttl=ttl) for node, ttl in ((1001, LONG_S), (1002, 0.2))]
    asked = lab.call(lab.grid.send_and_receive, messages)
    a.answer(1)
    good, expired = asked.result(LONG_S)
    assert good.has_content()
    assert expired.error.code == ErrorCode.REPLY_MESSAGE_UNAVAILABLE
    assert expired.error.reason == "no reply within the message's time to live of 0.2 s"
    (pushed,) = lab.grid.push_messages([Message(RecordDict(), 1002, "train", ttl=0.05)])
    (reply,) = until(lambda: lab.grid.pull_messages([pushed]))
    assert reply.has_error()


def test_a_long_reply_is_confirmed_at_once(lab: Any) -> None:
    """Its client need not hold it until the next instruction."""
    a, b = lab.join_all()
    asked = lab.ask(1)
    frame, message = a.instruction()
    arrays = ArrayRecord([np.zeros(2 * wire.LONG_BYTES, dtype=np.uint8)])
    a.send(frame, Message(RecordDict({"arrays": arrays}), reply_to=message))
    b.answer(2)
    asked.result(LONG_S)
    assert a.hear() == wire.Confirm()
    assert a.confirmed == 1


def test_who_is_lost_at_the_end_comes_back_for_the_goodbye(lab: Any) -> None:
    """The server waits a moment for it, and says why the campaign ended."""
    a, b = lab.join_all()
    b.hang_up()
    until(lambda: lab.events(ClientLost))
    closing = lab.call(lab.grid.streams.close, "run: enough", LONG_S, LONG_S)
    assert a.hear_rest() == [wire.Goodbye("run: enough")]
    again = back(lab, "b", wire.Place(0))
    assert again.hear_rest() == [wire.Welcome(1002, resumed=True), wire.Goodbye("run: enough")]
    closing.result(LONG_S)
    assert sorted(event.client for event in lab.events(ClientLeft)) == ["a", "b"]


def test_a_client_whose_interpreter_is_busy_is_not_lost(make_lab: Callable) -> None:
    """It answers no ping, but its gRPC answers gRPC's: the process lives."""
    busy = Transport(keepalive_s=0.2, keepalive_timeout_s=0.3, clock_every_s=0.1)
    lab = make_lab("a", transport=busy)
    lab.begin()
    a = lab.join("a")
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 2.0)
    assert lab.events(ClientLost) == []
    assert isinstance(a.hear(), wire.Ping)


@pytest.mark.parametrize(("every_s", "some"), [(0.05, True), (0.0, False)])
def test_pongs_are_clock_exchanges_where_they_are_asked_for(make_lab: Callable, every_s: float, some: bool) -> None:  # noqa: FBT001 - a parameter
    """With `clock_every_s: 0` a pong is a sign of life and nothing more."""
    lab = make_lab("a", transport=msgspec.structs.replace(HASTY, keepalive_s=0.1, clock_every_s=every_s))
    lab.begin()
    a = lab.join("a")
    for _ in range(3):
        heard = a.hear_whole()
        assert heard.frame == wire.Ping()
        a.say(wire.Pong(heard.sent, wire.Clocks(*heard.header)), number=0)
    asked = lab.ask(1)
    while not isinstance((heard := a.hear_whole()).frame, wire.Instruction):
        pass
    a.reply(heard.frame, flower.decode(heard.body[0], heard.body[1:]))
    asked.result(LONG_S)
    lab.grid.streams.close()
    idle = [event for event in lab.events(ClockExchange) if event.message is None]
    assert bool(idle) == some


def test_who_was_stopped_with_the_server_is_not_waited_for_long(lab: Any) -> None:
    """A server that is told to stop has five seconds until it is killed: with both clients gone it needs one."""
    for hand in lab.join_all():
        hand.hang_up()
    until(lambda: len(lab.events(ClientLost)) == 2)
    began = time.monotonic()
    lab.grid.streams.close("run: stopped from outside")
    assert time.monotonic() - began < STOP_GRACE_S / 2

"""The toolkit's mods: they time the app and delay its update, and change nothing that passes through them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS

from flclient.mods import delay_mod, timing_mod, with_mods
from flcommon import flower
from flcommon.delay import Constant, Delay, Draw, Uniform, draw_s
from flcommon.events import ComputeEnded, ComputeStarted, Delayed, Place

if TYPE_CHECKING:
    from collections.abc import Callable

CONTEXT = Context(run_id=5, node_id=1001, node_config={}, state=RecordDict(), run_config={})
WHO = Draw(seed=1, client="a", schedule=0, round=2)
ALWAYS = Delay(1.0, Constant(0.02))


def place(kind: str = "train") -> Place:
    return Place(trial=3, round=2, message="3-17", client="a", kind=kind)


@pytest.fixture
def message() -> Message:
    message = Message(RecordDict({"config": ConfigRecord({"a": 1})}), 1001, "train")
    flower.set_message_id(message, "3-17")
    return message


def echo(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
    return Message(message.content, reply_to=message)


def around(name: str, calls: list[str]) -> Callable:
    def mod(message: Message, context: Context, call_next: Callable) -> Message:
        calls.append(f"{name} before")
        reply = call_next(message, context)
        calls.append(f"{name} after")
        return reply

    return mod


def test_the_first_mod_is_the_outermost(message: Message) -> None:
    """As Flower orders the mods of a ClientApp."""
    calls: list[str] = []
    with_mods(echo, [around("outer", calls), around("inner", calls)])(message, CONTEXT)
    assert calls == ["outer before", "inner before", "inner after", "outer after"]


def test_without_mods_it_is_the_app(message: Message) -> None:
    """No mod, no wrapper."""
    assert with_mods(echo, []) is echo
    assert with_mods(echo, [])(message, CONTEXT).content == message.content


def test_the_update_is_what_the_app_returned(log: Any, message: Message) -> None:
    """The mods hand on the very reply, and the app gets the very message and context."""
    got = []

    def app(message: Message, context: Context) -> Message:
        got.append((message, context))
        return reply

    reply = echo(message, CONTEXT)
    mods = [delay_mod(place(), ALWAYS, WHO, log, set()), timing_mod(place(), log)]
    assert with_mods(app, mods)(message, CONTEXT) is reply
    assert got == [(message, CONTEXT)]


def test_the_delay_comes_after_training_and_is_not_in_its_time(log: Any, message: Message) -> None:
    """Started, ended, delayed: the app's time ends before the delay begins, which lasts at least what was drawn."""
    with_mods(echo, [delay_mod(place(), ALWAYS, WHO, log, set()), timing_mod(place(), log)])(message, CONTEXT)
    (started, _), (ended, _), (after, delayed) = log.entries
    assert [type(event) for _, event in log.entries] == [ComputeStarted, ComputeEnded, Delayed]
    assert delayed.requested_s == 0.02
    assert delayed.measured_s >= 0.02
    assert started.until_s(ended) + delayed.measured_s <= started.until_s(after)


def test_events_say_whose_message_it_is(log: Any, message: Message) -> None:
    """Every event of a message has its trial, round, id, client and kind."""
    with_mods(echo, [delay_mod(place(), ALWAYS, WHO, log, set()), timing_mod(place(), log)])(message, CONTEXT)
    assert all({name: getattr(event, name) for name in place()} == place() for _, event in log.entries)


def test_what_is_drawn_is_what_is_asked_for(log: Any, message: Message) -> None:
    """The drawn value of (seed, client, schedule, round) is the requested one, and is waited for."""
    delay = Delay(1.0, Uniform(0.0, 0.02))
    for number in range(5):
        who = Draw(seed=1, client="a", schedule=0, round=number)
        with_mods(echo, [delay_mod(place(), delay, who, log, set())])(message, CONTEXT)
    delayed = log.of(Delayed)
    assert [event.requested_s for event in delayed] == [
        draw_s(delay, Draw(seed=1, client="a", schedule=0, round=number)) for number in range(5)
    ]
    assert all(event.measured_s >= event.requested_s for event in delayed)


def test_no_delay_drawn_is_written_too(log: Any, message: Message) -> None:
    """A round in which the coin said no is a 0 in the log, not a hole."""
    with_mods(echo, [delay_mod(place(), Delay(0.0, Constant(30.0)), WHO, log, set())])(message, CONTEXT)
    (delayed,) = log.of(Delayed)
    assert delayed.requested_s == 0.0
    assert 0.0 <= delayed.measured_s < 30.0


@pytest.mark.parametrize(
    ("kind", "delay"), [("evaluate", Delay(1.0, Constant(30.0))), ("query", None), ("train", None)]
)
def test_only_training_under_a_delay_is_delayed(log: Any, message: Message, kind: str, delay: Delay | None) -> None:
    """An evaluation uploads no update; a trial without a delay has none: no waiting, and no event of it."""
    with_mods(echo, [delay_mod(place(kind), delay, WHO, log, set())])(message, CONTEXT)
    assert log.entries == []


@pytest.mark.parametrize(("stage", "waits"), [("setup", 0), ("collect_masked_vectors", 1)])
def test_an_exchange_of_keys_uploads_no_update(log: Any, stage: str, waits: int) -> None:
    """A secure aggregation's steps are all of the kind `train`: the one that brings a model is delayed."""
    records: dict[str, Any] = {RECORD_KEY_CONFIGS: ConfigRecord({"stage": stage})}
    if waits:
        records["arrays"] = ArrayRecord([np.zeros(2)])
    message = Message(RecordDict(records), 1001, "train")
    flower.set_message_id(message, "3-17")

    def app(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
        message.content.clear()
        return Message(RecordDict(), reply_to=message)

    with_mods(app, [delay_mod(place(), ALWAYS, WHO, log, set())])(message, CONTEXT)
    assert len(log.of(Delayed)) == waits


def test_a_client_waits_once_a_round(log: Any, message: Message) -> None:
    """The second training of a round is not delayed; that of the next round is, and that of another trial."""
    waited: set[int] = set()
    for number in (2, 2, 3, 2):
        here = Place(trial=3, round=number, message="3-17", client="a", kind="train.more")
        with_mods(echo, [delay_mod(here, ALWAYS, WHO, log, waited)])(message, CONTEXT)
    with_mods(echo, [delay_mod(place(), ALWAYS, WHO, log, set())])(message, CONTEXT)
    assert [event.round for event in log.of(Delayed)] == [2, 3, 2]


def test_cpu_time_is_the_processs_own(log: Any, message: Message) -> None:
    """An app that computes for 20 ms of CPU time is said to have used them; one that sleeps uses less."""

    def busy(message: Message, context: Context) -> Message:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        return echo(message, context)

    with_mods(busy, [timing_mod(place(), log)])(message, CONTEXT)
    with_mods(echo, [delay_mod(place(), ALWAYS, WHO, log, set()), timing_mod(place(), log)])(message, CONTEXT)
    computing, sleeping = (event.cpu_s for event in log.of(ComputeEnded))
    assert computing >= 0.02
    assert sleeping < computing


def test_an_error_of_the_app_goes_through(log: Any, message: Message) -> None:
    """A mod neither hides what the app raises nor delays it: no update is uploaded."""

    def broken(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
        raise ZeroDivisionError

    call = with_mods(
        broken, [delay_mod(place(), Delay(1.0, Constant(30.0)), WHO, log, set()), timing_mod(place(), log)]
    )
    with pytest.raises(ZeroDivisionError):
        call(message, CONTEXT)
    assert log.of(Delayed) == []
    assert len(log.of(ComputeStarted)) == 1

"""The table of instructions: a reply wakes its waiter, a failure wakes everybody, and a late reply is nobody's."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from flwr.app import Message, RecordDict

from flserver.errors import ClientsLost, ServerError
from flserver.exchange import Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG_S = 20.0
"""A test that has to wait this long fails."""


class Watched(Exchange):
    """An exchange that tells when somebody has begun to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Semaphore(0)
        told = self.waiting

        class Waiters(list):
            def append(self, waiter: object) -> None:
                super().append(waiter)
                told.release()

        self._waiters = Waiters()


def reply() -> Message:
    return Message(RecordDict(), 1001, "train")


@pytest.fixture
def exchange() -> Watched:
    return Watched()


@pytest.fixture
def wait(exchange: Watched) -> Iterator[Callable[..., Future]]:
    """Return a function that waits for ids in a thread of its own, and returns once it waits."""
    with ThreadPoolExecutor(4) as pool:

        def begin(*ids: str, timeout_s: float | None = LONG_S) -> Future:
            future = pool.submit(exchange.wait, ids, timeout_s)
            assert exchange.waiting.acquire(timeout=LONG_S)
            return future

        yield begin


def expect(exchange: Exchange, *ids: str) -> None:
    for one in ids:
        exchange.expect(one)


def test_the_last_reply_wakes_the_waiter(exchange: Watched, wait: Callable[..., Future]) -> None:
    """Not before every id has its reply, and whatever the order of arrival, take keeps the order of the ids."""
    expect(exchange, "1", "2", "3")
    waiter = wait("1", "2", "3")
    replies = {one: reply() for one in "123"}
    for one in ("3", "1"):
        assert exchange.deliver(one, replies[one])
        assert not waiter.done()
    assert exchange.deliver("2", replies["2"])
    waiter.result(LONG_S)
    assert exchange.take(["1", "2", "3"]) == [replies["1"], replies["2"], replies["3"]]


def test_each_waiter_wakes_for_its_own(exchange: Watched, wait: Callable[..., Future]) -> None:
    """Two who wait for different replies do not disturb each other."""
    expect(exchange, "1", "2")
    first, second = wait("1"), wait("2")
    exchange.deliver("2", reply())
    second.result(LONG_S)
    assert not first.done()
    exchange.deliver("1", reply())
    first.result(LONG_S)


def test_what_is_here_already_needs_no_waiting(exchange: Watched) -> None:
    """Replies that came before the wait, and ids that nobody sent, hold nothing up; neither do no ids at all."""
    expect(exchange, "1")
    exchange.deliver("1", reply())
    exchange.wait(["1", "never-sent"], None)
    exchange.wait([], None)


def test_after_the_timeout_take_returns_the_part_that_is_here(exchange: Watched) -> None:
    """A time-out is no error: the strategy gets what came in time."""
    expect(exchange, "1", "2")
    here = reply()
    exchange.deliver("2", here)
    exchange.wait(["1", "2"], 0.01)
    assert exchange.take(["1", "2"]) == [here]


def test_a_reply_is_taken_once(exchange: Watched) -> None:
    """Nobody gets the same update twice."""
    expect(exchange, "1")
    assert exchange.deliver("1", reply())
    assert len(exchange.take(["1"])) == 1
    assert exchange.take(["1"]) == []
    assert not exchange.deliver("1", reply())


def test_a_reply_that_nobody_expects_is_refused(exchange: Watched) -> None:
    """Neither an id that was never sent, nor one of a trial that is over, is kept."""
    assert not exchange.deliver("never-sent", reply())
    expect(exchange, "1")
    exchange.forget()
    assert not exchange.deliver("1", reply())
    assert exchange.take(["1", "never-sent"]) == []


def test_forget_drops_what_has_arrived(exchange: Watched) -> None:
    """The next trial starts without the replies of the one before."""
    expect(exchange, "1")
    exchange.deliver("1", reply())
    exchange.forget()
    assert exchange.take(["1"]) == []


def test_a_failure_wakes_every_waiter_at_once(exchange: Watched, wait: Callable[..., Future]) -> None:
    """Also those who would wait for ever; all get the error itself."""
    expect(exchange, "1", "2")
    waiters = [wait("1", timeout_s=None), wait("2", timeout_s=None)]
    failure = ServerError("run", "a is gone: its connection broke")
    exchange.fail(failure)
    assert [waiter.exception(LONG_S) for waiter in waiters] == [failure, failure]


def test_after_a_failure_nobody_waits_or_takes(exchange: Watched) -> None:
    """The first failure stays: later ones are its consequences."""
    expect(exchange, "1")
    exchange.fail(ServerError("run", "the first"))
    exchange.fail(ServerError("run", "the second"))
    for call in (lambda: exchange.wait(["1"], None), lambda: exchange.take(["1"]), exchange.check):
        with pytest.raises(ServerError, match="run: the first"):
            call()


def test_that_nobody_is_left_names_everybody() -> None:
    """The error tells who, at which step and why, in data and in words."""
    lost = ClientsLost({"pi4-a": "it left", "pi4-b": "its connection broke"})
    assert (lost.step, lost.reasons) == ("run", {"pi4-a": "it left", "pi4-b": "its connection broke"})
    assert str(lost) == "run: no client is left: pi4-a: it left; pi4-b: its connection broke"

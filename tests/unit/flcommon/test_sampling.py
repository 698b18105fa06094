"""The sampler: in step, never twice, in nobody's way, and gone at the end."""

from __future__ import annotations

import errno
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flcommon.eventlog import EventLog, Moment, now, read_log
from flcommon.events import ComputeStarted, Event, HostSampled
from flcommon.sampling import Sampler, next_due

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

LONG_S = 10.0
STARTED = ComputeStarted(trial=0, round=1, message="0-1", client="a", kind="train")


@given(st.integers(0, 2**62), st.integers(-(10**12), 10**12), st.integers(1, 10**12))
def test_the_next_tick_is_in_step_and_not_in_the_past(due_ns: int, late_ns: int, every_ns: int) -> None:
    """One that took longer than its time costs those that were due meanwhile, and nothing is made up for."""
    at_ns = due_ns + late_ns
    found = next_due(due_ns, at_ns, every_ns)
    assert (found - due_ns) % every_ns == 0
    assert found >= max(at_ns, due_ns + every_ns)
    assert found < max(at_ns, due_ns) + every_ns + 1


class Clockwork:
    """Says how the machine is, and lets a test wait until it was asked so often."""

    def __init__(self, hold: Callable[[int], object] = lambda _time: None) -> None:
        self.times = 0
        self._hold = hold
        self._asked = threading.Condition()

    def __call__(self) -> HostSampled:
        with self._asked:
            self.times += 1
            self._asked.notify_all()
        self._hold(self.times)
        return HostSampled(load_1min=float(self.times))

    def wait(self, times: int) -> None:
        with self._asked:
            assert self._asked.wait_for(lambda: self.times >= times, LONG_S)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    log = EventLog(tmp_path / "events.jsonl")
    yield log
    log.close()


def sampler(log: EventLog, every_s: float, look: Callable[[], HostSampled]) -> Sampler:
    return Sampler(every_s, log, (), lambda _client: None, look)


def written(log: EventLog) -> list[Event]:
    return [event for _, event in read_log(log.path).events]


def loads(log: EventLog) -> list[float]:
    return [event.load_1min for _, event in read_log(log.path).events if isinstance(event, HostSampled)]


def test_it_ticks_until_the_end_and_its_thread_is_gone(log: EventLog) -> None:
    """The first one at once; at the end it does not wait for the next."""
    threads = threading.active_count()
    look, began_s = Clockwork(), time.monotonic()
    with sampler(log, 600.0, look):
        look.wait(1)
    assert time.monotonic() - began_s < LONG_S
    with sampler(log, 0.01, look):
        look.wait(4)
    assert threading.active_count() == threads
    assert loads(log)[:4] == [1, 2, 3, 4]


def test_a_tick_that_took_long_is_not_made_up_for(log: EventLog) -> None:
    """Ten were due while the second one lasted: those are left out."""
    every_s = 0.05
    look = Clockwork(lambda time_: time.sleep(10 * every_s if time_ == 2 else 0))
    began_s = time.monotonic()
    with sampler(log, every_s, look):
        look.wait(6)
        took_s = time.monotonic() - began_s
    assert took_s >= (1 + 10 + 3) * every_s


def test_a_disk_that_is_full_for_a_while_does_not_end_it(log: EventLog) -> None:
    """It goes on when there is room; the campaign hears of a full disk from who writes what counts."""

    class Full(EventLog):
        times = 0

        def write_all(self, entries: Sequence[tuple[Event, Moment]]) -> None:
            self.times += 1
            if self.times <= 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().write_all(entries)

    full, look = Full(log.path), Clockwork()
    with sampler(full, 0.01, look):
        look.wait(5)
    full.close()
    assert loads(log)[:2] == [3, 4]


def test_never_is_never(log: EventLog) -> None:
    """Neither at ticks nor beside messages: nobody is even asked where the connection is."""
    asked: list[str] = []
    threads = threading.active_count()
    look = Clockwork()
    with Sampler(0.0, log, ("a",), asked.append, look) as never:
        assert threading.active_count() == threads
        never.beside(STARTED, now())
    assert (asked, look.times, written(log)) == ([], 0, [STARTED])


def test_nothing_is_said_of_a_connection_that_is_not_there(log: EventLog) -> None:
    """Neither when it is known to be away, nor when the kernel has none such."""
    places = iter([None, ("192.0.2.1", 9)])
    always = Sampler(1.0, log, ("a",), lambda _client: next(places), Clockwork())
    always.beside(STARTED, now())
    always.beside(STARTED, now())
    assert written(log) == [STARTED, STARTED]

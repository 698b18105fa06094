"""Pauses between rounds: only for a watcher who wants them, ended by it, and never counted as the experiment's time."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from flcommon import quiet
from flcommon.eventlog import EventLog, now, read_log
from flcommon.events import Paused, Resumed, RoundEnded, RoundStarted
from flserver.quiet import Quiet
from flserver.rounds import Rounds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALWAYS = 1e-9


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    log = EventLog(tmp_path / "events.jsonl")
    yield log
    log.close()


@contextmanager
def controller(place: Path, *numbers: int) -> Iterator[None]:
    """Watch, and let these pauses end as soon as each is on."""
    over = threading.Event()

    def work() -> None:
        with quiet.watching(place):
            ready.set()
            for number in numbers:
                while not quiet.is_paused(place, number) and not over.wait(0.001):
                    pass
                quiet.resume(place, number)
            over.wait()

    ready, thread = threading.Event(), threading.Thread(target=work)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


def told(log: EventLog) -> list[object]:
    return [event for _, event in read_log(log.path).events]


@pytest.mark.parametrize("every_s", [0, 3600])
def test_no_pause_before_its_time(tmp_path: Path, log: EventLog, every_s: float) -> None:
    """0 means never; else that long after the last one."""
    with controller(tmp_path):
        at = now()
        assert Quiet(tmp_path, log, every_s).between(0, 1, at) is at
    assert told(log) == []


def test_no_pause_without_a_watcher(tmp_path: Path, log: EventLog) -> None:
    """A campaign whose controller is gone loses no time; one that has watched before makes no difference."""
    at = now()
    assert Quiet(tmp_path, log, ALWAYS).between(0, 1, at) is at
    with controller(tmp_path):
        pass
    assert Quiet(tmp_path, log, ALWAYS).between(0, 1, at) is at
    assert told(log) == []


def test_the_controller_ends_a_pause(tmp_path: Path, log: EventLog) -> None:
    """Each by its number, and time counts again from the moment that the log says."""
    pauses = Quiet(tmp_path, log, ALWAYS)
    with controller(tmp_path, 1, 2):
        for number in (1, 2):
            since = now()
            at = pauses.between(4, 7, since)
            assert at.mono_ns > since.mono_ns
            paused, resumed = told(log)[-2:]
            assert paused == Paused(trial=4, round=7, number=number)
            assert resumed == Resumed(trial=4, round=7, number=number, duration_s=since.until_s(at), by="controller")
    assert not quiet.is_paused(tmp_path, 2)


def test_a_controller_that_is_too_slow_is_waited_for_once(tmp_path: Path, log: EventLog) -> None:
    """A laptop that sleeps costs one pause and not one a minute; when it has come back, it is heard again."""
    pauses = Quiet(tmp_path, log, ALWAYS, patience_s=0.02)
    with controller(tmp_path):
        pauses.between(0, 1, now())
        at = now()
        assert pauses.between(0, 2, at) is at
    assert [event.by for event in told(log) if isinstance(event, Resumed)] == ["timeout"]
    pauses.patience_s = 60
    with controller(tmp_path, 2):
        pauses.between(0, 3, now())
    assert told(log)[-1].by == "controller"


def test_a_controller_that_goes_away_is_not_waited_for(tmp_path: Path, log: EventLog) -> None:
    """Its lock is gone with it, however it went."""
    with controller(tmp_path):
        pauses = Quiet(tmp_path, log, ALWAYS)
        waiting = threading.Thread(target=pauses.between, args=(0, 1, now()))
        waiting.start()
        while not quiet.is_paused(tmp_path, 1):
            pass
    waiting.join()
    assert told(log)[-1].by == "unwatched"


def test_pauses_count_in_no_round_and_no_trial(tmp_path: Path, log: EventLog) -> None:
    """The rounds' durations add up to the trial's, and the time line has the pauses as its only gaps."""
    rounds = Rounds(log, 0, Quiet(tmp_path, log, ALWAYS))
    with controller(tmp_path, 1, 2, 3):
        for number in range(1, 5):
            rounds.enter(number)
        rounds.leave()
    readings = read_log(log.path).events
    ended = [event.duration_s for _, event in readings if isinstance(event, RoundEnded)]
    paused_s = sum(event.duration_s for _, event in readings if isinstance(event, Resumed))
    stamps = [stamp.mono_ns for stamp, event in readings if isinstance(event, RoundStarted | RoundEnded)]
    assert len(ended) == 4
    assert sum(ended) == pytest.approx(rounds.total_s, abs=1e-9)
    assert (stamps[-1] - stamps[0]) / 1e9 == pytest.approx(rounds.total_s + paused_s, abs=1e-9)

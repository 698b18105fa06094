"""Rounds follow each other without a gap, so their times add up to the trial's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from flcommon.eventlog import EventLog, Moment, now, read_log
from flcommon.events import PhaseEnded, RoundEnded, RoundStarted
from flserver import rounds as rounds_module
from flserver.rounds import Rounds, round_of

if TYPE_CHECKING:
    from pathlib import Path


def message(config: dict[str, Any] | None = None, group_id: str = "") -> Message:
    records = {"metrics": MetricRecord({"server-round": 9})}
    if config is not None:
        records["config"] = ConfigRecord(config)
    return Message(RecordDict(records), 1001, "train", group_id=group_id)


@pytest.mark.parametrize(
    ("instruction", "number"),
    [
        ({"config": {"server-round": 3}, "group_id": "7"}, 3),
        ({"config": {"server-round": "3"}, "group_id": "7"}, 7),
        ({"config": {"lr": 0.1}, "group_id": "7"}, 7),
        ({"group_id": "7"}, 7),
        ({"group_id": "phase-one"}, None),
        ({"group_id": "-1"}, None),
        ({}, None),
    ],
)
def test_the_round_of_an_instruction(instruction: dict[str, Any], number: int | None) -> None:
    """Flower's `server-round` in a ConfigRecord says it, else a numeric group id, else nobody does."""
    assert round_of(message(**instruction)) == number


class Clock:
    """Moments as they are set, in seconds."""

    def __init__(self, *seconds: float) -> None:
        self._left = [Moment(round(s * 1e9), 0) for s in seconds]

    def __call__(self) -> Moment:
        return self._left.pop(0)


def test_known_moments_give_known_durations(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds 1, 2, 3 begin at 10, 12 and 15 s and the trial ends at 16.5 s: 2, 3 and 1.5 s, in total 6.5 s."""
    monkeypatch.setattr(rounds_module, "now", Clock(10, 12, 15, 16.5))
    rounds = Rounds(log, 4)
    assert rounds.total_s == 0.0
    for number in (1, 1, 2, None, 1, 3):  # the same round again, an unnamed one, and an earlier one begin nothing
        rounds.enter(number)
    rounds.leave()
    assert [(event.trial, event.round) for event in log.of(RoundStarted)] == [(4, 1), (4, 2), (4, 3)]
    assert [(event.round, event.duration_s) for event in log.of(RoundEnded)] == [(1, 2.0), (2, 3.0), (3, 1.5)]
    assert rounds.total_s == 6.5
    assert rounds.number == 3


@given(steps=st.lists(st.tuples(st.integers(1, 10**12), st.none() | st.integers(0, 5)), min_size=1, max_size=20))
def test_rounds_partition_the_trial(steps: list[tuple[int, int | None]]) -> None:
    """Whatever signs of rounds come at whatever moments: each round ends where the next begins, to the nanosecond."""
    ends, starts = [], []

    class Log:
        def write(self, event: object, at: Moment) -> None:
            (starts if isinstance(event, RoundStarted) else ends).append((event.round, at.mono_ns))

    clock = [0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds_module, "now", lambda: Moment(clock[0], 0))
        rounds = Rounds(Log(), 0)
        for pause_ns, number in steps:
            clock[0] += pause_ns
            rounds.enter(number)
        clock[0] += 1
        rounds.leave()
        rounds.leave()
    assert [number for number, _ in starts] == [number for number, _ in ends]
    assert [number for number, _ in starts] == sorted({number for number, _ in starts})
    assert [at for _, at in starts[1:]] == [at for _, at in ends[:-1]]
    if starts:
        assert rounds.total_s == (ends[-1][1] - starts[0][1]) / 1e9


def test_the_rounds_durations_add_up_to_the_trials(tmp_path: Path) -> None:
    """With the real clock and a real log: the sum of the rounds is the total, but for the rounding of floats."""
    log = EventLog(tmp_path / "events.jsonl")
    rounds = Rounds(log, 0)
    for number in range(1, 101):
        rounds.enter(number)
    rounds.leave()
    log.close()
    events = read_log(tmp_path / "events.jsonl").events
    durations = [event.duration_s for _, event in events if isinstance(event, RoundEnded)]
    assert len(durations) == 100
    assert sum(durations) == pytest.approx(rounds.total_s, rel=1e-12)
    stamps = [stamp.mono_ns for stamp, _ in events]
    assert stamps == sorted(stamps)
    assert (stamps[-1] - stamps[0]) / 1e9 == rounds.total_s


def test_an_instruction_without_a_round_is_of_the_first_one(log: Any) -> None:
    """An app that numbers nothing has one round."""
    rounds = Rounds(log, 0)
    rounds.enter(None)
    rounds.enter(None)
    assert rounds.number == 1
    assert len(log.of(RoundStarted)) == 1


def test_leaving_without_a_round_says_nothing(log: Any) -> None:
    """A trial that never came to a round has none."""
    rounds = Rounds(log, 0)
    rounds.leave()
    assert log.entries == []
    assert (rounds.number, rounds.total_s) == (0, 0.0)


def test_a_phase_is_of_the_current_round(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its duration is from the moment it was given to its end; before the first round it is round 0."""
    monkeypatch.setattr(rounds_module, "now", Clock(3, 4, 6))
    rounds = Rounds(log, 2)
    rounds.phase("evaluate", Moment(1_000_000_000, 0))
    rounds.enter(1)
    rounds.phase("configure", Moment(4_500_000_000, 0))
    assert log.of(PhaseEnded) == [
        PhaseEnded(trial=2, round=0, phase="evaluate", duration_s=2.0),
        PhaseEnded(trial=2, round=1, phase="configure", duration_s=1.5),
    ]


def test_now_is_the_clock_of_the_log() -> None:
    """The module under test reads the same clock as every event."""
    assert rounds_module.now is now

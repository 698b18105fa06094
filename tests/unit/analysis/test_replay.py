"""Replays, and what all accounts have in common, for random rounds: a wave is as long as its lives add up to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.analysis.account.account import account
from deploy.analysis.account.lives import legs, lives, turns
from deploy.analysis.account.replay import CHANGES, WITHOUT_HOST, Change, replay
from deploy.analysis.account.shares import stays
from deploy.analysis.columns import PARTS, SHARES
from tests.unit.analysis.handmade import NO_CLOCK, NO_LOG, NO_REPLY, Life, Log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

CLIENTS = ("a", "b", "c", "d")
INJECTED, MEDIAN, ENGINE, NETWORK = (change.name for change in CHANGES)


@dataclass(frozen=True)
class Task:
    """One client's part in a wave: handed out so many ms after the wave's start."""

    client: str
    offset: float
    life: Life


@dataclass(frozen=True)
class Wave:
    """Tasks that overlap in time, and what comes before them: a pause of which the server's phase covers a part."""

    gap: float
    phase: float
    kind: str
    tasks: tuple[Task, ...]

    def long(self, tasks: Sequence[Task] | None = None) -> float:
        """Return how long it takes, with these tasks in place of its own."""
        return max((task.offset + task.life.whole for task in (self.tasks if tasks is None else tasks)), default=0.0)


Round = tuple[Wave, ...]
TAIL = 3.0
"""What comes after a round's last wave, in ms."""


def tell(rounds: Sequence[Round], more: Callable[[int, Task], dict[str, Any]] = lambda _place, _task: {}) -> Log:
    """Return what the logs tell of these rounds, one after the other; `more` bends the row of a task."""
    log, at = Log(), 5.0
    for number, waves in enumerate(rounds, 1):
        begun = at
        for place, wave in enumerate(waves):
            log.phase(number, "aggregate", at, at + wave.phase)
            at += wave.gap
            for task in wave.tasks:
                log.task(number, task.client, at + task.offset, task.life, kind=wave.kind, **more(place, task))
            at += wave.long()
        at += TAIL
        log.round(number, begun, at)
    return log


def whole(rounds: Sequence[Round], changed: Callable[[Wave], Sequence[Task]] = lambda wave: wave.tasks) -> float:
    """Return the seconds that all rounds take when each wave has the changed tasks."""
    return sum(TAIL + sum(wave.gap + wave.long(changed(wave)) for wave in waves) for waves in rounds) / 1000


def some(most: int) -> st.SearchStrategy[float]:
    return st.integers(0, most * 10).map(lambda tenths: tenths / 10)


LIVES = st.builds(
    Life, encode=some(3), queue=some(5), down=some(9), link_down=some(20), client_queue=some(4), client_decode=some(3),
    compute=some(80).map(lambda long: long + 10), rest=some(2), delay=st.none() | some(60), up_encode=some(3),
    up_queue=some(4), up=some(9), link_up=some(20), decode=some(3),
)  # fmt: skip


@st.composite
def waves(draw: st.DrawFn) -> Wave:
    clients = draw(st.lists(st.sampled_from(CLIENTS), min_size=1, max_size=len(CLIENTS), unique=True))
    offsets = [0.0, *(draw(some(2)) for _ in clients[1:])]
    gap = draw(some(20)) + 0.1
    return Wave(
        gap=gap,
        phase=min(gap, draw(some(20))),
        kind=draw(st.sampled_from(["train", "evaluate"])),
        tasks=tuple(Task(client, sum(offsets[: n + 1]), draw(LIVES)) for n, client in enumerate(clients)),
    )


ROUNDS = st.lists(st.lists(waves(), max_size=3).map(tuple), min_size=1, max_size=6)
few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def saved_s(kit: ModuleType, rounds: Sequence[Round], change: str, host: str | None = None) -> float:
    """Return what a change saves in all rounds together."""
    rows = account(tell(rounds).dataset(kit)).what_if.filter(
        (pl.col("condition") == 0) & (pl.col("change") == change) & pl.col("host").eq_missing(pl.lit(host, pl.String))
    )
    row = rows.row(0, named=True)
    assert row["measured_s"] == pytest.approx(whole(rounds))
    assert row["replayed_s"] == pytest.approx(row["measured_s"] - row["saved_s"])
    assert (row["trials"], row["rounds"]) == (1, len(rounds))
    return float(row["saved_s"])


def each(change: Callable[[Life], Life]) -> Callable[[Wave], Sequence[Task]]:
    return lambda wave: [replace(task, life=change(task.life)) for task in wave.tasks]


def as_median(wave: Wave) -> Sequence[Task]:
    middle = median(task.life.compute for task in wave.tasks)
    return [replace(task, life=replace(task.life, compute=middle)) for task in wave.tasks]


def without_engine(wave: Wave) -> Sequence[Task]:
    none = dict.fromkeys(("encode", "queue", "client_queue", "client_decode", "up_encode", "up_queue", "decode"), 0.0)
    return [Task(task.client, 0.0, replace(task.life, **none)) for task in wave.tasks]


TRUTHS = {
    INJECTED: each(lambda life: replace(life, delay=None, link_down=0.0, link_up=0.0)),
    MEDIAN: as_median,
    ENGINE: without_engine,
    NETWORK: each(lambda life: replace(life, down=0.0, up=0.0)),
}


@few
@given(rounds=ROUNDS)
def test_a_replay_is_the_round_as_it_would_have_been_made(kit: ModuleType, rounds: list[Round]) -> None:
    """For every change: the same rounds put together anew, with the change, are as much shorter."""
    found = account(tell(rounds).dataset(kit)).what_if.filter(pl.col("condition") == 0)
    for row in found.iter_rows(named=True):
        host = row["host"]
        if row["change"] == WITHOUT_HOST:
            true_s = whole(rounds, lambda wave: [task for task in wave.tasks if task.client != host])  # noqa: B023
        else:
            true_s = whole(rounds, TRUTHS[row["change"]])
        assert row["measured_s"] == pytest.approx(whole(rounds))
        assert row["replayed_s"] == pytest.approx(true_s, abs=1e-9)
        assert row["saved_pct"] == pytest.approx(100 * (1 - true_s / whole(rounds)), abs=1e-6)
    hosts = {task.client for waves in rounds for wave in waves for task in wave.tasks}
    assert set(found["host"].drop_nulls()) == (hosts if len(hosts) > 1 else set())


@few
@given(rounds=ROUNDS)
def test_what_is_unaccounted_for_is_what_nobody_logged(kit: ModuleType, rounds: list[Round]) -> None:
    """Pauses that no phase covers, and the rest of the client that was last in each wave: exactly."""
    found = account(tell(rounds).dataset(kit))
    for row, waves in zip(found.rounds.iter_rows(named=True), rounds, strict=True):
        ends = [sorted(task.offset + task.life.whole for task in wave.tasks) for wave in waves]
        if any(len(wave) > 1 and wave[-1] - wave[-2] < 0.01 for wave in ends):
            continue  # two were last, and either may be the critical one
        rests = [max(wave.tasks, key=lambda task: task.offset + task.life.whole).life.rest for wave in waves]
        pauses = [wave.gap - wave.phase for wave in waves]
        assert row["unaccounted_s"] == pytest.approx((sum(rests) + sum(pauses) + TAIL) / 1000, abs=1e-8)


BENT = ({}, {}, NO_CLOCK, NO_LOG, NO_REPLY, {"down_s": -0.5, "up_s": 0.7}, {"flags": "resent"}, {"compute_s": None})


@few
@given(rounds=ROUNDS, data=st.data())
def test_parts_sum_to_the_whole_whatever_logs_say(kit: ModuleType, rounds: list[Round], data: st.DataObject) -> None:
    """Missing logs, clocks that are off, torn files, lost clients: the parts are the round, and so are each client's.

    And no replay of something taken away is longer, nor one without a change another.
    """
    log = tell(rounds, lambda _place, _task: data.draw(st.sampled_from(BENT)))
    dataset = log.dataset(kit)
    found = account(dataset)
    named = [f"{part}_s" for part in PARTS]
    for row in found.rounds.iter_rows(named=True):
        assert sum(row[name] for name in named) == pytest.approx(row["round_s"], abs=1e-9)
    for row in found.clients.iter_rows(named=True):
        assert sum(row[f"{share}_s"] for share in SHARES) == pytest.approx(row["round_s"], abs=1e-9)
    asked = {(task["round"], task["client"]) for task in log.tasks}
    assert set(found.clients.select("round", "client").iter_rows()) == asked
    taken = found.what_if.filter(pl.col("change") != MEDIAN)
    assert taken["saved_s"].min() is None or taken["saved_s"].min() >= -1e-12
    told = lives(dataset.tasks, dataset.rounds)
    same = replay(stays(turns(told), legs(told)), [Change(name="nothing", about="", saved=pl.lit(0.0))])
    assert same.filter(pl.col("change") == "nothing")["saved_s"].sum() == 0.0


def test_a_trial_that_failed_is_not_replayed(kit: ModuleType) -> None:
    """Its time is no training time: there is nothing that a change could shorten."""
    wave = Wave(1.0, 1.0, "train", (Task("a", 0.0, Life(compute=50, delay=20)),))
    assert account(tell([(wave,)]).dataset(kit, status="failed")).what_if.is_empty()
    assert saved_s(kit, [(wave,)], INJECTED) == pytest.approx(0.02)


def test_a_link_saves_no_more_than_the_way_took(kit: ModuleType) -> None:
    """A delay that the messages hardly felt makes the replay no shorter than without any way."""
    log = Log()
    log.round(1, 0, 200)
    log.task(1, "a", 10, Life(down=2, link_down=50, compute=100), down_s=0.003, round_trip_s=0.103)
    row = account(log.dataset(kit)).what_if.filter(change=INJECTED).row(0, named=True)
    assert row["saved_s"] == pytest.approx(0.003)


def test_changes_say_what_they_assume() -> None:
    """Each in a sentence or more, and under a name of its own."""
    assert len({change.name for change in CHANGES} | {WITHOUT_HOST}) == len(CHANGES) + 1
    assert all(change.about.endswith(".") for change in CHANGES)

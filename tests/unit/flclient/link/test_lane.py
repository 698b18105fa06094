"""When bytes may leave, on a clock of the test's own."""

from __future__ import annotations

import math
import random
import statistics
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flclient.link.lane import (
    CREDIT_NS,
    HEADER_BYTES,
    LEAST_RETRY_NS,
    MS,
    QUANTUM_NS,
    SEGMENT_BYTES,
    Lane,
    Losses,
    deviation,
)
from flcommon.link import NATURAL, Burst, Way

if TYPE_CHECKING:
    from collections.abc import Callable

DISTRIBUTIONS = ["uniform", "normal", "pareto", "paretonormal"]
sizes = st.integers(1, 300_000)
gaps = st.integers(0, 50 * MS)


@st.composite
def ways(draw: st.DrawFn) -> Way:
    delay_ms = draw(st.floats(0, 200))
    return Way(
        delay_ms=delay_ms,
        jitter_ms=draw(st.floats(0, delay_ms)),
        distribution=draw(st.sampled_from(DISTRIBUTIONS)),
        rate_mbit=draw(st.none() | st.floats(0.01, 10_000)),
        loss_pct=draw(st.sampled_from([0.0, 0.5, 20.0, 100.0])),
    )


def chance(seed: int) -> Callable[[], float]:
    return random.Random(seed).random  # noqa: S311 - the same on every run


def lane_of(way: Way, seed: int = 1, round_trip_ns: int = 0) -> Lane:
    lane = Lane(chance(seed))
    lane.set(way, round_trip_ns, 0)
    return lane


def frames_ns(size: int, rate_mbit: float) -> float:
    return (size + math.ceil(size / SEGMENT_BYTES) * HEADER_BYTES) * 8_000 / rate_mbit


@given(st.lists(st.tuples(gaps, sizes, ways(), st.booleans()), min_size=1, max_size=30), st.integers(0, 99))
def test_order_is_kept_and_nothing_is_early(course: list, seed: int) -> None:
    """Whatever is changed in between: nothing leaves before it came or before what came before it."""
    lane, now_ns, last_ns = Lane(chance(seed)), 0, 0
    for gap_ns, size, way, waited in course:
        now_ns += gap_ns
        lane.set(way, 0, now_ns)
        fate = lane.take(size, now_ns, last_ns, waited=waited)
        least_ns = 0 if way.jitter_ms else lane.delay_ns
        assert fate.due_ns >= max(last_ns, now_ns + least_ns)
        assert fate.stalled_ns >= 0
        assert way.loss_pct or not fate.stalled_ns
        last_ns = fate.due_ns


@given(st.floats(0.1, 10_000), st.lists(st.tuples(gaps, sizes, st.booleans()), min_size=2, max_size=50))
def test_a_rate_is_never_exceeded(rate_mbit: float, course: list) -> None:
    """Between any two departures goes no more than the rate, but for what a reader that came late may catch up."""
    lane, now_ns, sent = lane_of(Way(rate_mbit=rate_mbit)), 0, []
    for gap_ns, size, waited in course:
        now_ns += gap_ns
        sent.append((lane.take(size, now_ns, waited=waited).due_ns, size))
    for first in range(len(sent)):
        took_ns = 0.0
        for last in range(first + 1, len(sent)):
            took_ns += frames_ns(sent[last][1], rate_mbit)
            assert sent[last][0] - sent[first][0] >= took_ns - CREDIT_NS - len(sent)


@given(st.floats(0.1, 10_000), st.integers(1, 60), st.floats(0, CREDIT_NS * 0.9))
def test_a_late_reader_loses_nothing_of_the_rate(rate_mbit: float, count: int, late_ns: float) -> None:
    """Who always has bytes and comes whenever the lane opens, a little late, gets the whole rate."""
    lane, now_ns, total = lane_of(Way(rate_mbit=rate_mbit)), 0, 0.0
    for _ in range(count):
        lane.take(lane.quantum_bytes, now_ns, waited=True)
        total += frames_ns(lane.quantum_bytes, rate_mbit)
        if lane.opens_ns > now_ns:
            now_ns = round(lane.opens_ns + late_ns)
    finished_ns = lane.take(1, now_ns, waited=True).due_ns
    assert finished_ns <= total + frames_ns(1, rate_mbit) + late_ns + 2 * MS


@given(st.floats(0.01, 100_000))
def test_a_quantum_is_short(rate_mbit: float) -> None:
    """No more is taken at once than the link sends in half a millisecond, or one segment."""
    lane = lane_of(Way(rate_mbit=rate_mbit))
    quantum = lane.quantum_bytes
    assert quantum == SEGMENT_BYTES or frames_ns(quantum, rate_mbit) <= QUANTUM_NS * 1.001


def test_ten_megabits_carry_nine_and_a_half() -> None:
    """A rate counts frames, as tc does, so a million bytes need 1514/1448 of the time that their bits would."""
    lane = lane_of(Way(rate_mbit=10))
    due_ns = lane.take(SEGMENT_BYTES * 1000, 0).due_ns
    assert due_ns == pytest.approx(1000 * 1514 * 8 * 100, rel=1e-6)


def test_a_new_rate_holds_at_once() -> None:
    """What the old rate had still to send goes on at the new one; without a rate there is nothing to wait for."""
    lane = lane_of(Way(rate_mbit=0.01))
    lane.take(SEGMENT_BYTES, 0)
    slow_ns = lane.opens_ns
    lane.set(Way(rate_mbit=1), 0, 0)
    assert lane.take(1, 0).due_ns == pytest.approx(slow_ns / 100, abs=2 * MS)
    lane.set(NATURAL, 0, 0)
    assert lane.take(1, 0).due_ns == 0


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_jitter_of_single_segments(distribution: str) -> None:
    """Small messages that are far apart are late by the distribution that was asked for."""
    lane = lane_of(Way(delay_ms=50, jitter_ms=10, distribution=distribution))
    late_ms = sorted((lane.take(100, 0).due_ns - 50 * MS) / MS for _ in range(4000))
    for probability in (0.1, 0.5, 0.9):
        wanted = 10 * deviation(distribution, probability)
        assert late_ms[int(probability * len(late_ms))] == pytest.approx(wanted, abs=1.0)


def test_a_train_leaves_with_its_slowest_segment() -> None:
    """Of 40 segments that came at once the last leaves nearly a whole jitter late, as a queue in order would let it."""
    lane = lane_of(Way(delay_ms=50, jitter_ms=10))
    late_ms = [(lane.take(40 * SEGMENT_BYTES, 0).due_ns - 50 * MS) / MS for _ in range(500)]
    assert statistics.fmean(late_ms) == pytest.approx(10 * (2 * 40 / 41 - 1), abs=0.2)


@pytest.mark.parametrize("distribution", ["normal", "pareto", "paretonormal"])
def test_distributions_are_those_of_netem(distribution: str) -> None:
    """Quantile by quantile they are what iproute2 gives to the kernel."""
    listed = subprocess.run(["dpkg", "-L", "iproute2"], capture_output=True, text=True, check=False).stdout.split()
    tables = [Path(name) for name in listed if name.endswith(f"/{distribution}.dist")]
    if not tables:
        pytest.skip("the tables of iproute2 are not installed (Debian: iproute2)")
    lines = tables[0].read_text().splitlines()
    table = sorted(int(word) / 8192 for line in lines if not line.startswith("#") for word in line.split())
    for probability in (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
        assert deviation(distribution, probability) == pytest.approx(table[int(probability * len(table))], abs=0.05)


@pytest.mark.parametrize("round_trip_ms", [0, 80])
def test_a_loss_is_one_retransmission(round_trip_ms: int) -> None:
    """Of single segments as many are late as were asked to be lost, by a round trip; lost again, by twice more."""
    lane = lane_of(Way(loss_pct=20), round_trip_ns=round_trip_ms * MS)
    retry_ns = max(LEAST_RETRY_NS, round_trip_ms * MS)
    stalls = [lane.take(100, 0).stalled_ns for _ in range(5000)]
    assert set(stalls) <= {retry_ns * (2**tries - 1) for tries in range(11)}
    assert sum(stall > 0 for stall in stalls) / len(stalls) == pytest.approx(0.2, abs=0.025)
    assert sum(stall > retry_ns for stall in stalls) / len(stalls) == pytest.approx(0.04, abs=0.015)


def test_what_follows_a_loss_waits_for_it() -> None:
    """Losses within a retransmission's time stall a stream once, not once each."""
    lane = lane_of(Way(delay_ms=10, loss_pct=100))
    first = lane.take(100, 0)
    second = lane.take(100, 5 * MS, first.due_ns)
    assert first.stalled_ns == first.due_ns - 10 * MS
    assert second.due_ns - first.due_ns == second.stalled_ns == 5 * MS


def test_losses_in_bursts() -> None:
    """Gilbert-Elliott's states last as long as they should, and lose as much as was asked."""
    burst = Burst(p_pct=1, r_pct=20, bad_loss_pct=50, good_loss_pct=0)
    losses = Losses(Way(loss_burst=burst), chance(1))
    lost = [losses._loses() for _ in range(200_000)]
    share = 1 / (1 + 20)
    assert sum(lost) / len(lost) == pytest.approx(0.5 * share, rel=0.1)
    again = sum(one and other for one, other in pairwise(lost)) / sum(lost)
    assert again == pytest.approx(0.8 * 0.5, rel=0.1)


def test_what_is_in_force_is_said() -> None:
    """By name, in the units of a Way, in whole nanoseconds; nothing about what was not asked for."""
    assert lane_of(NATURAL).applied() is None
    assert lane_of(Way(delay_ms=1.5)).applied() == {"delay_ms": 1.5}
    said = lane_of(Way(delay_ms=0.12345678, jitter_ms=0.1, rate_mbit=3, loss_pct=1), round_trip_ns=40 * MS).applied()
    assert said == {
        "delay_ms": 0.123457,
        "jitter_ms": 0.1,
        "distribution": "uniform",
        "rate_mbit": pytest.approx(3),
        "loss_pct": 1,
        "retransmission_ms": 40,
    }
    burst = lane_of(Way(loss_burst=Burst(p_pct=1, r_pct=20))).applied()
    assert (burst["loss_burst.p_pct"], burst["loss_burst.r_pct"]) == (1, 20)

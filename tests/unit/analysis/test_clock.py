"""Clocks with a known truth: offset, drift, wander, steps, lopsided paths, outliers; bounds must hold, always."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.analysis.clocks.concave import EXACT, edge, maximum
from deploy.analysis.clocks.corridor import FASTEST, WANDER, Bounds, Fit, fit
from deploy.analysis.clocks.wall import wall_clock

NS = 1_000_000_000


@dataclass(frozen=True)
class Clock:
    """A clock that is `offset_s` ahead of the reference, drifts, wanders, and steps at moments of the reference.

    A step back is a stop: a monotonic clock never goes back, but stands still while the machine sleeps.
    """

    offset_s: float = 0.0
    drift: float = 0.0
    wander: float = 0.0
    period_s: float = 100.0
    steps: tuple[tuple[float, float], ...] = ()

    def ahead_s(self, reference: np.ndarray) -> np.ndarray:
        turn = 2 * np.pi / self.period_s
        found = self.offset_s + self.drift * reference + self.wander / turn * np.sin(turn * reference)
        for at, size in self.steps:
            found = found + (np.where(reference >= at, size, 0.0) if size > 0 else -np.clip(reference - at, 0, -size))
        return found

    def at(self, reference: np.ndarray) -> np.ndarray:
        return reference + self.ahead_s(reference)


@dataclass(frozen=True)
class Path:
    """Random delays in each direction: a floor, and exponential noise on top; a message may take a while to answer."""

    n: int
    span_s: float
    seed: int
    down_s: float = 0.0001
    up_s: float = 0.0001
    noise: float = 1.0
    thinking_s: float = 0.0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rng", np.random.default_rng(self.seed))

    def exchanges(self, clock: Clock) -> Bounds:
        sent = np.sort(self.rng.uniform(0, self.span_s, self.n))
        received = sent + self.down_s * (1 + self.noise * self.rng.exponential(1, self.n))
        answered = received + self.rng.uniform(0, self.thinking_s, self.n)
        back = answered + self.up_s * (1 + self.noise * self.rng.exponential(1, self.n))
        return Bounds(clock.at(received), clock.at(received) - sent, clock.at(answered), clock.at(answered) - back)


def missed(found: Fit | None, clock: Clock, start_s: float, end_s: float) -> tuple[float, float]:
    """Return by how much the truth is outside of the limits at worst, and the greatest half width of them."""
    assert found is not None
    reference = np.linspace(start_s, end_s, 501)
    low, high = found.limits(clock.at(reference))
    truth = clock.ahead_s(reference)
    return float(np.max(np.maximum(low - truth, truth - high))), float(np.max(high - low)) / 2


delays = st.floats(1e-5, 0.1)
paths = st.builds(
    Path,
    n=st.integers(1, 300),
    span_s=st.floats(0.01, 5000),
    seed=st.integers(0, 2**32),
    down_s=delays,
    up_s=delays,
    noise=st.floats(0, 5),
    thinking_s=st.floats(0, 20),
)
clocks = st.builds(
    Clock,
    offset_s=st.floats(-1e6, 1e6),
    drift=st.floats(-500e-6, 500e-6),
    wander=st.floats(0, WANDER / 2),
    period_s=st.floats(1, 1e5),
)


@given(clocks, paths)
@settings(max_examples=300, deadline=None)
def test_the_truth_is_within_the_stated_uncertainty(clock: Clock, path: Path) -> None:
    """At every moment, also before the first exchange and after the last, however lopsided the path is."""
    found = fit(path.exchanges(clock))
    outside_s, _ = missed(found, clock, -path.span_s / 2, 1.5 * path.span_s)
    assert outside_s <= 0
    assert found is not None
    assert len(found.stretches) == 1
    assert found.left_out == 0


@given(clocks, paths)
@settings(max_examples=100, deadline=None)
def test_the_drift_is_within_its_bounds(clock: Clock, path: Path) -> None:
    """Seconds of the clock per second of the reference."""
    found = fit(path.exchanges(clock))
    assert found is not None
    low, high = found.stretches[0].drifts
    true = clock.drift / (1 + clock.drift)  # per second of the clock itself
    assert low - 1e-9 <= true <= high + 1e-9


@pytest.mark.parametrize("drift", [0.0, 200e-6, -500e-6])
def test_a_quiet_path_gives_offset_and_drift_exactly(drift: float) -> None:
    """0.2 ms of round trip for 20 s: the drift to 10 ppm, the offset to half of a round trip."""
    clock = Clock(3.5, drift)
    found = fit(Path(200, 20.0, seed=1).exchanges(clock))
    assert found is not None
    assert found.stretches[0].drift == pytest.approx(drift / (1 + drift), abs=10e-6)
    outside_s, half_width_s = missed(found, clock, 0, 20)
    assert outside_s <= 0
    assert half_width_s < 0.001


def test_a_delay_injected_into_one_direction_does_not_move_the_offset() -> None:
    """A trial with 40 ms on the way up between two natural ones: the natural exchanges bound the clock meanwhile."""
    clock = Clock(-2.0, 50e-6, WANDER / 2, 1000.0)
    before, after = (Path(30, 10.0, seed).exchanges(clock) for seed in (1, 2))
    after = Path(30, 10.0, 2).exchanges(Clock(clock.offset_s, clock.drift, clock.wander, clock.period_s))
    shaped = Path(600, 30.0, 3, up_s=0.04).exchanges(clock)
    found = fit(before + shaped + after)
    assert found is not None
    reference = np.linspace(0, 30, 301)
    low, high = found.limits(clock.at(reference))
    middle = (low + high) / 2
    assert np.max(np.abs(middle - clock.ahead_s(reference))) < 0.001
    assert missed(found, clock, 0, 30)[0] <= 0


@given(clocks, st.integers(0, 2**32), st.floats(0.02, 1e4) | st.floats(-10, -0.02), st.floats(5, 45))
@settings(max_examples=100, deadline=None)
def test_a_step_is_found_with_time_and_size(clock: Clock, seed: int, size_s: float, at_s: float) -> None:
    """A clock that stood still or jumped, by more than the round trip: in its place, and bounds hold around it."""
    stepped = Clock(clock.offset_s, clock.drift, clock.wander, clock.period_s, ((at_s, size_s),))
    awake_s = at_s + max(0.0, -size_s)
    path = Path(300, 60.0, seed, noise=0.5)
    bounds = path.exchanges(stepped)
    sent = bounds.upper_t - bounds.upper
    found = fit(bounds.take((sent < at_s - 0.01) | (sent > awake_s)))
    assert found is not None
    ((where, size),) = found.steps()
    assert size == pytest.approx(size_s, abs=0.002 + max(0.0, -size_s) * 550e-6)  # what it had drifted meanwhile
    start, end = stepped.at(np.array([at_s - 3.0, awake_s + 3.0]))
    assert start < where < end
    assert missed(found, stepped, 0, at_s - 0.001)[0] <= 0
    assert missed(found, stepped, awake_s + 0.001, 60)[0] <= 0


@given(clocks, st.integers(0, 2**32), st.floats(0.05, 1e3), st.integers(10, 289))
@settings(max_examples=100, deadline=None)
def test_an_exchange_that_contradicts_the_others_is_left_out(
    clock: Clock, seed: int, wrong_s: float, place: int
) -> None:
    """It is no step of the clock, and moves nothing."""
    bounds = Path(300, 60.0, seed).exchanges(clock)
    for values in (bounds.upper, bounds.lower):
        values[place] += wrong_s
    found = fit(bounds)
    assert found is not None
    assert (len(found.stretches), found.left_out) == (1, 1)
    assert missed(found, clock, 0, 60)[0] <= 0


def test_no_exchange_is_no_map() -> None:
    """Nor is one that cannot be: back before it was sent."""
    nothing = Bounds(*(np.empty(0) for _ in range(4)))
    assert fit(nothing) is None
    assert fit(Bounds(np.array([1.0]), np.array([0.0]), np.array([1.0]), np.array([0.5]))) is None


def test_one_exchange_bounds_the_clock_by_half_its_round_trip_and_any_drift() -> None:
    found = fit(Bounds(np.array([10.0]), np.array([1.5]), np.array([10.0]), np.array([1.25])))
    assert found is not None
    low, high = found.limits(np.array([10.0, 20.0]))
    assert (high - low)[0] / 2 == pytest.approx(0.125, abs=1e-5)
    assert (high - low)[1] / 2 == pytest.approx(0.125 + 10 * FASTEST, rel=0.02)
    assert (high + low) / 2 == pytest.approx([1.375, 1.375])


def test_a_clock_that_is_turned_faster_than_crystals_wander_widens_the_bounds() -> None:
    """200 ppm to and fro, as when NTP slews it: no line fits, but bounds hold, and are not taken for a step."""
    clock = Clock(0.0, 0.0, 200e-6, 200.0)
    found = fit(Path(400, 400.0, 5).exchanges(clock))
    assert found is not None
    assert len(found.stretches) == 1
    assert found.stretches[0].wander > 100e-6
    outside_s, half_width_s = missed(found, clock, 0, 400)
    assert outside_s <= 0
    assert half_width_s < 0.005


def test_time_is_linear_in_the_number_of_exchanges() -> None:
    """Ten times as many take about ten times as long: far below a square."""

    def seconds(n: int) -> float:
        bounds = Path(n, 36_000.0, 6).exchanges(Clock(1.0, 20e-6))
        start = time.process_time()
        fit(bounds)
        return time.process_time() - start

    few, many = (min(seconds(n) for _ in range(3)) for n in (5_000, 50_000))
    assert many < 40 * few


# --- time of day ------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(1, 1000), st.floats(-1e5, 1e5).filter(lambda size: abs(size) > 1)), max_size=4),
    st.floats(-500e-6, 500e-6),
    st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_steps_of_the_time_of_day_are_found_exactly(steps: list[tuple[float, float]], drift: float, seed: int) -> None:
    """Size to a millisecond and its drift meanwhile, in time before the first stamp after it; late stamps are none."""
    rng = np.random.default_rng(seed)
    # Ten stamps at least between steps: the median of five has to see each piece.
    when = [100 * (place + 1) + at / 20 for place, (at, _) in enumerate(steps)]
    mono = np.sort(rng.uniform(0, 600, 1200))
    wall = mono * (1 + drift) + 1.7e9
    for at, (_, size) in zip(when, steps, strict=True):
        wall = wall + np.where(mono >= at, size, 0)
    late = np.where(np.arange(1200) % 100 == 50, 0.02, 0.0)
    mono_ns, wall_ns = (np.array([round(at * NS) for at in clock]) for clock in (mono, wall + late))
    found = wall_clock(mono_ns, wall_ns)
    room_s = 0.001 + abs(drift) * float(np.max(mono[5:] - mono[:-5]))  # by so much it drifts within five stamps
    assert [step.size_s for step in found.steps] == pytest.approx([size for _, size in steps], abs=room_s)
    for step, at in zip(found.steps, when, strict=True):
        place = np.searchsorted(mono, at)
        assert mono[place - 2] <= step.mono_ns / NS <= mono[place + 2]
    assert found.drift == pytest.approx(drift, abs=20e-6)
    moment = float(mono[700])
    truth = float(wall[700]) - moment
    assert found.base_ns / NS + found.minus_mono_s(round(moment * NS)) == pytest.approx(truth, abs=0.002)


def test_a_time_of_day_of_one_stamp_does_not_drift() -> None:
    only = wall_clock(np.array([5 * NS]), np.array([1_700_000_000 * NS]))
    assert (only.steps, only.drift, only.minus_mono_s(7 * NS)) == ((), 0.0, 0.0)


# --- concave functions ------------------------------------------------------------------------------------------------

lines = st.lists(st.tuples(st.floats(-100, 100), st.floats(-0.01, 0.01)), min_size=1, max_size=30)


@given(lines)
@settings(max_examples=200, deadline=None)
def test_top_and_edges_of_the_least_of_some_lines(pieces: list[tuple[float, float]]) -> None:
    """No place where two lines meet is higher than the top; at an edge inside the range, the function is zero."""
    slope, height = np.array(pieces).T

    def least(place: float) -> tuple[float, float]:
        values = slope * place + height
        lowest = int(values.argmin())
        return float(values[lowest]), float(slope[lowest])

    top = maximum(least, -FASTEST, FASTEST)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # of lines that are all but parallel
        meets = np.subtract.outer(height, height).ravel() / -np.subtract.outer(slope, slope).ravel()
    inside = [-FASTEST, FASTEST, *meets[np.abs(meets) <= FASTEST]]
    assert least(top)[0] >= max(least(place)[0] for place in inside) - 2 * EXACT
    if least(top)[0] > EXACT:
        for end in (-FASTEST, FASTEST):
            found = edge(least, end)
            assert least(end)[0] >= 0 or least(found)[0] == pytest.approx(0, abs=2 * EXACT)

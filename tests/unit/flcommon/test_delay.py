"""The injected delay: what is drawn is what was asked for, and theory agrees with it."""

from __future__ import annotations

import math
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flcommon.delay import (
    Constant,
    Delay,
    Draw,
    Exponential,
    LogNormal,
    Normal,
    Pareto,
    Seconds,
    Trace,
    Uniform,
    draw_s,
)

if TYPE_CHECKING:
    import random

DISTRIBUTIONS: list[Seconds] = [
    Constant(3.0),
    Uniform(3.0, 5.0),
    Normal(3.0, 1.0),
    Normal(0.5, 1.0),
    LogNormal(3.0, 0.5),
    Exponential(3.0),
    Pareto(3.0, 2.5),
]
RANDOM = DISTRIBUTIONS[1:]
WHO = Draw(seed=1, client="pi4-a", schedule=0, round=1)
DRAWS = st.builds(Draw, st.integers(0, 2**63 - 1), st.text(max_size=8), st.integers(0, 10**6), st.integers(1, 10**4))


def numeric(distribution: Seconds, k: int) -> float:
    """Return the base class's numeric E[max], also where a distribution has a closed form."""
    base = next(x for x in type(distribution).__mro__ if x.__name__ == "_Distribution")
    return float(vars(base)["expected_max_s"](distribution, k))


@pytest.mark.parametrize(
    ("distribution", "u", "value"),
    [
        (Constant(3.0), 0.7, 3.0),
        (Uniform(3.0, 5.0), 0.0, 3.0),
        (Uniform(3.0, 5.0), 0.25, 3.5),
        (Normal(3.0, 1.0), 0.5, 3.0),
        (Normal(3.0, 1.0), NormalDist().cdf(1.5), 4.5),
        (Normal(0.5, 1.0), 0.2, 0.0),
        (Normal(3.0, 1.0), 0.0, 0.0),
        (LogNormal(3.0, 0.5), 0.5, 3.0),
        (LogNormal(3.0, 0.5), NormalDist().cdf(2.0), 3.0 * math.e),
        (LogNormal(3.0, 0.5), 0.0, 0.0),
        (Exponential(3.0), 0.0, 0.0),
        (Exponential(3.0), 0.5, 3 * math.log(2)),
        (Pareto(3.0, 2.0), 0.0, 3.0),
        (Pareto(3.0, 2.0), 0.75, 6.0),
        (Trace((5.0, 1.0, 3.0)), 0.0, 1.0),
        (Trace((5.0, 1.0, 3.0)), 0.5, 3.0),
        (Trace((5.0, 1.0, 3.0)), 0.999, 5.0),
    ],
)
def test_quantiles(distribution: Seconds, u: float, value: float) -> None:
    assert distribution.quantile_s(u) == pytest.approx(value)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
@given(us=st.lists(st.floats(0, 1, exclude_max=True), min_size=2))
def test_quantiles_rise_and_are_never_negative(distribution: Seconds, us: list[float]) -> None:
    values = [distribution.quantile_s(u) for u in sorted(us)]
    assert values == sorted(values)
    assert values[0] >= 0


@pytest.mark.parametrize(
    ("distribution", "mean"),
    [
        (Constant(3.0), 3.0),
        (Uniform(3.0, 5.0), 4.0),
        (Normal(30.0, 1.0), 30.0),
        # The mean of max(0, X): m Φ(m/s) + s φ(m/s).
        (Normal(0.5, 1.0), 0.5 * NormalDist().cdf(0.5) + NormalDist().pdf(0.5)),
        (LogNormal(3.0, 0.5), 3 * math.exp(0.125)),
        (LogNormal(1.0, 4.0), math.exp(8)),
        (Exponential(3.0), 3.0),
        (Pareto(3.0, 2.5), 5.0),
        (Trace((5.0, 1.0, 3.0)), 3.0),
    ],
)
def test_means(distribution: Seconds, mean: float) -> None:
    assert distribution.expected_max_s(1) == pytest.approx(mean, rel=1e-4)


def test_the_largest_of_normals() -> None:
    """Known: E[max of 2] = m + s/√π, E[max of 3] = m + 3s/(2√π). Far from zero, where nothing is cut off."""
    assert Normal(30.0, 1.0).expected_max_s(2) == pytest.approx(30 + 1 / math.sqrt(math.pi), rel=1e-9)
    assert Normal(30.0, 1.0).expected_max_s(3) == pytest.approx(30 + 1.5 / math.sqrt(math.pi), rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3, 10, 200])
@pytest.mark.parametrize(
    "distribution", [Constant(3.0), Uniform(3.0, 5.0), Exponential(3.0), Pareto(3.0, 2.5)], ids=repr
)
def test_closed_forms_agree_with_the_integral(distribution: Seconds, k: int) -> None:
    assert distribution.expected_max_s(k) == pytest.approx(numeric(distribution, k), rel=1e-6)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
def test_expected_maxima_agree_with_monte_carlo(distribution: Seconds, k: int) -> None:
    """Within five standard errors of 4000 samples."""
    us = np.random.Generator(np.random.PCG64(5)).random((4000, k)).max(axis=1)
    maxima = [distribution.quantile_s(float(u)) for u in us]
    bound = 5 * stdev(maxima) / math.sqrt(len(maxima)) + 1e-9
    assert distribution.expected_max_s(k) == pytest.approx(fmean(maxima), abs=bound)


@pytest.mark.parametrize(
    ("probability", "factor"), [(0.0, 0.0), (0.2, 0.488), (0.4, 0.784), (0.6, 0.936), (0.8, 0.992), (1.0, 1.0)]
)
@pytest.mark.parametrize("seconds", [3.0, 4.0, 5.0])
def test_the_studys_factors(probability: float, factor: float, seconds: float) -> None:
    """Three clients and a constant delay d wait d · (1 - (1 - p)^3) a round."""
    assert Delay(probability, Constant(seconds)).expected_slowest_s(3) == pytest.approx(seconds * factor)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0.0), (0.5, 3.6875), (1.0, 4.5)])
def test_the_slowest_of_three_uniform_clients(probability: float, expected: float) -> None:
    """U(3, 5) at p = .5: (3·4 + 3·(4 + 1/3) + 4.5) / 8."""
    assert Delay(probability, Uniform(3.0, 5.0)).expected_slowest_s(3) == pytest.approx(expected)


def test_a_trace_delays_all_clients_alike() -> None:
    """In one round all clients play the same entry, so the slowest waits for the mean if any waits."""
    assert Delay(0.5, Trace((1.0, 2.0, 9.0))).expected_slowest_s(3) == pytest.approx(4 * 0.875)


@pytest.mark.parametrize("distribution", [*DISTRIBUTIONS, Trace((1.0, 2.0, 9.0))], ids=repr)
def test_the_expected_slowest_is_what_clients_draw(distribution: Seconds) -> None:
    """Theory against the very draws that the clients make: 900 rounds of three clients, five standard errors."""
    delay = Delay(0.4, distribution)
    slowest = [
        max(draw_s(delay, Draw(seed=3, client=name, schedule=0, round=r)) for name in ("a", "b", "c"))
        for r in range(1, 901)
    ]
    bound = 5 * stdev(slowest) / math.sqrt(len(slowest))
    assert delay.expected_slowest_s(3) == pytest.approx(fmean(slowest), abs=bound)


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.8])
def test_a_delay_comes_as_often_as_asked_for(probability: float) -> None:
    """Within five standard deviations of the binomial distribution, over clients, schedules and rounds."""
    delay = Delay(probability, Constant(3.0))
    draws = [draw_s(delay, Draw(2, f"c{c}", s, r)) for c in range(5) for s in range(10) for r in range(1, 61)]
    bound = 5 * math.sqrt(probability * (1 - probability) / len(draws))
    assert sum(x > 0 for x in draws) / len(draws) == pytest.approx(probability, abs=bound)
    assert set(draws) == {0.0, 3.0}


def test_never_and_always() -> None:
    rounds = [msgspec.structs.replace(WHO, round=r) for r in range(1, 200)]
    assert {draw_s(Delay(0.0, Constant(3.0)), who) for who in rounds} == {0.0}
    assert {draw_s(Delay(1.0, Constant(3.0)), who) for who in rounds} == {3.0}


def test_clients_draw_independently() -> None:
    """The correlation of two clients' draws over 2000 rounds lies within five standard errors of none."""
    delay = Delay(1.0, Uniform(0.0, 1.0))
    a, b = ([draw_s(delay, Draw(1, name, 0, r)) for r in range(1, 2001)] for name in ("a", "b"))
    assert abs(float(np.corrcoef(a, b)[0, 1])) < 5 / math.sqrt(2000)


@given(st.lists(DRAWS, max_size=6), st.randoms(use_true_random=False))
def test_draws_do_not_depend_on_their_order(draws: list[Draw], shuffle: random.Random) -> None:
    delay = Delay(0.5, Uniform(3.0, 5.0))
    before = [draw_s(delay, who) for who in draws]
    places = list(range(len(draws)))
    shuffle.shuffle(places)
    after = {place: draw_s(delay, draws[place]) for place in places}
    assert [after[place] for place in range(len(draws))] == before


@pytest.mark.parametrize("change", [{"seed": 2}, {"client": "pi4-b"}, {"schedule": 1}, {"round": 2}])
def test_draws_depend_on_each_part(change: dict[str, int | str]) -> None:
    delay = Delay(1.0, Uniform(3.0, 5.0))
    other = msgspec.convert({**msgspec.to_builtins(WHO), **change}, Draw)
    assert draw_s(delay, other) != draw_s(delay, WHO)


@given(DRAWS, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_probability_only_adds_delays(who: Draw, one: float, other: float) -> None:
    """The coin does not depend on the probability: on one schedule, who waits at p waits at every higher p."""
    low, high = sorted([one, other])
    assert draw_s(Delay(low, Constant(1.0)), who) <= draw_s(Delay(high, Constant(1.0)), who)


GOLDEN: list[tuple[Delay, list[float]]] = [
    (Delay(0.6, Constant(3.0)), [0.0, 0.0, 0.0, 3.0]),
    (Delay(1.0, Uniform(3.0, 5.0)), [3.4489759474322934, 3.9762996136557938, 4.4436610382663835, 4.152619135266349]),
    (Delay(1.0, Normal(3.0, 1.0)), [2.2428766188091096, 2.970291601262682, 3.5882880552407603, 3.192461318609451]),
    (Delay(1.0, LogNormal(3.0, 0.5)), [2.0545371636346523, 2.9557667400509255, 4.025931514581906, 3.3030389807965115]),
    (Delay(1.0, Exponential(3.0)), [0.7626953661155715, 2.0091698646497953, 3.8385741229282884, 2.576256608263175]),
    (Delay(1.0, Pareto(3.0, 2.5)), [3.3211297266239277, 3.921607334038228, 5.004923719166246, 4.229624294176366]),
]


@pytest.mark.parametrize(("delay", "values"), GOLDEN, ids=lambda x: repr(x) if isinstance(x, Delay) else "")
def test_the_stream_is_frozen(delay: Delay, values: list[float]) -> None:
    """A release that changes these numbers changes published experiments: say so in the changelog.

    The tolerance is for the C library's exp and log, which differ in the last digit between machines.
    """
    drawn = [draw_s(delay, msgspec.structs.replace(WHO, round=r)) for r in range(1, 5)]
    assert drawn == pytest.approx(values, rel=1e-13)


def test_the_frozen_stream_of_other_clients_schedules_and_seeds() -> None:
    delay = Delay(1.0, Uniform(3.0, 5.0))
    others = [Draw(1, "pc-b", 0, 1), Draw(1, "pi4-a", 1, 1), Draw(2, "pi4-a", 0, 1)]
    assert [draw_s(delay, who) for who in others] == [4.807150200035495, 4.4024135396320885, 3.0846738617106197]


def test_a_trace_is_played_back_in_order() -> None:
    delay = Delay(1.0, Trace((1.0, 2.0, 9.0)))
    drawn = [draw_s(delay, Draw(seed=1, client="a", schedule=5, round=r)) for r in range(1, 8)]
    assert drawn == [1.0, 2.0, 9.0, 1.0, 2.0, 9.0, 1.0]


@pytest.mark.parametrize("distribution", [*DISTRIBUTIONS, Trace((1.0, 2.0))], ids=repr)
def test_delays_survive_json(distribution: Seconds) -> None:
    """They travel in job files: what a host draws is what the controller planned, to the last bit."""
    delay = Delay(0.1, distribution)
    assert msgspec.json.decode(msgspec.json.encode(delay), type=Delay) == delay


@pytest.mark.parametrize(
    "distribution", [LogNormal(86_400.0, 4.0), Exponential(86_400.0), Pareto(86_400.0, 1.0001)], ids=repr
)
def test_the_largest_parameters_do_not_overflow(distribution: Seconds) -> None:
    assert math.isfinite(distribution.quantile_s(1 - 2**-53))
    assert math.isfinite(Delay(1.0, distribution).expected_slowest_s(200))


@pytest.mark.parametrize(
    "data",
    [
        {"probability": 1.5, "seconds": {"distribution": "constant", "seconds": 1}},
        {"probability": 0.5, "seconds": {"distribution": "constant", "seconds": -1}},
        {"probability": 0.5, "seconds": {"distribution": "constant", "seconds": 86_401}},
        {"probability": 0.5, "seconds": {"distribution": "uniform", "low_s": 2, "high_s": 1}},
        {"probability": 0.5, "seconds": {"distribution": "normal", "mean_s": 2, "std_s": 0}},
        {"probability": 0.5, "seconds": {"distribution": "pareto", "minimum_s": 2, "alpha": 1}},
        {"probability": 0.5, "seconds": {"distribution": "trace", "values_s": []}},
        {"probability": 0.5, "seconds": {"distribution": "exponential", "mean_s": 2, "x": 0}},
        {"probability": 0.5, "seconds": {"distribution": "constant", "seconds": 1}, "at": "after"},
    ],
)
def test_impossible_delays_are_refused(data: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(data, Delay)

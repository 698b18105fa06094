from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.analysis.statistics.survival import MEDIAN, RESTRICTED, Times, logrank, times, to_target
from flcommon.job import Stop

if TYPE_CHECKING:
    from types import ModuleType

    from deploy.analysis.statistics.survival import ToTarget

seconds = st.integers(1, 100_000).map(lambda value: value / 1000)


def found(reached: list[float], censored: list[float]) -> ToTarget:
    result = to_target(Times(tuple(reached), tuple(censored)))
    assert result is not None
    return result


@given(st.lists(seconds, min_size=1, max_size=12))
def test_without_censoring_it_is_the_plain_median(reached: list[float]) -> None:
    result = found(reached, [])
    assert result.time_s == pytest.approx(median(reached))
    assert (result.n, result.reached, result.method) == (len(reached), len(reached), MEDIAN)
    assert result.low_s is None or result.low_s <= result.time_s
    assert result.high_s is None or result.high_s >= result.time_s


def test_the_median_of_freireichs_trial() -> None:
    """The classic of survival analysis (Freireich 1963, 6-MP): 21 patients, median 23 weeks, by log-log from 13 on."""
    reached = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    censored = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    result = found([float(each) for each in reached], [float(each) for each in censored])
    assert (result.time_s, result.low_s, result.high_s) == (23.0, 13.0, None)


def test_censored_trials_count_for_longer(kit: ModuleType) -> None:
    """2, 4 and two that had not got there after 3 s: half are there at 4 s; leaving them out would say 3."""
    stop = Stop(metric="accuracy", at_least=0.9)
    trials = [
        kit.timed_trial(kit.plan(0, stop=stop), 2.0),
        kit.timed_trial(kit.plan(1, stop=stop), 4.0),
        kit.timed_trial(kit.plan(2, stop=stop), 3.0, reached=False),
    ]
    watched = times(trials)
    assert watched == Times((2.0, 4.0), (3.0,))
    assert found(list(watched.reached), list(watched.censored)).time_s == 4.0
    assert times([kit.timed_trial(kit.plan(0), 2.0)]) == Times((), ())
    assert to_target(Times((), ())) is None


def test_where_half_never_get_there_the_mean_within_a_horizon() -> None:
    """One of four at 2 s, the others not within 10 s: (2 + 3 · 10) / 4, with their t interval, cut at 10."""
    result = found([2.0], [10.0, 10.0, 10.0])
    assert (result.time_s, result.horizon_s, result.method) == (8.0, 10.0, RESTRICTED)
    assert result.low_s == pytest.approx(8 - 3.1824 * 4 / 2, abs=1e-3)
    assert result.high_s == 10.0


def test_where_none_gets_there_only_the_horizon_is_known() -> None:
    result = found([], [5.0, 7.0])
    assert (result.time_s, result.low_s, result.high_s, result.reached) == (7.0, None, None, 0)


@given(st.lists(seconds, max_size=6), st.lists(seconds, max_size=6), st.sampled_from([0.25, 4.0, 1024.0]))
def test_a_unit_and_the_order_of_trials_change_nothing(
    reached: list[float], censored: list[float], unit: float
) -> None:
    if not reached and not censored:
        return
    before = found(reached, censored)
    after = found([unit * each for each in reversed(reached)], [unit * each for each in reversed(censored)])
    assert after.time_s == pytest.approx(unit * before.time_s)
    assert (after.low_s is None, after.high_s is None) == (before.low_s is None, before.high_s is None)


def test_the_log_rank_test_tells_fast_from_slow() -> None:
    """As for Freireich's two groups: p = 0.00004; alike, 1; and no p-value where nobody got there."""
    placebo = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
    drug = Times((6, 6, 6, 7, 10, 13, 16, 22, 23), (6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35))
    p_value = logrank(Times(tuple(map(float, placebo)), ()), drug)
    assert p_value == pytest.approx(4.17e-5, rel=0.02)
    assert logrank(drug, drug) == pytest.approx(1.0)
    assert logrank(Times((), (1.0,)), Times((), (2.0,))) is None
    assert logrank(Times((1.0,), ()), Times((), ())) is None

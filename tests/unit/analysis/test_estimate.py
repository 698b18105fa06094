from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.analysis.statistics.estimate import Estimate, difference, mean, ratio

seconds = st.integers(1, 100_000).map(lambda value: value / 1000)
samples = st.lists(seconds, min_size=2, max_size=8)
pairs = st.lists(st.tuples(seconds, seconds), min_size=2, max_size=8)


def bounds(found: Estimate | None) -> tuple[float, float]:
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_a_mean_has_students_interval() -> None:
    """Of 1, 2, 3: 2 ± 4.303 · 1 / √3, from the t table for 2 degrees of freedom."""
    assert bounds(mean([1.0, 2.0, 3.0])) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)


def test_one_value_has_no_interval_and_names_no_method() -> None:
    assert mean([3.0]) == Estimate(value=3.0, n=1)
    assert difference([3.0], [1.0, 2.0], paired=False) == Estimate(value=1.5, n=1, n_reference=2)
    assert ratio([3.0], [1.5], paired=True) == Estimate(value=2.0, n=1)


def test_nothing_gives_nothing() -> None:
    assert mean([]) is None
    assert difference([], [1.0], paired=False) is None
    assert ratio([1.0], [0.0], paired=True) is None


def test_pairs_leave_out_what_they_share() -> None:
    """Pairs that all differ by 2 s do so surely, however much they vary; unpaired, the same values tell little."""
    reference = [1.0, 5.0, 9.0]
    ours = [value + 2 for value in reference]
    assert bounds(difference(ours, reference, paired=True)) == (2.0, 2.0)
    low, high = bounds(difference(ours, reference, paired=False))
    assert low < 0 < high


def test_welchs_interval_is_the_one_in_the_books() -> None:
    """As scipy has it, which needs two samples that vary."""
    from scipy.stats import ttest_ind  # noqa: PLC0415 - a second, for one test

    ours, theirs = [27.5, 21.0, 19.0, 23.6], [17.8, 22.1, 20.5]
    known = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert bounds(difference(ours, theirs, paired=False)) == pytest.approx((known.low, known.high))


def test_a_ratio_that_is_exact_has_no_width() -> None:
    reference = [4.0, 5.0, 6.0]
    found = ratio([3 * value for value in reference], reference, paired=True)
    assert bounds(found) == pytest.approx((3.0, 3.0))
    assert bounds(ratio([4.0, 4.0], [2.0, 2.0], paired=False)) == (2.0, 2.0)


def test_a_ratio_to_what_may_be_nothing_has_no_interval() -> None:
    """Where the reference is not surely other than 0, the ratio may be anything."""
    found = ratio([1.0, 2.0], [0.1, 3.0], paired=False)
    assert found is not None
    assert (found.low, found.high, found.method) == (None, None, "")


@given(samples, samples, st.floats(-50, 50))
def test_a_shift_moves_a_mean_and_no_difference(ours: list[float], theirs: list[float], shift: float) -> None:
    moved = [value + shift for value in ours]
    assert bounds(mean(moved)) == pytest.approx([bound + shift for bound in bounds(mean(ours))], abs=1e-9)
    also = difference(moved, [value + shift for value in theirs], paired=False)
    assert bounds(also) == pytest.approx(bounds(difference(ours, theirs, paired=False)), abs=1e-6)


@given(pairs, st.floats(0.01, 100), st.booleans())
def test_a_unit_changes_no_ratio(drawn: list[tuple[float, float]], unit: float, paired: bool) -> None:  # noqa: FBT001
    """Milliseconds or hours: a ratio and its interval stay; that of a difference is in the same unit."""
    ours, theirs = (list(side) for side in zip(*drawn, strict=True))
    before = ratio(ours, theirs, paired=paired)
    after = ratio([unit * value for value in ours], [unit * value for value in theirs], paired=paired)
    assert before is not None
    assert after is not None
    assert after.value == pytest.approx(before.value)
    if before.low is not None and after.low is not None:
        assert bounds(after) == pytest.approx(bounds(before), rel=1e-6, abs=1e-6)


@given(pairs, st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_trials_does_not_matter(drawn: list[tuple[float, float]], order: object, paired: bool) -> None:  # noqa: FBT001
    shuffled = list(drawn)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    before, after = (
        difference([a for a, _ in each], [b for _, b in each], paired=paired) for each in (drawn, shuffled)
    )
    assert bounds(after) == pytest.approx(bounds(before), abs=1e-9)
    assert before is not None
    assert before.value == pytest.approx(fmean(a for a, _ in drawn) - fmean(b for _, b in drawn))


@given(samples, samples)
def test_an_interval_of_a_ratio_holds_the_ratio_and_turned_round_its_inverse(
    ours: list[float], theirs: list[float]
) -> None:
    there, back = ratio(ours, theirs, paired=False), ratio(theirs, ours, paired=False)
    assert there is not None
    assert back is not None
    if there.low is not None and there.high is not None:
        assert there.low - 1e-9 <= there.value <= there.high + 1e-9
        if back.low is not None and there.low > 0:
            assert bounds(back) == pytest.approx((1 / there.high, 1 / there.low), rel=1e-6)


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_hold_the_truth_as_often_as_they_say(*, paired: bool) -> None:
    """Of 1,000 samples of 3 normal values, some 950 intervals hold the true ratio (2) and the true difference (10)."""
    rng = np.random.default_rng(1)
    held = {"ratio": 0, "difference": 0}
    for _ in range(1000):
        shared = rng.normal(0, 0.5, 3) if paired else np.zeros(3)
        theirs = rng.normal(10, 0.3, 3) + shared
        ours = rng.normal(20, 0.6, 3) + shared
        low, high = bounds(ratio(ours.tolist(), theirs.tolist(), paired=paired))
        held["ratio"] += low <= 2 <= high
        low, high = bounds(difference(ours.tolist(), theirs.tolist(), paired=paired))
        held["difference"] += low <= 10 <= high
    assert all(0.93 <= count / 1000 <= 0.975 for count in held.values()), held


@pytest.mark.parametrize("paired", [True, False])
def test_values_that_are_all_0_have_the_ratio_0(*, paired: bool) -> None:
    """As of trials whose first model reaches the target: they take no time, and that is sure."""
    found = ratio([0.0, 0.0, 0.0], [4.0, 5.0, 6.0], paired=paired)
    assert found is not None
    assert (found.value, *bounds(found)) == (0.0, 0.0, 0.0)


def test_no_ratio_of_times_is_below_0() -> None:
    """Though two that vary much would allow it."""
    low, high = bounds(ratio([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], paired=False))
    assert low == 0 < high


def test_a_long_tail_does_not_deceive_the_interval_of_a_ratio() -> None:
    """Of 400 samples of 12 times with a long tail, 380 intervals or more hold the true ratio."""
    rng = np.random.default_rng(1)
    pairs = [(2 * (5 + rng.lognormal(0, 1, 12)), 5 + rng.lognormal(0, 1, 12)) for _ in range(400)]
    found = [bounds(ratio(ours.tolist(), theirs.tolist(), paired=False)) for ours, theirs in pairs]
    assert sum(low <= 2 <= high for low, high in found) >= 380

"""How much longer it will take: exact where rounds take what theory says, and never nonsense."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.estimate import Estimate

INJECTED_S = 3 * (1 - 0.5**2)
"""Of the second trial: E[max] of two clients that wait 3 s in half of the cases."""

seconds = st.floats(0, 1e4)


def test_nothing_is_known_before_the_first_round(plan):
    """No number is better than an invented one."""
    assert Estimate(plan).left_s is None


@given(own_s=seconds)
def test_the_delays_still_to_come_are_counted(plan, own_s):
    """After one undelayed round of `own_s`: three more of them, and four with their expected delay."""
    estimate = Estimate(plan)
    estimate.round_ended(0, own_s)
    assert estimate.left_s == pytest.approx(3 * own_s + 4 * (own_s + INJECTED_S))


@given(own_s=st.floats(0.01, 1e4))
def test_the_luck_of_the_draw_does_not_count_as_computing_time(plan, own_s):
    """Three rounds in four wait 3 s, one does not wait: together they took exactly what was expected."""
    estimate = Estimate(plan)
    for delay_s in (3, 3, 0, 3):
        estimate.round_ended(1, own_s + delay_s)
    assert estimate.left_s == pytest.approx(4 * own_s)


def test_control_rounds_wait_for_nothing(plan):
    """Of four rounds one is without the delay; where only the app knows how many there are, the share is the same."""
    (trial,) = (msgspec.structs.replace(trial, control_every=4) for trial in plan.trials[1:])
    estimate = Estimate(dataclasses.replace(plan, trials=(trial,)))
    estimate.round_ended(1, 1 + INJECTED_S * 3 / 4)
    assert estimate.left_s == pytest.approx(3 * (1 + INJECTED_S * 3 / 4))
    assert msgspec.structs.replace(trial, rounds=0).injected_share == trial.injected_share == 3 / 4


@given(durations=st.lists(st.tuples(st.integers(0, 1), seconds), min_size=1, max_size=20))
def test_it_is_never_negative_and_shrinks_to_nothing(plan, durations):
    """Whatever rounds take, also more rounds than planned; at the end nothing is left."""
    estimate = Estimate(plan)
    for trial, duration_s in durations:
        estimate.round_ended(trial, duration_s)
        assert estimate.left_s is not None
        assert estimate.left_s >= 0
    for trial in plan.trials:
        estimate.trial_ended(trial.index)
    assert estimate.left_s == 0


def test_trials_of_unknown_length_are_as_long_as_those_before(plan):
    """An app that says itself how many rounds there are: nothing is known until its first trial has ended."""
    trials = [msgspec.structs.replace(plan.trials[0], index=index, rounds=0) for index in range(3)]
    estimate = Estimate(dataclasses.replace(plan, trials=tuple(trials)))
    for _ in range(5):
        estimate.round_ended(0, 2.0)
        assert estimate.left_s is None
    estimate.trial_ended(0)
    assert estimate.left_s == pytest.approx((5 + 5) * 2)
    estimate.round_ended(1, 2.0)
    assert estimate.left_s == pytest.approx((4 + 5) * 2)
    estimate.trial_ended(1)
    assert estimate.left_s == pytest.approx(3 * 2), "five and one round: three on average"
    for _ in range(7):
        estimate.round_ended(2, 2.0)
    assert estimate.left_s == 0
    estimate.trial_ended(2)
    assert estimate.left_s == 0


def test_a_trial_that_stops_early_has_no_rounds_left(plan):
    """The playbook's `stop` ends a trial before its last round."""
    estimate = Estimate(plan)
    estimate.round_ended(0, 1.0)
    estimate.trial_ended(0)
    assert estimate.left_s == pytest.approx(4 * (1 + INJECTED_S))

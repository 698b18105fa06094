from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.analysis.statistics.simulation import holm, predict
from deploy.analysis.statistics.undelayed import CONTROL, ORDINARY, undelayed
from flcommon.delay import Constant, Delay, Exponential, Pareto, Trace, Uniform
from flcommon.link import Link, Step, Steps, Way

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from deploy.analysis.reading.rows import Trial
    from deploy.analysis.statistics.simulation import Prediction
    from flcommon.delay import Seconds

LINK = Link(course=Steps(steps=(Step(up=Way(delay_ms=20.0)),)))


def made(kit: ModuleType, index: int, delay: Delay | None, draws: Sequence[Sequence[float]], **noise: object) -> Trial:
    """Make a trial whose clients compute 0.3, 0.5 and 0.7 s and have these delays by round; the rest is 0.1 s."""
    rest = noise.get("rest", [0.1] * len(draws))
    works = [[kit.Work(0.3 + 0.2 * k, d, d) for k, d in enumerate(each)] for each in draws]
    planned = kit.plan(index, delay, condition=index, rounds=len(draws))
    trial: Trial = kit.measured_trial(planned, works, rest)
    return trial


def quiet(kit: ModuleType, rounds: int = 10, **noise: object) -> Trial:
    return made(kit, 0, None, [(0.0, 0.0, 0.0)] * rounds, **noise)


def predicted(base: Sequence[Trial], tested: Sequence[Trial]) -> Prediction:
    known = undelayed(base, 3)
    assert known is not None
    found = predict(tested, known)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("law", "rel"),
    [(Constant(3.0), 0.01), (Uniform(2.0, 4.0), 0.01), (Exponential(2.0), 0.02), (Pareto(1.0, 4.0), 0.02)],
)
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_equal_clients_take_what_order_statistics_say(kit: ModuleType, law: Seconds, rel: float, p: float) -> None:
    """For clients alike the simulated mean is R (c + E[largest delay]), the closed form."""
    work = [[kit.Work(0.5)] * 3] * 10
    base = kit.measured_trial(kit.plan(0), work, [0.1] * 10)
    delay = Delay(p, law)
    tested = kit.measured_trial(kit.plan(1, delay), work, [0.1] * 10)
    expected = 10 * (0.6 + delay.expected_slowest_s(3))
    assert predicted([base], [tested]).mean_s == pytest.approx(expected, rel=rel)


def test_unequal_clients_hide_short_delays(kit: ModuleType) -> None:
    """A delay of 0.2 s that hits one of the two faster clients costs nothing; by hand: E = 0.7 + 0.2 p for p = 0.5."""
    delay = Delay(0.5, Constant(0.2))
    found = predicted([quiet(kit)], [made(kit, 1, delay, [(0.0, 0.0, 0.0)] * 10)])
    assert found.mean_s == pytest.approx(10 * (0.1 + 0.7 + 0.5 * 0.2), rel=0.005)


def test_a_trace_is_played_in_order(kit: ModuleType) -> None:
    """With p = 1 nothing is left to chance: the sum of the entries that were played, and R rounds without delay."""
    delay = Delay(1.0, Trace((1.0, 2.0, 3.0)))
    found = predicted([quiet(kit)], [made(kit, 1, delay, [(1.0, 1.0, 1.0)] * 4)])
    assert (found.low_s, found.high_s) == pytest.approx((4 * 0.8 + 7.0, 4 * 0.8 + 7.0))


def test_a_time_that_theory_rules_out_is_found(kit: ModuleType) -> None:
    """With p = 1 and rounds without noise the trial may take 38 s and no longer."""
    delay = Delay(1.0, Constant(3.0))
    right = made(kit, 1, delay, [(3.0, 3.0, 3.0)] * 10)
    wrong = made(kit, 2, delay, [(3.0, 3.0, 3.2)] * 10)
    rest = [0.1 + 0.001 * (-1) ** number for number in range(10)]
    assert predicted([quiet(kit, rest=rest)], [right]).p_value > 0.5
    assert predicted([quiet(kit, rest=rest)], [wrong]).p_value < 0.001


def test_first_rounds_that_settle_are_simulated_as_first_rounds(kit: ModuleType) -> None:
    """A trial of 10 rounds has one slow first round, not ten, and not none."""
    rest = [5.0] + [0.1] * 9
    known = undelayed([quiet(kit, rest=rest)], 3)
    assert known is not None
    assert sorted(known.pools) == [ORDINARY, 1]
    found = predicted([quiet(kit, rest=rest)], [made(kit, 1, None, [(0.0, 0.0, 0.0)] * 10, rest=rest)])
    assert found.mean_s == pytest.approx(10 * 0.7 + 5.0 + 0.9)


def test_without_such_trials_each_clients_delay_is_taken_off(kit: ModuleType) -> None:
    """Also where the delay hid behind a slower client's compute time: no closed form of c does that."""
    delay = Delay(0.5, Constant(0.2))
    trial = made(kit, 1, delay, [(0.2, 0.0, 0.0), (0.0, 0.0, 0.2), (0.0, 0.2, 0.0), (0.0, 0.0, 0.0)])
    known = undelayed([trial], 3)
    assert known is not None
    assert not known.own
    pool = known.pools[ORDINARY]
    assert (pool.compute_s.max(axis=1) + pool.rest_s).tolist() == pytest.approx([0.8] * 4)


def test_control_rounds_under_links_are_simulated_apart(kit: ModuleType) -> None:
    base = quiet(kit, 6, rest=[0.5, 0.5, 0.1, 0.5, 0.5, 0.1])
    rounds = tuple(msgspec.structs.replace(each, control=each.number % 3 == 0) for each in base.rounds)
    planned = msgspec.structs.replace(base.plan, links={"c0": LINK})
    trial = msgspec.structs.replace(base, rounds=rounds, plan=planned)
    known = undelayed([trial], 3)
    assert known is not None
    assert {kind: sorted(set(pool.rest_s.round(6))) for kind, pool in known.pools.items()} == {
        ORDINARY: [0.5],
        CONTROL: [0.1],
    }
    found = predict([trial], known)
    assert found is not None
    assert found.mean_s == pytest.approx(trial.total_s)


def test_what_is_not_known_is_not_predicted(kit: ModuleType) -> None:
    """No trial, no compute times: no base; and a timed trial is needed."""
    assert undelayed([], 3) is None
    assert undelayed([kit.timed_trial(kit.plan(0), 3.0)], 3) is None
    known = undelayed([quiet(kit)], 3)
    assert known is not None
    assert predict([], known) is None


@pytest.mark.parametrize(("between_s", "p"), [(0.0, 0.6), (0.02, 1.0)])
def test_of_trials_that_follow_theory_one_in_twenty_is_doubted(kit: ModuleType, between_s: float, p: float) -> None:
    """The test's level, on data drawn from its own model: rounds vary, and trials among each other too."""
    rng = np.random.default_rng(2)
    delay, rejected, count = Delay(p, Constant(1.0)), 0, 120

    def drawn(index: int, asked: Delay | None) -> Trial:
        rest = (0.1 + between_s * rng.standard_normal() + 0.02 * rng.standard_normal(6)).tolist()
        hit = rng.random((6, 3)) < (asked.probability if asked else 0.0)
        return made(kit, index, asked, hit.astype(float).tolist(), rest=rest)

    for number in range(count):
        base = [drawn(-index, None) for index in range(6)]
        rejected += predicted(base, [drawn(number + 1, delay) for _ in range(2)]).p_value < 0.05
    assert rejected / count <= 0.12  # 0.05 ± 3.5 standard errors
    assert rejected > 0


def test_the_same_logs_give_the_same_numbers(kit: ModuleType) -> None:
    delay = Delay(0.5, Uniform(1.0, 2.0))
    tested = [made(kit, 1, delay, [(1.0, 0.0, 0.0)] * 5)]
    assert predicted([quiet(kit)], tested) == predicted([quiet(kit)], tested)


def test_large_federations_are_simulated_with_fewer_draws(kit: ModuleType) -> None:
    """1,000 clients: half a second at most, and still what order statistics say."""
    work = [[kit.Work(0.5)] * 1000] * 5
    base = kit.measured_trial(kit.plan(0), work, [0.1] * 5)
    delay = Delay(0.01, Exponential(1.0))
    tested = kit.measured_trial(kit.plan(1, delay), work, [0.1] * 5)
    known = undelayed([base], 1000)
    assert known is not None
    found = predict([tested], known)
    assert found is not None
    mean_max = sum(1 / k for k in range(1, 11))  # some 10 of them are delayed
    assert found.mean_s == pytest.approx(5 * (0.6 + mean_max), rel=0.05)


def test_holms_correction_by_hand() -> None:
    """The smallest of 4 counts four times, the next three times, and none less than one before it."""
    assert holm([0.03, 0.01, 0.02, 0.5]) == pytest.approx([0.06, 0.04, 0.06, 0.5])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_a_corrected_p_value_is_no_smaller_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, corrected, strict=True))
    ranks = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[place] for place in ranks] == sorted(corrected)

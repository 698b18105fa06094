from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.analysis.reading.works import WORKS
from deploy.analysis.statistics.simulation import holm, predict
from deploy.analysis.statistics.undelayed import CONTROL, ORDINARY, Measured, undelayed
from flcommon.delay import Constant, Delay, Exponential, Pareto, Trace, Uniform
from flcommon.link import Link, Step, Steps, Way

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from deploy.analysis.reading.rows import Trial
    from deploy.analysis.statistics.simulation import Prediction
    from deploy.analysis.statistics.undelayed import Undelayed
    from flcommon.delay import Seconds

LINK = Link(course=Steps(steps=(Step(up=Way(delay_ms=20.0)),)))
UNEQUAL = (0.3, 0.5, 0.7)
"""Compute times of three clients."""


class Lab:
    """Makes trials, and keeps of them what the logs would tell."""

    def __init__(self, kit: ModuleType, compute_s: Sequence[float] = UNEQUAL) -> None:
        self.kit, self.compute_s = kit, compute_s
        self.rows: list[dict[str, object]] = []
        self.slow: set[tuple[int, int]] = set()

    def trial(
        self, index: int, delay: Delay | None, draws: Sequence[Sequence[float]], rest: Sequence[float] | None = None
    ) -> Trial:
        """Make a trial whose clients have these delays by round; the rest of a round is 0.1 s."""
        busy = [[c + d for c, d in zip(self.compute_s, each, strict=True)] for each in draws]
        self.rows += [
            {
                "trial": index,
                "round": r,
                "client": f"c{k}",
                "compute_s": self.compute_s[k],
                "measured_s": d,
            }
            for r, each in enumerate(draws, 1)
            for k, d in enumerate(each)
        ]
        planned = self.kit.plan(index, delay, condition=abs(index), rounds=len(draws))
        trial: Trial = self.kit.measured_trial(planned, [max(each) for each in busy], rest or [0.1] * len(draws))
        return trial

    def quiet(self, rounds: int = 10, index: int = 0, rest: Sequence[float] | None = None) -> Trial:
        return self.trial(index, None, [[0.0] * len(self.compute_s)] * rounds, rest)

    def known(self, trials: Sequence[Trial]) -> Undelayed:
        found = undelayed(trials, self.measured)
        assert found is not None
        return found

    @property
    def measured(self) -> Measured:
        return Measured(pl.DataFrame(self.rows, schema=WORKS), self.slow, len(self.compute_s))

    def predicted(self, base: Sequence[Trial], tested: Sequence[Trial]) -> Prediction:
        found = predict(tested, self.known(base))
        assert found is not None
        return found


@pytest.fixture
def lab(kit: ModuleType) -> Lab:
    return Lab(kit)


LAWS = [(Constant(3.0), 0.01), (Uniform(2.0, 4.0), 0.01), (Exponential(2.0), 0.02), (Pareto(1.0, 4.0), 0.02)]


@pytest.mark.parametrize(("law", "rel"), LAWS)
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_equal_clients_take_what_order_statistics_say(kit: ModuleType, law: Seconds, rel: float, p: float) -> None:
    """For clients alike the simulated mean is R (c + E[largest delay]), the closed form."""
    lab, delay = Lab(kit, (0.5, 0.5, 0.5)), Delay(p, law)
    tested = lab.trial(1, delay, [[0.0] * 3] * 10)
    expected = 10 * (0.6 + delay.expected_slowest_s(3))
    assert lab.predicted([lab.quiet()], [tested]).mean_s == pytest.approx(expected, rel=rel)


def test_unequal_clients_hide_short_delays(lab: Lab) -> None:
    """A delay of 0.2 s that hits one of the two faster clients costs nothing; by hand: E = 0.7 + 0.2 p for p = 0.5."""
    found = lab.predicted([lab.quiet()], [lab.trial(1, Delay(0.5, Constant(0.2)), [[0.0] * 3] * 10)])
    assert found.mean_s == pytest.approx(10 * (0.1 + 0.7 + 0.5 * 0.2), rel=0.005)


def test_a_trace_is_played_in_order(lab: Lab) -> None:
    """With p = 1 nothing is left to chance: the sum of the entries that were played, and R rounds without delay."""
    found = lab.predicted([lab.quiet()], [lab.trial(1, Delay(1.0, Trace((1.0, 2.0, 3.0))), [[1.0] * 3] * 4)])
    assert (found.low_s, found.high_s) == pytest.approx((4 * 0.8 + 7.0, 4 * 0.8 + 7.0))


def test_a_time_that_theory_rules_out_is_found(lab: Lab) -> None:
    """With p = 1 and rounds without noise the trial may take 38 s and no longer."""
    delay = Delay(1.0, Constant(3.0))
    right = lab.trial(1, delay, [[3.0, 3.0, 3.0]] * 10)
    wrong = lab.trial(2, delay, [[3.0, 3.0, 3.2]] * 10)
    quiet = lab.quiet(rest=[0.1 + 0.001 * (-1) ** number for number in range(10)])
    assert lab.predicted([quiet], [right]).p_value > 0.5
    assert lab.predicted([quiet], [wrong]).p_value < 0.001


def test_first_rounds_that_settle_are_simulated_as_first_rounds(lab: Lab) -> None:
    """A trial of 10 rounds has one slow first round, not ten, and not none."""
    rest = [5.0] + [0.1] * 9
    quiet, tested = lab.quiet(rest=rest), lab.quiet(index=1, rest=rest)
    lab.slow.add((0, 1))
    assert sorted(lab.known([quiet]).pools) == [ORDINARY, 1]
    assert lab.predicted([quiet], [tested]).mean_s == pytest.approx(10 * 0.7 + 5.0 + 0.9)


def test_without_such_trials_each_clients_delay_is_taken_off(lab: Lab) -> None:
    """Also where the delay hid behind a slower client's compute time: no closed form of c does that."""
    draws = [[0.2, 0.0, 0.0], [0.0, 0.0, 0.2], [0.0, 0.2, 0.0], [0.0, 0.0, 0.0]]
    known = lab.known([lab.trial(1, Delay(0.5, Constant(0.2)), draws)])
    assert not known.own
    pool = known.pools[ORDINARY]
    assert (pool.compute_s.max(axis=1) + pool.rest_s).tolist() == pytest.approx([0.8] * 4)


def test_control_rounds_under_links_are_simulated_apart(lab: Lab) -> None:
    base = lab.quiet(6, rest=[0.5, 0.5, 0.1, 0.5, 0.5, 0.1])
    rounds = tuple(msgspec.structs.replace(each, control=each.number % 3 == 0) for each in base.rounds)
    planned = msgspec.structs.replace(base.plan, links={"c0": LINK})
    trial = msgspec.structs.replace(base, rounds=rounds, plan=planned)
    known = lab.known([trial])
    assert {kind: sorted(set(pool.rest_s.round(6))) for kind, pool in known.pools.items()} == {
        ORDINARY: [0.5],
        CONTROL: [0.1],
    }
    assert lab.predicted([trial], [trial]).mean_s == pytest.approx(trial.total_s)


def test_what_is_not_known_is_not_predicted(lab: Lab) -> None:
    """No trial, a round of which one client's log does not tell: no base; and a timed trial is needed."""
    assert undelayed([], lab.measured) is None
    trial = lab.quiet(1)
    assert predict([], lab.known([trial])) is None
    lab.rows[0]["compute_s"] = None
    assert undelayed([trial], lab.measured) is None
    del lab.rows[0]
    assert undelayed([trial], lab.measured) is None


@pytest.mark.parametrize(("between_s", "p"), [(0.0, 0.6), (0.02, 1.0)])
def test_of_trials_that_follow_theory_one_in_twenty_is_doubted(kit: ModuleType, between_s: float, p: float) -> None:
    """The test's level, on data drawn from its own model: rounds vary, and trials among each other too."""
    rng = np.random.default_rng(2)
    delay, rejected, count = Delay(p, Constant(1.0)), 0, 120
    for number in range(count):
        lab = Lab(kit)

        def drawn(index: int, asked: Delay | None, lab: Lab = lab) -> Trial:
            rest = (0.1 + between_s * rng.standard_normal() + 0.02 * rng.standard_normal(6)).tolist()
            hit = rng.random((6, 3)) < (asked.probability if asked else 0.0)
            return lab.trial(index, asked, hit.astype(float).tolist(), rest)

        base = [drawn(-index, None) for index in range(6)]
        tested = [drawn(number + 1, delay) for _ in range(2)]
        rejected += lab.predicted(base, tested).p_value < 0.05
    assert rejected / count <= 0.12  # 0.05 ± 3.5 standard errors
    assert rejected > 0


def test_the_same_logs_give_the_same_numbers(lab: Lab) -> None:
    tested = [lab.trial(1, Delay(0.5, Uniform(1.0, 2.0)), [[1.0, 0.0, 0.0]] * 5)]
    quiet = lab.quiet()
    assert lab.predicted([quiet], tested) == lab.predicted([quiet], tested)


def test_large_federations_are_simulated_with_fewer_draws(kit: ModuleType) -> None:
    """1,000 clients: a fraction of a second, and still what order statistics say."""
    lab, delay = Lab(kit, [0.5] * 1000), Delay(0.01, Exponential(1.0))
    tested = lab.trial(1, delay, [[0.0] * 1000] * 5)
    mean_max = sum(1 / k for k in range(1, 11))  # some 10 of them are delayed
    assert lab.predicted([lab.quiet(5)], [tested]).mean_s == pytest.approx(5 * (0.6 + mean_max), rel=0.05)


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

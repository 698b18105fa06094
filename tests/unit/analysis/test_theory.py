from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.statistics.conditions import analyse
from deploy.analysis.statistics.theory import Baseline, baseline, drawn_s, expected_s, ideal_s
from flcommon.delay import Constant, Delay, Uniform

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType


def c(round_s: float, control_s: float | None = None) -> Baseline:
    return Baseline(round_s=round_s, rounds=1, source="trials without delay", control_s=control_s)


@pytest.mark.parametrize(
    ("p", "factor"), [(0.0, 0.0), (0.2, 0.488), (0.4, 0.784), (0.6, 0.936), (0.8, 0.992), (1.0, 1.0)]
)
def test_expected_time_has_the_factors_of_three_clients(p: float, factor: float) -> None:
    """E[T] = R (c + d (1 - (1 - p)^3)): known values."""
    assert expected_s(10, c(2.0), Delay(p, Constant(3.0)), 3) == pytest.approx(10 * (2.0 + 3.0 * factor))


@pytest.mark.parametrize(("p", "slowest_s"), [(0.5, 3.6875), (1.0, 4.5)])
def test_expected_time_of_a_uniform_delay(p: float, slowest_s: float) -> None:
    """The expected maximum over the delayed clients: known values for U(3, 5) and three clients."""
    assert expected_s(1, c(0.0), Delay(p, Uniform(3.0, 5.0)), 3) == pytest.approx(slowest_s)


def test_control_rounds_have_neither_delay_nor_link() -> None:
    """Of 10 rounds every fifth: 8 with all that is injected, 2 without."""
    delay = Delay(1.0, Constant(3.0))
    assert expected_s(10, c(2.0), delay, 3, 0.8) == pytest.approx(8 * 5.0 + 2 * 2.0)
    assert expected_s(10, c(2.0, control_s=0.5), delay, 3, 0.8) == pytest.approx(8 * 5.0 + 2 * 0.5)


def test_expected_time_without_delay_is_rounds_times_c() -> None:
    assert expected_s(10, c(0.5), None, 3) == 5.0


def test_c_is_the_median_round_of_trials_without_delay(tmp_path: Path, kit: ModuleType) -> None:
    """One slow round does not lift it, and delayed trials do not count."""
    quiet = [kit.simple_round(1.0), kit.simple_round(9.0), kit.simple_round(1.0)]
    trials = [
        kit.FakeTrial(kit.plan(0, Delay(0.0, Constant(2.0))), quiet),
        kit.FakeTrial(kit.plan(1, Delay(1.0, Constant(2.0))), [kit.simple_round(5.0, 2.0)]),
    ]
    dataset = read_dataset(kit.FakeRun(tmp_path, trials).write())
    assert baseline(dataset.trials) == Baseline(round_s=1.0, rounds=3, source="trials without delay")


def test_without_such_trials_c_comes_from_subtracted_delays(tmp_path: Path, kit: ModuleType) -> None:
    rounds = [kit.simple_round(1.0, 2.0, rest_s=0.5), kit.simple_round(1.0, 4.0, rest_s=0.5)]
    trial = kit.FakeTrial(kit.plan(0, Delay(1.0, Uniform(2.0, 4.0))), rounds)
    dataset = read_dataset(kit.FakeRun(tmp_path, [trial]).write())
    assert baseline(dataset.trials) == Baseline(round_s=1.5, rounds=2, source="delays subtracted")


def test_what_settling_takes_is_expected_of_every_trial(tmp_path: Path, kit: ModuleType) -> None:
    """A first round of 6 s instead of 1 s: not in c, but in each trial's time, once."""
    rounds = [[kit.simple_round(1.0 + 5 * (not r), 2.0 * i) for r in range(9)] for i in (0, 1)]
    trials = [kit.FakeTrial(kit.plan(i, Delay(float(i), Constant(2.0))), each) for i, each in enumerate(rounds)]
    analysis = analyse(read_dataset(kit.FakeRun(tmp_path, trials).write()))
    (base,) = analysis.baselines.values()
    assert base is not None
    assert (base.round_s, base.settling, base.settling_s) == pytest.approx((1.0, 1, 5.0))
    assert [each.expected_s for each in analysis.conditions] == pytest.approx([14.0, 14.0 + 9 * 2.0])
    assert [each.difference_s for each in analysis.conditions] == pytest.approx([0.0, 0.0])
    assert [each.unexplained_pct for each in analysis.conditions] == pytest.approx([0.0, 0.0])


def test_incomplete_trials_say_nothing_about_c(tmp_path: Path, kit: ModuleType) -> None:
    trial = kit.FakeTrial(kit.plan(0), [kit.simple_round(1.0)], ok=False)
    assert baseline(read_dataset(kit.FakeRun(tmp_path, [trial]).write()).trials) is None


def test_conditions_that_differ_in_more_than_the_delay_have_a_c_each(tmp_path: Path, kit: ModuleType) -> None:
    trials = [
        kit.FakeTrial(kit.plan(i, settings={"run_config.epochs": i + 1}), [kit.simple_round(1.0 + i)]) for i in range(2)
    ]
    analysis = analyse(read_dataset(kit.FakeRun(tmp_path, trials).write()))
    assert [base.round_s for base in analysis.baselines.values() if base] == [1.0, 2.0]
    assert [each.expected_s for each in analysis.conditions] == [1.0, 2.0]


def test_ideal_and_drawn_take_the_slowest_client_of_each_round(tmp_path: Path, kit: ModuleType) -> None:
    """Compute + measured delay of the slowest client; for what was drawn, the largest draw, whoever had it."""
    works = {"pi4-a": kit.Work(1.0, 0.5, 0.75), "pi4-b": kit.Work(3.0), "pc-c": kit.Work(0.25, 2.0, 2.0)}
    rounds = [kit.FakeRound(works, rest_s=1.0), kit.simple_round(1.0, 1.0, rest_s=1.0)]
    fake = kit.FakeRun(tmp_path, [kit.FakeTrial(kit.plan(0, Delay(0.5, Uniform(0.0, 2.0))), rounds)])
    (trial,) = read_dataset(fake.write()).trials
    assert (ideal_s(trial), drawn_s(trial), trial.total_s) == (3.0 + 2.0, 2.0 + 1.0, 7.0)


def test_with_a_log_missing_the_draws_are_not_known_and_ideal_is_a_lower_bound(tmp_path: Path, kit: ModuleType) -> None:
    fake = kit.FakeRun(tmp_path, [kit.FakeTrial(kit.plan(0, Delay(1.0, Constant(1.0))), [kit.simple_round(2.0, 1.0)])])
    fake.write()
    fake.log("pc-c").unlink()
    (trial,) = read_dataset(tmp_path).trials
    assert (drawn_s(trial), ideal_s(trial)) == (None, 1.0)
    fake.log("pi4-a").unlink()
    fake.log("pi4-b").unlink()
    assert ideal_s(read_dataset(tmp_path).trials[0]) is None


milliseconds = st.integers(0, 5000).map(lambda value: value / 1000)
works = st.tuples(milliseconds, milliseconds)
rounds_of = st.lists(st.tuples(st.tuples(works, works, works), milliseconds), min_size=1, max_size=5)


@settings(max_examples=40)
@given(drawn=rounds_of)
def test_ideal_never_exceeds_the_total(
    tmp_path_factory: pytest.TempPathFactory, kit: ModuleType, drawn: Sequence[Any]
) -> None:
    """Parts cannot add up to more than the whole, and the rest is exactly what was put in."""
    rounds = [
        kit.FakeRound(
            {client: kit.Work(c, d, d) for client, (c, d) in zip(kit.CLIENTS, each, strict=True)}, rest_s=rest_s
        )
        for each, rest_s in drawn
    ]
    fake = kit.FakeRun(tmp_path_factory.mktemp("run"), [kit.FakeTrial(kit.plan(0), rounds)])
    (trial,) = read_dataset(fake.write()).trials
    ideal, total = ideal_s(trial), trial.total_s
    assert ideal is not None
    assert total is not None
    assert ideal <= total + 1e-7
    assert total - ideal == pytest.approx(sum(rest_s for _, rest_s in drawn), abs=1e-6)

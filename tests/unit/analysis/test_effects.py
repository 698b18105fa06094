from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from deploy.analysis.columns import PARTS
from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.statistics.conditions import analyse
from deploy.analysis.statistics.effects import ADDED, effects, parts_by_trial
from deploy.analysis.statistics.reference import Sweep, reference_value
from flcommon.delay import Constant, Delay
from flcommon.job import Stop

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from deploy.analysis.statistics.conditions import Analysis

STRATEGY = "run_config.strategy"


def analysed(kit: ModuleType, folder: Path, trials: list[Any]) -> Analysis:
    return analyse(read_dataset(kit.FakeRun(folder, trials).write()))


def sweep(kit: ModuleType, key: str, times: dict[Any, list[float]], **changes: Any) -> list[Any]:
    """Make a trial of one round for each time of each value of `key`: repeats have a schedule and a seed each."""
    return [
        kit.FakeTrial(
            kit.plan(
                index=100 * number + repeat,
                condition=number,
                repeat=repeat,
                schedule=repeat,
                seed=changes.get("seed", lambda _, repeat: repeat)(number, repeat),
                settings={key: value},
            ),
            [kit.simple_round(time_s)],
        )
        for number, (value, row) in enumerate(times.items())
        for repeat, time_s in enumerate(row)
    ]


def test_trials_of_one_repeat_are_compared_pair_by_pair(tmp_path: Path, kit: ModuleType) -> None:
    """Repeats differ by seconds, the pairs by 2 s each: that is known to the millisecond, and by which method."""
    trials = sweep(kit, STRATEGY, {"a": [3.0, 7.0, 5.0], "b": [5.0, 9.0, 7.0]})
    (effect,) = analysed(kit, tmp_path, trials).effects
    assert (effect.keys, effect.condition, effect.reference, effect.paired) == ((STRATEGY,), 1, 0, True)
    assert (effect.difference.value, effect.difference.low, effect.difference.high) == pytest.approx((2.0, 2.0, 2.0))
    assert effect.ratio is not None
    assert effect.ratio.value == pytest.approx(21 / 15)
    assert (effect.difference.method, effect.difference.n) == ("paired t", 3)


def test_trials_that_began_with_other_weights_are_not(tmp_path: Path, kit: ModuleType) -> None:
    """The same times with seeds of their own: Welch, and nothing is sure."""
    times = {"a": [3.0, 7.0, 5.0], "b": [5.0, 9.0, 7.0]}
    trials = sweep(kit, STRATEGY, times, seed=lambda number, repeat: 10 * number + repeat)
    (effect,) = analysed(kit, tmp_path, trials).effects
    assert (effect.difference.method, effect.paired) == ("Welch t", False)
    assert effect.difference.value == pytest.approx(2.0)
    assert effect.difference.low is not None
    assert effect.difference.low < 0
    assert effect.shares == {}


def test_every_value_is_compared_with_its_references_all_else_equal(tmp_path: Path, kit: ModuleType) -> None:
    """Of p in 0, 1 and d in 1, 2: two effects of p, each at its d, and two of d, each at its p."""
    grid = [(p, d) for p in (0.0, 1.0) for d in (1.0, 2.0)]
    trials = [
        kit.FakeTrial(kit.plan(i, Delay(p, Constant(d))), [kit.simple_round(1.0, p * d)] * 3)
        for i, (p, d) in enumerate(grid)
    ]
    found = analysed(kit, tmp_path, trials).effects
    assert [(*each.keys, each.condition, each.reference) for each in found] == [
        ("delay.probability", 2, 0),
        ("delay.probability", 3, 1),
        ("delay.seconds", 1, 0),
        ("delay.seconds", 3, 2),
    ]
    assert [each.difference.value for each in found] == pytest.approx([3.0, 6.0, 0.0, 3.0])
    assert [each.expected_s for each in found] == pytest.approx([3.0, 6.0, 0.0, 3.0])
    assert [each.difference.low for each in found] == [None] * 4


@pytest.mark.parametrize(
    ("key", "values", "reference"),
    [
        ("delay.probability", [1, 0.5, 0], 0),
        ("link.rate_mbit", [10, None, 1], None),
        ("link.up.rate_mbit", [1, 10], 10),
        ("link.delay_ms", [20, 5], 5),
        ("run_config.strategy", ["fedavg", "fedprox"], "fedavg"),
        ("run_config.nesterov", [True, False], True),
        ("delay", [{"probability": 1}, None], None),
    ],
)
def test_the_reference_is_without_delay_or_limit_or_lowest_or_first(
    key: str, values: list[Any], reference: Any
) -> None:
    assert reference_value(key, values) == reference


def test_all_that_is_injected_is_compared_with_the_mildest_condition(tmp_path: Path, kit: ModuleType) -> None:
    """Delays of 0 and 2 s, links of 0 and 50 ms, at two learning rates: both together against neither, each at its lr.

    What one effect of one key already says is not said again.
    """
    grid = [(lr, p, link) for lr in (1, 2) for p in (0.0, 1.0) for link in (0, 50)]
    trials = [
        kit.FakeTrial(
            kit.plan(
                i,
                Delay(p, Constant(2.0)),
                settings={"run_config.lr": lr, "delay.probability": p, "link.up.delay_ms": ms},
            ),
            [kit.simple_round(float(lr), p * 2.0 + ms / 1000)],
        )
        for i, (lr, p, ms) in enumerate(grid)
    ]
    found = analysed(kit, tmp_path, trials).effects
    together = [each for each in found if len(each.keys) > 1]
    assert [(each.condition, each.reference) for each in together] == [(3, 0), (7, 4)]
    assert {each.keys for each in together} == {("delay.probability", "link.up.delay_ms")}
    assert [each.difference.value for each in together] == pytest.approx([2.05, 2.05])


def test_without_a_delay_its_length_does_not_matter(kit: ModuleType) -> None:
    """At p = 0 each d is as mild as the others; a link is the harder, the longer and the narrower it is."""
    plans = [
        kit.plan(
            i, Delay(p, Constant(d)), settings={"delay.probability": p, "delay.seconds": d, "link.rate_mbit": rate}
        )
        for i, (p, d, rate) in enumerate(
            [(0.0, 1.0, None), (0.0, 2.0, None), (0.0, 1.0, 1), (1.0, 1.0, None), (0.0, 1.0, 10)]
        )
    ]
    sweep = Sweep(plans)
    assert [sweep.mildest(plan) for plan in plans] == [True, True, False, False, False]
    assert [sweep.hardness(plan) for plan in plans] == [0, 0, 1, 0, 0.5]


def account(seconds: dict[int, dict[str, float | None]]) -> pl.DataFrame:
    """Return rounds of an account: two equal rounds for each trial, and one before the first that does not count."""
    rows = [
        {"trial": trial, "round": number, "logged": True}
        | {f"{part}_s": 9.0 if not number else parts.get(part, 0.0) for part in PARTS}
        for trial, parts in seconds.items()
        for number in range(3)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def test_the_added_time_is_split_by_part(kit: ModuleType, tmp_path: Path) -> None:
    """By hand: of 8 s added in two rounds 6 were injected, 1 the network's, 1 the compute time's."""
    quiet: dict[str, float | None] = {"compute": 1.0, "uplink": 0.25}
    delayed: dict[str, float | None] = {"compute": 1.5, "uplink": 0.5, "downlink": 0.25, "injected": 3.0}
    rounds = account({0: quiet, 100: delayed})
    trials = sweep(kit, STRATEGY, {"a": [2.5], "b": [10.5]})
    done = analysed(kit, tmp_path, trials)
    by_condition = {number: [done.dataset.trials[number]] for number in (0, 1)}
    (effect,) = effects(done.conditions, by_condition, parts_by_trial(rounds))
    assert {group: each.value for group, each in effect.added.items() if each.value} == {
        "injected": 6.0,
        "network": 1.0,
        "compute": 1.0,
    }
    assert effect.shares["injected"] == pytest.approx(0.75)
    assert sum(effect.shares.values()) == pytest.approx(1.0)
    assert set(effect.shares) == set(ADDED)


def test_a_trial_with_a_gap_in_its_account_has_none() -> None:
    rounds = account({0: {"compute": 1.0}, 1: {"compute": None}})
    assert parts_by_trial(rounds)[0]["compute"] == 2.0
    assert sorted(parts_by_trial(rounds)) == [0]
    assert parts_by_trial(rounds.drop("compute_s")) == {}


def test_a_trial_of_which_clients_logs_do_not_tell_has_none() -> None:
    """What they did is called unaccounted for, so no other sum is right. One round in twenty may be missing."""
    rounds = pl.concat([account({trial: {"compute": 1.0}}) for trial in (0, 1)])
    silent = (pl.col("trial") == 1) & (pl.col("round") == 2)
    assert sorted(parts_by_trial(rounds.with_columns(logged=~silent))) == [0]
    many = pl.concat([rounds.filter(round=1).with_columns(round=pl.lit(n, pl.Int64)) for n in range(1, 21)])
    silent = (pl.col("trial") == 1) & (pl.col("round") == 20)
    assert sorted(parts_by_trial(many.with_columns(logged=~silent))) == [0, 1]


def test_every_part_is_in_one_group() -> None:
    assert sorted(part for parts in ADDED.values() for part in parts) == sorted(PARTS)


def test_trials_that_missed_their_target_count_in_the_log_rank_test(tmp_path: Path, kit: ModuleType) -> None:
    """They are in no mean, and yet the time to the target is known to be longer."""
    stop = Stop(metric="accuracy", at_least=0.9)
    trials = [
        kit.FakeTrial(
            kit.plan(10 * number + repeat, condition=number, repeat=repeat, stop=stop, settings={STRATEGY: name}),
            [kit.simple_round(1.0 + number + 0.1 * repeat)],
            reached=number == 0 or repeat == 0,
        )
        for number, name in enumerate("ab")
        for repeat in range(4)
    ]
    done = analysed(kit, tmp_path, trials)
    (effect,) = done.effects
    assert effect.logrank_p is not None
    assert effect.logrank_p < 0.05
    assert effect.difference.n == 1
    first, second = (each.to_target for each in done.conditions)
    assert first is not None
    assert second is not None
    assert (first.n, first.reached, first.time_s) == (4, 4, pytest.approx(1.15))
    assert (second.n, second.reached, second.horizon_s) == (4, 1, pytest.approx(2.3))


def test_agreement_is_judged_over_all_conditions(tmp_path: Path, kit: ModuleType) -> None:
    """Trials as theory has them agree; one that takes 2 s too long does not. Those without delay are theory's own."""
    delays = [Delay(0.0, Constant(3.0)), Delay(1.0, Constant(3.0)), Delay(1.0, Constant(4.0))]
    trials = [
        kit.FakeTrial(
            kit.plan(number, delay, rounds=8),
            [
                kit.simple_round(1.0, delay.probability * delay.seconds.seconds, rest_s=0.1 + 0.01 * (-1) ** r)
                for r in range(8 + 7 * (number == 0))
            ],
        )
        for number, delay in enumerate(delays)
    ]
    late = kit.simple_round(3.0, 4.0, rest_s=0.1)
    trials[2] = kit.FakeTrial(trials[2].plan, [*trials[2].rounds[:7], late])
    for repeat in (1, 2):
        again = kit.plan(2 + repeat, delays[0], condition=0, repeat=repeat, rounds=8)
        trials.append(kit.FakeTrial(again, trials[0].rounds[:8]))
    without, right, wrong = analysed(kit, tmp_path, trials).conditions
    assert (without.p_value, without.agrees) == (None, None)
    assert (right.agrees, wrong.agrees) == (True, False)
    for each in (without, right, wrong):
        assert each.expected_low_s is not None
        assert each.expected_high_s is not None
        assert each.total_s is not None
        assert (each.expected_low_s <= each.total_s <= each.expected_high_s) == (each is not wrong)


@pytest.mark.parametrize(("probabilities", "repeats"), [((0.0, 1.0), 1), ((0.0, 1.0), 2), ((1.0,), 3), ((1.0,), 1)])
def test_theory_is_not_tested_against_what_it_is_made_of(
    tmp_path: Path, kit: ModuleType, probabilities: tuple[float, ...], repeats: int
) -> None:
    """Nor against one trial or two: of how much others differ from them too little is known.

    Where all are delayed alike, c is what is left of these very trials without their delays: they would always agree.
    """
    trials = [
        kit.FakeTrial(
            kit.plan(10 * number + repeat, Delay(p, Constant(3.0)), condition=number, repeat=repeat),
            [kit.simple_round(1.0 + repeat, 3.0 * p, rest_s=0.1 + 0.01 * r) for r in range(5)],
        )
        for number, p in enumerate(probabilities)
        for repeat in range(repeats)
    ]
    for each in analysed(kit, tmp_path, trials).conditions:
        assert (each.p_value, each.agrees) == (None, None)
        assert each.expected_s is not None
        assert (each.expected_low_s is None) == (repeats < 3)


def test_a_first_model_that_reaches_the_target_takes_no_time(tmp_path: Path, kit: ModuleType) -> None:
    """No round began in the trials of the second value: their time is 0, and that is compared like any other."""
    stop = Stop(metric="accuracy", at_least=0.9)
    delays = [Delay(p, Constant(3.0)) for p in (0.0, 1.0)]
    trials = [
        kit.FakeTrial(
            kit.plan(10 * number + repeat, delay, condition=number, repeat=repeat, schedule=repeat, stop=stop),
            [] if number else [kit.simple_round(1.0 + 0.1 * repeat)],
            reached=True,
        )
        for number, delay in enumerate(delays)
        for repeat in range(3)
    ]
    done = analysed(kit, tmp_path, trials)
    (effect,) = done.effects
    assert done.conditions[1].total_s == 0
    assert effect.ratio is not None
    assert (effect.ratio.value, effect.ratio.low, effect.ratio.high) == (0.0, 0.0, 0.0)
    assert effect.difference.value == pytest.approx(-1.1)

"""The sentences that open a report, from numbers made by hand: each is true of them, for odd runs too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.analysis.account.account import Account
from deploy.analysis.clocks.clock import ClockFound
from deploy.analysis.columns import ROUNDS, STRAGGLERS
from deploy.analysis.page.words import headlines
from deploy.analysis.reading.network import ClientNetwork, Network, NetworkRow, WayFound
from deploy.analysis.reading.rows import Dataset, Trial
from deploy.analysis.statistics.conditions import Analysis, Condition
from deploy.analysis.statistics.effects import Effect
from deploy.analysis.statistics.estimate import Estimate
from deploy.analysis.statistics.interval import Interval
from deploy.labels import settings_text
from flcommon.delay import Constant, Delay
from flcommon.job import Stop
from flcommon.link import Link, Step, Steps, Way

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from deploy.manifest import PlannedTrial

SURE = (
    "At p = 1 and d = 5 s training took 3.1 × as long as without delay (95 % interval 3.0 to 3.2);"  # noqa: RUF001
    " theory expects 3 ×."  # noqa: RUF001
)
DOUBTFUL = (
    "At lr = 0.2 training took 1.02 × as long as at lr = 0.1"  # noqa: RUF001
    " (95 % interval 0.96 to 1.08, so no sure difference)."
)
KNOWN = (
    "By itself the network takes 0.60 to 12.0 ms there and back, times one way are known to ± 0.29 ms,"
    " and 0.4 % of the time is unaccounted for."
)


def condition(plan: PlannedTrial, total_s: float | None, **known: Any) -> Condition:
    bare: dict[str, Any] = {
        "plan": plan, "label": settings_text(plan), "planned": 1, "complete": 1, "censored": 0, "rounds": 3.0,
        "accuracy": None, "total_s": total_s, "std_s": None, "expected_s": None, "drawn_s": None, "ideal_s": None,
    }  # fmt: skip
    return Condition(**(bare | known))


def estimate(value: float, low: float | None = None, high: float | None = None, n: int = 3) -> Estimate:
    return Estimate(value=value, n=n if low is not None else 1, low=low, high=high)


def effect(key: str, gap: Estimate, quotient: Estimate | None, added: dict[str, float] | None = None) -> Effect:
    """Compare condition 1 with condition 0."""
    return Effect(
        keys=(key,), condition=1, reference=0, paired=True, difference=gap, ratio=quotient, expected_s=None,
        logrank_p=None, added={group: estimate(seconds) for group, seconds in (added or {}).items()},
    )  # fmt: skip


def analysis(kit: ModuleType, conditions: Sequence[Condition], **known: Any) -> Analysis:
    """Make an analysis of trials that were all completed, but for conditions without a time."""
    plans = tuple(each.plan for each in conditions)
    manifest = kit.FakeRun(None, [kit.FakeTrial(plan, []) for plan in plans], status=known.pop("status", "complete"))
    trials = tuple(
        Trial(
            plan=each.plan,
            status="failed" if each.total_s is None and not each.censored else "complete",
            total_s=each.total_s,
            target_s=None,
            accuracy=None,
            rounds=(),
        )
        for each in conditions
    )
    dataset: dict[str, Any] = {"versions": {}, "problems": (), **known.pop("dataset", {})}
    return Analysis(
        dataset=Dataset(manifest=manifest.manifest, trials=trials, **dataset),
        clients=3,
        baselines={},
        conditions=tuple(conditions),
        **known,
    )


def delayed(kit: ModuleType, **known: Any) -> list[Condition]:
    """Make two conditions, one without delay and one of 5 s for certain; `known` is of the latter."""
    none, all_of_them = (kit.plan(i, Delay(float(i), Constant(5.0))) for i in range(2))
    return [condition(none, 5.0, expected_s=5.0), condition(all_of_them, 15.5, **({"expected_s": 15.0} | known))]


def stragglers(*rows: dict[str, Any]) -> Account:
    """Make an account of stragglers over all conditions."""
    nothing = {"condition": None, "compute": 0, "injected": 0, "network": 0, "engine": 0, "lost_s": 1.0}
    whole = [nothing | {"chance": 1 / len(rows)} | row | {"share": row["last"] / row["rounds"]} for row in rows]
    return Account(stragglers=pl.DataFrame(whole, schema=STRAGGLERS.schema))


def test_the_answer_of_a_sweep_with_repeats(kit: ModuleType) -> None:
    """How much longer and how sure; what the added time is; who was last and why; theory; what is known how well."""
    added = {"injected": 9.87, "network": 0.21, "compute": 0.4, "server": 0.02, "unaccounted": 0.0}
    account = stragglers(
        {"client": "pi4-b", "rounds": 100, "last": 61, "compute": 58, "network": 3},
        {"client": "pc-c", "rounds": 100, "last": 39, "injected": 39},
    )
    rounds = {"trial": 0, "round": 1, "condition": 0, "control": False, "settling": False, "round_s": 5.0}
    account = msgspec.structs.replace(
        account, rounds=pl.DataFrame([rounds | {"unaccounted_s": 0.02}], schema=ROUNDS.schema)
    )
    own = NetworkRow(
        client="pc-c", condition=None, control=False, layer=None, messages=0, flagged={},
        natural_rtt_ms=Interval(n=1, median=0.6), down=WayFound(), up=WayFound(),
    )  # fmt: skip
    far = msgspec.structs.replace(own, client="pi4-b", natural_rtt_ms=Interval(n=1, median=12.04))
    clock = ClockFound(client="pc-c", process=0, grpc_exchanges=9, ssh_exchanges=9, uncertainty_s=0.00029)
    found = analysis(
        kit,
        delayed(kit, agrees=True, drawn_s=15.2),
        effects=(effect("delay.probability", estimate(10.5, 10.2, 10.8), estimate(3.1, 3.02, 3.18), added),),
        account=account,
        dataset={
            "network": Network(clients=tuple(ClientNetwork(whole=row, probes=(), about={}) for row in (own, far))),
            "clocks": (clock,),
        },
    )
    assert headlines(found) == (
        SURE,
        "Of the added 10.50 s, 94 % is the injected delay, 4 % compute time, 2 % the network.",
        "pi4-b was last in 61 % of rounds because of its compute time.",
        "Measurement agrees with theory in the condition that was tested, at the 5 % level.",
        KNOWN,
    )


def first(kit: ModuleType, conditions: Sequence[Condition], *effects: Effect, **known: Any) -> str:
    return headlines(analysis(kit, conditions, effects=effects, **known))[0]


def test_a_difference_that_may_be_none_is_not_called_one(kit: ModuleType) -> None:
    """And nothing is said of what it is made of."""
    conditions = [condition(kit.plan(i, settings={"run_config.lr": 0.1 * (i + 1)}), 5.0) for i in range(2)]
    doubtful = effect("run_config.lr", estimate(0.1, -0.2, 0.4), estimate(1.02, 0.96, 1.08), {"compute": 0.1})
    assert headlines(analysis(kit, conditions, effects=(doubtful,))) == (DOUBTFUL,)


def test_less_time_is_called_saved(kit: ModuleType) -> None:
    conditions = [condition(kit.plan(i, settings={"run_config.epochs": 2 - i}), 10.0 - 5 * i) for i in range(2)]
    faster = effect("run_config.epochs", estimate(-5.0), estimate(0.5), {"compute": -5.1, "network": 0.1})
    assert headlines(analysis(kit, conditions, effects=(faster,))) == (
        "At epochs = 1 training took 0.5 × as long as at epochs = 2 (one trial each).",  # noqa: RUF001
        "Of the saved 5.00 s, 102 % is compute time, −2 % the network.",  # noqa: RUF001
    )


def test_links_are_compared_with_what_they_have(kit: ModuleType) -> None:
    """And what neither of the two changes, here a rate of 10 Mbit/s, is no reason to say that nothing was injected."""
    plans = [linked(kit, i, {"link.delay_ms": 100 * i, "link.rate_mbit": 10}) for i in range(2)]
    said = first(kit, [condition(plan, 5.0) for plan in plans], effect("link.delay_ms", estimate(5.0), estimate(2.0)))
    assert said == (
        "With delay 100 ms and rate 10 Mbit/s training took 2 × as long as with delay 0 ms (one trial each)."  # noqa: RUF001
    )


def linked(kit: ModuleType, number: int, settings: dict[str, Any]) -> PlannedTrial:
    """Plan a trial whose links are as its settings say, both ways."""
    way = Way(**{key.removeprefix("link."): value for key, value in settings.items()})
    planned: PlannedTrial = kit.plan(
        number, settings=settings, links={"pc-c": Link(course=Steps(steps=(Step(up=way, down=way),)))}
    )
    return planned


def test_the_hardest_links_are_compared_with_nothing_injected(kit: ModuleType) -> None:
    """Though another pair differs by more; and where the sweep has nothing milder, with its mildest."""
    for mildest, against in ((0, "nothing injected"), (5, "delay 5 ms and no rate limit")):
        grid = [(delay, rate) for delay in (mildest, 100) for rate in (None, 10)]
        plans = [linked(kit, i, {"link.delay_ms": d, "link.rate_mbit": r}) for i, (d, r) in enumerate(grid)]
        whole = effect("link.delay_ms", estimate(8.0), estimate(2.6), {"injected": 8.0})
        whole = msgspec.structs.replace(whole, keys=("link.delay_ms", "link.rate_mbit"), condition=3)
        other = msgspec.structs.replace(
            effect("link.rate_mbit", estimate(9.0), estimate(3.0)), condition=3, reference=2
        )
        mild = msgspec.structs.replace(effect("link.rate_mbit", estimate(9.0), estimate(3.0)), condition=1, reference=0)
        found = analysis(kit, [condition(plan, 5.0) for plan in plans], effects=(other, whole, mild))
        assert headlines(found)[:2] == (
            f"With delay 100 ms and rate 10 Mbit/s training took 2.6 × as long as with {against} (one trial each).",  # noqa: RUF001
            "Of the added 8.00 s, 100 % is the injected delay.",
        )


def test_a_target_is_reached_and_not_trained_for(kit: ModuleType) -> None:
    stop = Stop(metric="accuracy", at_least=0.55)
    conditions = [
        msgspec.structs.replace(each, plan=msgspec.structs.replace(each.plan, stop=stop)) for each in delayed(kit)
    ]
    said = first(kit, conditions, effect("delay.probability", estimate(10.5), estimate(3.1)))
    assert said.startswith("At p = 1 and d = 5 s reaching accuracy 0.55 took 3.1 × as long as without delay")  # noqa: RUF001


def test_the_delay_is_told_before_what_else_was_swept(kit: ModuleType) -> None:
    """Though another effect were larger: the hardest delay against none is what the lab is for."""
    delay = effect("delay.probability", estimate(10.5), estimate(3.1))
    other = msgspec.structs.replace(effect("run_config.lr", estimate(99.0), estimate(20.0)), condition=1, reference=1)
    assert "without delay" in first(kit, delayed(kit), other, delay)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, "Training took 5.00 s (one trial)."),
        (
            {"complete": 3, "low_s": 4.9, "high_s": 5.1},
            "Training took 5.00 s (mean of 3 trials, 95 % interval 4.90 to 5.10 s).",
        ),
    ],
)
def test_a_single_condition_has_its_time(kit: ModuleType, known: dict[str, Any], said: str) -> None:
    assert first(kit, [condition(kit.plan(0), 5.0, **known)]) == said


def test_where_nothing_was_completed_only_that_is_said(kit: ModuleType) -> None:
    found = analysis(kit, [condition(kit.plan(i), None, complete=0) for i in range(2)], status="interrupted")
    assert headlines(found) == (
        "The campaign was interrupted.",
        "0 of 2 trials were completed; there is nothing to draw.",
    )
    assert headlines(analysis(kit, [])) == ("Nothing was planned.",)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(61, {"compute": 35, "injected": 26})], ()),
        (
            [(61, {"compute": 35, "injected": 26}), (39, {"injected": 39})],
            ("a was last in 61 % of rounds, mostly because of its compute time.",),
        ),
        (
            [(80, {"compute": 30, "injected": 30, "network": 20}), (20, {"injected": 20})],
            ("a was last in 80 % of rounds.",),
        ),
        (
            [(54, {"injected": 54}), (46, {"injected": 46})],
            ("No client was last more often than chance allows; most often it was a, in 54 % of rounds.",),
        ),
        ([(0, {}), (0, {})], ()),
    ],
)
def test_who_was_last(kit: ModuleType, rows: list[tuple[int, dict[str, int]]], said: tuple[str, ...]) -> None:
    """Nobody of one client; nobody that chance would pick; with the cause of most of the rounds, if one has most."""
    made = [
        {"client": name, "rounds": 100, "last": last, **causes}
        for name, (last, causes) in zip("ab", rows, strict=False)
    ]
    found = headlines(analysis(kit, [condition(kit.plan(0), 5.0)], account=stragglers(*made)))
    assert found[1:] == said


def test_of_clients_that_sit_out_rounds_chance_is_that_of_those_who_trained(kit: ModuleType) -> None:
    """Two of ten equal clients a round: each is last in half of its rounds, and 64 % of 50 is no more than luck."""
    made = [{"client": f"c{i}", "rounds": 50 + i % 3, "last": 32 - i, "chance": 0.5, "compute": 32} for i in range(10)]
    found = headlines(analysis(kit, [condition(kit.plan(0), 5.0)], account=stragglers(*made)))
    assert found[1:] == (
        "No client was last more often than chance allows; most often it was c0, in 64 % of its rounds.",
    )


@pytest.mark.parametrize(("agrees", "said"), [(True, "agrees"), (False, "does not agree")])
def test_of_one_condition_the_verdict_is_its_own(kit: ModuleType, *, agrees: bool, said: str) -> None:
    delay = Delay(0.5, Constant(5.0))
    found = headlines(analysis(kit, [condition(kit.plan(0, delay), 5.0, agrees=agrees)]))
    assert f"Measurement {said} with theory in the condition that was tested, at the 5 % level." in found


def test_a_comparison_of_those_that_got_there_says_how_many_did(kit: ModuleType) -> None:
    """What never reached the target is in no mean: twice as long among survivors is no theory's to expect."""
    conditions = delayed(kit, censored=4, complete=6)
    made = effect("delay.probability", estimate(10.5), estimate(3.1, 3.0, 3.2))
    (first, *_) = headlines(analysis(kit, conditions, effects=(made,)))
    assert first.endswith("(95 % interval 3.0 to 3.2); that is of trials that got there, 2 of 6 against 1 of 1.")


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ((True, True), "all 2 conditions"),
        ((True, False), "1 of 2 conditions (not at p = 0.75, d = 5 s)"),
        ((False, False), "none of 2 conditions (not at p = 0.5, d = 5 s; p = 0.75, d = 5 s)"),
    ],
)
def test_agreement_with_theory(kit: ModuleType, verdicts: tuple[bool, bool], said: str) -> None:
    conditions = [
        condition(kit.plan(i, Delay(0.5 + 0.25 * i, Constant(5.0))), 5.0, agrees=agrees, drawn_s=5.0 - i)
        for i, agrees in enumerate(verdicts)
    ]
    theory = next(each for each in headlines(analysis(kit, conditions)) if "theory" in each)
    assert theory == (
        f"Measurement agrees with theory in {said}, at the 5 % level;"
        " given the delays that were drawn, it differs by 0.0 % to +25.0 %."
    )


def test_what_is_left_out_is_said(kit: ModuleType) -> None:
    conditions = [condition(kit.plan(0), 5.0, censored=1, complete=2), condition(kit.plan(1), None, complete=0)]
    found = headlines(analysis(kit, conditions, dataset={"problems": ("torn", "gap")}))
    assert found[1:] == (
        "1 of 2 trials were completed; the others are left out of the figures.",
        "1 of 1 completed trials did not reach the target; they are not part of any mean.",
        "2 problems were found in the logs.",
    )


numbers = st.floats(min_value=-1e6, max_value=1e6)
positive = st.floats(min_value=1e-6, max_value=1e6)


@given(gap=numbers, value=positive, width=st.none() | positive, parts=st.lists(numbers, min_size=2, max_size=2))
def test_any_effect_can_be_said(
    kit: ModuleType, gap: float, value: float, width: float | None, parts: list[float]
) -> None:
    """Sentences end, and no number is one that no reader knows."""
    spread = {} if width is None else {"low": value - width, "high": value + width}
    found = effect(
        "delay.probability", estimate(gap), estimate(value, **spread), {"injected": parts[0], "network": parts[1]}
    )
    for sentence in headlines(analysis(kit, delayed(kit), effects=(found,))):
        assert sentence.endswith(".")
        assert not any(word in sentence for word in ("nan", "None", "inf ", "e+"))

"""Trials summed up by condition, beside what theory expects of them; numbers only, no words."""

from __future__ import annotations

import json
from collections import defaultdict
from statistics import fmean, stdev
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from deploy.analysis.account.account import Account, account
from deploy.analysis.reading.rows import Dataset
from deploy.analysis.statistics import theory
from deploy.analysis.statistics.effects import Effect, effects, parts_by_trial
from deploy.analysis.statistics.estimate import mean
from deploy.analysis.statistics.interval import CONFIDENCE
from deploy.analysis.statistics.reference import DELAY, family
from deploy.analysis.statistics.settling import settling_rounds
from deploy.analysis.statistics.simulation import holm, predict
from deploy.analysis.statistics.survival import ToTarget, times, to_target
from deploy.analysis.statistics.theory import Baseline
from deploy.analysis.statistics.undelayed import Measured, undelayed
from deploy.labels import settings_text
from deploy.manifest import PlannedTrial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from deploy.analysis.reading.rows import Trial
    from deploy.analysis.statistics.undelayed import Undelayed


Key = TypeVar("Key", int, str)
FEWEST = 3
"""Of so many trials at least theory's band is made."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One combination of swept values: means over its timed trials (complete, target reached if there is one).

    `low_s` to `high_s` is the 95 % confidence interval of `total_s`, made by `method`, and never begins below 0;
    there is none for one trial. `expected_s` is theory's E[T]; `drawn_s` the same with the delays that were in fact
    drawn, so that `total_s - drawn_s` is what luck of the draw does not explain. `expected_low_s` to `expected_high_s`
    is where the mean of so many trials lies in 95 of 100 cases if theory holds (see `simulation`), `p_value` how rarely
    it is as far off as it was, `agrees` whether that is no reason to doubt, over all conditions. `to_target` takes the
    censored trials into account too. None where nothing is known.
    """

    plan: PlannedTrial
    label: str
    planned: int
    complete: int
    censored: int
    rounds: float | None
    accuracy: float | None
    total_s: float | None
    std_s: float | None
    low_s: float | None = None
    high_s: float | None = None
    method: str = ""
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    expected_s: float | None
    expected_low_s: float | None = None
    expected_high_s: float | None = None
    p_value: float | None = None
    agrees: bool | None = None
    drawn_s: float | None
    ideal_s: float | None
    to_target: ToTarget | None = None

    @property
    def difference_s(self) -> float | None:
        """Measured minus expected, in seconds."""
        known = self.total_s is not None and self.expected_s is not None
        return (self.total_s or 0.0) - (self.expected_s or 0.0) if known else None

    @property
    def difference_pct(self) -> float | None:
        """Measured minus expected, in percent of the expected time."""
        difference_s = self.difference_s
        return 100 * difference_s / self.expected_s if difference_s is not None and self.expected_s else None

    @property
    def unexplained_pct(self) -> float | None:
        """Measured minus expected from the delays drawn, in percent of the latter."""
        known = self.total_s is not None and self.drawn_s
        return 100 * ((self.total_s or 0.0) / (self.drawn_s or 1.0) - 1) if known else None


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """A data set with its conditions and its account, the number of clients in a round, and c for each group of them.

    Conditions that differ in nothing but the delay form a group and share a baseline; `baselines` goes by `base_key`.
    """

    dataset: Dataset
    clients: int
    baselines: dict[str, Baseline | None]
    conditions: tuple[Condition, ...]
    account: Account = Account()
    effects: tuple[Effect, ...] = ()


def base_key(plan: PlannedTrial) -> str:
    """Return the trial's swept values apart from the delay, as one string."""
    rest = {key: value for key, value in plan.settings.items() if family(key) != DELAY}
    return json.dumps(rest, sort_keys=True, default=str)


def grouped(trials: Iterable[Trial], key: Callable[[PlannedTrial], Key]) -> dict[Key, list[Trial]]:
    """Return the trials by `key` of their plan, in order of first appearance."""
    groups: defaultdict[Key, list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[key(trial.plan)].append(trial)
    return dict(groups)


def analyse(dataset: Dataset) -> Analysis:
    """Sum up a data set by condition."""
    clients = theory.clients_per_round(dataset)
    told = account(dataset)
    slow = settling_rounds(told.rounds)
    groups = grouped(dataset.trials, base_key)
    baselines = {key: theory.baseline(trials, slow) for key, trials in groups.items()}
    delayed = {key: trials for key, trials in groups.items() if not all(trial.undelayed for trial in trials)}
    natural = {key: undelayed(trials, Measured(dataset.works, slow, clients)) for key, trials in delayed.items()}
    by_condition = dict(sorted(grouped(dataset.trials, lambda plan: plan.condition).items()))
    conditions = [
        _condition(trials, Known(clients, baselines[key], natural.get(key)))
        for trials in by_condition.values()
        for key in [base_key(trials[0].plan)]
    ]
    return Analysis(
        dataset=dataset,
        clients=clients,
        baselines=baselines,
        conditions=_judged(conditions),
        account=told,
        effects=effects(conditions, by_condition, parts_by_trial(told.rounds)),
    )


class Known(NamedTuple):
    """What theory is given: the clients of a round, c, and what rounds without delay are like."""

    clients: int
    base: Baseline | None
    natural: Undelayed | None


def _condition(trials: list[Trial], known: Known) -> Condition:
    plan = trials[0].plan
    timed = [trial for trial in trials if trial.timed]
    rounds = _mean(len(trial.rounds) for trial in timed)
    totals = [trial.total_s for trial in timed if trial.total_s is not None]
    accuracies = _known(trial.accuracy for trial in trials if trial.status == "complete")
    time, accuracy = mean(totals), mean(accuracies)
    condition = Condition(
        plan=plan,
        label=settings_text(plan),
        planned=len(trials),
        complete=sum(trial.status == "complete" for trial in trials),
        censored=sum(trial.censored for trial in trials),
        rounds=rounds,
        accuracy=accuracy.value if accuracy else None,
        total_s=time.value if time else None,
        std_s=stdev(totals) if len(totals) > 1 else None,
        low_s=max(0.0, time.low) if time and time.low is not None else None,
        high_s=time.high if time else None,
        method=time.method if time else "",
        accuracy_low=accuracy.low if accuracy else None,
        accuracy_high=accuracy.high if accuracy else None,
        expected_s=_expected_s(plan, rounds, known.base, known.clients),
        drawn_s=_with_draws(timed, known.base),
        ideal_s=_mean(theory.ideal_s(trial) for trial in timed),
        to_target=to_target(times(trials)),
    )
    return _predicted(condition, timed, known.natural)


def _predicted(condition: Condition, timed: list[Trial], natural: Undelayed | None) -> Condition:
    """Add theory's band, and the p-value where these are other trials than those that it is made from.

    Fewer than `FEWEST` trials do not tell how much trials differ: where they do by 2 % of a round, a quarter of all
    tests would be false alarms with one trial, an eighth with two.
    """
    found = predict(timed, natural) if natural is not None and natural.trials >= FEWEST else None
    if natural is None or found is None:
        return condition
    band = {"expected_low_s": found.low_s, "expected_high_s": found.high_s}
    return replace(condition, **band, p_value=found.p_value if natural.can_test(condition.plan.condition) else None)


def _judged(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """Say of each condition that was tested whether it agrees with theory, all of them considered."""
    tested = [each for each in conditions if each.p_value is not None]
    corrected = holm([each.p_value for each in tested if each.p_value is not None])
    verdicts = {each.plan.condition: p >= 1 - CONFIDENCE for each, p in zip(tested, corrected, strict=True)}
    return tuple(replace(each, agrees=verdicts.get(each.plan.condition)) for each in conditions)


def _expected_s(plan: PlannedTrial, rounds: float | None, base: Baseline | None, clients: int) -> float | None:
    if base is None or rounds is None:
        return None
    return theory.expected_s(rounds, base, plan.delay, clients, plan.injected_share)


def _with_draws(trials: list[Trial], base: Baseline | None) -> float | None:
    """Return the mean of R · c + the largest delays that were drawn; None when a draw or c is not known."""
    draws = [theory.drawn_s(trial) for trial in trials]
    if base is None:
        return None
    sums = (
        None if d is None else theory.expected_s(len(t.rounds), base, None, 1, t.plan.injected_share) + d
        for t, d in zip(trials, draws, strict=True)
    )
    return _mean(sums)


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean; None when there is no value, or one of them is not known."""
    known = _known(values)
    return fmean(known) if known else None


def _known(values: Iterable[float | None]) -> list[float]:
    """Return the values; none when one of them is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) else []

"""Trials summed up by condition, beside what theory expects of them; numbers only, no words."""

from __future__ import annotations

import json
from collections import defaultdict
from statistics import fmean, stdev
from typing import TYPE_CHECKING, TypeVar

import msgspec

from deploy.analysis.account.account import Account, account
from deploy.analysis.reading.rows import Dataset
from deploy.analysis.statistics import theory
from deploy.analysis.statistics.estimate import mean
from deploy.analysis.statistics.theory import Baseline
from deploy.labels import settings_text
from deploy.manifest import PlannedTrial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from deploy.analysis.reading.rows import Trial


Key = TypeVar("Key", int, str)


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One combination of swept values: means over its timed trials (complete, target reached if there is one).

    `low_s` to `high_s` is the 95 % confidence interval of `total_s`, made by `method`; there is none for one trial.
    `expected_s` is theory's E[T]; `drawn_s` the same with the delays that were in fact drawn, so that
    `total_s - drawn_s` is what luck of the draw does not explain. `expected_low_s` to `expected_high_s` is where the
    mean of so many trials lies in 95 of 100 cases if theory holds (see `simulation`), `p_value` how rarely it is as far
    off as it was, `agrees` whether that is no reason to doubt, over all conditions. None where nothing is known.
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


def is_delay(key: str) -> bool:
    """Tell whether a swept key belongs to the injected delay."""
    return key == "delay" or key.startswith("delay.")


def base_key(plan: PlannedTrial) -> str:
    """Return the trial's swept values apart from the delay, as one string."""
    rest = {key: value for key, value in plan.settings.items() if not is_delay(key)}
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
    groups = grouped(dataset.trials, base_key)
    baselines = {key: theory.baseline(trials) for key, trials in groups.items()}
    conditions = grouped(dataset.trials, lambda plan: plan.condition)
    return Analysis(
        dataset=dataset,
        clients=clients,
        baselines=baselines,
        conditions=tuple(
            _condition(trials, baselines[base_key(trials[0].plan)], clients) for _, trials in sorted(conditions.items())
        ),
        account=account(dataset),
    )


def _condition(trials: list[Trial], base: Baseline | None, clients: int) -> Condition:
    plan = trials[0].plan
    timed = [trial for trial in trials if trial.timed]
    rounds = _mean(len(trial.rounds) for trial in timed)
    totals = [trial.total_s for trial in timed if trial.total_s is not None]
    accuracies = _known(trial.accuracy for trial in trials if trial.status == "complete")
    time, accuracy = mean(totals), mean(accuracies)
    return Condition(
        plan=plan,
        label=settings_text(plan),
        planned=len(trials),
        complete=sum(trial.status == "complete" for trial in trials),
        censored=sum(trial.censored for trial in trials),
        rounds=rounds,
        accuracy=accuracy.value if accuracy else None,
        total_s=time.value if time else None,
        std_s=stdev(totals) if len(totals) > 1 else None,
        low_s=time.low if time else None,
        high_s=time.high if time else None,
        method=time.method if time else "",
        accuracy_low=accuracy.low if accuracy else None,
        accuracy_high=accuracy.high if accuracy else None,
        expected_s=_expected_s(plan, rounds, base, clients),
        drawn_s=_with_draws(timed, base),
        ideal_s=_mean(theory.ideal_s(trial) for trial in timed),
    )


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

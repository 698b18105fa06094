"""Conditions of several runs side by side, matched by their swept values, and what they differ by from the first run.

Trials are compared pair by pair where they drew the same delays and started from the same weights: same repeat,
schedule, seeds and number of rounds, and, where something is injected, the same clients. Otherwise all of one run are
compared with all of the other.
"""

from __future__ import annotations

import json
from statistics import fmean
from typing import TYPE_CHECKING, Any

import msgspec

from deploy.analysis.comparing.runs import Differing, Run, differing
from deploy.analysis.statistics.conditions import Condition, grouped
from deploy.analysis.statistics.effects import ADDED, parts_by_trial
from deploy.analysis.statistics.estimate import Estimate, difference, ratio
from deploy.analysis.statistics.pairs import pairs
from deploy.analysis.statistics.survival import logrank, times
from deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from deploy.analysis.reading.rows import Trial
    from deploy.manifest import PlannedTrial


class Versus(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's condition differs by from the reference's: training time, accuracy, and time to the target.

    `difference` is in seconds, `ratio` the quotient of the means; None where one of the two has no timed trial.
    """

    paired: bool
    difference: Estimate | None
    ratio: Estimate | None
    accuracy: Estimate | None
    logrank_p: float | None


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One run's condition: `parts_s` are seconds a round on the critical path by the groups of `ADDED`, if known."""

    condition: Condition
    parts_s: dict[str, float]
    versus: Versus | None


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that the reference has, and at least one other run; a side is None where a run has it not."""

    label: str
    settings: dict[str, Any]
    sides: tuple[Side | None, ...]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Runs side by side, the reference first; `alone` are conditions without a partner: a run's name and a label."""

    runs: tuple[Run, ...]
    differing: tuple[Differing, ...]
    matches: tuple[Match, ...]
    alone: tuple[tuple[str, str], ...]


def compare(runs: tuple[Run, ...]) -> Comparison:
    """Compare runs with the first of them; raises InputError if no condition of it is in another."""
    by_key = [{_key(each): each for each in run.analysis.conditions} for run in runs]
    shared = [key for key in by_key[0] if any(key in other for other in by_key[1:])]
    if not shared:
        raise InputError(runs[-1].directory, f"no condition in common with {runs[0].directory}: {_swept(runs)}")
    tables = [_Table(run) for run in runs]
    matches = tuple(_match([each.get(key) for each in by_key], tables) for key in shared)
    alone = [
        (run.name, each.label)
        for run, conditions in zip(runs, by_key, strict=True)
        for key, each in conditions.items()
        if key not in shared
    ]
    return Comparison(runs=runs, differing=differing(runs), matches=matches, alone=tuple(alone))


def _key(condition: Condition) -> str:
    return json.dumps(condition.plan.settings, sort_keys=True, default=str)


def _swept(runs: Sequence[Run]) -> str:
    """Say what the runs sweep, in which they differ."""
    said = []
    for run in runs:
        keys = dict.fromkeys(key for each in run.analysis.conditions for key in each.plan.settings)
        said.append(f"{run.name} sweeps {', '.join(keys) or 'nothing'}")
    return "; ".join(said) + "; values must be the same too"


class _Table:
    """A run's trials by condition, and the seconds of each part by trial."""

    def __init__(self, run: Run) -> None:
        dataset = run.analysis.dataset
        self.trials = grouped(dataset.trials, lambda plan: plan.condition)
        self.parts = parts_by_trial(run.analysis.account.rounds)
        self.clients = frozenset(dataset.manifest.clients)
        self.seed = dataset.manifest.playbook_resolved.get("seed")

    def schedule(self, plan: PlannedTrial) -> Hashable:
        """Return what two trials must have in common to be a pair."""
        injected = bool(plan.links) or (plan.delay is not None and plan.delay.probability > 0)
        return (plan.repeat, plan.schedule, plan.seed, self.seed, plan.rounds, self.clients if injected else None)


def _match(conditions: Sequence[Condition | None], tables: Sequence[_Table]) -> Match:
    reference = conditions[0]
    if reference is None:
        raise ValueError("a match has the reference's condition")
    sides = [
        None if each is None else _side(each, table, None if place == 0 else (reference, tables[0]))
        for place, (each, table) in enumerate(zip(conditions, tables, strict=True))
    ]
    return Match(label=reference.label, settings=reference.plan.settings, sides=tuple(sides))


def _side(condition: Condition, table: _Table, reference: tuple[Condition, _Table] | None) -> Side:
    trials = table.trials[condition.plan.condition]
    timed = [trial for trial in trials if trial.timed and trial.rounds and trial.plan.index in table.parts]
    rows = [{group: table.parts[t.plan.index][group] / len(t.rounds) for group in ADDED} for t in timed]
    parts_s = {group: fmean(row[group] for row in rows) for group in ADDED} if rows else {}
    versus = None
    if reference is not None:
        versus = _versus((trials, table), (reference[1].trials[reference[0].plan.condition], reference[1]))
    return Side(condition=condition, parts_s=parts_s, versus=versus)


def _versus(ours: tuple[list[Trial], _Table], theirs: tuple[list[Trial], _Table]) -> Versus:
    timed, paired = _values(ours, theirs, lambda trial: trial.total_s if trial.timed else None)
    accuracies, also = _values(ours, theirs, lambda trial: trial.accuracy if trial.status == "complete" else None)
    return Versus(
        paired=paired,
        difference=difference(*timed, paired=paired),
        ratio=ratio(*timed, paired=paired),
        accuracy=difference(*accuracies, paired=also),
        logrank_p=logrank(times(ours[0]), times(theirs[0])),
    )


def _values(
    ours: tuple[list[Trial], _Table], theirs: tuple[list[Trial], _Table], value: Callable[[Trial], float | None]
) -> tuple[tuple[list[float], list[float]], bool]:
    """Return the values of both sides' trials, and whether they are pairs."""
    (one, own), (other, their) = ours, theirs
    kept = [[trial for trial in side if value(trial) is not None] for side in (one, other)]
    left, right, paired = pairs(kept[0], kept[1], lambda t: own.schedule(t.plan), lambda t: their.schedule(t.plan))
    return ([value(t) or 0.0 for t in left], [value(t) or 0.0 for t in right]), paired

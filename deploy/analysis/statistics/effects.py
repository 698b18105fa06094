"""What a swept value does to the training time: each value against the reference value of its key, all else equal.

The reference is the value without a delay or limit, else the lowest, else the first of the playbook. Where several keys
are injected, each condition is also compared with the one in which all of them have their mildest values. Trials of the
same repeat are compared pair by pair: they ran in one block of time and began with the same weights, so that a slow
hour and a seed that needs more rounds drop out. What was drawn drops out too where they share their delay schedule: for
all keys but `delay.*` and `link.*`, of which every value draws anew. No slope is fitted to a probability: by theory the
time is not linear in it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import polars as pl

from deploy.analysis.account.lives import UNTOLD
from deploy.analysis.columns import PARTS
from deploy.analysis.statistics.estimate import Estimate, difference, ratio
from deploy.analysis.statistics.pairs import pairs
from deploy.analysis.statistics.reference import Sweep, is_injected, reference_value
from deploy.analysis.statistics.survival import logrank, times

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deploy.analysis.reading.rows import Trial
    from deploy.analysis.statistics.conditions import Condition

ADDED = {
    "injected": ("injected",),
    "network": ("downlink", "uplink"),
    "compute": ("compute",),
    "engine": ("queue", "encode", "decode"),
    "server": ("server", "aggregate"),
    "evaluation": ("evaluate",),
    "unaccounted": ("unaccounted",),
}
"""The parts of a critical path, in the groups in which added time is told."""

Parts = dict[int, dict[str, float]]


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """One condition against another that differs from it in nothing but `keys`, which there have reference values.

    That is one key, or several that are injected.

    `difference` is in seconds of training time, `ratio` the quotient of the means (None where the reference took no
    time). `added` splits the difference by the groups of `ADDED`, along the critical path; empty where the account does
    not cover every trial. `expected_s` is the difference by theory, `logrank_p` the p-value of the log-rank test where
    trials have a target.
    """

    keys: tuple[str, ...]
    condition: int
    reference: int
    paired: bool
    difference: Estimate
    ratio: Estimate | None
    expected_s: float | None
    logrank_p: float | None
    added: dict[str, Estimate] = {}

    @property
    def shares(self) -> dict[str, float]:
        """Each group's share of the added time; empty where that is not surely more or less than nothing."""
        low, high = self.difference.low, self.difference.high
        doubtful = low is not None and high is not None and low <= 0 <= high
        if doubtful or not self.difference.value:
            return {}
        return {group: each.value / self.difference.value for group, each in self.added.items()}


def effects(conditions: Sequence[Condition], trials: Mapping[int, Sequence[Trial]], parts: Parts) -> tuple[Effect, ...]:
    """Return the effect of every value of every swept key, and of all that is injected together.

    `trials` are all of a condition, by its number; `parts` is what `parts_by_trial` tells.
    """
    keys = dict.fromkeys(key for each in conditions for key in each.plan.settings)
    found = [((key,), pair) for key in keys for pair in _matched(conditions, key)]
    return tuple(
        effect
        for differing, pair in (*found, *_together(conditions))
        if (effect := _effect(differing, pair, trials, parts)) is not None
    )


def parts_by_trial(rounds: pl.DataFrame) -> Parts:
    """Return the seconds of each group of `ADDED` by trial, of trials whose every round has an account.

    And of no trial of which the logs do not tell what clients did in more rounds than `UNTOLD`: it would be called
    unaccounted for, and the rest of the sum would be wrong.
    """
    columns = {group: sum(pl.col(f"{part}_s") for part in parts) for group, parts in ADDED.items()}
    if not {"logged", *(f"{part}_s" for part in PARTS)} <= set(rounds.columns):
        return {}
    whole = rounds.filter(pl.col("round") > 0)
    told = whole.group_by("trial").agg(pl.col("logged").mean()).filter(pl.col("logged") >= 1 - UNTOLD)
    whole = whole.select("trial", **columns).join(told.select("trial"), on="trial", how="semi")
    known = whole.group_by("trial").agg(pl.all().sum(), gaps=pl.any_horizontal(pl.exclude("trial").is_null()).any())
    rows = known.filter(~pl.col("gaps")).drop("gaps").iter_rows(named=True)
    return {row["trial"]: {group: row[group] for group in ADDED} for row in rows}


def _matched(conditions: Sequence[Condition], key: str) -> Iterator[tuple[Condition, Condition]]:
    """Yield each condition with its reference for `key`."""
    groups: dict[str, list[Condition]] = {}
    for each in conditions:
        if key in each.plan.settings:
            rest = {name: value for name, value in each.plan.settings.items() if name != key}
            groups.setdefault(json.dumps(rest, sort_keys=True, default=str), []).append(each)
    values = [each.plan.settings[key] for each in conditions if key in each.plan.settings]
    wanted = reference_value(key, values)
    for group in groups.values():
        reference = next((each for each in group if each.plan.settings[key] == wanted), None)
        if reference is not None:
            yield from ((each, reference) for each in group if each is not reference)


def _together(conditions: Sequence[Condition]) -> Iterator[tuple[tuple[str, ...], tuple[Condition, Condition]]]:
    """Yield each condition with the one that has nothing injected, if more than one key lies between them."""
    sweep = Sweep(each.plan for each in conditions)
    mildest = [each for each in conditions if sweep.mildest(each.plan)]
    for each in conditions:
        if each in mildest:
            continue
        apart = [(_differing(each, other), other) for other in mildest]
        known = [(keys, other) for keys, other in apart if all(map(is_injected, keys))]
        keys, nearest = min(known, key=lambda pair: len(pair[0]), default=((), each))
        if len(keys) > 1:
            yield keys, (each, nearest)


def _differing(one: Condition, other: Condition) -> tuple[str, ...]:
    ours, theirs = one.plan.settings, other.plan.settings
    return tuple(key for key in {**ours, **theirs} if key not in ours or key not in theirs or ours[key] != theirs[key])


def _effect(
    keys: tuple[str, ...], pair: tuple[Condition, Condition], trials: Mapping[int, Sequence[Trial]], parts: Parts
) -> Effect | None:
    numbers = [each.plan.condition for each in pair]
    every = [trials[number] for number in numbers]
    timed = [[trial for trial in each if trial.timed and trial.total_s is not None] for each in every]
    ours, theirs, paired = pairs(timed[0], timed[1], lambda trial: (trial.plan.repeat, trial.plan.seed))
    gap = difference(_totals(ours), _totals(theirs), paired=paired)
    if gap is None:
        return None
    expected = [each.expected_s for each in pair]
    return Effect(
        keys=keys,
        condition=numbers[0],
        reference=numbers[1],
        paired=paired,
        difference=gap,
        ratio=ratio(_totals(ours), _totals(theirs), paired=paired),
        expected_s=None if expected[0] is None or expected[1] is None else expected[0] - expected[1],
        logrank_p=logrank(times(every[0]), times(every[1])),
        added=_added(ours, theirs, parts, paired=paired),
    )


def _totals(trials: Sequence[Trial]) -> list[float]:
    return [trial.total_s or 0.0 for trial in trials]


def _added(ours: Sequence[Trial], theirs: Sequence[Trial], parts: Parts, *, paired: bool) -> dict[str, Estimate]:
    sides = [[parts.get(trial.plan.index) for trial in side] for side in (ours, theirs)]
    known = [[each for each in side if each is not None] for side in sides]
    if known != sides:
        return {}
    return {
        group: gap
        for group in ADDED
        if (gap := difference(*([each[group] for each in side] for side in known), paired=paired)) is not None
    }

"""What rounds without injected delay are like: each client's compute time, the rest, and what trials differ by.

This is what a simulation draws from. Rounds that are slow because a trial has just begun have pools of their own, by
their number; so have control rounds, where links are injected into the others.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from deploy.analysis.columns import INT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from deploy.analysis.reading.rows import Round, Trial

    Array = NDArray[np.float64]

ORDINARY, CONTROL = 0, -1
MOST_ROUNDS = 200
"""Of one trial, evenly chosen: more would not make the mean of its rounds much better known."""


class Pool(NamedTuple):
    """Rounds of one kind: `compute_s` by round and client, `rest_s` by round; all trials moved to their common mean.

    That mean has the standard error `error_s`, with `freedom` degrees of freedom (0 where it is not known).
    """

    compute_s: Array
    rest_s: Array
    error_s: float
    freedom: int


class Undelayed(NamedTuple):
    """The pools by kind, the clients of a round, and by how much trials' mean rounds differ (standard deviation)."""

    pools: dict[int, Pool]
    clients: int
    between_s: float
    trials: int
    """How many trials the rounds are of."""
    sources: frozenset[int]
    """The conditions of these trials, by their numbers."""
    own: bool
    """Whether these are trials without delay."""

    def can_test(self, condition: int) -> bool:
        """Tell whether trials of a condition are not tested against themselves.

        They are where it is one without delay, or the only one, from whose rounds the delays were taken off.
        """
        return condition not in self.sources or (not self.own and len(self.sources) > 1)

    def kind(self, trial: Trial, each: Round) -> int:
        """Return which pool a round is simulated from."""
        if each.control and trial.plan.links:
            return CONTROL
        return each.number if each.number in self.pools else ORDINARY


class _Row(NamedTuple):
    """One round: its trial, whether it is a control round, its kind, and its parts in seconds."""

    trial: int
    control: bool
    kind: int
    compute_s: tuple[float, ...]
    rest_s: float

    @property
    def round_s(self) -> float:
        """How long it takes without delay."""
        return max(self.compute_s) + self.rest_s


class _Spread(NamedTuple):
    """Of ordinary rounds: their mean, how it differs between trials, its standard error, and degrees of freedom."""

    mean_s: float
    between_s: float
    error_s: float
    freedom: int


class Measured(NamedTuple):
    """What the logs tell of rounds: WORKS, which rounds are settling (trial and number), the clients of a round."""

    works: pl.DataFrame
    slow: Collection[tuple[int, int]]
    clients: int


def undelayed(trials: Sequence[Trial], measured: Measured) -> Undelayed | None:
    """Return what `trials` tell, which share all settings but the delay; None if no whole round does."""
    complete = [trial for trial in trials if trial.status == "complete"]
    plain = _rows([trial for trial in complete if trial.undelayed], measured)
    rows = plain or _others(complete, measured)
    ordinary = [row for row in rows if row.kind == ORDINARY]
    if not ordinary:
        return None
    spread = _spread(ordinary)
    alike = _alike(ordinary, spread.mean_s) if spread.between_s else ordinary
    pools = {ORDINARY: _pool(alike, spread.error_s, spread.freedom)}
    for kind in sorted({row.kind for row in rows} - {ORDINARY}):
        own = [row for row in rows if row.kind == kind]
        times = [row.round_s for row in own]
        error_s = float(np.std(times, ddof=1)) / math.sqrt(len(times)) if len(times) > 1 else 0.0
        pools[kind] = _pool(own, error_s, len(times) - 1)
    used = {row.trial for row in ordinary}
    sources = frozenset(trial.plan.condition for trial in complete if trial.plan.index in used)
    return Undelayed(pools, measured.clients, spread.between_s, len(used), sources, own=bool(plain))


def _others(trials: Sequence[Trial], measured: Measured) -> list[_Row]:
    """Return control rounds, where those are like all others but for the delay; else all rounds."""
    rows = _rows(trials, measured)
    return [row for row in rows if row.control and row.kind != CONTROL] or rows


def _rows(trials: Sequence[Trial], measured: Measured) -> list[_Row]:
    own = {trial.plan.index for trial in trials}
    often = {
        n for n, count in Counter(n for index, n in measured.slow if index in own).items() if 2 * count >= len(own)
    }
    chosen = {(trial.plan.index, each.number): (trial, each) for trial in trials for each in _chosen(trial, often)}
    rows = []
    for (index, number), compute_s, busy_s in _works(measured, chosen):
        trial, each = chosen[index, number]
        late = number if number in often else ORDINARY
        kind = CONTROL if each.control and trial.plan.links else late
        if each.duration_s is not None:
            rows.append(_Row(index, each.control, kind, compute_s, each.duration_s - busy_s))
    return rows


def _chosen(trial: Trial, often: set[int]) -> Iterator[Round]:
    """Yield the rounds to look at: evenly chosen ones of a long trial, and those of kinds that are few."""
    step = math.ceil(len(trial.rounds) / MOST_ROUNDS) or 1
    return (each for each in trial.rounds if each.number in often or each.control or each.number % step == 0)


def _works(
    measured: Measured, chosen: Collection[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], tuple[float, ...], float]]:
    """Yield of each round of which all clients are known: where, compute times, and the longest with delay."""
    places = pl.DataFrame(list(chosen), {"trial": INT, "round": INT}, orient="row")
    busy = pl.col("compute_s") + pl.col("measured_s").fill_null(0.0)
    works = measured.works.join(places, on=["trial", "round"], how="semi").sort("trial", "round", "client")
    rounds = works.group_by("trial", "round", maintain_order=True).agg(
        "compute_s", known=pl.col("compute_s").is_not_null().all(), busy_s=busy.max()
    )
    for trial, number, compute_s, known, busy_s in rounds.iter_rows():
        if known and len(compute_s) == measured.clients:
            yield (trial, number), tuple(compute_s), busy_s


def _spread(rows: Sequence[_Row]) -> _Spread:
    """Split the variance of rounds into that within trials and that between them (one-way analysis of variance).

    Where trials differ no more than their rounds explain, all rounds are taken for one sample.
    """
    groups = [[row.round_s for row in own] for own in _by_trial(rows)]
    times = [row.round_s for row in rows]
    count, trials, middle = len(times), len(groups), float(np.mean(times))
    within = sum(float(np.var(each)) * len(each) for each in groups) / max(1, count - trials)
    between = sum(len(each) * (float(np.mean(each)) - middle) ** 2 for each in groups) / max(1, trials - 1)
    if between <= within or trials == 1:
        return _Spread(middle, 0.0, math.sqrt(within / count), count - trials)
    return _Spread(middle, math.sqrt((between - within) * trials / count), math.sqrt(between / count), trials - 1)


def _by_trial(rows: Sequence[_Row]) -> list[list[_Row]]:
    found: dict[int, list[_Row]] = {}
    for row in rows:
        found.setdefault(row.trial, []).append(row)
    return list(found.values())


def _alike(rows: Sequence[_Row], mean_s: float) -> list[_Row]:
    """Return rows of which every trial has the same mean, and rounds that vary as much as they did about their own."""
    return [each for own in _by_trial(rows) for each in _moved(own, mean_s)]


def _moved(rows: Sequence[_Row], mean_s: float) -> Iterator[_Row]:
    own_s = sum(row.round_s for row in rows) / len(rows)
    stretch = math.sqrt(len(rows) / (len(rows) - 1)) if len(rows) > 1 else 0.0
    for row in rows:
        yield row._replace(rest_s=mean_s + stretch * (row.round_s - own_s) - max(row.compute_s))


def _pool(rows: Sequence[_Row], error_s: float, freedom: int) -> Pool:
    compute_s = np.array([row.compute_s for row in rows])
    rest_s = np.array([row.rest_s for row in rows])
    return Pool(compute_s, rest_s, error_s if freedom > 0 else 0.0, freedom)

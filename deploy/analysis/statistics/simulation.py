"""Tests whether measured time agrees with theory, by simulating trials with clients that are not equally fast.

A simulated round is one without delay, as it was measured (each client's compute time, and the rest of the round beside
them), plus delays drawn from the law: it lasts as long as its slowest client, and the rest. Rounds come from the trials
without delay; where there is none, from control rounds; else from all rounds, each client's delay taken off. To a
trial's sum come what trials without delay differ by among each other, and how well their mean is known.

The p-value is two-sided and says how rarely the mean of as many simulated trials is as far off as the measured one.
Over all conditions, Holm's correction (1979) keeps the risk of one false alarm at 5 %.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from deploy.analysis.statistics.interval import CONFIDENCE
from deploy.analysis.statistics.undelayed import ORDINARY
from flcommon.delay import Constant, Delay, Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deploy.analysis.reading.rows import Trial
    from deploy.analysis.statistics.undelayed import Pool, Undelayed
    from flcommon.delay import Seconds

    Array = NDArray[np.float64]
    Kinds = Counter[tuple[int, Delay | None]]

SEED = 1
SIMULATED = 4000
LARGEST = 4_000_000
"""So many numbers are drawn for one condition at most, or few more; then fewer trials are simulated."""
_GRID = 8192


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Where theory expects the mean of trials: its mean, its 95 % band, and the measured mean's p-value."""

    mean_s: float
    low_s: float
    high_s: float
    p_value: float


def predict(trials: Sequence[Trial], undelayed: Undelayed) -> Prediction | None:
    """Return what theory expects of the mean of these timed `trials` of one condition.

    None when there is no trial, none with a round, or nothing is known of one of the rounds' kind without delay.
    """
    totals = [trial.total_s for trial in trials if trial.total_s is not None]
    kinds = [Counter(_kinds(trial, undelayed)) for trial in trials]
    if not any(kinds) or any(kind not in undelayed.pools for each in kinds for kind, _ in each):
        return None
    rng = np.random.default_rng([SEED, trials[0].plan.condition])
    means = _means(kinds, undelayed, rng)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    measured = sum(totals) / len(totals)
    rarer = 1 + min(int((means <= measured).sum()), int((means >= measured).sum()))
    p_value = min(1.0, 2 * rarer / (len(means) + 1))
    return Prediction(mean_s=float(means.mean()), low_s=float(low), high_s=float(high), p_value=p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number, in their order."""
    corrected, floor = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = min(1.0, max(floor, (len(p_values) - rank) * p_values[place]))
        corrected[place] = floor
    return corrected


def _kinds(trial: Trial, undelayed: Undelayed) -> list[tuple[int, Delay | None]]:
    """Return of which pool each round is, and with which delay; an entry of a trace is a constant."""
    delay = None if trial.undelayed else trial.plan.delay
    return [
        (undelayed.kind(trial, each), None if each.control or delay is None else _of_round(delay, each.number))
        for each in trial.rounds
    ]


def _of_round(delay: Delay, number: int) -> Delay:
    if not isinstance(delay.seconds, Trace):
        return delay
    return msgspec.structs.replace(delay, seconds=Constant(delay.seconds.at_round(number)))


def _means(kinds: Sequence[Kinds], undelayed: Undelayed, rng: np.random.Generator) -> Array:
    """Return simulated means of trials that have so many rounds of each kind."""
    longest = sum(sum(each.values()) for each in kinds)
    count = min(SIMULATED, max(200, LARGEST // longest))
    known = {kind for each in kinds for kind in each}
    draws = max(20 * longest // len(kinds), LARGEST // 20 // len(known) // undelayed.clients, 500)
    made = {kind: _rounds(undelayed.pools[kind[0]], kind[1], draws, rng) for kind in known}
    total = sum(
        (rng.choice(made[kind], size=(count, number)).sum(axis=1) for each in kinds for kind, number in each.items()),
        start=_disturbances(kinds, undelayed, count, rng),
    )
    return total / len(kinds)


def _disturbances(kinds: Sequence[Kinds], undelayed: Undelayed, count: int, rng: np.random.Generator) -> Array:
    """Return what trials differ by, and by how much the means of the pools may be off, both known from few trials.

    The variance is itself uncertain: dividing by draws of its own distribution makes Student's t of the normal one.
    """
    total = np.zeros(count)
    for place, pool in undelayed.pools.items():
        rounds = [sum(n for kind, n in each.items() if kind[0] == place) for each in kinds]
        if not pool.freedom or not any(rounds):
            continue
        variance = (pool.error_s * sum(rounds)) ** 2
        if place == ORDINARY:
            variance += sum((undelayed.between_s * number) ** 2 for number in rounds)
        total += math.sqrt(variance) * rng.standard_t(pool.freedom, count)
    return total


def _rounds(pool: Pool, delay: Delay | None, count: int, rng: np.random.Generator) -> Array:
    """Return simulated lengths of `count` rounds in seconds."""
    chosen = rng.integers(len(pool.rest_s), size=count)
    compute_s = pool.compute_s[chosen]
    if delay is not None:
        hit = rng.random(compute_s.shape) < delay.probability
        compute_s = compute_s + np.where(hit, _sizes(delay.seconds, compute_s.shape, rng), 0.0)
    slowest: Array = compute_s.max(axis=1)
    return slowest + pool.rest_s[chosen]


def _sizes(seconds: Seconds, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw from a distribution by its quantiles, on a grid that is fine in the upper tail."""
    if isinstance(seconds, Constant):
        return np.full(shape, seconds.seconds)
    grid = (np.arange(_GRID) + 0.5) / _GRID
    values = [seconds.quantile_s(min(1 - (1 - t) ** 4, 1 - 2**-53)) for t in grid.tolist()]
    drawn: Array = np.interp(1 - rng.random(shape) ** 0.25, grid, values)
    return drawn

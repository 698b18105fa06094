"""Time to a target where some trials did not reach it; these are censored: all that is known is that it takes longer.

The Kaplan-Meier estimate of the time by which half of the trials are there, its interval after Brookmeyer and Crowley
(1982; log-log), and the log-rank test of two conditions. Where no trial is censored, it is the plain median. Where half
never get there, the mean time within a horizon (restricted mean), with the t interval of its pseudo-values (Andersen,
Hansen and Klein 2004). Failed and unfinished trials say nothing.
"""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from deploy.analysis.statistics.estimate import mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.analysis.reading.rows import Trial

HALF = 0.5
MEDIAN, RESTRICTED = "Kaplan-Meier, log-log", "restricted mean, t of pseudo-values"


class ToTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Time to the target of `n` trials, of which `reached` got there.

    `time_s` is the median, or the mean within `horizon_s` where half of the trials were not there by the end; `low_s`
    to `high_s` its 95 % confidence interval, None where the trials do not bound it; `method` says which it is.
    """

    n: int
    reached: int
    time_s: float
    low_s: float | None
    high_s: float | None
    method: str
    horizon_s: float | None = None


class Times(NamedTuple):
    """Seconds until the target (`reached`), and until the end of trials that did not reach it (`censored`)."""

    reached: tuple[float, ...]
    censored: tuple[float, ...]


def times(trials: Sequence[Trial]) -> Times:
    """Return the times of the complete ones of `trials` that had a target."""
    ended = [t for t in trials if t.status == "complete" and t.plan.stop is not None and t.total_s is not None]
    return Times(
        tuple(t.total_s for t in ended if t.total_s is not None and not t.censored),
        tuple(t.total_s for t in ended if t.total_s is not None and t.censored),
    )


def to_target(found: Times) -> ToTarget | None:
    """Return the time to the target; None if no trial had one."""
    n = len(found.reached) + len(found.censored)
    if not n:
        return None
    curve = _curve(found)
    middle = _median(curve)
    if middle is None:
        return _restricted(found)
    low_s, high_s = _bounds(found) if n > 1 else (None, None)
    return ToTarget(n=n, reached=len(found.reached), time_s=middle, low_s=low_s, high_s=high_s, method=MEDIAN)


def logrank(ours: Times, theirs: Times) -> float | None:
    """Return the p-value of the log-rank test: is one as fast as the other? None where the trials cannot tell."""
    if not (ours.reached or theirs.reached) or not all(each.reached + each.censored for each in (ours, theirs)):
        return None
    from scipy import stats  # noqa: PLC0415 - takes a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0, where one group is gone before the other's first
        p_value = float(stats.logrank(_censored(ours), _censored(theirs)).pvalue)
    return None if math.isnan(p_value) else p_value


def _censored(found: Times) -> Any:  # noqa: ANN401 - scipy tells no types
    from scipy import stats  # noqa: PLC0415 - takes a second to import

    return stats.CensoredData(uncensored=list(found.reached), right=list(found.censored))


def _curve(found: Times) -> list[tuple[float, float]]:
    """Return the share of trials that are not there yet, by time, from (0, 1) on: Kaplan and Meier's estimate."""
    from scipy import stats  # noqa: PLC0415 - takes a second to import

    share = stats.ecdf(_censored(found)).sf
    return [(0.0, 1.0), *zip(share.quantiles.tolist(), share.probabilities.tolist(), strict=True)]


def _median(curve: Sequence[tuple[float, float]]) -> float | None:
    """Return when the share falls to a half; the middle of the time for which it is just that."""
    eps = 1e-9
    below = [time_s for time_s, share in curve if share < HALF - eps]
    at = [time_s for time_s, share in curve if share <= HALF + eps]
    if not at:
        return None
    return (at[0] + below[0]) / 2 if below and abs(dict(curve)[at[0]] - HALF) <= eps else at[0]


def _bounds(found: Times) -> tuple[float | None, float | None]:
    """Return between what the median lies."""
    from scipy import stats  # noqa: PLC0415 - takes a second to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where no trial is left, the bounds are not known
        bounds = stats.ecdf(_censored(found)).sf.confidence_interval(method="log-log")
    when = bounds.low.quantiles.tolist()
    low = (t for t, share in zip(when, bounds.low.probabilities.tolist(), strict=True) if share <= HALF)
    high = (t for t, share in zip(when, bounds.high.probabilities.tolist(), strict=True) if share < HALF)
    return next(low, None), next(high, None)


def _restricted(found: Times) -> ToTarget:
    """Return the mean time within the longest that was watched."""
    every = [*((t, True) for t in found.reached), *((t, False) for t in found.censored)]
    horizon_s, n = max(t for t, _ in every), len(every)
    whole = _area(found, horizon_s)
    estimate = None
    if n > 1 and found.reached:
        without = [_area(_split(every[:i] + every[i + 1 :]), horizon_s) for i in range(n)]
        estimate = mean([n * whole - (n - 1) * each for each in without])
    return ToTarget(
        n=n,
        reached=len(found.reached),
        time_s=whole,
        low_s=max(0.0, estimate.low) if estimate and estimate.low is not None else None,
        high_s=min(horizon_s, estimate.high) if estimate and estimate.high is not None else None,
        method=RESTRICTED,
        horizon_s=horizon_s,
    )


def _split(every: Sequence[tuple[float, bool]]) -> Times:
    return Times(tuple(t for t, there in every if there), tuple(t for t, there in every if not there))


def _area(found: Times, horizon_s: float) -> float:
    steps = [*_curve(found), (horizon_s, 0.0)]
    return sum(share * (min(horizon_s, after) - time_s) for (time_s, share), (after, _) in pairwise(steps))

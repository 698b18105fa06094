"""The median with an interval that holds the true one in 95 of 100 cases, whatever the distribution.

Order statistics, without resampling: of n values the k-th smallest and the k-th largest enclose the median unless fewer
than k values fall on one side of it, which is a binomial probability (David and Nagaraja, Order Statistics, section
7.1). Below 6 values no two are that sure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

CONFIDENCE = 0.95
_LARGE = 1000


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """The median of `n` values, and between what the true one lies; `low` and `high` are None for too few values."""

    n: int
    median: float
    low: float | None = None
    high: float | None = None


def interval(values: Iterable[float]) -> Interval | None:
    """Return the median of values and its interval; None if there is no value."""
    known = sorted(values)
    n = len(known)
    if not n:
        return None
    middle = (known[(n - 1) // 2] + known[n // 2]) / 2
    k = _rank(n)
    return Interval(n=n, median=middle, low=known[k - 1] if k else None, high=known[n - k] if k else None)


def _rank(n: int) -> int:
    """Return the largest k for which P(fewer than k of n fair coins are heads) is at most 2.5 %; 0 if there is none."""
    if n > _LARGE:
        return math.floor((n - 1.96 * math.sqrt(n)) / 2)
    allowed = 2**n * (1 - CONFIDENCE) / 2
    k, term, total = 0, 1, 1
    while total <= allowed:
        k += 1
        term = term * (n - k + 1) // k
        total += term
    return k

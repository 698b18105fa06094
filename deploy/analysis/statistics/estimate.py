"""Means, differences and ratios of repeats, each with a 95 % confidence interval and the name of its method.

A mean has Student's t; a difference the paired t, or Welch's where nothing pairs the values; a ratio of means Fieller's
interval. No bootstrap: of ratios of 10 to 40 repeats with a long tail (log-normal, Pareto) Fieller's interval holds the
true one in 96 to 98 of 100 cases, the bias-corrected and accelerated bootstrap's in 84 to 93; of normal ones in 96
against 93 to 95. One value has no interval. Sources: Welch 1947; Fieller 1954.
"""

from __future__ import annotations

import math
from statistics import fmean, variance
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from deploy.analysis.statistics.interval import CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Sequence


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A number from `n` repeats, or pairs of them (against `n_reference` where they are not paired).

    `low` and `high` are its 95 % confidence interval, made by `method`; None and empty where there is none.
    """

    value: float
    n: int
    n_reference: int = 0
    low: float | None = None
    high: float | None = None
    method: str = ""


class _Moments(NamedTuple):
    """Means of two samples, the variances and the covariance of these means, and the degrees of freedom of each."""

    mean: float
    reference: float
    var: float
    reference_var: float
    cov: float
    freedom: tuple[int, int]


def mean(values: Sequence[float]) -> Estimate | None:
    """Return the mean; None if there is no value."""
    n = len(values)
    if not n:
        return None
    middle = fmean(values)
    if n == 1:
        return Estimate(value=middle, n=1)
    half = _t(n - 1) * math.sqrt(variance(values) / n)
    return Estimate(value=middle, n=n, low=middle - half, high=middle + half, method="t")


def difference(values: Sequence[float], reference: Sequence[float], *, paired: bool) -> Estimate | None:
    """Return the mean of `values` minus that of `reference`; None if one of them is empty.

    `paired`: the two are equally long, and each value belongs to the one at its place.
    """
    if not values or not reference:
        return None
    gap = fmean(values) - fmean(reference)
    bare = Estimate(value=gap, n=len(values), n_reference=0 if paired else len(reference))
    if min(len(values), len(reference)) == 1:
        return bare
    half = _half(_moments(values, reference, paired=paired), 1.0)
    return replace(bare, low=gap - half, high=gap + half, method="paired t" if paired else "Welch t")


def ratio(values: Sequence[float], reference: Sequence[float], *, paired: bool) -> Estimate | None:
    """Return the mean of `values` divided by that of `reference`; None if one is empty, or the latter's mean is 0.

    Both are times, or others that are never negative: no interval begins below 0.
    """
    if not values or not reference or fmean(reference) == 0:
        return None
    quotient = fmean(values) / fmean(reference)
    bare = Estimate(value=quotient, n=len(values), n_reference=0 if paired else len(reference))
    if min(len(values), len(reference)) == 1:
        return bare
    bounds = _fieller(_moments(values, reference, paired=paired))
    if bounds is None:
        return bare
    return replace(bare, low=max(0.0, bounds[0]), high=bounds[1], method="paired Fieller" if paired else "Fieller")


def _t(freedom: float) -> float:
    """Return how many standard errors an interval reaches either way."""
    from scipy.special import stdtrit  # noqa: PLC0415 - scipy takes 0.2 s to import

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def _moments(values: Sequence[float], reference: Sequence[float], *, paired: bool) -> _Moments:
    means = fmean(values), fmean(reference)
    n = len(values), len(reference)
    cov = 0.0
    if paired:
        products = ((a - means[0]) * (b - means[1]) for a, b in zip(values, reference, strict=True))
        cov = math.fsum(products) / (n[0] - 1) / n[0]
    return _Moments(
        *means, variance(values) / n[0], variance(reference) / n[1], cov, (n[0] - 1, 0 if paired else n[1] - 1)
    )


def _half(of: _Moments, factor: float) -> float:
    """Return half the width of the interval of mean - factor · reference."""
    var, reference_var = of.var, factor**2 * of.reference_var
    total = max(0.0, var + reference_var - 2 * factor * of.cov)
    return _t(_freedom(var, reference_var, of.freedom)) * math.sqrt(total) if total else 0.0


def _freedom(var: float, reference_var: float, freedom: tuple[int, int]) -> float:
    """Return the degrees of freedom: those of the pairs, else Welch and Satterthwaite's."""
    ours, theirs = freedom
    if not theirs:
        return ours
    largest = max(var, reference_var)
    if not largest:
        return min(freedom)
    a, b = var / largest, reference_var / largest  # so that no square vanishes
    return (a + b) ** 2 / (a**2 / ours + b**2 / theirs)


def _fieller(of: _Moments) -> tuple[float, float] | None:
    """Return the ratios r for which mean - r · reference may be 0; None if these are no interval."""
    quotient = of.mean / of.reference
    if not of.var and not of.reference_var:
        return quotient, quotient
    t = _t(_freedom(of.var, quotient**2 * of.reference_var, of.freedom))
    a = of.reference**2 - t**2 * of.reference_var
    b = of.mean * of.reference - t**2 * of.cov
    c = of.mean**2 - t**2 * of.var
    if a <= 0:
        return None
    root = math.sqrt(max(0.0, b**2 - a * c))
    return (b - root) / a, (b + root) / a

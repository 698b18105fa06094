"""Recognises the first rounds of a trial that are slower than the rest: caches are cold, connections new.

The rule: of a trial's rounds without their injected part, the last two thirds are taken to be settled; from the first
round on, those are settling that lie above their median by more than `LIMIT` times their spread (the median absolute
deviation, scaled to a normal distribution's standard deviation) and by more than `LEAST` of it. So never more than a
third is, and a trial of fewer than `FEWEST` rounds does not tell. Of normal rounds alike, the first is mistaken in 1 of
25 trials of 6 rounds, 1 of 70 of 10, 1 of 500 of 20. White's MSER-5 (1997), the usual rule of simulation studies, takes
means of five and needs many rounds more.
"""

from __future__ import annotations

import polars as pl

from deploy.analysis.columns import INT, B

LIMIT, LEAST, FEWEST = 5.0, 0.1, 6
_NORMAL = 1.4826
"""Standard deviation of a normal distribution ÷ its median absolute deviation."""


def settling(rounds: pl.DataFrame) -> pl.Series:
    """Return whether each row of `rounds` is settling: columns `trial`, `round`, `round_s` and `injected_s`.

    An unknown injected part counts as none, a round of unknown length as settled.
    """
    natural, trial = pl.col("round_s") - pl.col("injected_s").fill_null(0.0), pl.col("trial")
    place, count = pl.col("round").rank("ordinal").over(trial), pl.len().over(trial)
    third = count // 3
    placed = rounds.select(trial, "round", natural=natural, early=place <= third, told=count >= FEWEST)
    late = pl.when(~pl.col("early")).then(pl.col("natural"))
    middled = placed.with_columns(middle=late.median().over(trial))
    gap = pl.col("natural") - pl.col("middle")
    spread = pl.when(~pl.col("early")).then(gap.abs()).median().over(trial)
    limit = pl.max_horizontal(LIMIT * _NORMAL * spread, LEAST * pl.col("middle"))
    slow = middled.with_columns(slow=(pl.col("early") & pl.col("told") & (gap > limit)).fill_null(value=False))
    leading = pl.col("slow").cast(INT).cum_min().over(trial, order_by="round").cast(B)
    return slow.select(settling=leading).to_series()


def settling_rounds(rounds: pl.DataFrame) -> frozenset[tuple[int, int]]:
    """Return trial and number of each round of an account that is settling."""
    return frozenset(rounds.filter(pl.col("settling").fill_null(value=False)).select("trial", "round").iter_rows())

"""Spans of time by group, in one pass over a frame: which begin a group, which overlap with those before them.

polars' own windows (`cum_max().over(…)`) evaluate each group on its own: a minute for a million groups.
"""

from __future__ import annotations

import polars as pl


def begins(keys: tuple[str, ...]) -> pl.Expr:
    """Tell whether a row is the first of its group; rows are sorted by the keys."""
    first = pl.int_range(pl.len()) == 0
    return pl.any_horizontal(first, *(pl.col(key).ne_missing(pl.col(key).shift()) for key in keys))


def previous(name: str, keys: tuple[str, ...]) -> pl.Expr:
    """Return a column's value in the row before, null in a group's first row."""
    return pl.when(~begins(keys)).then(pl.col(name).shift())


def placed(spans: pl.DataFrame, keys: tuple[str, ...], start: str, end: str) -> pl.DataFrame:
    """Return the spans with `_start`, `_end` and `_over`, places on a line on which whole groups follow each other.

    `_over` is the furthest `_end` so far: of groups before, where the span is the first of its own. A span without an
    end is placed at the beginning of its group. Spans are sorted by the keys.
    """
    moments = pl.concat([spans[start], spans[end].alias(start)])
    places = moments.rank("dense").cast(pl.Int64)
    size, count = (places.max() or 0) + 1, len(spans)  # type: ignore[operator]
    base = begins(keys).cum_sum().cast(pl.Int64) * pl.lit(size, pl.Int64)
    found = spans.with_columns(_start=places[:count], _end=places[count:]).with_columns(
        _start=base + pl.col("_start"), _end=base + pl.col("_end").fill_null(0)
    )
    return found.with_columns(_over=pl.col("_end").cum_max().shift().fill_null(-1))

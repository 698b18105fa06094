"""Makes slices fit a trace's threads: what overlaps gets lanes of its own, what follows each other is cut to do so."""

from __future__ import annotations

from heapq import heappop, heappush

import polars as pl

_NS = 1_000_000_000


def ns(column: str) -> pl.Expr:
    """Return a duration in seconds as whole nanoseconds; null where it is not known, or no finite number."""
    value = pl.col(column)
    return (pl.when(value.is_finite()).then(value) * _NS).round().cast(pl.Int64)


def with_lanes(slices: pl.DataFrame) -> pl.DataFrame:
    """Add `lane`, the first one of its `host` and `thread` that is free at `start_ns`, from 0; sorts by these."""
    ordered = slices.sort("host", "thread", "start_ns", "end_ns", descending=[False, False, False, True])
    lanes: list[int] = []
    thread: tuple[str, str] | None = None
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    for host, name, start_ns, end_ns in ordered.select("host", "thread", "start_ns", "end_ns").iter_rows():
        if (host, name) != thread:
            thread, free, busy = (host, name), [], []
        while busy and busy[0][0] <= start_ns:
            heappush(free, heappop(busy)[1])
        lane = heappop(free) if free else len(busy)
        heappush(busy, (end_ns, lane))
        lanes.append(lane)
    return ordered.with_columns(pl.Series("lane", lanes, dtype=pl.Int64))


def in_turn(slices: pl.DataFrame) -> pl.DataFrame:
    """Cut the start of each slice to the end of all before it; what is left without time goes."""
    ordered = slices.sort("start_ns", "end_ns")
    cut = ordered.with_columns(start_ns=pl.max_horizontal("start_ns", pl.col("end_ns").cum_max().shift(1)))
    return cut.filter(pl.col("end_ns") > pl.col("start_ns"))

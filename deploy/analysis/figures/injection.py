"""Injected delays as they were requested beside how long they were: the app's, and those of links."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import altair as alt
import polars as pl

from deploy.analysis.figures.figure import (
    Figure,
    Rows,
    all_or_one,
    condition_of_trial,
    data,
    labels,
    layered,
    legend,
    rows_of,
    spec_of,
)
from deploy.analysis.figures.palette import GREY
from deploy.labels import signed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from deploy.analysis.statistics.conditions import Analysis

MOST_POINTS = 1500
_DIFFERENCE = "measured \N{MINUS SIGN} requested (ms)"
APP, DOWN, UP = "delay of the app", "link, down", "link, up"
KINDS = (APP, DOWN, UP)
SCHEMA = {
    "kind": pl.String, "client": pl.String, "condition": pl.String, "requested_ms": pl.Float64,
    "measured_ms": pl.Float64,
}  # fmt: skip


def injected(analysis: Analysis) -> tuple[Figure, ...]:
    """Return measured against requested delays, and their difference; none where nothing was injected."""
    found = delays(analysis)
    if found.is_empty():
        return ()
    shown = _thinned(found)
    rows, kinds = rows_of(shown), [kind for kind in KINDS if kind in set(found["kind"])]
    how = _how(found, shown)
    return (
        Figure(
            name="figure-injected",
            title="Injected delay: measured against requested",
            subtitle=_subtitle(found, kinds),
            caption=f"On the line both are equal. {how}",
            alt=f"Injected delay, measured against requested, with the line of equal values. {_said(found)}",
            spec=spec_of(all_or_one(layered(*_equal(found), _points(rows, kinds, "measured_ms", "measured (ms)")))),
        ),
        Figure(
            name="figure-injected-difference",
            title="Injected delay: measured minus requested",
            subtitle=_subtitle(found, kinds),
            caption=f"Zero is what was asked for. {how}",
            alt=f"Injected delay, measured minus requested. {_said(found)}",
            spec=spec_of(all_or_one(layered(*_zero(), _points(rows, kinds, "difference_ms", _DIFFERENCE)))),
        ),
    )


def delays(analysis: Analysis) -> pl.DataFrame:
    """Return every injected delay of the app that was due, and each link's in each condition, in each direction."""
    found = pl.concat([_of_apps(analysis), pl.DataFrame(list(_of_links(analysis)), schema=SCHEMA, orient="row")])
    return found.with_columns(difference_ms=pl.col("measured_ms") - pl.col("requested_ms"))


def _of_apps(analysis: Analysis) -> pl.DataFrame:
    number = condition_of_trial(analysis)
    tasks = analysis.dataset.tasks.filter((pl.col("delay_requested_s") > 0) & pl.col("delay_s").is_not_null())
    return tasks.select(
        kind=pl.lit(APP),
        client="client",
        condition=number.replace_strict(labels(analysis), default=None, return_dtype=pl.String),
        requested_ms=1000 * pl.col("delay_requested_s"),
        measured_ms=1000 * pl.col("delay_s"),
    )


def _of_links(analysis: Analysis) -> Iterator[tuple[Any, ...]]:
    names = labels(analysis)
    for row in analysis.dataset.network.rows:
        for kind, way in ((DOWN, row.down), (UP, row.up)):
            if way.requested_ms and way.measured_ms is not None and not row.control:
                name = None if row.condition is None else names.get(row.condition)
                yield (kind, row.client, name, way.requested_ms, way.measured_ms)


def _thinned(found: pl.DataFrame) -> pl.DataFrame:
    """Return few enough rows to draw, of every kind evenly; never without the largest differences."""
    if found.height <= MOST_POINTS:
        return found
    ranked = found.sort("kind", "requested_ms", "difference_ms").with_row_index()
    every = -(-found.height // MOST_POINTS)
    ends = pl.col("difference_ms").abs().rank("ordinal", descending=True) <= MOST_POINTS // 10
    return ranked.filter((pl.col("index") % every == 0) | ends).drop("index")


def _points(rows: Rows, kinds: list[str], measured: str, title: str) -> alt.Chart:
    entries = legend(kinds) if len(kinds) > 1 else None
    shapes = alt.Shape("kind:N", title=None, sort=kinds, scale=alt.Scale(domain=kinds), legend=entries)
    color = alt.Color("kind:N", title=None, sort=kinds, scale=alt.Scale(domain=kinds), legend=entries)
    chart: alt.Chart = (
        alt.Chart(data(rows))
        .mark_point(size=34, strokeOpacity=0.6, strokeWidth=1.5)
        .encode(
            alt.X(
                "requested_ms:Q",
                title="requested (ms)",
                scale=alt.Scale(zero=False, padding=10),
                axis=_axis(grid=False),
            ),
            alt.Y(f"{measured}:Q", title=title, scale=alt.Scale(zero=False), axis=_axis(grid=True)),
            color,
            shapes,
            tooltip=[
                alt.Tooltip("kind:N"),
                alt.Tooltip("client:N"),
                alt.Tooltip("condition:N"),
                alt.Tooltip("requested_ms:Q", title="requested (ms)", format=",.4~f"),
                alt.Tooltip("measured_ms:Q", title="measured (ms)", format=",.4~f"),
                alt.Tooltip("difference_ms:Q", title="difference (ms)", format="+.4~f"),
            ],
        )
    )
    return chart


def _axis(*, grid: bool) -> alt.Axis:
    return alt.Axis(tickCount=6, grid=grid, labelOverlap=True)


def _equal(found: pl.DataFrame) -> Iterator[alt.Chart]:
    low, high = found["requested_ms"].min(), found["requested_ms"].max()
    ends: Rows = [{"requested_ms": end, "measured_ms": end, "condition": None} for end in (low, high)]
    yield (
        alt.Chart(data(ends))
        .mark_line(strokeDash=[5, 4], strokeWidth=1.2, color=GREY)
        .encode(alt.X("requested_ms:Q"), alt.Y("measured_ms:Q"))
    )


def _zero() -> Iterator[alt.Chart]:
    zero: Rows = [{"difference_ms": 0.0, "condition": None}]
    yield alt.Chart(data(zero)).mark_rule(strokeDash=[5, 4], strokeWidth=1.2).encode(alt.Y("difference_ms:Q"))


def _subtitle(found: pl.DataFrame, kinds: list[str]) -> str:
    counts = {kind: found.filter(kind=kind).height for kind in kinds}
    words = {
        APP: "{} delays of the app", DOWN: "{} links down (median of each condition)", UP: "{} links up (the same)",
    }  # fmt: skip
    return ", ".join(words[kind].format(count) for kind, count in counts.items())


def _how(found: pl.DataFrame, shown: pl.DataFrame) -> str:
    links = " A link's delay was measured by a proof after it was set, or by what its layer held."
    some = f" {shown.height} of {found.height} points are drawn, among them those that are most off."
    each = "Each point is a delay." if APP in set(found["kind"]) else "Each point is a client in a condition."
    linked = bool({DOWN, UP} & set(found["kind"]))
    return each + (links if linked else "") + (some if shown.height < found.height else "")


def _said(found: pl.DataFrame) -> str:
    """Say how many were requested of how long, and how far they were off."""
    spans = []
    for kind in KINDS:
        rows = found.filter(kind=kind)
        if not rows.is_empty():
            gap, want = rows["difference_ms"], rows["requested_ms"]
            least, most, middle = (signed(f"{each:.2f}") for each in (min(gap), max(gap), median(gap)))
            spans.append(
                f"{kind}: {rows.height} of {min(want):.4g} to {max(want):.4g} ms, off by {least} to {most} ms,"
                f" in the median {middle} ms"
            )
    return "; ".join(spans) + "."

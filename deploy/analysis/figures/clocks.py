"""Clocks: how each client's clock wandered against the server's, and how sure that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import polars as pl

from deploy.analysis.figures.figure import Figure, Rows, data, layered, left_out, most, rows_of, spec_of
from deploy.labels import signed, significant, span_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from deploy.analysis.statistics.conditions import Analysis

LANE_PX, NARROW_PX, FEW = 46, 24, 12
"""Lanes of a few clients, and of more than a few."""
_FILL = 0.42
"""Of a lane, above its middle and below."""


def clocks(analysis: Analysis) -> Figure | None:
    """Return offset against time, a lane for each client, drift taken out; None where no clock was compared."""
    found = wander(analysis.dataset.offsets)
    if found.is_empty():
        return None
    widest = dict(found.group_by("client").agg(pl.col("half_ms").max()).iter_rows())
    known = [name for name in analysis.dataset.manifest.clients if name in widest]
    names = most(known, widest)
    rows = rows_of(_placed(found, names))
    title = "Clocks against the server's"
    return Figure(
        name="figure-clocks",
        title=title,
        subtitle="Offset with its steady drift taken out, and the band in which it must lie",
        caption=(
            "A lane for each client, on a scale of its own"
            + (": its band reaches as far as the number says, either way" if len(names) <= FEW else "")
            + ". The line is the offset; the band is what the exchanges of messages leave open."
            + _drifts(found, names)
            + left_out(names, known, "those that are least sure")
        ),
        alt=f"{title}. {_said(found, names)}",
        spec=spec_of(layered(*_layers(rows, found, names)), (LANE_PX if len(names) <= FEW else NARROW_PX) * len(names)),
    )


def wander(offsets: pl.DataFrame) -> pl.DataFrame:
    """Return offsets without the straight line through their first and last moment, process by process.

    `half_ms` is how far the band reaches from zero, `drift_ppm` the slope of that line.
    """
    first, last, keys = pl.col("start_s").first(), pl.col("start_s").last(), ["client", "process"]
    lasted = (last - first).over(keys)
    slope = (pl.col("offset_ms").last() - pl.col("offset_ms").first()).over(keys) / lasted
    ordered = offsets.drop_nulls().sort("client", "process", "start_s")
    drifts = ordered.with_columns(slope=pl.when(lasted > 0).then(slope).otherwise(0.0))
    line = (pl.col("start_s") - first.over(keys)) * pl.col("slope") + pl.col("offset_ms").first().over(keys)
    off = drifts.with_columns(pl.col("offset_ms", "low_ms", "high_ms") - line, drift_ppm=1000 * pl.col("slope"))
    return off.with_columns(half_ms=pl.max_horizontal(pl.col("low_ms").abs(), pl.col("high_ms").abs()))


def _placed(found: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """Give each moment its height in the lane of its client: lanes count from 0, downwards."""
    lanes = {name: number for number, name in enumerate(names)}
    rows = found.filter(pl.col("client").is_in(names))
    lane = pl.col("client").replace_strict(lanes, return_dtype=pl.Float64)
    half = pl.col("half_ms").max().over("client")
    unit = pl.when(half > 0).then(_FILL / half).otherwise(0.0)
    heights = {name: lane - pl.col(f"{name}_ms") * unit for name in ("offset", "low", "high")}
    return rows.with_columns(**heights, off_ms=(pl.col("high_ms") - pl.col("low_ms")) / 2).select(
        "client", "process", "start_s", "offset_ms", "off_ms", *heights
    )


def _layers(rows: Rows, found: pl.DataFrame, names: list[str]) -> Iterator[alt.Chart]:
    lanes = alt.Scale(domain=[len(names) - 0.5, -0.5], nice=False)
    axis = alt.Axis(
        values=list(range(len(names))),
        labelExpr=f"{_labels(found, names)}[round(datum.value)]",
        labelOffset=alt.ExprRef("-letter_px") if len(names) <= FEW else 0,
        grid=True,
        ticks=False,
    )
    x = alt.X("start_s:Q", title="since the start of the server's log (s)", axis=alt.Axis(tickCount=6, grid=False))
    tips = [
        alt.Tooltip("client:N"),
        alt.Tooltip("start_s:Q", title="at (s)", format=",.1f"),
        alt.Tooltip("offset_ms:Q", title="offset without drift (ms)", format="+.4f"),
        alt.Tooltip("off_ms:Q", title="known to ± (ms)", format=".3f"),
    ]
    base = alt.Chart(data(rows)).encode(x, detail=["client:N", "process:N"], tooltip=tips)
    y = alt.Y("low:Q", title=None, scale=lanes, axis=axis)
    yield base.mark_area(fillOpacity=0.35).encode(y, alt.Y2("high:Q"))
    yield base.mark_line(strokeWidth=1.5).encode(alt.Y("offset:Q", title=None, scale=lanes, axis=axis))


def _labels(found: pl.DataFrame, names: list[str]) -> str:
    """Return an expression for the label of a lane: who it is of and, where it is high enough, how far it reaches."""
    reach: dict[str, float] = dict(found.group_by("client").agg(pl.col("half_ms").max()).iter_rows())
    if len(names) > FEW:
        return "[" + ",".join(f"'{_quoted(name)}'" for name in names) + "]"
    return "[" + ",".join(f"['{_quoted(name)}', '± {significant(reach[name])} ms']" for name in names) + "]"


def _quoted(text: str) -> str:
    """Return a name for a string of an expression."""
    return text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", " ")


def _drifts(found: pl.DataFrame, names: list[str]) -> str:
    drifts = found.filter(pl.col("client").is_in(names)).group_by("client", "process").agg(pl.col("drift_ppm").first())
    low, high = min(drifts["drift_ppm"]), max(drifts["drift_ppm"])
    one, other = signed(significant(low)), signed(significant(high))
    return f" Drift taken out: {one if one == other else span_text(one, other)} ppm."


def _said(found: pl.DataFrame, names: list[str]) -> str:
    rows = found.filter(pl.col("client").is_in(names)).group_by("client", maintain_order=True)
    widths = rows.agg(off=((pl.col("high_ms") - pl.col("low_ms")) / 2).median(), drift=pl.col("drift_ppm").first())
    known: dict[str, dict[str, Any]] = {row["client"]: row for row in widths.rows(named=True)}
    said = []
    for name in names:
        off, drift = significant(known[name]["off"]), signed(significant(known[name]["drift"]))
        said.append(f"{name}: known to ± {off} ms in the median, drift {drift} ppm")
    return "; ".join(said) + "."

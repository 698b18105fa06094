"""Distributions side by side: a lane for each host, in it a box of quantiles, and few enough values as fine ticks.

Boxes are made of quantiles that are computed here: a page holds some numbers a lane, however many values there were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt
import msgspec
import polars as pl

from deploy.analysis.figures.figure import ALL, SQUARE, Span, data, layered, legend, one_at_a_time, rows_of, spec_of
from deploy.labels import significant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from deploy.analysis.figures.figure import Rows

QUANTILES = {"low": 0.05, "lower": 0.25, "middle": 0.5, "upper": 0.75, "high": 0.95}
TICKED_LANES = 12
"""With more lanes, values are not drawn one by one."""
TICKS, TICKS_IN_ONE = 150, 40
"""As many evenly many quantiles stand for a lane's values: in all conditions, and in one."""
LANE_PX, SUBLANE_PX = 26, 15
NARROW = 2 / 3
"""Of many hosts' lanes."""
_BRACKET = {"surely", "at_most"}
HOW_TO_READ = "Boxes hold the middle half of the values, the line in them is the median, whiskers reach from 5 to 95 %"


class Lanes(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be drawn: `values` has the columns host, condition ("all", or a label), value, perhaps kind and off.

    With `kinds`, each host's lane is split; `unit` is that of the values and of `off`, by which each may be
    wrong.
    """

    values: pl.DataFrame
    hosts: Sequence[str]
    title: str
    unit: str
    kinds: Sequence[str] = ()


def spec(lanes: Lanes) -> dict[str, Any]:
    """Return the chart."""
    boxes = summary(lanes)
    span = _span(boxes)
    boxes = boxes.with_columns(pl.col(*QUANTILES, *_BRACKET & set(boxes.columns)).clip(lower_bound=span.floor))
    chart = layered(*_ticks(lanes, span), *_boxes(rows_of(boxes), lanes, span))
    lane_px = _lane_px(lanes) * 1.35 * len(lanes.kinds) if lanes.kinds else _lane_px(lanes)
    return spec_of(one_at_a_time(chart), round(lane_px * len(lanes.hosts)))


def _lane_px(lanes: Lanes) -> float:
    """Return the height of a lane, or of its part for one kind."""
    own = SUBLANE_PX if lanes.kinds else LANE_PX
    return own if len(lanes.hosts) <= TICKED_LANES else NARROW * own


def _span(boxes: pl.DataFrame) -> Span:
    """Return from where to where the lanes reach; the lowest twentieths do not decide it."""
    return Span(*boxes.select(pl.col("low").min(), pl.col("most").max()).row(0))


def summary(lanes: Lanes) -> pl.DataFrame:
    """Return a row for each lane: quantiles, extremes the number of values; perhaps how sure."""
    value = pl.col("value")
    quantiles = [value.quantile(share, "linear").alias(name) for name, share in QUANTILES.items()]
    keys = ["condition", "host", *(["kind"] if lanes.kinds else [])]
    found = lanes.values.filter(pl.col("host").is_in(list(lanes.hosts))).group_by(keys, maintain_order=True)
    ends = [value.min().alias("least"), value.max().alias("most"), value.len().alias("n")]
    if "off" not in lanes.values.columns:
        return found.agg(*quantiles, *ends)
    middle, off = pl.col("middle"), pl.col("off")
    return found.agg(*quantiles, *ends, off.median()).with_columns(surely=middle - off, at_most=middle + off)


def edge(lanes: Lanes) -> str:
    """Say which values are drawn at the edge of a logarithmic scale, with a space before it."""
    boxes = summary(lanes)
    floor = _span(boxes).floor
    if floor is None or not (boxes["least"] < floor).any():
        return ""
    return f" What is below {significant(floor)} {lanes.unit} is drawn at the edge."


def medians(lanes: Lanes) -> str:
    """Return the medians over all conditions in words, for an alternative text; of many, two."""
    found = summary(lanes).filter(condition=ALL)
    said = []
    for kind in lanes.kinds or ("",):
        own = found.filter(kind=kind) if kind else found
        middle: dict[str, float] = dict(own.select("host", "middle").iter_rows())
        names = [name for name in lanes.hosts if name in middle]
        if len(names) > TICKED_LANES:
            names = [min(names, key=middle.__getitem__), max(names, key=middle.__getitem__)]
        told = "; ".join(f"{name} {significant(middle[name], 3)} {lanes.unit}" for name in names)
        said.append(f"{kind}: {told}" if kind else told)
    return "Medians, " + ". ".join(said) + "."


def _place(lanes: Lanes) -> dict[str, Any]:
    """Return the encodings of a lane and of its colour."""
    hosts = list(lanes.hosts)
    lane = alt.Scale(domain=hosts, paddingInner=0.25, paddingOuter=0.1)
    y = alt.Y("host:N", title=None, sort=hosts, scale=lane)
    if not lanes.kinds:
        return {"y": y}
    kinds = list(lanes.kinds)
    color = alt.Color(
        "kind:N",
        title=None,
        sort=kinds,
        scale=alt.Scale(domain=kinds),
        legend=legend(kinds, symbol=SQUARE),
    )
    return {"y": y, "yOffset": alt.YOffset("kind:N", sort=kinds, scale=alt.Scale(domain=kinds)), "color": color}


def _boxes(rows: Rows, lanes: Lanes, span: Span) -> Iterator[alt.Chart]:
    place = _place(lanes)
    inked = {key: channel for key, channel in place.items() if key != "color"}
    tips = _tips(lanes)
    lane_px = _lane_px(lanes)

    def x(name: str) -> alt.X:
        return alt.X(f"{name}:Q", title=lanes.title, scale=span.scale, axis=span.axis)

    colored = alt.Chart(data(rows)).encode(**place, tooltip=tips)
    yield colored.mark_rule(strokeWidth=1.5).encode(x=x("low"), x2="high:Q")
    yield colored.mark_bar(size=0.55 * lane_px, fillOpacity=0.8).encode(x=x("lower"), x2="upper:Q")
    black = alt.Chart(data(rows)).encode(**inked, tooltip=tips)
    yield black.mark_tick(thickness=2, size=0.75 * lane_px, color=alt.Undefined).encode(x=x("middle"))
    if rows[0].keys() >= _BRACKET:
        yield black.mark_rule(strokeWidth=1).encode(x=x("surely"), x2="at_most:Q")
        for end in sorted(_BRACKET):
            yield black.mark_tick(thickness=1, size=0.4 * lane_px).encode(x=x(end))


def _ticks(lanes: Lanes, span: Span) -> list[alt.Chart]:
    """Return every value as a tick, of many the extremes and quantiles; nothing where there are many lanes."""
    keys = ["condition", "host", *(["kind"] if lanes.kinds else [])]
    values = lanes.values.filter(pl.col("host").is_in(list(lanes.hosts)))
    if values.select(keys[1:]).n_unique() > TICKED_LANES:
        return []
    ranked = values.sort("value").with_columns(rank=pl.int_range(pl.len()).over(keys))
    at_most = pl.when(pl.col("condition") == ALL).then(TICKS).otherwise(TICKS_IN_ONE)
    every = (pl.len().over(keys) / (at_most - 2)).ceil().cast(pl.Int64)
    ends = (pl.col("rank") == 0) | (pl.col("rank") == pl.len().over(keys) - 1)
    few = ranked.filter(ends | (pl.col("rank") % every == every // 2)).select(
        *keys, pl.col("value").clip(lower_bound=span.floor)
    )
    x = alt.X("value:Q", title=lanes.title, scale=span.scale, axis=span.axis)
    return [alt.Chart(data(rows_of(few))).mark_tick(thickness=1, fillOpacity=0.3).encode(x=x, **_place(lanes))]


def _tips(lanes: Lanes) -> list[alt.Tooltip]:
    numbers = {"n": "values", "least": "least", "low": "5 %", "lower": "25 %", "middle": "median", "upper": "75 %"}
    numbers |= {"high": "95 %", "most": "most"} | ({"off": "known to ±"} if "off" in lanes.values.columns else {})
    return [
        alt.Tooltip("host:N"),
        *([alt.Tooltip("kind:N")] if lanes.kinds else []),
        *(
            alt.Tooltip(
                f"{name}:Q",
                title=title if name == "n" else f"{title} ({lanes.unit})",
                format="~r" if name == "n" else ".4~g",
            )
            for name, title in numbers.items()
        ),
    ]

"""Where the time went: a round along its critical path by condition, and each client's share of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import polars as pl

from deploy.analysis.columns import PARTS, SHARES
from deploy.analysis.figures.figure import (
    ALL,
    ROW_PX,
    SQUARE,
    Figure,
    all_or_one,
    conditions_axis,
    data,
    in_all_and_each,
    labels,
    left_out,
    legend,
    most,
    one_at_a_time,
    rows_of,
    spec_of,
)
from deploy.analysis.figures.palette import PART_COLORS, SHARE_COLORS
from deploy.labels import count_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from deploy.analysis.figures.figure import Rows
    from deploy.analysis.statistics.conditions import Analysis

CONTROL = "control rounds"
_NEGATIVE = " What is left of zero is negative: parts that overlap were counted twice."


def account(analysis: Analysis) -> Figure | None:
    """Return the mean round of each condition in parts; None when no round has an account."""
    rounds = analysis.account.rounds.filter(pl.col("unaccounted_s").is_not_null() & pl.col("condition").is_not_null())
    kept = rounds.filter(~pl.col("settling").fill_null(value=False))
    if kept.is_empty():
        return None
    names = labels(analysis)
    named = pl.col("condition").replace_strict(names, default=None, return_dtype=pl.String)
    own = kept.with_columns(condition=pl.when("control").then(None).otherwise(named))
    rows = _long(_means(own, ["condition"], PARTS), PARTS, "condition").with_columns(
        row=pl.col("condition").fill_null(CONTROL)
    )
    order = [name for name in (*names.values(), CONTROL) if name in set(rows["row"])]
    title = "Where a round's time went"
    return Figure(
        name="figure-account",
        title=title,
        subtitle=f"Mean of {count_text(kept.height, 'round')}, along the critical path: what the round waited for",
        caption=_caption(rows) + (_control_words(kept) if CONTROL in order else "") + _settled(rounds, kept),
        terms=_terms(rows, PARTS),
        alt=f"{title}, by condition. {_ranges(rows)}",
        spec=spec_of(all_or_one(_stack(rows, order, "row", PART_COLORS)), ROW_PX * len(order)),
    )


def hosts(analysis: Analysis) -> Figure | None:
    """Return the mean round of each client in its shares; None when no client's round has them."""
    rounds = analysis.account.clients.filter(pl.col("unaccounted_s").is_not_null() & pl.col("condition").is_not_null())
    kept = rounds.filter(~pl.col("control"))
    kept = rounds if kept.is_empty() else kept
    if kept.is_empty():
        return None
    means = _means(in_all_and_each(kept, labels(analysis)), ["condition", "client"], SHARES)
    waits = means.filter(condition=ALL).select("client", -pl.col("waiting_s").fill_null(0.0))
    weights: dict[str, float] = dict(waits.iter_rows())
    known = [name for name in analysis.dataset.manifest.clients if name in weights]
    shown = most(known, weights)
    rows = _long(means.filter(pl.col("client").is_in(shown)), SHARES, "condition", "client")
    title = "What each client did in a round"
    whole = rows.filter(condition=ALL)
    return Figure(
        name="figure-hosts",
        title=title,
        subtitle=f"Mean of {count_text(kept.select('trial', 'round').n_unique(), 'round')}"
        + _without_control(rounds, kept),
        terms=_terms(whole, SHARES),
        caption=_caption(whole) + left_out(shown, known, "those that waited least for others"),
        alt=f"{title}. {_by_client(whole, shown)}",
        spec=spec_of(one_at_a_time(_stack(rows, shown, "client", SHARE_COLORS)), ROW_PX * len(shown)),
    )


def _means(rounds: pl.DataFrame, keys: Sequence[str], parts: Iterable[str]) -> pl.DataFrame:
    """Return the mean of each part; what is not known of a round that has an account counts as nothing."""
    columns = [f"{part}_s" for part in parts]
    means = [pl.col(columns).fill_null(0.0).mean(), pl.col("round_s").mean(), pl.len().alias("rounds")]
    return rounds.group_by(keys, maintain_order=True).agg(*means)


def _long(means: pl.DataFrame, parts: Iterable[str], *keys: str) -> pl.DataFrame:
    """Return a row for each part that there is; `rank` is its place, in the order in which they happen."""
    columns = [f"{part}_s" for part in parts]
    there = [name for name in columns if (means[name] != 0).any()]
    long = means.unpivot(on=there, index=[*keys, "round_s", "rounds"], variable_name="part", value_name="time_s")
    rank = {name: place for place, name in enumerate(columns)}
    return long.with_columns(
        rank=pl.col("part").replace_strict(rank, return_dtype=pl.Int64),
        part=pl.col("part").str.strip_suffix("_s"),
        share_pct=100 * pl.col("time_s") / pl.col("round_s"),
    )


def _stack(rows: pl.DataFrame, order: Sequence[str], lane: str, colors: Mapping[str, str]) -> alt.Chart:
    there = [part for part in colors if part in set(rows["part"])]
    scale = alt.Scale(domain=there, range=[colors[part] for part in there])
    chart: alt.Chart = (
        alt.Chart(data(rows_of(rows)))
        .mark_bar()
        .encode(
            alt.X("time_s:Q", title="mean time of a round (s)", stack="zero", axis=alt.Axis(tickCount=5)),
            alt.Y(
                f"{lane}:N",
                title=None,
                sort=list(order),
                scale=alt.Scale(domain=list(order)),
                axis=conditions_axis(order),
            ),
            alt.Color("part:N", title=None, scale=scale, legend=legend(there, symbol=SQUARE)),
            alt.Order("rank:Q"),
            tooltip=[
                alt.Tooltip(f"{lane}:N"),
                alt.Tooltip("part:N"),
                alt.Tooltip("time_s:Q", title="a round (s)", format=".4f"),
                alt.Tooltip("share_pct:Q", title="of the round (%)", format=".1f"),
                alt.Tooltip("round_s:Q", title="whole round (s)", format=".3f"),
                alt.Tooltip("rounds:Q"),
            ],
        )
    )
    return chart


def _caption(rows: pl.DataFrame) -> str:
    negative = bool(((rows["time_s"] < 0) & (rows["share_pct"] < -_SEEN_PCT)).any())
    return "Parts stand in the order of the legend." + (_NEGATIVE if negative else "")


def _terms(rows: pl.DataFrame, parts: Mapping[str, str]) -> str:
    """Say what the parts are that are hard to guess."""
    there = set(rows["part"])
    said = (f"{part.capitalize()}: {about}." for part, about in parts.items() if part in there and part not in _PLAIN)
    return " ".join(said)


_PLAIN = frozenset({"compute", "decode", "encode", "aggregate"})
_SEEN_PCT = 0.5
"""Less than that of a round is not to be seen."""


def _control_words(kept: pl.DataFrame) -> str:
    count = count_text(kept.filter("control").height, "control round")
    return f" In {count} nothing was injected: they have a bar of their own."


def _settled(rounds: pl.DataFrame, kept: pl.DataFrame) -> str:
    count = rounds.height - kept.height
    return f" Left out: {count_text(count, 'slower round')} at the start of trials." if count else ""


def _without_control(rounds: pl.DataFrame, kept: pl.DataFrame) -> str:
    return ", control rounds left out" if kept.height < rounds.height else ""


def _ranges(rows: pl.DataFrame) -> str:
    """Say for each part between which means it lies."""
    spans = rows.group_by("part", maintain_order=True).agg(low=pl.col("time_s").min(), high=pl.col("time_s").max())
    said = [f"{row['part']}: {row['low']:.3f} s to {row['high']:.3f} s" for row in spans.rows(named=True)]
    return "; ".join(said) + "."


def _by_client(rows: pl.DataFrame, shown: Sequence[str]) -> str:
    said = []
    for name in shown:
        own: Rows | list[dict[str, Any]] = rows.filter(client=name).sort("rank").rows(named=True)
        said.append(f"{name}: " + ", ".join(f"{row['part']} {row['time_s']:.3f} s" for row in own))
    return "; ".join(said) + "."

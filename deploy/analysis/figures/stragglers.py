"""Who was last: a heat map of clients and conditions, or of clients and rounds where there is one condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import polars as pl

from deploy.analysis.figures.figure import (
    ROW_PX,
    SQUARE,
    Figure,
    all_or_one,
    conditions_axis,
    data,
    labels,
    layered,
    left_out,
    legend,
    most,
    rows_of,
    spec_of,
    whole_numbers,
)
from deploy.analysis.figures.palette import CAUSE_COLORS, SHARE_COLORS
from deploy.labels import count_text

if TYPE_CHECKING:
    from typing import Any

    from deploy.analysis.statistics.conditions import Analysis

TEXT_CLIENTS = 8
"""With more columns than these, numbers in cells are not to be read on a phone."""
MOST_ROUNDS = 200
NOT_KNOWN = "not known"
COLORS = {**CAUSE_COLORS, NOT_KNOWN: SHARE_COLORS["unaccounted"]}


def stragglers(analysis: Analysis) -> Figure | None:
    """Return the heat map; None where no round waited for one of several clients."""
    last = analysis.account.rounds.filter(pl.col("last").is_not_null() & pl.col("condition").is_not_null())
    if last.is_empty() or len(analysis.dataset.manifest.clients) < 2:  # noqa: PLR2004 - one alone is always last
        return None
    if last["condition"].n_unique() > 1:
        return _by_condition(analysis)
    return _by_round(analysis, last)


def _shown(analysis: Analysis, weights: dict[str, float]) -> list[str]:
    return most([name for name in analysis.dataset.manifest.clients if name in weights], weights)


def _by_condition(analysis: Analysis) -> Figure | None:
    names = labels(analysis)
    table = analysis.account.stragglers
    counted = table.filter(pl.col("condition").is_in(list(names)) & (pl.col("rounds") > 0))
    if counted.is_empty():
        return None
    totals = counted.group_by("client").agg(pl.col("last", "rounds").sum())
    weights: dict[str, float] = dict(totals.select("client", pl.col("last") / pl.col("rounds")).iter_rows())
    shown = _shown(analysis, weights)
    rows = counted.filter(pl.col("client").is_in(shown)).with_columns(
        pl.col("condition").replace_strict(names, return_dtype=pl.String),
        percent=(100 * pl.col("share")).round(0),
    )
    order = [name for name in names.values() if name in set(rows["condition"])]
    title = "Who was last"
    return Figure(
        name="figure-stragglers",
        title=title,
        subtitle="Percent of a condition's rounds in which the round waited for this client",
        caption=f"The stronger a cell, the more often its client was last: at most {max(rows['percent']):.0f} %."
        " Rows add up to 100, unless a log is missing or clients are left out."
        + left_out(shown, list(weights), "those that were last most often"),
        alt=f"{title}. In all conditions: {_said(weights, shown)}",
        spec=spec_of(all_or_one(_cells(rows, order, shown)), ROW_PX * len(order)),
    )


def _cells(rows: pl.DataFrame, order: list[str], shown: list[str]) -> alt.LayerChart:
    many = len(shown) > TEXT_CLIENTS
    x = alt.X(
        "client:N",
        title=None,
        sort=shown,
        scale=alt.Scale(domain=shown),
        axis=alt.Axis(orient="top", labelAngle=-90 if many else 0, labelLimit=110),
    )
    y = alt.Y("condition:N", title=None, sort=order, scale=alt.Scale(domain=order), axis=conditions_axis(order))
    causes = [alt.Tooltip(f"{name}:Q", title=f"because of {name}") for name in CAUSE_COLORS]
    numbers = {"percent": "last (%)", "last": "last in rounds", "rounds": "of rounds", "lost_s": "seconds lost"}
    tips = [
        alt.Tooltip("condition:N"),
        alt.Tooltip("client:N"),
        *(alt.Tooltip(f"{name}:Q", title=title, format=",.4~g") for name, title in numbers.items()),
        *causes,
    ]
    # The hue is the page's; how dark it is, is its opacity: so the numbers can be read on both papers.
    strength = alt.FillOpacity(
        "share:Q", scale=alt.Scale(domain=[0, max(0.01, *rows["share"])], range=[0.04, 0.62]), legend=None
    )
    base = alt.Chart(data(rows_of(rows))).encode(x, y, tooltip=tips)
    cells = base.mark_rect(cornerRadius=2).encode(strength)
    if many:
        return layered(cells)
    return layered(cells, base.mark_text(fontSize=12).encode(alt.Text("percent:Q", format="d")))


def _by_round(analysis: Analysis, last: pl.DataFrame) -> Figure:
    counts = last.group_by("last").len().sort("len", descending=True)
    whole = last.height
    weights: dict[str, float] = dict(counts.select("last", pl.col("len") / whole).iter_rows())
    shown = _shown(analysis, {name: weights.get(name, 0.0) for name in analysis.dataset.manifest.clients})
    rows = last.sort("trial", "round").select(
        "trial", "round", "last", "lost_s", cause=pl.col("cause").fill_null(NOT_KNOWN), place=pl.int_range(1, whole + 1)
    )
    title = "Who was last"
    return Figure(
        name="figure-stragglers",
        title=title,
        subtitle=f"{count_text(whole, 'round')}, trial after trial: whom each waited for, and why",
        caption="A mark stands for a round. Colours: what its slowest client took longer for than the others."
        + (f" The first {MOST_ROUNDS} rounds are drawn." if whole > MOST_ROUNDS else "")
        + left_out(shown, analysis.dataset.manifest.clients, "those that were last most often"),
        alt=f"{title}. {_said(weights, [name for name in shown if name in weights])}",
        spec=spec_of(_marks(rows.filter(pl.col("last").is_in(shown)).head(MOST_ROUNDS), shown), ROW_PX * len(shown)),
    )


def _marks(rows: pl.DataFrame, shown: list[str]) -> alt.Chart:
    there = [cause for cause in COLORS if cause in set(rows["cause"])]
    scale = alt.Scale(domain=there, range=[COLORS[cause] for cause in there])
    last: Any = rows["place"].max()
    span = alt.Scale(domain=[0.5, last + 0.5], nice=False)
    chart: alt.Chart = (
        alt.Chart(data(rows_of(rows.with_columns(left=pl.col("place") - 0.45, right=pl.col("place") + 0.45))))
        .mark_bar()
        .encode(
            alt.X(
                "left:Q", title="round", scale=span, axis=alt.Axis(values=whole_numbers(last), format="d", grid=False)
            ),
            alt.X2("right:Q"),
            alt.Y("last:N", title=None, sort=shown, scale=alt.Scale(domain=shown)),
            alt.Color("cause:N", title=None, scale=scale, legend=legend(there, symbol=SQUARE)),
            tooltip=[
                alt.Tooltip("last:N", title="last"),
                "cause:N",
                "trial:Q",
                "round:Q",
                alt.Tooltip("lost_s:Q", title="later than the second to last (s)", format=".3f"),
            ],
        )
    )
    return chart


def _said(weights: dict[str, float], shown: list[str]) -> str:
    return "; ".join(f"{name} in {100 * weights[name]:.0f} % of the rounds" for name in shown) + "."

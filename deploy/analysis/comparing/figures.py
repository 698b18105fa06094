"""The figures of a comparison: training time by condition and run, and its ratio to the reference's, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from deploy.analysis.figures.figure import (
    ROW_PX,
    Figure,
    Rows,
    all_or_one,
    conditions_axis,
    cut_words,
    data,
    layered,
    legend,
    spec_of,
)
from deploy.labels import count_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.analysis.comparing.match import Comparison

MARK_PX = 13
"""The height that each run takes of a condition's row."""


def figures(comparison: Comparison) -> Iterator[Figure]:
    """Yield the figures that there is something to draw for."""
    if rows := list(_times(comparison)):
        yield _times_figure(comparison, rows)
    if rows := list(_ratios(comparison)):
        yield _ratios_figure(comparison, rows)


def _times(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for match in comparison.matches:
        for run, side in zip(comparison.runs, match.sides, strict=True):
            if side is not None and side.condition.total_s is not None:
                one = side.condition
                yield {
                    "condition": match.label, "run": run.name, "value": one.total_s, "low": one.low_s,
                    "high": one.high_s, "trials": one.complete - one.censored, "method": one.method,
                }  # fmt: skip


def _ratios(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for match in comparison.matches:
        for run, side in zip(comparison.runs, match.sides, strict=True):
            found = side.versus.ratio if side is not None and side.versus is not None else None
            if found is not None:
                yield {
                    "condition": match.label, "run": run.name, "value": found.value, "low": found.low,
                    "high": found.high, "trials": found.n, "method": found.method,
                }  # fmt: skip


def _times_figure(comparison: Comparison, rows: Rows) -> Figure:
    title = "Training time by condition and run"
    names = [run.name for run in comparison.runs]
    return Figure(
        name="figure-compare",
        title=title,
        subtitle=_count(rows, names),
        caption=f"Points: means; lines: their 95 % confidence intervals{_cut(rows)}; a point without one is one trial.",
        alt=f"{title}. {_ranges(rows, names, ' s')}.",
        spec=_spec(rows, names, names, "training time (s)"),
    )


def _ratios_figure(comparison: Comparison, rows: Rows) -> Figure:
    reference, *others = [run.name for run in comparison.runs]
    title = f"Training time, as a multiple of that of {reference}"
    return Figure(
        name="figure-ratio",
        title=title,
        subtitle=_count(rows, others),
        caption=_ratio_words(rows),
        alt=f"{title}. {_ranges(rows, others, ' times')}.",
        spec=_spec(rows, [reference, *others], others, "times as long", rule=1.0),
    )


def _ratio_words(rows: Rows) -> str:
    if all(row["low"] is None for row in rows):
        return "Points: ratios of means; with one trial on a side they have no interval."
    return (
        f"Points: ratios of means; lines: their 95 % confidence intervals{_cut(rows)}. Where one does not reach 1, the"
        " two differ by more than chance explains; where nothing differs, one in twenty does so."
    )


def _cut(rows: Rows) -> str:
    return cut_words(row["low"] for row in rows)


def _spec(
    rows: Rows, domain: Sequence[str], shown: Sequence[str], title: str, rule: float | None = None
) -> dict[str, Any]:
    order = list(dict.fromkeys(row["condition"] for row in rows))
    y = alt.Y("condition:N", title=None, sort=order, axis=conditions_axis(order, limit_px=170))
    offset = alt.YOffset("run:N", sort=list(shown))
    scale = alt.Scale(domain=list(domain))
    color = alt.Color("run:N", title=None, scale=scale, legend=legend(shown, symbol="circle", only=True))
    tips = [
        alt.Tooltip("condition:N"), alt.Tooltip("run:N"), alt.Tooltip("value:Q", title=title, format=".3f"),
        alt.Tooltip("low:Q", format=".3f"), alt.Tooltip("high:Q", format=".3f"), alt.Tooltip("trials:Q"),
        alt.Tooltip("method:N"),
    ]  # fmt: skip
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    whole = alt.Chart(data(rows))
    spans = whole.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2)
    layers = [
        spans.encode(alt.X("low:Q"), alt.X2("high:Q"), y, offset, color),
        whole.mark_circle(size=60, opacity=1).encode(x, y, offset, color, tooltip=tips),
    ]
    if rule is not None:
        at = alt.Chart(data([{"at": rule}])).mark_rule(strokeDash=[4, 3], color="#767d86").encode(alt.X("at:Q"))
        layers.insert(0, at.transform_calculate(condition="null"))
    return spec_of(all_or_one(layered(*layers)), len(order) * max(ROW_PX, MARK_PX * len(shown) + 6))


def _count(rows: Rows, names: Sequence[str]) -> str:
    conditions = len({row["condition"] for row in rows})
    several = f", {len(names)} runs" if len(names) > 1 else ""
    return count_text(conditions, "condition") + several


def _ranges(rows: Rows, names: Sequence[str], unit: str) -> str:
    spans = []
    for name in names:
        values = [row["value"] for row in rows if row["run"] == name]
        if values:
            spans.append(f"{name}: {min(values):.2f}{unit} to {max(values):.2f}{unit}")
    return "; ".join(spans)

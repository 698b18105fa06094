"""Training time by condition, where the playbook sweeps something else than the delay's probability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from deploy.analysis.figures.figure import (
    Figure,
    Rows,
    all_or_one,
    conditions_axis,
    cut_words,
    data,
    labels,
    layered,
    spec_of,
)
from deploy.labels import count_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.analysis.statistics.conditions import Analysis

STEP_PX = 24


def time_by_condition(analysis: Analysis) -> Figure:
    """Return a plain chart: every complete trial a point, a row for each condition; means with their intervals."""
    means = [row for row in _means(analysis) if row["low_s"] is not None]
    title = "Training time by condition"
    said = ", ".join(f"{row['condition']}: {row['time_s']:.2f} s" for row in _means(analysis))
    cut = cut_words(row["low_s"] for row in means)
    intervals = f" Bars: 95 % confidence intervals of the means{cut}." if means else ""
    return Figure(
        name="figure-time",
        title=title,
        subtitle=subtitle(analysis),
        caption="Each point is a trial." + intervals + open_marks(analysis),
        spec=spec_of(
            all_or_one(layered(*_layers(_points(analysis), means, analysis))), STEP_PX * len(analysis.conditions)
        ),
        alt=f"{title}. {said}.",
    )


def subtitle(analysis: Analysis) -> str:
    """Say of how many rounds, clients and trials."""
    trials = [trial for trial in analysis.dataset.complete if trial.timed]
    counts = sorted({len(trial.rounds) for trial in trials})
    rounds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "no"
    what = "round" if counts == [1] else "rounds"
    return f"{rounds} {what}, {count_text(analysis.clients, 'client')}, {count_text(len(trials), 'trial')}"


def open_marks(analysis: Analysis) -> str:
    """Say what triangles are, with a space before it; nothing where there is none."""
    short = any(trial.censored for trial in analysis.dataset.complete)
    return " Triangles: the trial ended before it reached its target." if short else ""


def _points(analysis: Analysis) -> Rows:
    names = labels(analysis)
    return [
        {
            "condition": names[each.plan.condition],
            "time_s": each.total_s,
            "trial": each.plan.index,
            "repeat": each.plan.repeat,
            "reached": not each.censored,
        }
        for each in analysis.dataset.complete
    ]


def _means(analysis: Analysis) -> Iterator[dict[str, Any]]:
    for each in analysis.conditions:
        if each.total_s is not None:
            interval = {"low_s": each.low_s, "high_s": each.high_s}
            yield {"condition": each.label, "time_s": each.total_s, **interval}


def _layers(points: Rows, means: Rows, analysis: Analysis) -> Iterator[alt.Chart]:
    names = list(labels(analysis).values())
    y = alt.Y("condition:N", title=None, sort=names, scale=alt.Scale(domain=names), axis=conditions_axis(names))
    tips = {"time_s": "mean (s)", "low_s": "from (s)", "high_s": "to (s)"}
    base = alt.Chart(data(means)).encode(
        y,
        tooltip=["condition:N", *(alt.Tooltip(f"{name}:Q", title=title, format=".2f") for name, title in tips.items())],
    )
    if means:
        yield base.mark_rule(strokeWidth=1.5).encode(_x("low_s"), alt.X2("high_s:Q"))
        yield base.mark_tick(thickness=2, size=14).encode(_x("time_s"))
        for end in ("low_s", "high_s"):
            yield base.transform_filter(f"datum.{end} > 0").mark_tick(thickness=1.5, size=8).encode(_x(end))
    shapes = alt.Scale(domain=[True, False], range=["circle", "triangle-right"])
    yield (
        alt.Chart(data(points))
        .mark_point(size=60, filled=True, fillOpacity=0.85)
        .encode(
            _x("time_s"),
            y,
            alt.Shape("reached:N", legend=None, scale=shapes),
            tooltip=[
                "condition:N", alt.Tooltip("time_s:Q", title="training time (s)", format=".2f"), "repeat:O", "trial:O",
            ],
        )
    )  # fmt: skip


def _x(name: str) -> alt.X:
    return alt.X(f"{name}:Q", title="training time (s)", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))

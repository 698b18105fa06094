"""Accuracy against rounds and against wall time: a line for each condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import altair as alt
import polars as pl

from deploy.analysis.figures.figure import (
    Figure,
    Rows,
    data,
    faded,
    fading,
    labels,
    layered,
    legend,
    rows_of,
    spec_of,
    whole_numbers,
)
from deploy.analysis.figures.palette import LIGHT, steps
from deploy.labels import setting_name, setting_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.analysis.statistics.conditions import Analysis

MOST_MOMENTS, POINTED = 120, 30
"""Moments of a line; with fewer than the second number of them they are marked."""
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
Against = Literal["round", "time_s"]


def accuracy(analysis: Analysis) -> tuple[Figure, ...]:
    """Return accuracy against rounds and against time; none where no round was evaluated."""
    found = progress(analysis)
    if found.is_empty():
        return ()
    return (
        _figure(analysis, found, "round", "figure-accuracy-rounds"),
        _figure(analysis, found, "time_s", "figure-accuracy-time"),
    )


def progress(analysis: Analysis) -> pl.DataFrame:
    """Return the mean accuracy after each round of each condition, with its range and the mean time until then."""
    rounds = analysis.dataset.rounds.drop_nulls(["condition", "accuracy", "since_s", "round_s"])
    value, time_s = pl.col("accuracy"), pl.col("since_s") + pl.col("round_s")
    means = rounds.group_by("condition", "round").agg(
        value.mean(), value.min().alias("low"), value.max().alias("high"), time_s.mean().alias("time_s"),
        pl.len().alias("trials"),
    )  # fmt: skip
    ordered = means.sort("condition", "round")
    place, count = pl.int_range(pl.len()).over("condition"), pl.len().over("condition")
    every = (count / MOST_MOMENTS).ceil().cast(pl.Int64)
    return ordered.filter((place % every == 0) | (place == count - 1))


def _figure(analysis: Analysis, found: pl.DataFrame, against: Against, name: str) -> Figure:
    words = {"round": "rounds", "time_s": "wall time"}[against]
    title, target = f"Accuracy against {words}", _target(analysis)
    colors = Colors(analysis)
    repeats = max(found["trials"])
    spread = (
        " The band of the chosen condition reaches from its least to its greatest."
        if found["trials"].max() != 1
        else ""
    )
    aim = f" The dashed line is the target, {target[1]:g}." if target else ""
    return Figure(
        name=name,
        title=title,
        subtitle=f"Mean of the trials of a condition (at most {repeats}), after each round",
        caption=f"A line for each condition: {colors.words}.{_alike(found)}{aim}",
        use=spread,
        alt=f"{title}. {_said(found, labels(analysis), against)}",
        spec=spec_of(fading(layered(*_layers(_rows(found, analysis, colors), against, colors, target)))),
    )


class Colors:
    """What tells the lines of conditions apart: the first swept key by colour, the second by dashes.

    One key alone, or one condition, is told apart by colour; more than two keys, by the tooltip and the page's filter.
    """

    def __init__(self, analysis: Analysis) -> None:
        plans = [each.plan for each in analysis.conditions]
        keys = list(dict.fromkeys(key for plan in plans for key in plan.settings))
        self.values = {
            key: list(dict.fromkeys(setting_text(plan, key) for plan in plans if key in plan.settings)) for key in keys
        }
        varied = [key for key in keys if len(self.values[key]) > 1]
        self.key = varied[0] if varied else None
        self.dash = next((key for key in varied[1:] if len(self.values[key]) <= len(DASHES)), None)

    @property
    def words(self) -> str:
        """Say what is told apart how."""
        said = f"colours tell {setting_name(self.key)} apart" if self.key else "there is one"
        return said + (f", dashes {setting_name(self.dash)}" if self.dash else "")

    def channels(self) -> Iterator[alt.Color | alt.StrokeDash]:
        """Yield the encodings."""
        if self.key:
            names = self.values[self.key]
            few = len(names) <= len(LIGHT.series) // 2  # hues are easier to name than steps, but run out
            scale = alt.Scale(domain=names) if few else alt.Scale(domain=names, range=steps(len(names)))
            yield alt.Color(
                "first:N", title=setting_name(self.key), sort=names, scale=scale,
                legend=legend(names, setting_name(self.key), symbolType="stroke"),
            )  # fmt: skip
        if self.dash:
            names = self.values[self.dash]
            scale = alt.Scale(domain=names, range=list(DASHES[: len(names)]))
            entries = legend(names, setting_name(self.dash), symbolType="stroke")
            yield alt.StrokeDash("second:N", title=setting_name(self.dash), sort=names, scale=scale, legend=entries)


def _rows(found: pl.DataFrame, analysis: Analysis, colors: Colors) -> Rows:
    plans = {each.plan.condition: each.plan for each in analysis.conditions}
    names = labels(analysis)
    rows = []
    for row in rows_of(found):
        plan = plans[row["condition"]]
        keys = {"first": colors.key, "second": colors.dash}
        told = {name: setting_text(plan, key) for name, key in keys.items() if key and key in plan.settings}
        rows.append({**row, "condition": names[row["condition"]], **told})
    return rows


def _layers(rows: Rows, against: Against, colors: Colors, target: tuple[str, float] | None) -> Iterator[alt.Chart]:
    title = {"round": "round", "time_s": "since the first round of its trial began (s)"}[against]
    longest = max(row["round"] for row in rows)
    whole = alt.Axis(grid=False, values=whole_numbers(longest), format="d") if against == "round" else None
    x = alt.X(f"{against}:Q", title=title, scale=alt.Scale(zero=False), axis=whole or alt.Axis(tickCount=6, grid=False))
    y = alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    tips = [
        alt.Tooltip("condition:N"),
        alt.Tooltip("round:Q"),
        alt.Tooltip("time_s:Q", title="at (s)", format=".2f"),
        alt.Tooltip("accuracy:Q", format=".4f"),
        alt.Tooltip("low:Q", title="least", format=".4f"),
        alt.Tooltip("high:Q", title="greatest", format=".4f"),
        alt.Tooltip("trials:Q"),
    ]
    channels = list(colors.channels())
    tone = channels[:1]
    base = alt.Chart(data(rows)).encode(x, detail="condition:N", tooltip=tips)
    band = base.mark_area().encode(alt.Y("low:Q"), alt.Y2("high:Q"), *tone)
    if any(row["trials"] > 1 for row in rows):
        chosen = {"condition": {"test": "datum.condition == shown_condition", "value": 0.25}, "value": 0.0}
        yield band.encode(fillOpacity=chosen)
    yield base.mark_line(strokeWidth=1.8).encode(y, *channels, strokeOpacity=faded(0.95))
    if len(rows) <= POINTED * len({row["condition"] for row in rows}):
        yield base.mark_circle(size=22).encode(y, *tone, fillOpacity=faded(0.9))
    if target:
        aim = alt.Chart(data([{"accuracy": target[1]}])).mark_rule(strokeDash=[5, 4], strokeWidth=1.2)
        yield aim.encode(alt.Y("accuracy:Q"))


def _alike(found: pl.DataFrame) -> str:
    """Say how many conditions learn exactly alike, with a space before it."""
    courses = found.group_by("condition").agg(pl.col("accuracy"))
    alike = courses.height - courses["accuracy"].n_unique()
    return f" {alike + 1} conditions learn exactly alike: in rounds, their lines hide each other." if alike else ""


def _target(analysis: Analysis) -> tuple[str, float] | None:
    """Return metric and value of the playbook's target, if accuracy has one."""
    stops = {(plan.stop.metric, plan.stop.at_least) for each in analysis.conditions if (plan := each.plan).stop}
    aims = [stop for stop in stops if stop[0] == "accuracy"]
    return aims[0] if len(aims) == 1 else None


def _said(found: pl.DataFrame, names: dict[int, str], against: Against) -> str:
    """Say where each condition ended."""
    ends: list[dict[str, Any]] = found.group_by("condition", maintain_order=True).last().rows(named=True)
    return (
        "; ".join(
            f"{names[row['condition']]}: {row['accuracy']:.3f} after "
            + (f"{row['round']} rounds" if against == "round" else f"{row['time_s']:.2f} s")
            for row in ends
        )
        + "."
    )

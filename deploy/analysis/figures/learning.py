"""Accuracy against rounds and against wall time: a line for each condition, and thin ones for the trials of one.

A mean ends with the first of its trials: over fewer of them it would run back in time, and tell of the slow ones only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import altair as alt
import polars as pl

from deploy.analysis.figures.figure import (
    SHOWN,
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
from deploy.labels import count_text, setting_name, setting_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.analysis.statistics.conditions import Analysis

MOST_MOMENTS, POINTED = 120, 30
"""Moments of a line; with fewer than the second number of them they are marked."""
MOST_ROWS = 8000
"""Of all trials' lines: with more, a page has none of them."""
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


def courses(analysis: Analysis) -> pl.DataFrame:
    """Return the accuracy after each round of each complete trial, and the time until then."""
    complete = [trial.plan.index for trial in analysis.dataset.complete]
    rounds = analysis.dataset.rounds.drop_nulls(["condition", "accuracy", "since_s", "round_s"])
    own = rounds.filter(pl.col("trial").is_in(complete)).sort("condition", "trial", "round")
    return own.select("condition", "trial", "round", "accuracy", time_s=pl.col("since_s") + pl.col("round_s"))


def progress(analysis: Analysis) -> pl.DataFrame:
    """Return the means of each condition after each round that all its trials had, and the accuracies' range."""
    value = pl.col("accuracy")
    found = courses(analysis).with_columns(of=pl.col("trial").n_unique().over("condition"))
    means = found.group_by("condition", "round").agg(
        value.mean(), value.min().alias("low"), value.max().alias("high"), pl.col("time_s").mean(),
        pl.len().alias("trials"), pl.col("of").first(),
    )  # fmt: skip
    of_all = means.sort("condition", "round").filter(pl.col("trials") == pl.col("of"))
    return _few(of_all.drop("of"), "condition")


def _few(found: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """Return not more moments of each line than can be seen, the last one among them."""
    place, count = pl.int_range(pl.len()).over(keys), pl.len().over(keys)
    every = (count / MOST_MOMENTS).ceil().cast(pl.Int64)
    return found.filter((place % every == 0) | (place == count - 1))


def _figure(analysis: Analysis, found: pl.DataFrame, against: Against, name: str) -> Figure:
    words = {"round": "rounds", "time_s": "wall time"}[against]
    title, target, colors = f"Accuracy against {words}", _target(analysis), Colors(analysis)
    thin = _rows(_trials(analysis), analysis, colors)
    alone = found["condition"].n_unique() == 1
    trials = " Thin lines: its trials." if alone else " The trials of a chosen condition are drawn as thin lines."
    aim = f" The dashed line is the target, {target[1]:g}." if target else ""
    return Figure(
        name=name,
        title=title,
        subtitle=_subtitle(found),
        caption=f"A line for each condition: {colors.words}.{_alike(found)}{aim}{trials if thin and alone else ''}",
        use=trials if thin and not alone else "",
        alt=f"{title}. {_said(found, labels(analysis), against)}",
        spec=spec_of(fading(layered(*_layers(_rows(found, analysis, colors), thin, against, colors, target)))),
    )


def _subtitle(found: pl.DataFrame) -> str:
    most = max(found["trials"])
    if most == 1:
        return "One trial of each condition, after each round"
    return f"Mean of a condition's trials (at most {most}), after each round that all of them had"


def _trials(analysis: Analysis) -> pl.DataFrame:
    """Return the lines of trials, where a condition has several; none where they are too many for a page."""
    found = courses(analysis)
    few = _few(found.filter(pl.col("trial").n_unique().over("condition") > 1), "condition", "trial")
    return few if few.height <= MOST_ROWS else few.clear()


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
                legend=legend(names, setting_name(self.key), symbol="stroke"),
            )  # fmt: skip
        if self.dash:
            names = self.values[self.dash]
            scale = alt.Scale(domain=names, range=list(DASHES[: len(names)]))
            entries = legend(names, setting_name(self.dash), symbol="stroke")
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


def _layers(
    rows: Rows, thin: Rows, against: Against, colors: Colors, target: tuple[str, float] | None
) -> Iterator[alt.Chart]:
    x = _x(against, [row["round"] for row in (*rows, *thin)])
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
    if thin:
        own = [*tips[:4], alt.Tooltip("trial:Q")]
        lines = alt.Chart(data(thin)).mark_line(strokeWidth=1).encode(x, y, *tone, tooltip=own)
        shown = "true" if len({row["condition"] for row in rows}) == 1 else f"datum.condition == {SHOWN}"
        yield lines.encode(detail=["condition:N", "trial:N"]).transform_filter(shown)
    yield base.mark_line(strokeWidth=1.8).encode(y, *channels, strokeOpacity=faded(0.95))
    if len(rows) <= POINTED * len({row["condition"] for row in rows}):
        yield base.mark_circle(size=22).encode(y, *tone, fillOpacity=faded(0.9))
    if target:
        aim = alt.Chart(data([{"accuracy": target[1]}])).mark_rule(strokeDash=[5, 4], strokeWidth=1.2)
        yield aim.encode(alt.Y("accuracy:Q"))


def _x(against: Against, rounds: list[int]) -> alt.X:
    """Return the horizontal axis; that of rounds reaches as far as the longest trial, whatever is shown."""
    title = {"round": "round", "time_s": "since the first round of its trial began (s)"}[against]
    first, last = min(rounds), max(rounds)
    scale, axis = alt.Scale(zero=False), alt.Axis(tickCount=6, grid=False)
    if against == "round":
        scale = alt.Scale(domain=[first, max(last, first + 1)], nice=False)
        axis = alt.Axis(grid=False, values=[each for each in whole_numbers(last) if each >= first], format="d")
    return alt.X(f"{against}:Q", title=title, scale=scale, axis=axis)


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
            + (count_text(row["round"], "round") if against == "round" else f"{row['time_s']:.2f} s")
            for row in ends
        )
        + "."
    )

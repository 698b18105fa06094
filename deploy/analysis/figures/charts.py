"""The figures, as Vega-Lite specifications made with Altair; drawing and saving them is `render`'s.

Colours come from the configuration's `category` range (see `palette`), so that a page can exchange them for its dark
scheme without touching a specification.
"""

from __future__ import annotations

from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import altair as alt
import msgspec

from deploy.analysis.figures.palette import PART_COLORS
from deploy.analysis.reading.rows import Trial
from deploy.analysis.statistics.conditions import base_key, grouped
from deploy.analysis.statistics.theory import expected_s
from deploy.labels import PROBABILITY, SECONDS, pair_text
from flcommon.delay import Delay

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deploy.analysis.statistics.conditions import Analysis, Condition

GRID = 50
"""Intervals of the fine grid on which theory is drawn."""
ROW_PX, PANEL_PX = 22, 300
DASH = [5, 4]
MEASURED, THEORY = "measured", "theory"
PARTS = ("compute", "injected delay", "everything else")

Rows = list[dict[str, Any]]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure: file name without suffix, title, notes, and specification.

    `caption` says how to read it, `alt` what is to be seen.
    """

    name: str
    title: str
    subtitle: str
    caption: str
    alt: str
    spec: dict[str, Any]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The trials that share everything but the delay's probability: one line of figure 4."""

    label: str
    delay: Delay | None
    trials: list[Trial]


def main_figure(analysis: Analysis) -> Figure:
    """Return time against delay probability where the playbook sweeps that, else time by condition."""
    sweeps = any(PROBABILITY in trial.plan.settings for trial in analysis.dataset.trials)
    return time_against_probability(analysis) if sweeps else time_by_condition(analysis)


def lines(trials: Iterable[Trial]) -> list[Line]:
    """Return the lines of figure 4, in the order of the plan."""
    groups = grouped(trials, lambda plan: str({k: v for k, v in plan.settings.items() if k != PROBABILITY}))
    return [_line(group) for group in groups.values()]


def _line(trials: list[Trial]) -> Line:
    plan = next((trial.plan for trial in trials if trial.plan.delay), trials[0].plan)
    rest = [key for key in plan.settings if key not in {PROBABILITY, SECONDS}]
    size = [f"d = {plan.delay.seconds.label}"] if plan.delay else []
    label = ", ".join(size + [pair_text(plan, key) for key in rest])
    return Line(label=label or "no delay", delay=plan.delay, trials=trials)


def time_against_probability(analysis: Analysis) -> Figure:
    """Return figure 4: every trial a point, a solid line through the means, theory dashed in the same colour."""
    found = lines(analysis.dataset.complete)
    points = [row for line in found for row in _points(line)]
    curves = [row for line in found for row in (*_means(line), *_theory(line, analysis))]
    chart = alt.layer(*_layers(points, curves, [line.label for line in found]))
    title = "Training time against delay probability"
    subtitle = _subtitle(analysis)
    caption = "Each point is a trial; the solid line goes through the means, the dashed line is theory."
    return Figure(
        caption=caption + _open_marks(analysis),
        name="figure-4",
        title=title,
        subtitle=subtitle,
        spec=_finished(chart),
        alt=_alt(found, title, analysis),
    )


def _probability(trial: Trial) -> float:
    return trial.plan.delay.probability if trial.plan.delay else 0.0


def _points(line: Line) -> Iterator[dict[str, Any]]:
    for trial in line.trials:
        yield {
            "p": _probability(trial),
            "d": line.label,
            "time_s": trial.total_s,
            "trial": trial.plan.index,
            "repeat": trial.plan.repeat,
            "rounds": len(trial.rounds),
            "reached": not trial.censored,
        }


def _means(line: Line) -> Iterator[dict[str, Any]]:
    timed = [trial for trial in line.trials if trial.timed and trial.total_s is not None]
    for p in sorted({_probability(trial) for trial in timed}):
        totals = [trial.total_s or 0.0 for trial in timed if _probability(trial) == p]
        yield {"p": p, "d": line.label, "time_s": fmean(totals), "kind": MEASURED}


def _theory(line: Line, analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Draw E[T] over the swept probabilities, for as many rounds as the line's median trial had."""
    base = analysis.baselines[base_key(line.trials[0].plan)]
    rounds = [len(trial.rounds) for trial in line.trials if trial.timed]
    if base is None or line.delay is None or not rounds:
        return
    low, high = min(map(_probability, line.trials)), max(map(_probability, line.trials))
    for p in (low + (high - low) * i / GRID for i in range(GRID + 1)):
        delay = msgspec.structs.replace(line.delay, probability=p)
        time_s = expected_s(median(rounds), base, delay, analysis.clients, line.trials[0].plan.injected_share)
        yield {"p": round(p, 6), "d": line.label, "time_s": time_s, "kind": THEORY}


def _layers(points: Rows, curves: Rows, labels: list[str]) -> Iterator[alt.Chart]:
    x, y = _x(points), alt.Y("time_s:Q", title="training time (s)", scale=alt.Scale(zero=False))
    legend = alt.Legend(symbolType="stroke", columns=_columns(labels))
    color = alt.Color("d:N", title=None, sort=labels, legend=legend)
    dash = alt.StrokeDash(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=[MEASURED, THEORY], range=[[1, 0], DASH]),
        legend=alt.Legend(symbolType="stroke", labelExpr=_dash_words(points)),
    )
    yield alt.Chart(alt.InlineData(values=curves)).mark_line(strokeWidth=2).encode(x, y, color, dash)
    yield from _marks(points, x, y, color)


def _columns(labels: list[str]) -> int:
    """Return how many entries of a legend fit side by side on a phone, where a line holds some 36 letters."""
    longest = max((len(label) for label in labels), default=1)
    return max(1, min(len(labels), 36 // longest))


def _dash_words(points: Rows) -> str:
    repeated = len({(row["p"], row["d"]) for row in points}) < len(points)
    measured = "measured (line: mean)" if repeated else "measured"
    return f"datum.value == '{MEASURED}' ? '{measured}' : 'theory'"


def _x(points: Rows) -> alt.X:
    ticks = sorted({row["p"] for row in points})
    few = len(ticks) <= 11  # noqa: PLR2004 - more labels than tenths would overlap on a phone
    return alt.X(
        "p:Q",
        title="delay probability p",
        axis=alt.Axis(values=ticks if few else alt.Undefined, format="~g", grid=False),
        scale=alt.Scale(nice=False, zero=False, padding=12),
    )


def _marks(points: Rows, x: alt.X, y: alt.Y, color: alt.Color) -> Iterator[alt.Chart]:
    tips = [
        alt.Tooltip("time_s:Q", title="training time (s)", format=".2f"),
        alt.Tooltip("p:Q"),
        alt.Tooltip("d:N", title="line"),
        alt.Tooltip("repeat:O"),
        alt.Tooltip("trial:O"),
        alt.Tooltip("rounds:Q"),
    ]
    reached = [row for row in points if row["reached"]]
    short = [row for row in points if not row["reached"]]
    yield alt.Chart(alt.InlineData(values=reached)).mark_circle(size=55, opacity=0.85).encode(x, y, color, tooltip=tips)
    if short:
        open_mark = alt.Chart(alt.InlineData(values=short)).mark_point(shape="triangle-up", size=70)
        yield open_mark.encode(x, y, color, tooltip=tips)


def _alt(found: list[Line], title: str, analysis: Analysis) -> str:
    spans = []
    for line in found:
        means = [row["time_s"] for row in _means(line)]
        if means:
            spans.append(f"{line.label}: {means[0]:.2f} s to {means[-1]:.2f} s")
    low_high = "; ".join(spans)
    return f"{title}. From the lowest to the highest probability, {low_high}. {len(analysis.conditions)} conditions."


def _subtitle(analysis: Analysis) -> str:
    trials = [trial for trial in analysis.dataset.complete if trial.timed]
    counts = sorted({len(trial.rounds) for trial in trials})
    rounds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "no"
    return f"{rounds} rounds, {analysis.clients} clients, {len(trials)} trials"


def _open_marks(analysis: Analysis) -> str:
    short = any(trial.censored for trial in analysis.dataset.complete)
    return " Triangles: the trial ended before it reached its target." if short else ""


def time_by_condition(analysis: Analysis) -> Figure:
    """Return a plain chart: every complete trial a point, one row for each condition."""
    labels = {each.plan.condition: each.label for each in analysis.conditions}
    rows = [
        {"condition": labels[t.plan.condition], "time_s": t.total_s, "trial": t.plan.index, "reached": not t.censored}
        for t in analysis.dataset.complete
    ]
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_point(size=60, filled=True, opacity=0.85)
        .encode(
            alt.X("time_s:Q", title="training time (s)", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
            alt.Y("condition:N", title=None, sort=list(labels.values())),
            alt.Shape(
                "reached:N", legend=None, scale=alt.Scale(domain=[True, False], range=["circle", "triangle-right"])
            ),
            tooltip=["condition:N", alt.Tooltip("time_s:Q", format=".2f"), "trial:O"],
        )
    )
    title = "Training time by condition"
    described = ", ".join(f"{row['condition']}: {row['time_s']:.2f} s" for row in rows)
    return Figure(
        name="figure-time",
        title=title,
        subtitle=_subtitle(analysis),
        caption="Each point is a trial." + _open_marks(analysis),
        spec=_finished(chart, rows=len(labels)),
        alt=f"{title}. {described}.",
    )


def round_parts(analysis: Analysis) -> Figure | None:
    """Return where a round's mean time went, by condition: the slowest client's compute and delay, and the rest.

    Counts the rounds of which every client's log tells; None when there is no such round.
    """
    rows = [row for condition in analysis.conditions for row in _parts(condition, analysis)]
    if not rows:
        return None
    order = [row["condition"] for row in rows[:: len(PARTS)]]
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_bar()
        .encode(
            alt.X("round_s:Q", title="mean time of a round (s)", stack="zero", axis=alt.Axis(format="~g", tickCount=5)),
            alt.Y("condition:N", title=None, sort=order),
            alt.Color(
                "part:N",
                title=None,
                scale=alt.Scale(domain=list(PARTS), range=list(PART_COLORS)),
                legend=alt.Legend(columns=2),
            ),
            alt.Order("rank:Q"),
            tooltip=["condition:N", "part:N", alt.Tooltip("round_s:Q", title="seconds a round", format=".3f")],
        )
    )
    title = "Where a round's time went"
    return Figure(
        name="figure-rounds",
        title=title,
        subtitle="Slowest client of each round; mean over rounds",
        caption="What is neither compute nor injected delay is network, coordination and evaluation.",
        spec=_finished(chart, rows=len(order)),
        alt=f"{title}, by condition. {_ranges(rows)}.",
    )


def _ranges(rows: Rows) -> str:
    """Say for each part of a round between which means it lies."""
    times = {part: [row["round_s"] for row in rows if row["part"] == part] for part in PARTS}
    return "; ".join(f"{part}: {min(each):.3f} s to {max(each):.3f} s" for part, each in times.items())


def _parts(condition: Condition, analysis: Analysis) -> Iterator[dict[str, Any]]:
    trials = [t for t in analysis.dataset.complete if t.plan.condition == condition.plan.condition]
    rounds = [each for trial in trials for each in trial.rounds]
    known = [(r.duration_s, r.critical) for r in rounds if r.duration_s is not None and r.covered and r.critical]
    if not known:
        return
    compute_s = fmean(client.compute_s or 0.0 for _, client in known)
    injected_s = fmean(client.measured_s or 0.0 for _, client in known)
    rest_s = max(0.0, fmean(duration_s for duration_s, _ in known) - compute_s - injected_s)
    for rank, (part, value) in enumerate(zip(PARTS, (compute_s, injected_s, rest_s), strict=True)):
        yield {"condition": condition.label, "part": part, "rank": rank, "round_s": value}


def _finished(chart: alt.Chart | alt.LayerChart | alt.FacetChart, rows: int = 0) -> dict[str, Any]:
    """Return the specification as plain data: `rows` rows of bars or points high, by default a landscape panel."""
    spec: dict[str, Any] = chart.properties(height=ROW_PX * rows or PANEL_PX).to_dict()
    return spec

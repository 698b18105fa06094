"""Figure 4: training time against the probability of the injected delay, beside theory, with intervals of both."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

import altair as alt
import msgspec

from deploy.analysis.figures.figure import (
    Figure,
    Rows,
    cut_words,
    data,
    faded,
    fading,
    labels,
    layered,
    legend,
    spec_of,
)
from deploy.analysis.figures.training import open_marks, subtitle
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
DASH = [5, 4]
SHAPES = ["circle", "square", "diamond", "triangle-down", "cross"]
GAP, ROOM = 0.25, 0.7
"""Between two lines beside each other, and for all of them: of the least step from one p to the next."""
MANY, LARGE, SMALL = 30, 60, 36
"""With more points than the first number, they are small."""
MEASURED, THEORY = "measured", "theory"


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The trials that share everything but the delay's probability: one line of figure 4."""

    label: str
    delay: Delay | None
    trials: list[Trial]


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
    """Return figure 4: trials as points, a solid line through the means, theory dashed in the same colour."""
    found = lines(analysis.dataset.complete)
    aside = dict(zip((line.label for line in found), _aside(found), strict=True))
    points = _moved((row for line in found for row in _points(line, labels(analysis))), aside)
    means = _moved((row for line in found for row in _means(line, analysis)), aside)
    curves = [*means, *(row for line in found for row in _theory(line, analysis))]
    names = [line.label for line in found]
    layers = [*_lines(curves, points, names), *_bands(means, names), *_bars(means, names), *_marks(points, names)]
    title = "Training time against delay probability"
    return Figure(
        name="figure-4",
        title=title,
        subtitle=subtitle(analysis),
        caption="Points: trials; solid lines: their means; dashed lines: theory."
        + _interval_words(means)
        + open_marks(analysis),
        spec=spec_of(fading(layered(*layers))),
        alt=_alt(found, title, analysis),
    )


def _probability(trial: Trial) -> float:
    return trial.plan.delay.probability if trial.plan.delay else 0.0


def _points(line: Line, names: dict[int, str]) -> Iterator[dict[str, Any]]:
    for trial in line.trials:
        yield {
            "p": _probability(trial),
            "d": line.label,
            "time_s": trial.total_s,
            "trial": trial.plan.index,
            "repeat": trial.plan.repeat,
            "rounds": len(trial.rounds),
            "reached": not trial.censored,
            "condition": names[trial.plan.condition],
        }


def _means(line: Line, analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Yield each condition of a line with a mean, in order of p; with its interval, and the one of theory."""
    probabilities = {trial.plan.condition: _probability(trial) for trial in line.trials}
    own = [each for each in analysis.conditions if each.plan.condition in probabilities and each.total_s is not None]
    for each in sorted(own, key=lambda condition: probabilities[condition.plan.condition]):
        yield {
            "p": probabilities[each.plan.condition],
            "d": line.label,
            "time_s": each.total_s,
            "kind": MEASURED,
            **_intervals(each),
        }


def _aside(found: list[Line]) -> list[float]:
    """Return how far beside its p each line stands, so that what was measured of one does not hide another's."""
    there = sorted({_probability(trial) for line in found for trial in line.trials})
    step = min((b - a for a, b in pairwise(there)), default=1.0)
    gap = step * min(GAP, ROOM / max(1, len(found)))
    return [(place - (len(found) - 1) / 2) * gap for place in range(len(found))]


def _moved(rows: Iterable[dict[str, Any]], aside: dict[str, float]) -> Rows:
    """Return rows with where they are drawn: `at`."""
    return [{**row, "at": round(row["p"] + aside[row["d"]], 6)} for row in rows]


def _intervals(condition: Condition) -> dict[str, Any]:
    return {
        "condition": condition.label,
        "low_s": condition.low_s,
        "high_s": condition.high_s,
        "expected_low_s": condition.expected_low_s,
        "expected_high_s": condition.expected_high_s,
    }


def _theory(line: Line, analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Draw E[T] over the swept probabilities, for as many rounds as the trials of the line had in the mean."""
    base = analysis.baselines[base_key(line.trials[0].plan)]
    rounds = [len(trial.rounds) for trial in line.trials if trial.timed]
    if base is None or line.delay is None or not rounds:
        return
    low, high = min(map(_probability, line.trials)), max(map(_probability, line.trials))
    for p in (low + (high - low) * i / GRID for i in range(GRID + 1)):
        delay = msgspec.structs.replace(line.delay, probability=p)
        time_s = expected_s(fmean(rounds), base, delay, analysis.clients, line.trials[0].plan.injected_share)
        yield {"p": round(p, 6), "at": round(p, 6), "d": line.label, "time_s": time_s, "kind": THEORY}


def _lines(curves: Rows, points: Rows, names: list[str]) -> Iterator[alt.Chart]:
    entries = [MEASURED, THEORY]
    dash = alt.StrokeDash(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=entries, range=[[1, 0], DASH]),
        legend=alt.Legend(symbolType="stroke", labelExpr=_dash_words(points)),
    )
    yield alt.Chart(data(curves)).mark_line(strokeWidth=2).encode(_x(points), _y("time_s"), _color(names), dash)


def _bands(means: Rows, names: list[str]) -> Iterator[alt.Chart]:
    """Yield where theory expects the means, as bars of each condition."""
    known = [row for row in means if row["expected_low_s"] is not None and row["expected_high_s"] is not None]
    if known:
        tips = [*_where(), _seconds("expected_low_s", "theory, from"), _seconds("expected_high_s", "theory, to")]
        bars = alt.Chart(data(known)).mark_rule(strokeWidth=6)
        yield bars.encode(
            alt.X("at:Q"),
            _y("expected_low_s"),
            alt.Y2("expected_high_s:Q"),
            _color(names),
            tooltip=tips,
            strokeOpacity=faded(0.25),
        )


def _bars(means: Rows, names: list[str]) -> Iterator[alt.Chart]:
    """Yield the means' intervals."""
    known = [row for row in means if row["low_s"] is not None and row["high_s"] is not None]
    if known:
        tips = [*_where(), _seconds("time_s", "mean"), _seconds("low_s", "from"), _seconds("high_s", "to")]
        base = alt.Chart(data(known)).encode(
            alt.X("at:Q"), _color(names), tooltip=tips, strokeOpacity=faded(1), fillOpacity=faded(1)
        )
        yield base.mark_rule(strokeWidth=1.5).encode(_y("low_s"), alt.Y2("high_s:Q"))
        for end in ("low_s", "high_s"):
            ticks = base.transform_filter(f"datum.{end} > 0")
            yield ticks.mark_tick(orient="horizontal", size=8, thickness=1.5).encode(_y(end))


def _where() -> list[alt.Tooltip]:
    return [alt.Tooltip("p:Q"), alt.Tooltip("d:N", title="line")]


def _seconds(name: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(f"{name}:Q", title=f"{title} (s)", format=".2f")


def _y(name: str) -> alt.Y:
    return alt.Y(f"{name}:Q", title="training time (s)", scale=alt.Scale(zero=False))


def _color(names: list[str]) -> alt.Color:
    return alt.Color("d:N", title=None, sort=names, scale=alt.Scale(domain=names), legend=legend(names))


def _interval_words(means: Rows) -> str:
    measured = any(row["low_s"] is not None for row in means)
    band = any(row["expected_low_s"] is not None for row in means)
    return (
        (" Thin bars: 95 % confidence intervals of the means" if measured else "")
        + (cut_words(row["low_s"] for row in means) + "." if measured else "")
        + (" Broad pale bars: where theory expects 95 of 100 means." if band else "")
        + (" Lines stand side by side at each p." if len({row["at"] - row["p"] for row in means}) > 1 else "")
    )


def _dash_words(points: Rows) -> str:
    repeated = len({(row["p"], row["d"]) for row in points}) < len(points)
    measured = "measured (line: mean)" if repeated else "measured"
    return f"datum.value == '{MEASURED}' ? '{measured}' : 'theory'"


def _x(points: Rows) -> alt.X:
    ticks = sorted({row["p"] for row in points})
    few = len(ticks) <= 11  # noqa: PLR2004 - more labels than tenths would overlap on a phone
    return alt.X(
        "at:Q",
        title="delay probability p",
        axis=alt.Axis(values=ticks if few else alt.Undefined, format="~g", grid=False),
        scale=alt.Scale(nice=False, zero=False, padding=12),
    )


def _marks(points: Rows, names: list[str]) -> Iterator[alt.Chart]:
    tips = [
        _seconds("time_s", "training time"),
        *_where(),
        *(alt.Tooltip(f"{name}:O") for name in ("repeat", "trial", "rounds")),
    ]
    channels = (alt.X("at:Q"), _y("time_s"), _color(names))
    reached = [row for row in points if row["reached"]]
    short = [row for row in points if not row["reached"]]
    shape = alt.Shape("d:N", title=None, sort=names, scale=alt.Scale(domain=names, range=SHAPES), legend=legend(names))
    size = SMALL if len(points) > MANY else LARGE
    closed = alt.Chart(data(reached)).mark_point(size=size, filled=True)
    yield closed.encode(*channels, shape, tooltip=tips, fillOpacity=faded(0.85))
    if short:
        open_mark = alt.Chart(data(short)).mark_point(shape="triangle-up", size=size + 10)
        yield open_mark.encode(*channels, tooltip=tips, strokeOpacity=faded(0.85))


def _alt(found: list[Line], title: str, analysis: Analysis) -> str:
    spans = []
    for line in found:
        means = [row["time_s"] for row in _means(line, analysis)]
        if means:
            spans.append(f"{line.label}: {means[0]:.2f} s to {means[-1]:.2f} s")
    low_high = "; ".join(spans)
    return f"{title}. From the lowest to the highest probability, {low_high}. {len(analysis.conditions)} conditions."

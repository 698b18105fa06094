"""Rounds and hosts on one time line: who computed, was delayed, sent and waited; one trial at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import altair as alt
import msgspec
import polars as pl

from deploy.analysis.figures.figure import (
    SQUARE,
    Figure,
    data,
    labels,
    layered,
    left_out,
    legend,
    most,
    rows_of,
    spec_of,
)
from deploy.analysis.figures.palette import SHARE_COLORS
from deploy.analysis.reading.works import is_training
from deploy.labels import count_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.analysis.reading.rows import Dataset
    from deploy.analysis.statistics.conditions import Analysis

LANE_PX = 24
MOST_BARS, MOST_OF_TRIAL = 15_000, 1500
"""What a page can hold, and what a browser can draw at once."""
_USE = (
    " Drag to move; zoom with the wheel while Ctrl, Alt or \N{PLACE OF INTEREST SIGN} is down, or by pinching on a"
    " touch pad; a double click brings all back."
)
LEAST_S = 0.01
"""Less is not told of in words."""
_BARS = 6
"""Of a client in a round, about."""
TRIAL, FOLLOWS = "shown_trial", "follows_condition"
UNKNOWN = "not known"
COLORS = {name: SHARE_COLORS[name] for name in ("compute", "evaluate", "injected", "network", "waiting", "server")} | {
    UNKNOWN: SHARE_COLORS["unaccounted"]
}


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """What of a run is drawn: trials by their place in the plan, the first so many rounds of each, and hosts."""

    trials: Sequence[int]
    rounds: int
    hosts: Sequence[str]
    first: int
    """The trial that is shown at first."""


def timeline(analysis: Analysis) -> Figure | None:
    """Return the time line; None when no round tells of a message."""
    dataset = analysis.dataset
    bars = activities(dataset)
    if bars.is_empty():
        return None
    chosen = _choose(analysis, bars)
    shown = bars.filter(
        pl.col("trial").is_in(list(chosen.trials))
        & (pl.col("round") <= chosen.rounds)
        & pl.col("host").is_in(list(chosen.hosts))
    )
    title = "Time line of a trial"
    return Figure(
        name="figure-timeline",
        title=title,
        subtitle=f"At first: {_name(analysis, chosen.first)}",
        caption=(
            "A lane for each host; thin lines are the starts of rounds. What a link held back is drawn at the start of"
            " the message's way." + _cut(analysis, chosen)
        ),
        use=_USE,
        alt=f"{title}: {_said(shown, analysis, chosen)}",
        spec=spec_of(_chart(shown, analysis, chosen), LANE_PX * len(chosen.hosts)) | _follows(analysis, chosen),
    )


def activities(dataset: Dataset) -> pl.DataFrame:
    """Return who did what from when to when: trial, round, host, what, start_s and end_s since the trial began."""
    tasks = dataset.tasks.filter((pl.col("trial") >= 0) & (pl.col("round") >= 1))
    began = dataset.rounds.filter(pl.col("round") >= 1).group_by("trial").agg(zero_ns=pl.col("started_ns").min())
    parts = [part.select(*_PLACE, "what", "from_ns", "to_ns") for part in (*_of_clients(tasks), _of_server(dataset))]
    seconds = {
        name: (pl.col(f"{end}_ns") - pl.col("zero_ns")) / 1e9 for name, end in (("start_s", "from"), ("end_s", "to"))
    }
    found = pl.concat(parts).join(began, on="trial", how="inner").with_columns(**seconds)
    lasting = found.filter(pl.col("to_ns") > pl.col("from_ns"))
    return lasting.select(*_PLACE, "what", pl.col("start_s", "end_s").round(4)).sort("trial", "round", "start_s")


_PLACE = ("trial", "round", "host")


def _ns(seconds: str) -> pl.Expr:
    return (1e9 * pl.col(seconds)).round().cast(pl.Int64)


def _of_clients(tasks: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield what each client did; where its clock is not known, only that it had something to do."""
    base = tasks.with_columns(host=pl.col("client"))
    kind = pl.when(is_training()).then(pl.lit("compute")).otherwise(pl.lit("evaluate"))
    started, replied = pl.col("compute_started_ns"), pl.col("reply_received_ns")
    yield base.with_columns(what=kind, from_ns=started, to_ns=started + _ns("compute_s"))
    ended = pl.col("delay_ended_ns")
    yield base.with_columns(what=pl.lit("injected"), from_ns=ended - _ns("delay_s"), to_ns=ended)
    for sent, received, held in (
        ("sent_ns", "received_ns", "down_injected_s"),
        ("reply_sent_ns", "reply_received_ns", "up_injected_s"),
    ):
        left = (pl.col(sent) + _ns(held).fill_null(0)).clip(upper_bound=pl.col(received))
        yield base.with_columns(what=pl.lit("injected"), from_ns=pl.col(sent), to_ns=left)
        yield base.with_columns(what=pl.lit("network"), from_ns=left, to_ns=pl.col(received))
    slowest = replied.max().over("trial", "round", "kind")
    yield base.with_columns(what=pl.lit("waiting"), from_ns=replied, to_ns=slowest)
    lost = base.filter(started.is_null() | pl.col("received_ns").is_null())
    yield lost.with_columns(what=pl.lit(UNKNOWN), from_ns=pl.col("sent_ns"), to_ns=replied)


def _of_server(dataset: Dataset) -> pl.DataFrame:
    kind = pl.when(pl.col("phase") == "evaluate").then(pl.lit("evaluate")).otherwise(pl.lit("server"))
    phases = dataset.phases.filter((pl.col("trial") >= 0) & (pl.col("round") >= 1))
    return phases.with_columns(
        host=pl.lit(dataset.manifest.server), what=kind, from_ns=pl.col("started_ns"), to_ns=pl.col("ended_ns")
    )


def _choose(analysis: Analysis, bars: pl.DataFrame) -> Chosen:
    """Choose one trial of each condition, more where there is room; as many rounds of each as can be drawn."""
    manifest = analysis.dataset.manifest
    busy = bars.filter(pl.col("what") != "waiting").group_by("host").agg((pl.col("end_s") - pl.col("start_s")).sum())
    weights: dict[str, float] = dict(busy.iter_rows())
    hosts = [manifest.server, *most([name for name in manifest.clients if name in weights], weights)]
    plans = {each.plan.index: each.plan for each in analysis.dataset.trials}
    known = sorted(
        (plans[trial].repeat, plans[trial].condition, trial) for trial in set(bars["trial"]) if trial in plans
    )
    lanes = _BARS * len(hosts)
    conditions = len({condition for _, condition, _ in known})
    each = min(MOST_OF_TRIAL, MOST_BARS // max(1, conditions))
    longest = int(bars.select(pl.col("round").max()).item())
    rounds = max(1, min(longest, each // lanes))
    trials = [trial for _, _, trial in known][: max(conditions, MOST_BARS // (rounds * lanes))]
    injected = bars.filter((pl.col("what") == "injected") & pl.col("trial").is_in(trials) & (pl.col("round") <= rounds))
    held = injected.group_by("trial").agg((pl.col("end_s") - pl.col("start_s")).sum())
    amounts: dict[int, float] = dict(held.iter_rows())
    return Chosen(trials=trials, rounds=rounds, hosts=hosts, first=max(trials, key=lambda each: amounts.get(each, 0.0)))


def _name(analysis: Analysis, trial: int) -> str:
    plan = next(each.plan for each in analysis.dataset.trials if each.plan.index == trial)
    several = len({each.plan.repeat for each in analysis.dataset.trials}) > 1
    return labels(analysis)[plan.condition] + (f", repeat {plan.repeat + 1}" if several else "")


def _chart(bars: pl.DataFrame, analysis: Analysis, chosen: Chosen) -> alt.LayerChart:
    there = [name for name in COLORS if name in set(bars["what"])]
    colors = alt.Scale(domain=there, range=[COLORS[name] for name in there])
    x = alt.X("start_s:Q", title="since the trial's first round began (s)", axis=alt.Axis(tickCount=6, grid=False))
    hosts = list(chosen.hosts)
    y = alt.Y("host:N", title=None, sort=hosts, scale=alt.Scale(domain=hosts, paddingInner=0.2))
    rows = rows_of(bars.with_columns(for_s=(pl.col("end_s") - pl.col("start_s")).round(4)))
    zoom = alt.selection_interval(
        name="zoom", bind="scales", encodings=["x"], zoom="wheel![event.ctrlKey || event.altKey || event.metaKey]"
    )
    drawn = (
        alt.Chart(data(rows))
        .mark_bar(clip=True)
        .encode(
            x, y, alt.X2("end_s:Q"),
            alt.Color("what:N", title=None, sort=there, scale=colors, legend=legend(there, symbol=SQUARE)),
            tooltip=[
                alt.Tooltip("host:N"),
                alt.Tooltip("what:N"),
                alt.Tooltip("round:Q"),
                alt.Tooltip("start_s:Q", title="from (s)", format=".3f"),
                alt.Tooltip("for_s:Q", title="for (s)", format=".4f"),
            ],
        )
        .add_params(zoom)
    )  # fmt: skip
    starts = alt.Chart(data(_starts(analysis, chosen))).mark_rule(strokeWidth=0.7, clip=True, strokeOpacity=0.8)
    lines = starts.encode(x, tooltip=[alt.Tooltip("round:Q"), alt.Tooltip("control:N", title="control round")])
    return _one_trial(analysis, chosen, (lines, drawn))


def _starts(analysis: Analysis, chosen: Chosen) -> list[dict[str, Any]]:
    rounds = analysis.dataset.rounds.filter(
        pl.col("trial").is_in(list(chosen.trials)) & pl.col("round").is_between(1, chosen.rounds)
    )
    zero = pl.col("started_ns").min().over("trial")
    start_s = ((pl.col("started_ns") - zero) / 1e9).round(4)
    return rows_of(rounds.select("trial", "round", "control", start_s=start_s))


def _one_trial(analysis: Analysis, chosen: Chosen, layers: Sequence[alt.Chart]) -> alt.LayerChart:
    """Show the trial that a menu below the chart names."""
    menu = alt.binding_select(
        options=list(chosen.trials), labels=[_name(analysis, trial) for trial in chosen.trials], name="trial "
    )
    chart: alt.LayerChart = layered(*(each.transform_filter(f"datum.trial == {TRIAL}") for each in layers))
    return chart.add_params(alt.param(name=TRIAL, value=chosen.first, bind=menu))


def _follows(analysis: Analysis, chosen: Chosen) -> dict[str, Any]:
    """Say which trial a page shall put into the menu once it shows one condition: the first of that."""
    conditions = {each.plan.index: each.plan.condition for each in analysis.dataset.trials}
    names = labels(analysis)
    first = {names[conditions[trial]]: trial for trial in reversed(chosen.trials)}
    return {"usermeta": {FOLLOWS: {"signal": TRIAL, "values": first}}}


def _cut(analysis: Analysis, chosen: Chosen) -> str:
    """Say what is left out."""
    dataset = analysis.dataset
    longest = max((len(trial.rounds) for trial in dataset.trials if trial.plan.index in chosen.trials), default=0)
    begun = [trial for trial in dataset.trials if trial.rounds]
    said = left_out(chosen.hosts[1:], dataset.manifest.clients, "those that were busiest")
    if chosen.rounds < longest:
        said += f" Of each trial the first {chosen.rounds} of {longest} rounds are drawn."
    if len(chosen.trials) < len(begun):
        said += f" {len(chosen.trials)} of {len(begun)} trials can be chosen."
    return said


def _said(bars: pl.DataFrame, analysis: Analysis, chosen: Chosen) -> str:
    """Say how long who did what in the trial that is shown at first."""
    rows = bars.filter(trial=chosen.first)
    sums = rows.group_by("host", "what").agg(for_s=(pl.col("end_s") - pl.col("start_s")).sum())
    told = []
    for host in chosen.hosts[:6]:
        own = sums.filter((pl.col("host") == host) & (pl.col("for_s") >= LEAST_S)).sort(
            "for_s", "what", descending=[True, False]
        )
        told.append(f"{host} " + ", ".join(f"{row['what']} {row['for_s']:.2f} s" for row in own.rows(named=True)))
    rounds = rows["round"].n_unique()
    return f"{_name(analysis, chosen.first)}, {count_text(rounds, 'round')}. " + "; ".join(told) + "."

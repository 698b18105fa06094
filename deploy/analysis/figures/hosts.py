"""Distributions by host: compute time, natural time of messages one way, and round trips."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from deploy.analysis.figures import spread
from deploy.analysis.figures.figure import ALL, Figure, condition_of_trial, in_all_and_each, labels, left_out, most
from deploy.analysis.reading.messages import INSEPARABLE, flagged
from deploy.analysis.reading.works import is_training
from deploy.labels import significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.analysis.statistics.conditions import Analysis

DOWN, UP = "down: server to client", "up: client to server"
SOURCES = {
    "idle": "idle connection, natural",
    "before": "probe before the trials",
    "after": "probe after them",
    "tcp": "TCP's own estimate",
}


def compute(analysis: Analysis) -> Figure | None:
    """Return compute times of training, a lane for each client; None when no client's log tells."""
    tasks = analysis.dataset.tasks.filter(is_training() & pl.col("compute_s").is_not_null() & (pl.col("trial") >= 0))
    if tasks.is_empty():
        return None
    values = _in_conditions(tasks.select("trial", host="client", value="compute_s"), analysis)
    lanes = spread.Lanes(values=values, hosts=_hosts(analysis, values), title="compute time of a round (s)", unit="s")
    title = "Compute time by client"
    return Figure(
        name="figure-compute",
        title=title,
        subtitle=f"{tasks.height} times that a client trained",
        caption=_caption(lanes, analysis, "those whose median is longest"),
        alt=f"{title}. {spread.medians(lanes)}",
        spec=spread.spec(lanes),
    )


def one_way(analysis: Analysis) -> Figure | None:
    """Return the natural times of messages one way, by client and direction; None where no clocks were compared."""
    tasks = analysis.dataset.tasks.filter(
        is_training() & pl.col("down_s").is_not_null() & (pl.col("trial") >= 0) & ~flagged(INSEPARABLE)
    )
    if tasks.is_empty():
        return None
    ways = [
        tasks.select(
            "trial",
            host="client",
            kind=pl.lit(kind),
            value=1000 * (pl.col(f"{way}_s") - pl.col(f"{way}_injected_s").fill_null(0)),
            off=1000 * pl.col("uncertainty_s"),
        )
        for way, kind in (("down", DOWN), ("up", UP))
    ]
    values = _in_conditions(pl.concat(ways).drop_nulls("value"), analysis)
    lanes = spread.Lanes(
        values=values, hosts=_hosts(analysis, values), title="natural time one way (ms)", unit="ms", kinds=(DOWN, UP)
    )
    title = "Time of a training message one way, without what was injected"
    return Figure(
        name="figure-one-way",
        title=title,
        subtitle=f"{tasks.height} messages in each direction, from the first byte to the last",
        caption=_caption(lanes, analysis, "those whose median is longest") + _unsure(values),
        alt=f"{title}. {spread.medians(lanes)}",
        spec=spread.spec(lanes),
    )


def round_trips(analysis: Analysis) -> Figure | None:
    """Return round trips by client: of an idle connection, of probes, and TCP's own; None when there is none."""
    natural = pl.col("rtt_ms") - pl.when(pl.col("source") == "idle").then("injected_ms").otherwise(0.0)
    trips = analysis.dataset.trips.select(
        "trial", host="client", kind=pl.col("source").replace_strict(SOURCES), value=natural
    ).drop_nulls("value")
    if trips.is_empty():
        return None
    kinds = [kind for kind in SOURCES.values() if kind in set(trips["kind"])]
    values = _in_conditions(trips, analysis)
    lanes = spread.Lanes(values=values, hosts=_hosts(analysis, values), title="round trip (ms)", unit="ms", kinds=kinds)
    title = "Round trips by client"
    tcp = " TCP's estimate is smoothed, and holds what was injected." if analysis.dataset.network.linked else ""
    return Figure(
        name="figure-rtt",
        title=title,
        subtitle="Small messages there and back; no common clock is needed",
        caption=_caption(lanes, analysis, "those whose median is longest") + tcp,
        alt=f"{title}. {spread.medians(lanes)}",
        spec=spread.spec(lanes),
    )


def _unsure(values: pl.DataFrame) -> str:
    """Say how far clocks leave the direction of a time open, with a space before it."""
    unsure = values["off"].median()
    if not isinstance(unsure, float):
        return ""
    open_ms = significant(unsure)
    return (
        f" Brackets: how far clocks leave a median open, ± {open_ms} ms; what they give one way, they take the other."
    )


def _in_conditions(values: pl.DataFrame, analysis: Analysis) -> pl.DataFrame:
    """Give each value its condition, and once more "all"; what belongs to no trial is only in all."""
    return in_all_and_each(values.with_columns(condition=condition_of_trial(analysis)), labels(analysis))


def _hosts(analysis: Analysis, values: pl.DataFrame) -> list[str]:
    """Return the clients that have values, in the order of the inventory; of many those with the longest median."""
    middles = values.filter(condition=ALL).group_by("host").agg(pl.col("value").median())
    weights: dict[str, float] = dict(middles.iter_rows())
    return most([name for name in analysis.dataset.manifest.clients if name in weights], weights)


def _caption(lanes: spread.Lanes, analysis: Analysis, why: str) -> str:
    hosts: Sequence[str] = analysis.dataset.manifest.clients
    return f"{spread.HOW_TO_READ}.{spread.edge(lanes)}{left_out(lanes.hosts, hosts, why)}"

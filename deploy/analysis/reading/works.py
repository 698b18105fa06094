"""What the clients' logs say about training: compute time and injected delay of each client in each round.

A client that is started again gets its unanswered instruction once more: what counts is how its last process did it,
and no duration runs from one process to the next, which may have another clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from flcommon.events import ComputeEnded, ComputeStarted, Delayed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.analysis.clocks.exchanges import Process
    from deploy.analysis.reading.logs import Logs

WORKS: dict[str, type[pl.DataType]] = {
    "trial": pl.Int64,
    "round": pl.Int64,
    "client": pl.String,
    "compute_s": pl.Float64,
    "requested_s": pl.Float64,
    "measured_s": pl.Float64,
}
"""One client's training in one round, by its own log: `requested_s` is the delay that was drawn, `measured_s` how long
it really took; null where the log does not say."""
_KEY = ("trial", "round", "client")
_TASK = (*_KEY, "message")


def of_kind(kind: str) -> pl.Expr:
    """Whether a message is of one of Flower's types, with or without an action's name: `train`, `train.one`."""
    return (pl.col("kind") == kind) | pl.col("kind").str.starts_with(f"{kind}.")


def is_training() -> pl.Expr:
    """Whether a message's kind asks for training, as `flcommon.events.is_training`."""
    return of_kind("train")


def works_frame(logs: Logs, clients: Sequence[str]) -> pl.DataFrame:
    """Return WORKS, of these clients and in their order.

    An app may send a client several `train` messages a round, a secure aggregation always does: their times add up.
    """
    own = [process for client in clients for process in logs.processes_of[client]]
    names = _names(own)
    told = pl.concat([
        _told(logs, names, ComputeStarted, pl.col("mono_ns").alias("started_ns")),
        _told(logs, names, ComputeEnded, pl.col("mono_ns").alias("ended_ns")),
        _told(logs, names, Delayed, "requested_s", "measured_s"),
    ], how="diagonal")  # fmt: skip
    last = ("started_ns", "ended_ns", "requested_s", "measured_s")
    tasks = told.group_by(*_TASK, "process", maintain_order=True).agg(pl.col(last).drop_nulls().last())
    tasks = tasks.sort("process").unique(_TASK, keep="last", maintain_order=True)
    tasks = tasks.with_columns(((pl.col("ended_ns") - pl.col("started_ns")) / 1e9).alias("compute_s"))
    known = {name: pl.col(name).is_not_null() for name in ("compute_s", "requested_s")}
    rows = tasks.group_by(_KEY, maintain_order=True).agg(
        pl.when(known["compute_s"].all()).then(pl.col("compute_s").sum()).alias("compute_s"),
        *(pl.when(known["requested_s"].any()).then(pl.col(name).sum()).alias(name) for name in last[2:]),
    )
    ranks = pl.DataFrame(
        {"client": list(clients), "rank": range(len(clients))}, schema={"client": pl.String, "rank": pl.Int64}
    )
    rows = rows.join(ranks, on="client", how="left").sort("trial", "round", "rank", maintain_order=True)
    return rows.select(*WORKS)


def _names(own: Sequence[Process]) -> pl.DataFrame:
    rows = [(process.index, process.host) for process in own]
    return pl.DataFrame(rows, schema={"process": pl.Int64, "client": pl.String}, orient="row")


def _told(
    logs: Logs, names: pl.DataFrame, kind: type[ComputeStarted | ComputeEnded | Delayed], *columns: str | pl.Expr
) -> pl.DataFrame:
    """Return what one kind of event tells of training."""
    told = logs.of(kind).filter(is_training()).select("trial", "round", "message", "process", *columns)
    return told.join(names, on="process", maintain_order="left")

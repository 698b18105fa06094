"""The data set: every step of every message, every phase and every round as one row each, on one time line.

It is lazy, for it has ten times as many rows as there are messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from deploy.analysis.columns import SPANS, STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.analysis.reading.rows import Dataset

NS = 1e9


class _Step(NamedTuple):
    """From when (nanoseconds, by columns of TASKS: a moment, minus seconds, plus seconds), and for how long."""

    moment: str
    seconds: str
    minus: tuple[str, ...] = ()
    plus: tuple[str, ...] = ()
    at_server: bool = False
    size: str | None = None


_STEPS = dict(
    zip(
        STEPS,
        (
            _Step("sent_ns", "down_encode_s", minus=("down_queue_s", "down_encode_s"), at_server=True),
            _Step("sent_ns", "down_queue_s", minus=("down_queue_s",), at_server=True),
            _Step("sent_ns", "down_s", size="down_bytes"),
            _Step("received_ns", "client_queue_s"),
            _Step("received_ns", "client_decode_s", plus=("client_queue_s",)),
            _Step("compute_started_ns", "compute_s"),
            _Step("delay_ended_ns", "delay_s", minus=("delay_s",)),
            _Step("reply_sent_ns", "up_encode_s", minus=("up_queue_s", "up_encode_s")),
            _Step("reply_sent_ns", "up_queue_s", minus=("up_queue_s",)),
            _Step("reply_sent_ns", "up_s", size="up_bytes"),
            _Step("reply_received_ns", "server_decode_s", at_server=True),
        ),
        strict=True,
    )
)


def spans(dataset: Dataset) -> pl.LazyFrame:
    """Return SPANS: rounds, the server's phases, and the steps of the messages."""
    server = dataset.manifest.server
    rounds = _of_server(dataset.rounds, pl.lit("round"), pl.col("round_s"), dataset)
    phases = _of_server(dataset.phases, pl.col("phase"), pl.col("duration_s"), dataset)
    planned = [(trial.plan.index, trial.plan.condition, trial.plan.repeat) for trial in dataset.trials]
    schema = {"trial": pl.Int64, "condition": pl.Int64, "repeat": pl.Int64}
    plans = pl.DataFrame(planned, schema=schema, orient="row").lazy()
    control = dataset.rounds.lazy().select("trial", "round", pl.col("control").alias("is_control"))
    own = pl.concat([rounds, phases]).join(control, on=("trial", "round"), how="left", maintain_order="left")
    own = own.with_columns(control=pl.col("is_control"), host=pl.lit(server)).drop("is_control")
    every = pl.concat([own, *_steps(dataset)]).join(plans, on="trial", how="left", maintain_order="left")
    return every.select(*SPANS.schema)


_OWN = {name: kind for name, kind in SPANS.schema.items() if name not in {"condition", "repeat"}}


def _of_server(frame: pl.DataFrame, span: pl.Expr, duration: pl.Expr, dataset: Dataset) -> pl.LazyFrame:
    known = frame.lazy().filter(duration.is_not_null()).select(
        "trial",
        "round",
        span.alias("span"),
        ((pl.col("started_ns") - dataset.zero_ns) / NS).alias("start_s"),
        duration.alias("duration_s"),
        pl.lit(0.0).alias("uncertainty_s"),
    )  # fmt: skip
    nothing = [pl.lit(None, kind).alias(name) for name, kind in _OWN.items() if name not in known.collect_schema()]
    return known.with_columns(nothing).select(*_OWN)


def _steps(dataset: Dataset) -> Iterator[pl.LazyFrame]:
    tasks = dataset.tasks.lazy()
    for name, step in _STEPS.items():
        moved = (pl.col(step.moment) - dataset.zero_ns) / NS
        minus, plus = (sum(map(pl.col, columns), start=pl.lit(0.0)) for columns in (step.minus, step.plus))
        exact = pl.lit(0.0) if step.at_server else pl.col("uncertainty_s")
        yield tasks.filter(pl.col(step.seconds).is_not_null()).select(
            "trial",
            "round",
            "control",
            (pl.lit(dataset.manifest.server) if step.at_server else pl.col("client")).alias("host"),
            pl.lit(name).alias("span"),
            "client",
            "message",
            "kind",
            (moved - minus + plus).alias("start_s"),
            pl.col(step.seconds).alias("duration_s"),
            exact.alias("uncertainty_s"),
            (pl.col(step.size) if step.size else pl.lit(None, pl.Int64)).alias("size_bytes"),
        )

"""The slices of a trace: trials, rounds, phases, the critical path, and every message's steps on both hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from deploy.analysis.columns import ROUNDS, STEPS
from deploy.analysis.trace.lanes import in_turn, with_lanes
from deploy.analysis.trace.steps import end_of, start_of
from deploy.labels import settings_text
from flcommon.job import WARMUP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from deploy.manifest import PlannedTrial

COLUMNS = ("host", "thread", "lane", "start_ns", "end_ns", "name", "category", "args")
"""Of every slice; `args` is a JSON object, `lane` tells apart what overlaps."""

TRIALS, ROUNDS_THREAD, PHASES, PATH, MESSAGES = "trials", "rounds", "phases", "critical path", "messages"
SERVER_THREADS = (TRIALS, ROUNDS_THREAD, PATH, PHASES)

_FIRST = pl.lit(0, dtype=pl.Int64)
_TASK = (
    "trial", "round", "control", "client", "kind", "message", "last", "error", "down_bytes", "up_bytes", "round_trip_s",
    "client_s", "uncertainty_s", "flags",
)  # fmt: skip
_TOLD = {
    "server-encode": ("down_encode_s", "down_bytes"),
    "server-queue": ("down_queue_s",),
    "downlink": ("down_s", "down_injected_s", "uncertainty_s", "down_bytes", "flags"),
    "client-queue": ("client_queue_s",),
    "client-decode": ("client_decode_s", "down_bytes"),
    "compute": ("compute_s", "cpu_s"),
    "delay": ("delay_requested_s", "delay_s"),
    "client-encode": ("up_encode_s", "up_bytes"),
    "reply-queue": ("up_queue_s",),
    "uplink": ("up_s", "up_injected_s", "uncertainty_s", "up_bytes", "flags"),
    "server-decode": ("server_decode_s", "up_bytes"),
}
"""What a step's slice tells: as it was measured, while the slice may be cut."""


def messages_of(client: pl.Expr) -> pl.Expr:
    """Name the server's thread for a client's messages."""
    return pl.lit("messages of ") + client


def server_lanes(tasks: pl.DataFrame, server: str) -> pl.DataFrame:
    """Return timed tasks as the server has them, each client's on a thread of its own, with lanes."""
    return with_lanes(
        tasks.with_columns(
            host=pl.lit(server),
            thread=messages_of(pl.col("client")),
            start_ns="server_start_ns",
            end_ns="server_end_ns",
        )
    )


def client_lanes(tasks: pl.DataFrame) -> pl.DataFrame:
    """Return timed tasks as the clients have them, with lanes."""
    return with_lanes(
        tasks.with_columns(host="client", thread=pl.lit(MESSAGES), start_ns="client_start_ns", end_ns="client_end_ns")
    )


def task_slices(laned: pl.DataFrame, steps: Sequence[str]) -> pl.DataFrame:
    """Return the slices of tasks on one side: each whole, and in it its steps."""
    name = pl.when("last").then(pl.col("kind") + " (last)").otherwise("kind")
    whole = laned.select(*_place(), name=name, category=_category("task"), args=_args(_TASK))
    return pl.concat([whole, *(_step_slices(laned, step) for step in steps)])


def waiting_slices(laned: pl.DataFrame) -> pl.DataFrame:
    """Return when a client had answered, and others had not: until the last reply, or its own next instruction."""
    ordered = laned.sort("client", "start_ns")
    upto = pl.min_horizontal("wave_end_ns", pl.col("start_ns").shift(-1).over("client"))
    gaps = ordered.with_columns(start_ns=pl.col("end_ns").cum_max().over("client"), end_ns=upto, lane=_FIRST)
    waiting = gaps.filter(pl.col("reply_received_ns").is_not_null(), pl.col("end_ns") > pl.col("start_ns"))
    args = _args(("trial", "round", "control", "kind"))
    return waiting.select(*_place(), name=pl.lit("waiting"), category=_category("waiting", last=False), args=args)


def critical_path(tasks: pl.DataFrame, phases: pl.DataFrame, server: str) -> pl.DataFrame:
    """Return the steps of each round's last replies and the server's phases, one after the other on one thread."""
    on_path = tasks.filter("last").with_columns(host=pl.lit(server), thread=pl.lit(PATH), lane=_FIRST)
    steps = [_step_slices(on_path, step, ("client",)) for step in STEPS]
    own = phase_slices(phases, server).with_columns(thread=pl.lit(PATH), lane=_FIRST)
    return in_turn(pl.concat([*steps, own]))


def phase_slices(phases: pl.DataFrame, server: str) -> pl.DataFrame:
    """Return the slices of the ServerApp's phases."""
    placed = phases.select(
        "trial", "round", "duration_s",
        host=pl.lit(server), thread=pl.lit(PHASES), start_ns="started_ns", end_ns="ended_ns", name="phase",
    )  # fmt: skip
    args = _args(("trial", "round", "duration_s"))
    lanes = with_lanes(placed.filter(pl.col("end_ns") > pl.col("start_ns")))
    return lanes.select(*_place(), "name", category=pl.lit("phase"), args=args)


def round_slices(rounds: pl.DataFrame, server: str) -> pl.DataFrame:
    """Return the slices of the rounds that ended, with all that the table tells of them."""
    told = [name for name in ROUNDS.schema if name in rounds.columns and not name.endswith("_ns")]
    name = pl.format("round {}", "round") + pl.when("control").then(pl.lit(" (control)")).otherwise(pl.lit(""))
    placed = rounds.filter(pl.col("ended_ns") > pl.col("started_ns")).with_columns(
        host=pl.lit(server), thread=pl.lit(ROUNDS_THREAD), start_ns="started_ns", end_ns="ended_ns"
    )
    category = _category("round", last=False)
    return with_lanes(placed).select(*_place(), name=name, category=category, args=_args(told))


def trial_slices(rounds: pl.DataFrame, plans: Iterable[PlannedTrial], server: str) -> pl.DataFrame:
    """Return the slices of the trials, from the first round to the last."""
    names = {plan.index: f"trial {plan.index}: {settings_text(plan)}" for plan in plans} | {WARMUP: "warm-up"}
    spans = rounds.group_by("trial", maintain_order=True).agg(
        pl.first("condition", "repeat"), start_ns=pl.min("started_ns"), end_ns=pl.max("ended_ns"), rounds=pl.len()
    )
    placed = spans.filter(pl.col("end_ns") > pl.col("start_ns")).with_columns(
        host=pl.lit(server),
        thread=pl.lit(TRIALS),
        name=pl.col("trial").replace_strict(names, default="unknown trial", return_dtype=pl.String),
    )
    args = _args(("trial", "condition", "repeat", "rounds"))
    return with_lanes(placed).select(*_place(), "name", category=pl.lit("trial"), args=args)


def _step_slices(laned: pl.DataFrame, step: str, also: Sequence[str] = ()) -> pl.DataFrame:
    there = laned.filter(pl.col(start_of(step)).is_not_null())
    place = ("host", "thread", "lane", pl.col(start_of(step)).alias("start_ns"), pl.col(end_of(step)).alias("end_ns"))
    args = _args((*also, *_TOLD[step]))
    return there.select(*place, name=pl.lit(step), category=_category("step"), args=args)


def _place() -> Iterator[str]:
    yield from COLUMNS[:5]


def _category(first: str, *, last: bool = True) -> pl.Expr:
    """Return the categories, joined by commas as the format wants it."""
    control = pl.when("control").then(pl.lit(",control")).otherwise(pl.lit(""))
    critical = pl.when("last").then(pl.lit(",critical")).otherwise(pl.lit("")) if last else pl.lit("")
    return pl.lit(first) + control + critical


def _args(names: Iterable[str]) -> pl.Expr:
    return pl.struct(*names).struct.json_encode()

"""When each step of an instruction and its reply began and ended, on the server's monotonic clock.

Durations on one host are exact. Where they stand on the client is as uncertain as its clock: a step that would begin
before the one before it has ended is cut, and none leaves the time between the instruction's first byte and the whole
reply, which the server measured alone.
"""

from __future__ import annotations

import polars as pl

from deploy.analysis.columns import STEPS
from deploy.analysis.trace.lanes import ns

PLACE = ["trial", "round"]
ON_SERVER = ("server-encode", "server-queue", "server-decode")
ON_CLIENT = tuple(step for step in STEPS if step not in ON_SERVER)


def start_of(step: str) -> str:
    """Name the column of a step's start; null where it is not known, or took no time."""
    return f"{step}_start_ns"


def end_of(step: str) -> str:
    """Name the column of a step's end."""
    return f"{step}_end_ns"


def timed(tasks: pl.DataFrame, rounds: pl.DataFrame) -> pl.DataFrame:
    """Add each step's start and end, and those of the whole task, on the client and with its steps on the server.

    A task without two moments is left out. `last`: of a wave of tasks that overlap in time, its reply was decoded last,
    and the round waited for it; `wave_end_ns` is when the last reply of the wave was there.
    """
    raw = tasks.with_columns(**_raw()).with_columns(**_client())
    known = raw.filter(pl.col("client_start_ns") < pl.col("client_end_ns"))
    cut = _cut(known).with_columns(
        server_start_ns=pl.min_horizontal("client_start_ns", *(start_of(step) for step in ON_SERVER)),
        server_end_ns=pl.max_horizontal("client_end_ns", *(end_of(step) for step in ON_SERVER)),
    )
    return _in_waves(cut, rounds).with_row_index("task")


def _in_waves(tasks: pl.DataFrame, rounds: pl.DataFrame) -> pl.DataFrame:
    """Add `last` and `wave_end_ns`; a reply that was not there before the round ended, nobody waited for."""
    over = tasks.join(rounds.select(*PLACE, over_ns="ended_ns"), on=PLACE, how="left")
    in_time = pl.col("reply_received_ns") <= pl.col("over_ns").fill_null(pl.col("reply_received_ns"))
    found = over.with_columns(_done_ns=pl.when(in_time).then("server_end_ns")).sort(*PLACE, "server_start_ns")
    before_ns = pl.col("_done_ns").cum_max().forward_fill().shift(1).over(PLACE)
    opens = before_ns.is_null() | (pl.col("server_start_ns") >= before_ns)
    found = found.with_columns(_opens=opens).with_columns(_wave=pl.col("_opens").cum_sum().over(PLACE))
    wave = [*PLACE, "_wave"]
    done_last = (pl.col("_done_ns") == pl.col("_done_ns").max().over(wave)).fill_null(value=False)
    last = done_last & (done_last.cum_sum().over(wave) == done_last.sum().over(wave))  # of equals, one
    ended_ns = pl.col("reply_received_ns").filter(pl.col("_done_ns").is_not_null()).max().over(wave)
    return found.with_columns(last=last, wave_end_ns=ended_ns).select(pl.exclude("over_ns", "^_.*$"))


def _raw() -> dict[str, pl.Expr]:
    """Return where the log has each step, whatever the others say."""
    sent, received = pl.col("sent_ns"), pl.col("received_ns")
    reply_sent, reply_received = pl.col("reply_sent_ns"), pl.col("reply_received_ns")
    down_queue, up_queue, client_queue = (_known(f"{name}_queue_s") for name in ("down", "up", "client"))
    spans = {
        "server-encode": (sent - down_queue - ns("down_encode_s"), sent - down_queue),
        "server-queue": (sent - down_queue, sent),
        "downlink": (sent, received),
        "client-queue": (received, received + client_queue),
        "client-decode": (received + client_queue, received + client_queue + ns("client_decode_s")),
        "compute": (pl.col("compute_started_ns"), pl.col("compute_started_ns") + ns("compute_s")),
        "delay": (pl.col("delay_ended_ns") - ns("delay_s"), pl.col("delay_ended_ns")),
        "client-encode": (reply_sent - up_queue - ns("up_encode_s"), reply_sent - up_queue),
        "reply-queue": (reply_sent - up_queue, reply_sent),
        "uplink": (reply_sent, reply_received),
        "server-decode": (reply_received, reply_received + ns("server_decode_s")),
    }
    starts = {start_of(step): start for step, (start, _) in spans.items()}
    return starts | {end_of(step): end for step, (_, end) in spans.items()}


def _known(column: str) -> pl.Expr:
    return ns(column).fill_null(0)


def _client() -> dict[str, pl.Expr]:
    first = pl.coalesce("sent_ns", "received_ns", "compute_started_ns")
    latest = pl.max_horizontal("received_ns", *(end_of(step) for step in ON_CLIENT))
    return {"client_start_ns": first, "client_end_ns": pl.coalesce("reply_received_ns", latest)}


def _cut(tasks: pl.DataFrame) -> pl.DataFrame:
    """Put the client's steps one after the other, and drop what has no time."""
    found = tasks.with_columns(_at_ns=pl.col("client_start_ns"))
    for step in ON_CLIENT:
        start = pl.max_horizontal(start_of(step), "_at_ns")
        end = pl.min_horizontal(end_of(step), "client_end_ns")
        there = pl.col(start_of(step)).is_not_null() & pl.col(end_of(step)).is_not_null() & (end > start)
        found = found.with_columns(
            pl.when(there).then(start).alias(start_of(step)),
            pl.when(there).then(end).alias(end_of(step)),
            pl.when(there).then(end).otherwise("_at_ns").alias("_at_ns"),
        )
    for step in ON_SERVER:
        there = pl.col(end_of(step)) > pl.col(start_of(step))
        found = found.with_columns(pl.when(there).then(name).alias(name) for name in (start_of(step), end_of(step)))
    return found.drop("_at_ns")

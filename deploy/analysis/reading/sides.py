"""What each side of a connection wrote about its messages: a row for each process and message, from the logs' frames.

Moments are of the process's own monotonic clock. Of what was written several times, the last counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from flcommon import events

if TYPE_CHECKING:
    from deploy.analysis.reading.logs import Logs

KEY = ("process", "message")
_OWNER = ("owner", "message")


def server_side(logs: Logs, servers: list[int]) -> pl.DataFrame:
    """Return the instructions that the server's processes sent, in the order in which they were first, with replies."""
    sent = logs.of(events.MessageSent).filter(pl.col("process").is_in(servers)).drop("at")
    rest = [name for name in sent.columns if name not in {*KEY, "mono_ns"}]
    asked = sent.group_by(KEY, maintain_order=True).agg(
        pl.col("mono_ns").first().alias("first_ns"),
        pl.col("mono_ns").last().alias("sent_ns"),
        (pl.len() > 1).alias("again"),
        pl.col(rest).last(),
    )
    told = logs.of(events.ReplyReceived).select(
        *KEY,
        pl.col("mono_ns").alias("reply_received_ns"),
        pl.col("size_bytes").alias("reply_bytes"),
        pl.col("wire_bytes").alias("reply_wire_bytes"),
        pl.col("decode_s").alias("server_decode_s"),
        "error",
    )
    found = asked.join(_last(told), on=KEY, how="left", maintain_order="left")
    return _with_again(found, logs, KEY, "again").rename({"process": "server"})


def client_side(logs: Logs, asked: pl.DataFrame) -> pl.DataFrame:
    """Add to instructions what the client's process `owner` tells of each."""
    received = logs.of(events.MessageReceived).select(
        *KEY,
        pl.col("mono_ns").alias("own_received_ns"),
        pl.col("queue_s").alias("client_queue_s"),
        pl.col("decode_s").alias("client_decode_s"),
    )
    started = logs.of(events.ComputeStarted).select(*KEY, pl.col("mono_ns").alias("own_started_ns"))
    ended = logs.of(events.ComputeEnded).select(*KEY, pl.col("mono_ns").alias("own_ended_ns"), "cpu_s")
    delayed = logs.of(events.Delayed).select(
        *KEY,
        pl.col("mono_ns").alias("own_delayed_ns"),
        pl.col("requested_s").alias("delay_requested_s"),
        pl.col("measured_s").alias("delay_s"),
    )
    for told in (received, started, ended, delayed):
        asked = _joined(asked, _last(told))
    asked = _joined(asked, _replies(logs))
    asked = _with_again(asked, logs, _OWNER, "reply_again")
    for up, way in ((False, "down"), (True, "up")):
        used = logs.of(events.LinkUsed).filter(pl.col("up") == up)
        used = used.select(
            *KEY, pl.col("overflowed").alias(f"{way}_overflowed"), pl.col("held_mean_ms").alias(f"{way}_held_ms")
        )
        asked = _joined(asked, _last(used))
    return asked


def with_kernels_word(logs: Logs, asked: pl.DataFrame) -> pl.DataFrame:
    """Add what the sending side's kernel says beside each message."""
    found = _connections(logs)
    down = found.rename({"process": "server"} | {name: f"down_{name}" for name in _TCP})
    up = found.rename({"process": "owner"} | {name: f"up_{name}" for name in _TCP})
    asked = asked.join(down, on=("server", "client", "message"), how="left", maintain_order="left")
    return asked.join(up, on=("owner", "client", "message"), how="left", maintain_order="left")


_TCP = ("retransmitted", "rtt_ms", "rtt_min_ms")


def _connections(logs: Logs) -> pl.DataFrame:
    """Return, by process, client and message, the last sample beside it, and the segments sent again until then.

    Of the two connections of a client that has a relay, the relay's leads to the other host. The first sample of a
    connection, and one whose count is lower than that before, as after a new connection, tell of no segment.
    """
    samples = logs.of(events.TcpSampled).with_columns(pl.col("relay").any().over("process", "client").alias("relayed"))
    samples = samples.filter(pl.col("relay") == pl.col("relayed"))
    samples = samples.with_columns(pl.col("retransmitted").shift(1).over("process", "client").alias("before"))
    beside = (
        samples.filter(pl.col("message").is_not_null())
        .group_by("process", "client", "message")
        .agg(
            pl.when(pl.len() > 1)
            .then(pl.col("retransmitted").first())
            .otherwise(pl.col("before").first())
            .alias("before"),
            pl.col(_TCP).last(),
        )
    )
    again = pl.col("retransmitted") - pl.col("before")
    return beside.select(
        "process", "client", "message", pl.when(again >= 0).then(again).alias("retransmitted"), *_TCP[1:]
    )


def _replies(logs: Logs) -> pl.DataFrame:
    sent = logs.of(events.ReplySent)
    return sent.group_by(KEY).agg(
        pl.col("mono_ns").last().alias("own_sent_ns"),
        (pl.len() > 1).alias("reply_again"),
        pl.col("size_bytes").last().alias("own_reply_bytes"),
        pl.col("wire_bytes").last().alias("own_reply_wire_bytes"),
        pl.col("encode_s").last().alias("up_encode_s"),
        pl.col("queue_s").last().alias("up_queue_s"),
    )


def _with_again(asked: pl.DataFrame, logs: Logs, key: tuple[str, str], name: str) -> pl.DataFrame:
    """Let `name` be true as well for what went on after a new connection."""
    again = logs.of(events.Redelivered).select(*KEY, pl.lit(value=True).alias("anew")).unique()
    found = asked.join(again, left_on=key, right_on=KEY, how="left", maintain_order="left")
    return found.with_columns((pl.col(name) | pl.col("anew").fill_null(value=False)).alias(name)).drop("anew")


def _last(told: pl.DataFrame) -> pl.DataFrame:
    return told.unique(KEY, keep="last")


def _joined(asked: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    return asked.join(told, left_on=_OWNER, right_on=KEY, how="left", maintain_order="left")

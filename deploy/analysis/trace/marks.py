"""What a trace holds beside slices: arrows from where a message was sent to where it arrived, and counters of hosts."""

from __future__ import annotations

import polars as pl

from deploy.analysis.trace.lanes import ns
from deploy.analysis.trace.steps import end_of, start_of

COUNTED = ("cpu_pct", "own_cpu_pct", "steal_pct", "memory_free_mb", "frequency_mhz", "temperature_c")
_RTT = {"down": "rtt by the server's TCP", "up": "rtt by the client's TCP"}


def arrows(on_server: pl.DataFrame, on_clients: pl.DataFrame) -> pl.DataFrame:
    """Return both ends of each message's way that has one, each inside a slice: for timed tasks with lanes.

    Where a slice ends with it, an end lies in its last nanosecond, for a slice's end is not its own.
    """
    down, up = (pl.col(start_of(step)).is_not_null() for step in ("downlink", "uplink"))
    handed = pl.max_horizontal(pl.col(start_of("downlink")) - 1, "server_start_ns")
    arrived = pl.min_horizontal(end_of("uplink"), pl.col("server_end_ns") - 1)
    return pl.concat(
        [
            _ends(on_server.filter(down), "s", "instruction", handed),
            _ends(on_clients.filter(down), "f", "instruction", pl.col(end_of("downlink")) - 1),
            _ends(on_clients.filter(up), "s", "reply", pl.col(start_of("uplink"))),
            _ends(on_server.filter(up), "f", "reply", arrived),
        ]
    )


def _ends(laned: pl.DataFrame, phase: str, name: str, at: pl.Expr) -> pl.DataFrame:
    """Return a row for one end of each arrow; `phase` is the format's: s where it starts, f where it ends."""
    number = 2 * pl.col("task").cast(pl.Int64) + (1 if name == "reply" else 0)
    return laned.select(
        "host", "thread", "lane",
        at_ns=at, phase=pl.lit(phase), id=number, name=pl.lit(name), category=pl.lit("message"),
    )  # fmt: skip


def machine_counters(samples: pl.DataFrame, zero_ns: int) -> pl.DataFrame:
    """Return what was seen of each machine, and is known: the unit is the series' name, which viewers write behind."""
    at = ns("start_s") + zero_ns
    values = []
    for column in COUNTED:
        name, _, unit = column.rpartition("_")
        value = pl.col(column).cast(pl.Float64)
        values.append(samples.select("host", at_ns=at, name=pl.lit(name), unit=pl.lit(unit), value=value))
    known = pl.concat(values).filter(pl.col("value").is_finite(), pl.col("at_ns").is_not_null())
    return known.sort("host", "name", "at_ns")


def rtt_counters(messages: pl.DataFrame) -> pl.DataFrame:
    """Return the kernel's round-trip time beside each message, on its client; by whose TCP is in the name."""
    name = pl.col("direction").replace_strict(_RTT, return_dtype=pl.String)
    values = messages.select(host="client", at_ns="sent_ns", name=name, unit=pl.lit("ms"), value="rtt_ms")
    return values.drop_nulls().sort("host", "name", "at_ns")

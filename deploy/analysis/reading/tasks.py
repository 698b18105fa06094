"""Each instruction with its reply as one row: all steps of its life, durations and moments on the server's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from deploy.analysis.columns import OFFSETS, PHASES, ROUNDS, SAMPLES, TASKS, TRIPS
from deploy.analysis.reading.messages import FLAGS
from flcommon.events import HostSampled, PhaseEnded, Probed, RoundEnded, RoundStarted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.analysis.clocks.clock import ClientProcess, Clocks
    from deploy.analysis.clocks.exchanges import Process
    from deploy.analysis.reading.logs import Logs
    from deploy.analysis.reading.rows import Trial

Row = dict[str, Any]

TOLD = ("trial", "round", "condition", "repeat", "control", "started_ns", "ended_ns", "since_s", "round_s", "accuracy")
"""The columns of ROUNDS that the server's log tells."""
_POINTS = 200
"""Into so many parts a clock's course is cut."""


def tasks_frame(asked: pl.DataFrame, down: pl.DataFrame, up: pl.DataFrame) -> pl.DataFrame:
    """Return TASKS, of instructions and their ways (`messages.ways`)."""
    ways = [
        down.select("transfer_s", "injected_s", "uncertainty_s", "client_s", "round_trip_s", "flags").rename(
            {"transfer_s": "down_s", "injected_s": "down_injected_s"}
        ),
        up.select(pl.col("transfer_s").alias("up_s"), pl.col("injected_s").alias("up_injected_s"),
                  pl.col("flags").alias("up_flags")),
    ]  # fmt: skip
    computed = pl.col("own_started_ns").is_not_null() & pl.col("own_ended_ns").is_not_null()
    return pl.concat([asked, *ways], how="horizontal").select(
        *(name for name in TASKS.schema if name in asked.columns and name not in _COMPUTED),
        *(name for way in ways for name in way.columns if not name.endswith("flags")),
        *(pl.when(computed).then(name).alias(name) for name in ("compute_started_ns", "cpu_s")),
        ((pl.col("own_ended_ns") - pl.col("own_started_ns")) / 1e9).alias("compute_s"),
        pl.col("encode_s").alias("down_encode_s"),
        pl.col("queue_s").alias("down_queue_s"),
        pl.col("size_bytes").alias("down_bytes"),
        pl.col("reply_bytes").alias("up_bytes"),
        _together().alias("flags"),
    ).select(*TASKS.schema)  # fmt: skip


_COMPUTED = {"compute_started_ns", "cpu_s"}


def _together() -> pl.Expr:
    """Return the flags of both ways, each once."""
    down, up = pl.col("flags"), pl.col("up_flags").fill_null("")
    more = [
        pl.when(up.str.contains(flag, literal=True) & ~down.str.contains(flag, literal=True)).then(pl.lit(flag))
        for flag in FLAGS
    ]
    first = pl.when(down != "").then(down)
    return pl.when(up == "").then(down).otherwise(pl.concat_str([first, *more], separator="; ", ignore_nulls=True))


def phases_frame(servers: Sequence[Process]) -> pl.DataFrame:
    """Return PHASES."""
    rows = [
        (e.trial, e.round, e.phase, s.mono_ns - round(e.duration_s * 1e9), s.mono_ns, e.duration_s)
        for server in servers
        for s, e in server.told
        if isinstance(e, PhaseEnded)
    ]
    return pl.DataFrame(rows, schema=PHASES.schema, orient="row")


def rounds_frame(servers: Sequence[Process], trials: Sequence[Trial]) -> pl.DataFrame:
    """Return the columns of ROUNDS that the server's log tells; the others are the account's."""
    plans = {trial.plan.index: trial.plan for trial in trials}
    known = {(trial.plan.index, each.number): each for trial in trials for each in trial.rounds}
    rows: dict[tuple[int, int], Row] = {}
    for server in servers:
        for stamp, event in server.told:
            if isinstance(event, RoundStarted):
                plan, place = plans.get(event.trial), (event.trial, event.round)
                rows[place] = {
                    "trial": event.trial, "round": event.round, "started_ns": stamp.mono_ns, "control": event.control,
                    "condition": plan.condition if plan else None, "repeat": plan.repeat if plan else None,
                    "since_s": known[place].started_s if place in known else None,
                    "accuracy": known[place].accuracy if place in known else None,
                }  # fmt: skip
            elif isinstance(event, RoundEnded) and (event.trial, event.round) in rows:
                row = rows[event.trial, event.round]
                row.update(ended_ns=row["started_ns"] + round(event.duration_s * 1e9), round_s=event.duration_s)
    return pl.DataFrame(list(rows.values()), schema={name: ROUNDS.schema[name] for name in TOLD})


def samples_frame(clocks: Clocks, logs: Logs) -> pl.DataFrame:
    """Return SAMPLES: of hosts whose clock is known."""
    if not clocks.servers:
        return pl.DataFrame(schema=SAMPLES.schema)
    zero_ns = clocks.servers[0].first_ns
    told = logs.of(HostSampled).partition_by("process", as_dict=True, maintain_order=True)
    known = [(server, None) for server in clocks.servers]
    found = [pl.DataFrame(schema=SAMPLES.schema)]
    for process, clock in (*known, *((each.process, each.clock) for each in clocks.clients if each.clock)):
        frame = told.get((process.index,))
        if frame is not None:
            own_ns = frame["mono_ns"].to_numpy()
            at_ns = clock.on_server(own_ns)[0] if clock else own_ns
            frame = frame.with_columns(
                pl.lit(process.host).alias("host"), pl.Series("start_s", (at_ns - zero_ns) / 1e9)
            )
            found.append(frame.select(*SAMPLES.schema))
    return pl.concat(found)


def offsets_frame(clocks: Clocks) -> pl.DataFrame:
    """Return OFFSETS."""
    found = [pl.DataFrame(schema=OFFSETS.schema)]
    for each in clocks.clients:
        if each.clock is None:
            continue
        first_ns, last_ns = each.process.first_ns, each.process.last_ns
        moments = first_ns + (last_ns - first_ns) * np.arange(_POINTS + 1) // _POINTS
        server_ns, uncertainty_s = each.clock.on_server(moments)
        offset_ms = (moments - server_ns - (moments[0] - server_ns[0])) / 1e6
        columns = {
            "client": pl.repeat(each.process.host, len(moments), eager=True),
            "process": pl.repeat(each.process.number, len(moments), eager=True, dtype=pl.Int64),
            "start_s": (server_ns - clocks.servers[0].first_ns) / 1e9,
            "offset_ms": offset_ms,
            "low_ms": offset_ms - 1000 * uncertainty_s,
            "high_ms": offset_ms + 1000 * uncertainty_s,
        }
        found.append(pl.DataFrame(columns, schema=OFFSETS.schema))
    return pl.concat(found)


def trips_frame(clients: Sequence[ClientProcess], idle: pl.DataFrame, messages: pl.DataFrame) -> pl.DataFrame:
    """Return TRIPS."""
    exchanged = idle.with_columns(
        pl.lit("idle").alias("source"),
        (1000 * pl.col("rtt_s")).alias("rtt_ms"),
        (1000 * pl.col("injected_s")).alias("injected_ms"),
    )
    probes = [
        (event.client, event.stage, None, False, rtt_ms, 0.0)
        for each in clients
        for _, event in each.process.told
        if isinstance(event, Probed)
        for rtt_ms in event.rtt_ms
    ]
    kernels = messages.filter(pl.col("rtt_ms").is_not_null()).with_columns(
        pl.lit("tcp").alias("source"), pl.lit(None, pl.Float64).alias("injected_ms")
    )
    probed = pl.DataFrame(probes, schema=TRIPS.schema, orient="row")
    return pl.concat([exchanged.select(*TRIPS.schema), probed, kernels.select(*TRIPS.schema)])

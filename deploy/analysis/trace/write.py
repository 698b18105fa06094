"""Writes `trace.json`, in the Trace Event Format, which ui.perfetto.dev and chrome://tracing open.

Hosts are processes, the server first; its threads hold trials, rounds, the critical path, its phases, and each client's
messages; a client's hold its messages, a second one those that overlap them. Times are microseconds since the first
stamp of the server's log. The format: "Trace Event Format", Google, 2016; `cname` colours chrome://tracing alone.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import polars as pl

from deploy.analysis.trace.scene import scene
from deploy.analysis.trace.slices import MESSAGES, SERVER_THREADS, messages_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.analysis.reading.rows import Dataset
    from deploy.analysis.trace.scene import Scene

LIMIT = 500_000
"""Slices in a trace at most: about 130 MB, which both viewers open in some seconds."""
_LINES = 50_000
_COLORS = {
    "compute": "thread_state_running",
    "delay": "terrible",
    "downlink": "thread_state_iowait",
    "uplink": "thread_state_iowait",
    "waiting": "thread_state_sleeping",
    "configure": "rail_load",
    "aggregate": "rail_load",
    "evaluate": "rail_animation",
}
_OTHER = "thread_state_runnable"


class Traced(msgspec.Struct, frozen=True, kw_only=True):
    """What a trace holds; `rounds_left_out` did not fit, the last ones of the run."""

    path: Path
    slices: int
    arrows: int
    rounds: int
    rounds_left_out: int


def write_trace(dataset: Dataset, rounds: pl.DataFrame, path: Path, limit: int = LIMIT) -> Traced:
    """Write the trace of a run; `rounds` is ROUNDS, with the account's columns or without them.

    A run with more than `limit` slices is cut after the last round that fits, and the file says so. Raises OSError.
    """
    shown = scene(dataset, rounds, limit)
    hosts = _hosts(shown, dataset)
    threads = _threads(shown, hosts)
    about = json.dumps({"displayTimeUnit": "ms", "otherData": _about(dataset, shown)}, ensure_ascii=False)
    with path.open("w", encoding="utf-8") as file:
        file.write(about.removesuffix("}") + ', "traceEvents": [')
        separator = "\n"
        for lines in chain([_names(hosts, threads)], _events(shown, hosts, threads, dataset.zero_ns)):
            for start in range(0, len(lines), _LINES):
                file.write(separator + ",\n".join(lines[start : start + _LINES].to_list()))
                separator = ",\n"
        file.write("\n]}\n")
    return Traced(
        path=path,
        slices=len(shown.slices),
        arrows=len(shown.arrows) // 2,
        rounds=shown.rounds,
        rounds_left_out=shown.rounds_left_out,
    )


def _about(dataset: Dataset, shown: Scene) -> dict[str, str]:
    manifest = dataset.manifest
    about = {"lab": manifest.lab, "playbook": manifest.playbook, "campaign": manifest.campaign}
    if shown.rounds_left_out:
        about["left out"] = f"the last {shown.rounds_left_out} of {shown.rounds + shown.rounds_left_out} rounds"
    return about


def _hosts(shown: Scene, dataset: Dataset) -> pl.DataFrame:
    """Return each host's `pid`: the server, then the clients as the manifest has them, then others."""
    records = dataset.manifest.hosts
    told = sorted(records, key=lambda host: records[host].role != "server")
    found = pl.concat([shown.slices.select("host"), shown.counters.select("host")]).unique().to_series().sort()
    names = dict.fromkeys([*told, *found.drop_nulls()])
    return pl.DataFrame({"host": list(names)}, schema={"host": pl.String}).with_row_index("pid", offset=1)


def _threads(shown: Scene, hosts: pl.DataFrame) -> pl.DataFrame:
    """Return each thread's `tid`, which no other thread or process of the trace has, in the order of the page."""
    names = [*SERVER_THREADS, *hosts.select(messages_of(pl.col("host"))).to_series(), MESSAGES]
    ranks = pl.DataFrame({"thread": names}).with_row_index("rank")
    threads = shown.slices.select("host", "thread", "lane").unique().join(hosts, on="host").join(ranks, on="thread")
    return threads.sort("pid", "rank", "lane").with_row_index("tid", offset=len(hosts) + 1)


def _names(hosts: pl.DataFrame, threads: pl.DataFrame) -> pl.Series:
    """Return the metadata events that name and order processes and threads."""
    lane = pl.when(pl.col("lane") > 0).then(pl.format(" ({})", pl.col("lane") + 1)).otherwise(pl.lit(""))
    of_hosts = hosts.with_columns(tid="pid")
    parts = [
        _metadata(of_hosts, "process_name", pl.struct(name="host")),
        _metadata(of_hosts, "process_sort_index", pl.struct(sort_index="pid")),
        _metadata(threads, "thread_name", pl.struct(name=pl.col("thread") + lane)),
        _metadata(threads, "thread_sort_index", pl.struct(sort_index="tid")),
    ]
    return pl.concat(parts)


def _metadata(rows: pl.DataFrame, name: str, args: pl.Expr) -> pl.Series:
    return _lines(rows.select("pid", "tid", ph=pl.lit("M"), name=pl.lit(name), args=args))


def _events(shown: Scene, hosts: pl.DataFrame, threads: pl.DataFrame, zero_ns: int) -> Iterator[pl.Series]:
    """Return slices, ends of arrows and counters, a line each; a slice stands before those inside it."""
    place = ["host", "thread", "lane"]
    slices = shown.slices.join(threads, on=place).sort("tid", "start_ns", "end_ns", descending=[False, False, True])
    without_args = slices.select(
        "pid", "tid", "name",
        ph=pl.lit("X"), cat="category", ts=_us(pl.col("start_ns") - zero_ns),
        dur=_us(pl.col("end_ns") - pl.col("start_ns")),
        cname=_color(),
    )  # fmt: skip
    yield _lines(without_args).str.strip_suffix("}") + ',"args":' + slices["args"] + "}"
    ends = shown.arrows.join(threads, on=place)
    at = _us(pl.col("at_ns") - zero_ns)
    yield _lines(ends.select("pid", "tid", "id", "name", ph="phase", bp=pl.lit("e"), cat="category", ts=at))
    counters = shown.counters.join(hosts, on="host").with_columns(tid="pid", ts=at)
    for unit, rows in counters.group_by("unit", maintain_order=True):
        args = pl.struct(pl.col("value").alias(str(unit[0])))
        yield _lines(rows.select("pid", "tid", "name", "ts", ph=pl.lit("C"), args=args))


def _color() -> pl.Expr:
    category = pl.col("category")
    return (
        pl.when(category.str.starts_with("round") & category.str.ends_with(",control"))
        .then(pl.lit("grey"))
        .when(category.str.starts_with("task") & category.str.ends_with(",critical"))
        .then(pl.lit("bad"))
        .otherwise(pl.col("name").replace_strict(_COLORS, default=_OTHER, return_dtype=pl.String))
    )


def _us(time_ns: pl.Expr) -> pl.Expr:
    return (time_ns / 1000).round(3)


def _lines(events: pl.DataFrame) -> pl.Series:
    return events.select(pl.struct(pl.all()).struct.json_encode().alias("line")).to_series()

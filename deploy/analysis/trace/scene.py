"""Chooses what of a run goes into its trace, and gathers it: slices, arrows and counters of the rounds that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import polars as pl

from deploy.analysis.columns import STEPS
from deploy.analysis.trace.marks import arrows, machine_counters, rtt_counters
from deploy.analysis.trace.slices import (
    client_lanes,
    critical_path,
    phase_slices,
    round_slices,
    server_lanes,
    task_slices,
    trial_slices,
    waiting_slices,
)
from deploy.analysis.trace.steps import ON_CLIENT, ON_SERVER, PLACE, timed

if TYPE_CHECKING:
    from deploy.analysis.reading.rows import Dataset

_OF_TASK = len(STEPS) + 3
"""Slices of a task at most: its steps, itself on both sides, and the wait after it."""
_OF_ROUND = len(STEPS) * 2 + 1
"""Slices of a round that no task has: itself, and its critical path."""


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What a trace shows: frames with the columns that `slices` and `marks` name, and how much was left out."""

    slices: pl.DataFrame
    arrows: pl.DataFrame
    counters: pl.DataFrame
    rounds: int
    rounds_left_out: int


def scene(dataset: Dataset, rounds: pl.DataFrame, limit: int) -> Scene:
    """Gather the trace of the first rounds, in order of time, that together have `limit` slices at most."""
    fitting, left_out, until_ns = _fitting(dataset, rounds, limit)
    rounds, tasks, phases = (
        frame.join(fitting, on=PLACE, how="semi", nulls_equal=True) for frame in (rounds, dataset.tasks, dataset.phases)
    )
    server = next((name for name, record in dataset.manifest.hosts.items() if record.role == "server"), "server")
    found = timed(tasks, rounds)
    on_server, on_clients = server_lanes(found, server), client_lanes(found)
    plans = [trial.plan for trial in dataset.trials]
    slices = [
        trial_slices(rounds, plans, server),
        round_slices(rounds, server),
        phase_slices(phases, server),
        critical_path(found, phases, server),
        task_slices(on_server, ON_SERVER),
        task_slices(on_clients, ON_CLIENT),
        waiting_slices(on_clients),
    ]
    counters = pl.concat([machine_counters(dataset.samples, dataset.zero_ns), rtt_counters(dataset.messages)])
    return Scene(
        slices=pl.concat(slices),
        arrows=arrows(on_server, on_clients),
        counters=counters if until_ns is None else counters.filter(pl.col("at_ns") <= until_ns),
        rounds=len(rounds),
        rounds_left_out=left_out,
    )


def _fitting(dataset: Dataset, rounds: pl.DataFrame, limit: int) -> tuple[pl.DataFrame, int, int | None]:
    """Return which rounds fit, how many do not, and when the last one ended if that is not all."""
    parts = [
        rounds.select(*PLACE, at_ns="started_ns", to_ns="ended_ns", slices=pl.lit(_OF_ROUND)),
        dataset.tasks.select(*PLACE, at_ns="sent_ns", to_ns="reply_received_ns", slices=pl.lit(_OF_TASK)),
        dataset.phases.select(*PLACE, at_ns="started_ns", to_ns="ended_ns", slices=pl.lit(2)),
    ]
    places = pl.concat(parts).group_by(PLACE).agg(pl.min("at_ns"), pl.max("to_ns"), pl.sum("slices"))
    ordered = places.sort("at_ns", *PLACE, nulls_last=True)
    fits = ordered.filter(pl.col("slices").cum_sum() <= limit)
    left_out = len(rounds) - len(rounds.join(fits, on=PLACE, how="semi", nulls_equal=True))
    until_ns = fits["to_ns"].max() if len(fits) < len(ordered) else None
    return fits.select(PLACE), left_out, until_ns if isinstance(until_ns, int) else None

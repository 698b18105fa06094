"""The life of each task, from the first byte's encoding to the decoded reply, split into parts; and legs of a round.

Parts are durations of one clock each; only what lies between two hosts is split by a common one. What a log does not
tell counts nothing here, and so ends up in what is unaccounted for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from deploy.analysis.account.spans import placed, previous
from deploy.analysis.reading.messages import RESENT, flagged
from deploy.analysis.reading.works import is_training, of_kind

if TYPE_CHECKING:
    from collections.abc import Iterable

PLACE = ("trial", "round")
LEG = (*PLACE, "leg")
STEPS = ("queue", "downlink", "decode", "compute", "injected", "encode", "uplink", "evaluate")
"""The parts of a round that a task's life has."""
AMOUNTS = (*STEPS, "link", "uncertainty")
"""What a life is summed up by: `link` is what the link injected, of `injected`."""
UNTOLD = 0.05
"""Of so many rounds clients' own logs may fail to tell, and sums over rounds are still made."""


def lives(tasks: pl.DataFrame, rounds: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each task of a round that ended: `start_ns`, `end_ns`, its parts in seconds, its `leg`.

    `end_ns` is null where no reply was there before the round ended: none came, or the round did not wait for it.
    `logged` tells whether the client's log tells of it.
    """
    whole = rounds.filter(pl.col("round_s").is_not_null()).select(*PLACE, over_ns="ended_ns")
    found = tasks.join(whole, on=PLACE).with_columns(**_ways())
    handed_ns = (pl.col("down_encode_s") + pl.col("down_queue_s")).fill_null(0.0) * 1e9
    whole_ns = pl.col("reply_received_ns") + (_known("server_decode_s") * 1e9).round().cast(pl.Int64)
    found = found.select(
        *PLACE,
        "client",
        start_ns=pl.col("sent_ns") - handed_ns.round().cast(pl.Int64),
        end_ns=pl.when(pl.col("reply_received_ns") <= pl.col("over_ns")).then(whole_ns),
        trains=is_training(),
        logged=pl.col("client_s").is_not_null(),
        **_parts(),
    )
    return _numbered(found.sort(*PLACE, "start_ns"), PLACE, "leg")


def turns(lives: pl.DataFrame) -> pl.DataFrame:
    """Return those lives that a client's time consists of: of instructions that it had at once, the one done last.

    Only tasks that were answered. Within a leg, a client's turns follow each other.
    """
    keys = (*PLACE, "client")
    answered = lives.filter(pl.col("end_ns").is_not_null()).sort(*keys, "start_ns")
    last = _numbered(answered, keys, "turn").sort("end_ns", maintain_order=True).unique("turn", keep="last")
    return last.sort("turn")


def legs(lives: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each leg that had a reply: from its first task's start to its last reply, and whose that was."""
    answered = pl.col("end_ns").is_not_null()
    return (
        lives.group_by(*PLACE, "leg")
        .agg(
            leg_start_ns=pl.col("start_ns").min(),
            leg_end_ns=pl.col("end_ns").max(),
            critical=pl.col("client").filter(answered).get(pl.col("end_ns").filter(answered).arg_max()),
        )
        .filter(pl.col("leg_end_ns").is_not_null())
    )


def _ways() -> dict[str, pl.Expr]:
    """Return the way there and back, natural and injected: without a common clock, the natural one in halves.

    An instruction's first byte may have been sent more than once: what a broken connection cost is part of the way.
    """
    again = flagged(frozenset({RESENT}))
    last_s = (pl.col("reply_received_ns") - pl.col("sent_ns")) / 1e9
    link_s = _known("down_injected_s") + _known("up_injected_s")
    half_s = (pl.col("round_trip_s") - pl.col("client_s") - link_s) / 2
    resent_s = pl.when(again).then(pl.col("round_trip_s") - last_s).fill_null(0.0)
    waited_s = pl.when(again).then(_known("up_queue_s")).otherwise(0.0)
    down_s = pl.col("down_s") + resent_s - _known("down_injected_s")
    up_s = pl.col("up_s") - _known("up_injected_s")
    timed = pl.col("down_s").is_not_null() | pl.col("up_s").is_not_null()
    return {
        "_down_s": pl.coalesce(down_s, pl.when(~timed).then(half_s), 0.0),
        "_up_s": pl.coalesce(up_s, pl.when(~timed).then(half_s), 0.0) + waited_s,
        "_link_s": pl.when(timed | half_s.is_not_null()).then(link_s).fill_null(0.0),
        "_queue_s": _known("down_queue_s") - resent_s + _known("client_queue_s") + _known("up_queue_s") - waited_s,
        "_uncertainty_s": pl.when(timed).then(pl.col("uncertainty_s")).otherwise(half_s.abs()),
    }


def _parts() -> dict[str, pl.Expr]:
    evaluates = of_kind("evaluate")
    return {
        "queue": pl.col("_queue_s"),
        "downlink": pl.col("_down_s"),
        "decode": _known("client_decode_s") + _known("server_decode_s"),
        "compute": pl.when(~evaluates).then(_known("compute_s")).otherwise(0.0),
        "injected": _known("delay_s") + pl.col("_link_s"),
        "encode": _known("down_encode_s") + _known("up_encode_s"),
        "uplink": pl.col("_up_s"),
        "evaluate": pl.when(evaluates).then(_known("compute_s")).otherwise(0.0),
        "link": pl.col("_link_s"),
        "uncertainty": pl.col("_uncertainty_s"),
    }


def _known(name: str) -> pl.Expr:
    return pl.col(name).fill_null(0.0)


def _numbered(tasks: pl.DataFrame, keys: tuple[str, ...], name: str) -> pl.DataFrame:
    """Number the sets of tasks whose lives overlap in time, in order of their start, throughout the frame.

    A task without an end holds no set open; tasks that were not answered at all belong to the set after them.
    """
    found = placed(tasks, keys, "start_ns", "end_ns").with_columns(_opens=pl.col("_start") >= pl.col("_over"))
    found = found.with_columns(_lone=pl.col("_opens") & pl.col("end_ns").is_null())
    new = pl.col("_opens") & ~previous("_lone", keys).fill_null(value=False)
    return found.select(*tasks.columns, new.cast(pl.Int64).cum_sum().alias(name))


def total(names: Iterable[str]) -> pl.Expr:
    """Return the sum of columns, of which unknown ones count nothing, in their order.

    `sum_horizontal` adds up in any order, so that the last bits of what is left may differ from one report to the next.
    """
    return sum((pl.col(name).fill_null(0.0) for name in names), start=pl.lit(0.0))


def sum_if_any(name: str) -> pl.Expr:
    """Return the sum of a column; null if none of its values is known."""
    return pl.when(pl.col(name).count() > 0).then(pl.col(name).sum())

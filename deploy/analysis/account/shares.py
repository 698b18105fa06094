"""Each client's round: what it did, what it waited for, and what the server did meanwhile; the parts add up to it."""

from __future__ import annotations

import polars as pl

from deploy.analysis.account.lives import AMOUNTS, LEG, PLACE, sum_if_any, total
from deploy.analysis.account.path import covered, gaps
from deploy.analysis.columns import CLIENTS, SHARES

_OWN = (*PLACE, "client")


def stays(turns: pl.DataFrame, legs: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each client in each leg: its steps and shares in seconds, and when its last reply was there.

    `busy_s` runs from the leg's start until then. Waiting until others' instructions were handed out is the engine's.
    """
    found = turns.group_by(*LEG, "client").agg(
        *(pl.col(name).sum() for name in AMOUNTS),
        first_ns=pl.col("start_ns").min(),
        finish_ns=pl.col("end_ns").max(),
        logged=pl.col("logged").all(),
    )
    found = found.join(legs, on=LEG)
    return found.with_columns(
        busy_s=(pl.col("finish_ns") - pl.col("leg_start_ns")) / 1e9,
        network=pl.col("downlink") + pl.col("uplink"),
        engine=total(("encode", "decode", "queue")) + (pl.col("first_ns") - pl.col("leg_start_ns")) / 1e9,
    )


def shares(lives: pl.DataFrame, stays: pl.DataFrame, legs: pl.DataFrame, server: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each client in each round that ended: SHARES, each with `_s`, and `round_s`.

    `server` has a row for each round: `round_s`, and `server` of it.
    """
    long_s = (pl.col("leg_end_ns") - pl.col("leg_start_ns")) / 1e9
    asked = lives.select(*LEG, "client").unique()
    silent = asked.join(stays, on=[*LEG, "client"], how="anti").join(legs, on=LEG)
    unheard = silent.group_by(_OWN).agg(unheard=long_s.sum())
    whole = legs.group_by(PLACE).agg(whole=long_s.sum())
    known = ("compute", "evaluate", "injected", "network", "engine")
    own = stays.group_by(_OWN).agg(*(pl.col(name).sum() for name in known), busy=pl.col("busy_s").sum())
    found = asked.select(_OWN).unique(maintain_order=True).join(server, on=PLACE)
    found = found.join(own, on=_OWN, how="left").join(unheard, on=_OWN, how="left").join(whole, on=PLACE, how="left")
    found = found.with_columns(pl.col(*known, "busy", "unheard", "whole").fill_null(0.0))
    found = found.with_columns(waiting=pl.col("whole") - pl.col("busy") - pl.col("unheard"))
    named = [share for share in SHARES if share != "unaccounted"]
    found = found.with_columns(unaccounted=pl.col("round_s") - total(named))
    return found.select(*_OWN, *(pl.col(share).alias(f"{share}_s") for share in SHARES), "round_s")


def server_work(rounds: pl.DataFrame, legs: pl.DataFrame, phases: pl.DataFrame) -> pl.DataFrame:
    """Return how much of each round that ended the server's phases took before, between and after the legs."""
    ended = rounds.filter(pl.col("round_s").is_not_null())
    between = gaps(ended, legs.select(*PLACE, from_ns="leg_start_ns", end_ns="leg_end_ns"))
    work = covered(between, phases).select(*PLACE, server=total(("in_server", "in_aggregate", "in_evaluate")))
    return ended.select(*PLACE, "round_s").join(work, on=PLACE)


def clients(shares: pl.DataFrame, tasks: pl.DataFrame, rounds: pl.DataFrame) -> pl.DataFrame:
    """Return CLIENTS: the shares, beside the injected delay and whose the round is; `rounds` has `last`."""
    delays = tasks.group_by(_OWN).agg(requested_s=sum_if_any("delay_requested_s"), delay_s=sum_if_any("delay_s"))
    about = rounds.select(*PLACE, "condition", "repeat", "control", last_one="last")
    found = shares.join(about, on=PLACE).join(delays, on=_OWN, how="left")
    found = found.with_columns(last=pl.col("client") == pl.col("last_one"))
    return found.select(*CLIENTS.schema).sort(*PLACE, "client")

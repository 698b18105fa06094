"""A round along its critical path: the client that was last in each leg, and the server's work in between.

A *leg* is a wave of messages that overlap in time. What lies before, between and after the legs is the server's: its
phases say what it did there. The parts are sums of what was logged; what they do not cover is unaccounted for, and is
negative where the logs say more than the round was long.
"""

from __future__ import annotations

import polars as pl

from deploy.analysis.account.lives import PLACE, STEPS, sum_if_any, total
from deploy.analysis.account.spans import begins, placed, previous
from deploy.analysis.columns import PARTS

WORK = {"configure": "server", "aggregate": "aggregate", "evaluate": "evaluate"}
"""Which part a phase of the ServerApp is; one of another name is the server's."""
_KINDS = ("server", "aggregate", "evaluate")


def paths(rounds: pl.DataFrame, turns: pl.DataFrame, legs: pl.DataFrame, phases: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each round that ended: PARTS in seconds, each with `_s`, `uncertainty_s` and `logged`.

    On the way to the last reply of a leg lie all turns of the client whose it is; before its first one the server
    handed out others' instructions.
    """
    own = turns.join(legs, on=[*PLACE, "leg"]).filter(pl.col("client") == pl.col("critical")).sort(*PLACE, "start_ns")
    own = own.with_columns(from_ns=pl.when(begins(("leg",))).then("leg_start_ns").otherwise("start_ns"))
    steps = own.group_by(PLACE).agg(
        *(pl.col(step).sum() for step in STEPS),
        handing=((pl.col("start_ns") - pl.col("from_ns")) / 1e9).sum(),
        uncertainty_s=sum_if_any("uncertainty"),
        logged=pl.col("logged").all(),
    )
    ended = rounds.filter(pl.col("round_s").is_not_null())
    between = gaps(ended, own.select(*PLACE, "from_ns", "end_ns"))
    known = ended.select(*PLACE, "round_s").join(steps, on=PLACE, how="left")
    return _added(known.join(covered(between, phases), on=PLACE, how="left"))


def gaps(rounds: pl.DataFrame, spans: pl.DataFrame) -> pl.DataFrame:
    """Return what lies before, between and after the `spans` of each round, as `gap_start_ns` and `gap_end_ns`.

    Spans have `from_ns` and `end_ns`, and do not overlap.
    """
    between = spans.sort(*PLACE, "from_ns").join(rounds.select(*PLACE, "started_ns"), on=PLACE, maintain_order="left")
    before_ns = previous("end_ns", PLACE).fill_null(pl.col("started_ns"))
    over = spans.group_by(PLACE).agg(pl.col("end_ns").max())
    after = rounds.select(*PLACE, "started_ns", "ended_ns").join(over, on=PLACE, how="left")
    after_ns = pl.coalesce("end_ns", "started_ns")
    return pl.concat(
        [
            between.select(*PLACE, gap_start_ns=before_ns, gap_end_ns="from_ns"),
            after.select(*PLACE, gap_start_ns=after_ns, gap_end_ns="ended_ns"),
        ]
    )


def covered(gaps: pl.DataFrame, phases: pl.DataFrame) -> pl.DataFrame:
    """Return how much of each round's gaps the server's phases cover: `in_server`, `in_aggregate`, `in_evaluate`."""
    own = _disjoint(phases)
    over, begun = _until(gaps, own, "gap_end_ns"), _until(gaps, own, "gap_start_ns")
    names = [f"in_{kind}" for kind in _KINDS]
    both = gaps.select(PLACE).with_columns((over[name] - begun[name]) / 1e9 for name in names)
    return both.group_by(PLACE).agg(pl.col(names).sum())


def _disjoint(phases: pl.DataFrame) -> pl.DataFrame:
    """Return the phases with their part, and how long each part had taken by their end.

    A phase inside another counts in that one.
    """
    ordered = phases.sort(*PLACE, "started_ns", -pl.col("ended_ns"))
    outer = placed(ordered, PLACE, "started_ns", "ended_ns").filter(pl.col("_end") > pl.col("_over"))
    long_ns = pl.col("ended_ns") - pl.col("started_ns")
    outer = outer.with_columns(part=pl.col("phase").replace_strict(WORK, default="server", return_dtype=pl.String))
    long = {kind: pl.when(pl.col("part") == kind).then(long_ns).otherwise(0) for kind in _KINDS}
    # Sums over the whole frame, less what they were when the round began.
    sums = {kind: each.cum_sum() for kind, each in long.items()}
    begun = {kind: pl.when(begins(PLACE)).then(sums[kind] - long[kind]).forward_fill() for kind in _KINDS}
    return outer.with_columns((sums[kind] - begun[kind]).alias(f"after_{kind}") for kind in _KINDS)


def _until(gaps: pl.DataFrame, phases: pl.DataFrame, moment: str) -> pl.DataFrame:
    """Return, for each gap's `moment`, how long each part's phases of its round had lasted by then; in their order."""
    at = gaps.select(*PLACE, at_ns=moment).with_row_index("_row").sort("at_ns")
    found = at.join_asof(
        phases.sort("started_ns"), left_on="at_ns", right_on="started_ns", by=list(PLACE), check_sortedness=False
    ).sort("_row")
    left_ns = pl.col("ended_ns") - pl.min_horizontal("ended_ns", "at_ns")
    return found.select(
        (pl.col(f"after_{kind}") - pl.when(pl.col("part") == kind).then(left_ns).otherwise(0))
        .fill_null(0)
        .alias(f"in_{kind}")
        for kind in _KINDS
    )


def _added(found: pl.DataFrame) -> pl.DataFrame:
    """Add what the client's steps and the server's phases are to the parts, and what is left of the round."""
    found = found.with_columns(pl.col(*STEPS, "handing", *(f"in_{kind}" for kind in _KINDS)).fill_null(0.0))
    found = found.with_columns(
        server=pl.col("in_server") + pl.col("handing"),
        aggregate=pl.col("in_aggregate"),
        evaluate=pl.col("evaluate") + pl.col("in_evaluate"),
    )
    named = [part for part in PARTS if part != "unaccounted"]
    found = found.with_columns(unaccounted=pl.col("round_s") - total(named))
    logged = pl.col("logged").fill_null(value=True)  # where no client did anything, there is nothing to tell
    return found.select(*PLACE, logged, *(pl.col(part).alias(f"{part}_s") for part in PARTS), "uncertainty_s")

"""Who was last in a round, why, and what it cost: the client whose training the others waited for.

Of several waves of training in a round the longest counts. A round in which an instruction to train got no reply has no
last client: nobody knows whom it would have waited for.
"""

from __future__ import annotations

import polars as pl

from deploy.analysis.account.lives import PLACE
from deploy.analysis.account.shares import stays
from deploy.analysis.columns import STRAGGLERS

CAUSES = ("compute", "injected", "network", "engine")


def last_ones(lives: pl.DataFrame, turns: pl.DataFrame, legs: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each round that has a last client: `last`, `cause` and `lost_s`.

    `cause` is null where its own log or all others' are missing, `lost_s` where it trained alone.
    """
    trained = _training(lives, turns, legs).sort(*PLACE, "finish_ns", maintain_order=True)
    finish = pl.col("finish_ns")
    last = trained.group_by(PLACE).agg(
        last=pl.col("client").last(),
        lost_s=pl.when(pl.len() > 1).then((finish.last() - finish.slice(-2, 1).first()) / 1e9),
    )
    return last.join(_causes(trained.join(last, on=PLACE)), on=PLACE, how="left")


def stragglers(lives: pl.DataFrame, rounds: pl.DataFrame) -> pl.DataFrame:
    """Return STRAGGLERS for ROUNDS: who trained in how many of those that have a last client, and how often it was it.

    Neither the warm-up counts, nor rounds that settle, nor control rounds.
    """
    counted = rounds.filter(
        pl.col("condition").is_not_null() & pl.col("last").is_not_null() & ~pl.col("settling") & ~pl.col("control")
    )
    trained = lives.filter("trains").select(*PLACE, "client").unique()
    chance = trained.group_by(PLACE).agg(chance=1 / pl.len())
    found = trained.join(counted.select(*PLACE, "condition", "last", "cause", "lost_s"), on=PLACE).join(
        chance, on=PLACE
    )
    found = found.sort(*PLACE, "client")  # sums hang on the order, in their last bits
    overall = found.with_columns(condition=pl.lit(None, pl.Int64))
    both = pl.concat([found, overall.select(found.columns)])
    was = pl.col("client") == pl.col("last")
    return (
        both.group_by("condition", "client")
        .agg(
            rounds=pl.len().cast(pl.Int64),
            last=was.sum().cast(pl.Int64),
            share=was.mean(),
            chance=pl.col("chance").mean(),
            **{cause: (was & (pl.col("cause") == cause)).sum().cast(pl.Int64) for cause in CAUSES},
            lost_s=pl.col("lost_s").filter(was).sum(),
        )
        .select(*STRAGGLERS.schema)
        .sort("condition", "client", nulls_last=True)
    )


def _training(lives: pl.DataFrame, turns: pl.DataFrame, legs: pl.DataFrame) -> pl.DataFrame:
    """Return each client's training in its round's longest leg that has any; of rounds that heard from everybody."""
    unheard = lives.filter(pl.col("trains") & pl.col("end_ns").is_null()).select(PLACE).unique()
    trained = stays(turns.filter("trains"), legs).join(unheard, on=PLACE, how="anti")
    long_ns = pl.col("leg_end_ns") - pl.col("leg_start_ns")
    longest = trained.select(*PLACE, "leg", long_ns=long_ns).sort("long_ns", "leg").unique(PLACE, keep="last")
    return trained.join(longest.select("leg"), on="leg", how="semi")


def _causes(trained: pl.DataFrame) -> pl.DataFrame:
    """Return in what the last client was most above the median of the others whose logs tell."""
    is_last = pl.col("client") == pl.col("last")
    known = trained.filter("logged")
    others = known.filter(~is_last).group_by(PLACE).agg(pl.col(cause).median().alias(f"of_{cause}") for cause in CAUSES)
    own = known.filter(is_last).join(others, on=PLACE)
    above = pl.concat_list(pl.col(cause) - pl.col(f"of_{cause}") for cause in CAUSES).list.arg_max()
    return own.select(
        *PLACE, cause=above.cast(pl.Int64).replace_strict(dict(enumerate(CAUSES)), return_dtype=pl.String)
    )

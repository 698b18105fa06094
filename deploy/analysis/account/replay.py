"""What if: each round's legs replayed from the log with something taken away, all else as it was.

Every client keeps the moment at which it was handed its instruction; a leg ends with the client that is last then. What
lies between legs stays as it was: the server's phases, and waiting for a client that never replied. Nothing is replayed
that one change would do to another: clients that share a processor and would get in each other's way at other times,
TCP that would start as slowly, a training that learns something else and needs other rounds to its target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import polars as pl

from deploy.analysis.account.lives import LEG, PLACE, UNTOLD
from deploy.analysis.columns import WHAT_IF

if TYPE_CHECKING:
    from collections.abc import Sequence

WITHOUT_HOST = "without one host"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that might have been otherwise: `saved` gives the seconds that it saves a client in a leg.

    `about` says what it takes away and assumes, for a person.
    """

    name: str
    about: str
    saved: pl.Expr


_work = pl.col("compute") + pl.col("evaluate")
_natural = (pl.col("downlink") + pl.col("uplink")).clip(lower_bound=0.0)
_on_way = (pl.col("downlink") + pl.col("uplink") + pl.col("link")).clip(lower_bound=0.0)

CHANGES = (
    Change(
        name="without the injected delay",
        about="Neither the app's delay nor what a link held back. Messages that had to wait for the answers to earlier "
        "parts of them, on a delayed link, are replayed as if they had waited once. What processes on one machine gain "
        "from resting at different times stays as it was.",
        saved=pl.col("injected") - pl.col("link") + pl.min_horizontal(pl.col("link"), _on_way),
    ),
    Change(
        name="every client as fast as the median",
        about="The app takes as long as the median of the round's clients does: slower ones are faster then, and "
        "faster ones slower.",
        saved=pl.when("logged").then(_work - _work.filter(pl.col("logged")).median().over(LEG)).fill_null(0.0),
    ),
    Change(
        name="without the engine's overhead",
        about="No encoding, no decoding, and no waiting for a turn, on both sides: all instructions are handed out "
        "at once. What lies between messages on the server stays.",
        saved=pl.col("engine").clip(lower_bound=0.0),
    ),
    Change(
        name="without the network's time",
        about="Messages take no time but what a link was told to hold them back.",
        saved=_natural,
    ),
)
WITHOUT_HOST_ABOUT = (
    "The round does not wait for this host; when the others were handed their instructions, what they learn, and how "
    "long they take for it stay as they were."
)


def replay(stays: pl.DataFrame, changes: Sequence[Change] = CHANGES) -> pl.DataFrame:
    """Return a row for each round, change and (where the change is to leave one out) host: `saved_s`."""
    busy = pl.col("busy_s")
    with_saved = stays.with_columns(change.saved.alias(change.name) for change in changes)
    legs = with_saved.group_by(LEG).agg(
        (busy.max() - (busy - pl.col(change.name)).max()).alias(change.name) for change in changes
    )
    names = [change.name for change in changes]
    rounds = legs.group_by(PLACE).agg(pl.col(names).sum()).unpivot(names, index=PLACE, variable_name="change")
    replayed = rounds.select(*PLACE, "change", host=pl.lit(None, pl.String), saved_s="value")
    return pl.concat([replayed, _without_hosts(stays)])


def _without_hosts(stays: pl.DataFrame) -> pl.DataFrame:
    """Return what each round would save without the host that was last in a leg: all of one in which it was alone."""
    busy = pl.col("busy_s")
    legs = (
        stays.sort(*LEG, "busy_s", maintain_order=True)
        .group_by(LEG)
        .agg(
            host=pl.col("client").last(),
            saved_s=busy.last() - pl.when(pl.len() > 1).then(busy.slice(-2, 1).first()).otherwise(0.0),
        )
    )
    saved = legs.group_by(*PLACE, "host").agg(pl.col("saved_s").sum())
    return saved.select(*PLACE, "host", "saved_s", change=pl.lit(WITHOUT_HOST)).select(
        *PLACE, "change", "host", "saved_s"
    )


def what_if(stays: pl.DataFrame, rounds: pl.DataFrame, complete: Sequence[int]) -> pl.DataFrame:
    """Return WHAT_IF: of ROUNDS of trials that were completed, for each condition and for all.

    A host can only be left out of a condition in which there are others. Every other change takes something away that
    only clients' logs tell: it is not known where they do not in more rounds than `UNTOLD`.
    """
    whole = rounds.filter(pl.col("trial").is_in(list(complete)) & pl.col("round_s").is_not_null())
    whole = pl.concat([whole.select(*PLACE, "condition", "round_s"), _of_all(whole)])
    totals = whole.group_by("condition").agg(
        trials=pl.col("trial").n_unique().cast(pl.Int64),
        rounds=pl.len().cast(pl.Int64),
        measured_s=pl.col("round_s").sum() / pl.col("trial").n_unique(),
    )
    by = ["condition", "change", "host"]
    found = replay(stays).join(whole, on=PLACE).sort(*PLACE, *by)  # sums hang on the order, in their last bits
    saved = found.group_by(by).agg(pl.col("saved_s").sum())
    rows = pl.concat([_changed(totals), _left_out(stays.join(whole, on=PLACE))])
    rows = rows.join(totals, on="condition", nulls_equal=True).join(saved, on=by, how="left", nulls_equal=True)
    silent = stays.filter(~pl.col("logged")).select(PLACE).unique().join(whole, on=PLACE)
    silent = silent.group_by("condition").agg(untold=pl.len())
    rows = rows.join(silent, on="condition", how="left", nulls_equal=True)
    known = pl.col("host").is_not_null() | (pl.col("untold").fill_null(0) <= UNTOLD * pl.col("rounds"))
    rows = rows.with_columns(saved_s=pl.when(known).then(pl.col("saved_s").fill_null(0.0) / pl.col("trials")))
    rows = rows.with_columns(
        replayed_s=pl.col("measured_s") - pl.col("saved_s"), saved_pct=100 * pl.col("saved_s") / pl.col("measured_s")
    )
    order = pl.col("change").replace_strict({name: place for place, name in enumerate(_NAMES)}, return_dtype=pl.Int64)
    return rows.select(*WHAT_IF.schema).sort("condition", order, "host", nulls_last=True)


_NAMES = (*(change.name for change in CHANGES), WITHOUT_HOST)


def _of_all(rounds: pl.DataFrame) -> pl.DataFrame:
    return rounds.select(*PLACE, pl.lit(None, pl.Int64).alias("condition"), "round_s")


def _changed(totals: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each condition and change."""
    names = pl.DataFrame({"change": [change.name for change in CHANGES]}, schema={"change": pl.String})
    return totals.select("condition").join(names, how="cross").with_columns(host=pl.lit(None, pl.String))


def _left_out(stays: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each condition and host, where there are several."""
    hosts = stays.select("condition", host="client").unique()
    several = hosts.filter(pl.col("host").n_unique().over("condition") > 1)
    return several.select("condition", pl.lit(WITHOUT_HOST).alias("change"), "host")

"""Each message in each direction on the server's clock: how long it took, how much of it was injected, how sure it is.

What a log does not tell is None, and what must not be used without a thought is flagged. `natural_s` is `transfer_s`
minus `injected_s`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import polars as pl

from deploy.analysis.clocks.injected import Direction
from deploy.analysis.columns import MESSAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW_BYTES: dict[str, int] = {"kernel": 14480, "relay": 4 << 20}
"""What is sent before an answer is waited for: a delay counts again for all that is longer.

For TCP, after a pause too, ten segments (RFC 6928); a relay ends TCP, and holds as many bytes of a connection.
"""

RESENT = "resent"
CHANGED = "link changed"
LIFTED = "link lifted"
BELOW = "below uncertainty"
LOSSY = "loss injected"
WINDOW = "longer than the first window"
UNFIT = frozenset({RESENT, CHANGED, LIFTED})
"""With such a flag a time says nothing about the network or the link."""
INSEPARABLE = frozenset({*UNFIT, LOSSY, WINDOW})
"""With such a flag its natural part does not."""


class MessageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One message in one direction: down is the instruction, up the reply. None: not known.

    `sent_ns` (first byte) and `received_ns` (whole) are moments of the server's monotonic clock, `uncertainty_s` is
    what `transfer_s` between them may be off by. `round_trip_s` is the server's, from the instruction's first byte to
    the whole reply; `client_s` the client's in between; their difference `network_s`, both directions, needs no common
    clock. `injected_s` is the link's: `applied_ms` or, where the layer measured it, `held_ms`, and with a rate
    `serialisation_s`. `app_delay_s` was injected by the app before a reply was sent. `natural_uncertainty_s` holds
    jitter that nobody measured. A time flagged as below its uncertainty may be used in a median, from which leaving it
    out would leave the longer ones, with the uncertainty beside it. `retransmitted`, `rtt_ms` and `rtt_min_ms` are the
    sending kernel's.
    """

    trial: int
    round: int
    message: str
    client: str
    kind: str
    direction: Direction
    control: bool
    size_bytes: int | None = None
    wire_bytes: int | None = None
    sent_ns: int | None = None
    received_ns: int | None = None
    transfer_s: float | None = None
    uncertainty_s: float | None = None
    round_trip_s: float | None = None
    client_s: float | None = None
    network_s: float | None = None
    layer: str | None = None
    requested_ms: float | None = None
    applied_ms: float | None = None
    held_ms: float | None = None
    rate_mbit: float | None = None
    serialisation_s: float | None = None
    injected_s: float | None = None
    app_delay_s: float | None = None
    natural_s: float | None = None
    natural_uncertainty_s: float | None = None
    retransmitted: int | None = None
    overflowed: int | None = None
    rtt_ms: float | None = None
    rtt_min_ms: float | None = None
    flags: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether `transfer_s` may be used."""
        return self.transfer_s is not None and not UNFIT.intersection(self.flags)

    @property
    def separable(self) -> bool:
        """Whether `natural_s` may be used."""
        return self.natural_s is not None and not INSEPARABLE.intersection(self.flags)


def message_rows(messages: pl.DataFrame) -> Iterator[MessageRow]:
    """Yield a frame's rows as structs: for tests and for few of them."""
    for row in messages.iter_rows(named=True):
        yield MessageRow(**{**row, "flags": tuple(row["flags"].split("; ")) if row["flags"] else ()})


def flagged(flags: frozenset[str]) -> pl.Expr:
    """Whether a message has one of some flags."""
    return pl.col("flags").fill_null("").str.contains_any(sorted(flags))


def usable() -> pl.Expr:
    """Whether `transfer_s` may be used."""
    return pl.col("transfer_s").is_not_null() & ~flagged(UNFIT)


def separable() -> pl.Expr:
    """Whether `natural_s` may be used."""
    return pl.col("natural_s").is_not_null() & ~flagged(INSEPARABLE)


def ways(asked: pl.DataFrame, states: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return how each instruction went down and its reply up: rows as in `asked`, also where there is no reply."""
    down = _separated(asked.select(*_COMMON, *_way("down")), states)
    return down, _separated(asked.select(*_COMMON, *_way("up")), states)


def messages_frame(asked: pl.DataFrame, down: pl.DataFrame, up: pl.DataFrame) -> pl.DataFrame:
    """Return MESSAGES in the order in which the instructions were sent, each before its reply."""
    number = 2 * pl.int_range(pl.len())
    replied = asked["reply_received_ns"].is_not_null() | asked["own_sent_ns"].is_not_null()
    first = down.lazy().select(*MESSAGES.schema, number.alias("number"))
    second = up.lazy().select(*MESSAGES.schema, (number + 1).alias("number")).filter(replied)
    return first.merge_sorted(second, key="number").drop("number").collect()


def _seconds(end: str, start: str) -> pl.Expr:
    return (pl.col(end) - pl.col(start)) / 1e9


_TRIP, _AT_CLIENT = _seconds("reply_received_ns", "first_ns"), _seconds("own_sent_ns", "own_received_ns")
_COMMON = (
    "trial", "round", "message", "client", "kind", "control",
    _TRIP.alias("round_trip_s"), _AT_CLIENT.alias("client_s"), (_TRIP - _AT_CLIENT).alias("network_s"),
)  # fmt: skip
"""What both directions share: times that need no common clock."""


def _way(way: Direction) -> Iterator[pl.Expr]:
    """Yield the columns of one direction by the names that both have."""
    up = way == "up"
    explained = pl.col(f"{way}_explained")
    yield pl.lit(way).alias("direction")
    yield (pl.coalesce("own_reply_bytes", "reply_bytes") if up else pl.col("size_bytes")).alias("size_bytes")
    yield (pl.coalesce("own_reply_wire_bytes", "reply_wire_bytes") if up else pl.col("wire_bytes")).alias("wire_bytes")
    yield pl.col("reply_sent_ns" if up else "sent_ns").alias("sent_ns")
    yield pl.col("reply_received_ns" if up else "received_ns").alias("received_ns")
    yield pl.col(f"{way}_uncertainty_s").alias("known_to_s")
    yield (pl.col("delay_s") if up else pl.lit(None, pl.Float64)).alias("app_delay_s")
    yield pl.col(f"{way}_state").alias("state")
    yield (pl.col("reply_again" if up else "again").fill_null(value=False) & explained).alias("again")
    for name in ("changed", "lifted"):
        yield (pl.col(f"{way}_{name}") & explained).alias(name)
    for name in ("retransmitted", "overflowed", "rtt_ms", "rtt_min_ms", "held_ms"):
        yield pl.when(explained).then(f"{way}_{name}").alias(name)


def _separated(way: pl.DataFrame, states: pl.DataFrame) -> pl.DataFrame:
    """Add what was injected and what is left; where the rate holds bytes back, its arithmetic is better than a mean."""
    link = states.select(pl.all().gather(way["state"]))
    found = way.hstack(link).with_columns(
        _seconds("received_ns", "sent_ns").alias("transfer_s"),
        pl.when(pl.col("rate_mbit") > 0).then(pl.col("wire_bytes").fill_null(0) * pl.col("s_per_byte"))
        .alias("serialisation_s"),
    )  # fmt: skip
    measured = (
        pl.col("layer").is_not_null() & pl.col("serialisation_s").is_null()
        & ((pl.col("held_ms") - pl.col("delay_ms")).abs() <= pl.col("room_ms"))
    )  # fmt: skip
    found = found.with_columns(
        pl.when(measured).then("held_ms").alias("held_ms"),
        pl.when(pl.col("transfer_s").is_not_null()).then("known_to_s").alias("uncertainty_s"),
        pl.col("delay_ms").alias("applied_ms"),
    )
    jitter_s = pl.when(pl.col("held_ms").is_null()).then(pl.col("jitter_ms") / 1000).otherwise(0.0)
    held_s = pl.coalesce("held_ms", "delay_ms") / 1000 + pl.col("serialisation_s").fill_null(0.0)
    flags = [pl.when(when).then(pl.lit(flag)) for flag, when in FLAGS.items()]
    return found.with_columns(held_s.alias("injected_s")).with_columns(
        (pl.col("transfer_s") - pl.col("injected_s")).alias("natural_s"),
        (pl.col("uncertainty_s") + jitter_s).alias("natural_uncertainty_s"),
        pl.concat_str(flags, separator="; ", ignore_nulls=True).alias("flags"),
    )


_WINDOW = pl.col("layer").replace_strict(WINDOW_BYTES, default=None, return_dtype=pl.Int64)
FLAGS = {
    BELOW: pl.col("transfer_s") < pl.col("uncertainty_s").fill_null(0.0),
    LOSSY: pl.col("lossy"),
    WINDOW: (pl.col("delay_ms") > 0) & (pl.col("wire_bytes") > _WINDOW),
    RESENT: pl.col("again"),
    CHANGED: pl.col("changed"),
    LIFTED: pl.col("lifted"),
}
"""When each flag is set, in the order in which they are told."""

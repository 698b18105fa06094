"""Every instruction with its reply in one row: both sides' words of it, on the server's clock, and the link then.

What tables are made of; messages and tasks each show a part of it. In its columns `down` is the instruction on its way,
`up` the reply; `own_…_ns` are moments of the client's clock. Null is what no log tells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from deploy.analysis.clocks.injected import Injected
from deploy.analysis.reading.sides import client_side, server_side, with_kernels_word
from flcommon.events import MessageReceived, ReplySent, RoundStarted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from deploy.analysis.clocks.clock import ClientProcess, Clocks
    from deploy.analysis.clocks.injected import Direction
    from deploy.analysis.reading.logs import Logs
    from deploy.manifest import Manifest

    Integers = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

NS = 1e9
UNKNOWN = -(2**62)
"""Stands for a moment that is not known, where numpy has no null."""


def instructions(manifest: Manifest, logs: Logs, clocks: Clocks) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the instructions in the order in which they were sent, and the links' states: what `down_state` counts."""
    asked = server_side(logs, [server.index for server in clocks.servers])
    asked = _owned(asked, logs, clocks.clients)
    asked = with_kernels_word(logs, client_side(logs, asked))
    asked = _with_plan(asked, manifest, clocks)
    states = _States()
    asked = _placed(asked, clocks.clients, states)
    return asked, states.frame()


def _owned(asked: pl.DataFrame, logs: Logs, clients: Sequence[ClientProcess]) -> pl.DataFrame:
    """Add the client's process that had to do with each message: the last one that has, of those of its server."""
    known = pl.DataFrame(
        [(each.process.index, each.server.index, each.process.host, rank) for rank, each in enumerate(clients)],
        schema={"process": pl.Int64, "server": pl.Int64, "client": pl.String, "rank": pl.Int64},
        orient="row",
    )
    told = pl.concat(logs.of(kind).select("process", "message") for kind in (MessageReceived, ReplySent))
    latest = told.unique().join(known, on="process").group_by("server", "client", "message").agg(pl.col("rank").max())
    found = asked.join(latest, on=("server", "client", "message"), how="left", maintain_order="left")
    owners = known.select("rank", pl.col("process").alias("owner"))
    return found.join(owners, on="rank", how="left", maintain_order="left").drop("rank")


def _with_plan(asked: pl.DataFrame, manifest: Manifest, clocks: Clocks) -> pl.DataFrame:
    """Add whether it was a control round, and whether the plan has a link for this client in this trial."""
    control = pl.DataFrame(
        [(server.index, e.trial, e.round, True) for server in clocks.servers for _, e in server.told
         if isinstance(e, RoundStarted) and e.control],
        schema={"server": pl.Int64, "trial": pl.Int64, "round": pl.Int64, "control": pl.Boolean},
        orient="row",
    ).unique()  # fmt: skip
    linked = pl.DataFrame(
        [(trial.index, client, True) for trial in manifest.trials for client in trial.links],
        schema={"trial": pl.Int64, "client": pl.String, "linked": pl.Boolean},
        orient="row",
    ).unique()
    asked = asked.join(control, on=("server", "trial", "round"), how="left", maintain_order="left")
    asked = asked.join(linked, on=("trial", "client"), how="left", maintain_order="left")
    return asked.with_columns(pl.col("control", "linked").fill_null(value=False))


@dataclass
class _States:
    """All that any link injects at any time; number 0 is nothing."""

    known: list[Injected] = field(default_factory=lambda: [Injected()])

    def add(self, states: Sequence[Injected]) -> int:
        """Return the number of the first."""
        self.known += states
        return len(self.known) - len(states)

    def frame(self) -> pl.DataFrame:
        """Return what they inject, by number."""
        rows = [
            (each.layer, each.way.delay_ms if each.layer else 0.0, each.delay_ms, each.rate_mbit, each.s_per_byte,
             each.lossy, each.way.jitter_ms, each.room_ms)
            for each in self.known
        ]  # fmt: skip
        schema = {
            "layer": pl.String, "requested_ms": pl.Float64, "delay_ms": pl.Float64, "rate_mbit": pl.Float64,
            "s_per_byte": pl.Float64, "lossy": pl.Boolean, "jitter_ms": pl.Float64, "room_ms": pl.Float64,
        }  # fmt: skip
        return pl.DataFrame(rows, schema=schema, orient="row")


@dataclass
class _Moments:
    """Columns that are filled for the messages of one client's process after the other."""

    moments: dict[str, Integers]
    seconds: dict[str, Floats]
    flags: dict[str, Flags]


_ON_SERVER = {
    "own_received_ns": "received_ns",
    "own_sent_ns": "reply_sent_ns",
    "own_started_ns": "compute_started_ns",
    "own_delayed_ns": "delay_ended_ns",
}


def _placed(asked: pl.DataFrame, clients: Sequence[ClientProcess], states: _States) -> pl.DataFrame:
    """Add moments on the server's clock, and what each link did meanwhile."""
    told = {name: asked[name].fill_null(UNKNOWN).to_numpy() for name in (*_ON_SERVER, "sent_ns", "reply_received_ns")}
    rows, length = _rows_of(asked), asked.height
    made = _Moments(
        {name: np.full(length, UNKNOWN) for name in (*_ON_SERVER.values(), "down_state", "up_state")},
        {name: np.full(length, np.nan) for name in ("down_uncertainty_s", "up_uncertainty_s")},
        {f"{way}_{what}": np.zeros(length, dtype=np.bool_) for way in ("down", "up") for what in ("changed", "lifted")},
    )
    for each in clients:
        own = rows.get(each.process.index)
        if own is not None:
            _on_server(each, own, told, made)
            for way, start, end in _ways(each, {name: told[name][own] for name in told}, own, made):
                _link(each, (own, start, end), way, (made, states))
    explained = {
        "down": pl.col("own_received_ns").is_not_null(),
        "up": pl.col("own_sent_ns").is_not_null()
        & (pl.col("reply_sent_ns").is_null() | pl.col("reply_received_ns").is_not_null()),
    }
    asked = asked.with_columns(
        *(pl.Series(name, moments).replace(UNKNOWN, None) for name, moments in made.moments.items()),
        *(pl.Series(name, values).fill_nan(None) for name, values in made.seconds.items()),
        *(pl.Series(name, values) for name, values in made.flags.items()),
    )
    return asked.with_columns(*(known.alias(f"{way}_explained") for way, known in explained.items())).with_columns(
        # Where a log says nothing of a link that was not planned either, there is none.
        pl.when(f"{way}_explained")
        .then(pl.when(pl.col(f"{way}_state").is_null() & ~pl.col("linked")).then(0).otherwise(f"{way}_state"))
        .alias(f"{way}_state")
        for way in explained
    )


def _rows_of(asked: pl.DataFrame) -> dict[int, Integers]:
    """Return the rows of each client's process."""
    owner = asked["owner"].fill_null(-1).to_numpy()
    if not len(owner):
        return {}
    order = np.argsort(owner, kind="stable")
    found, first = np.unique(owner[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, first[1:]), strict=True))


def _on_server(client: ClientProcess, own: Integers, told: dict[str, Integers], made: _Moments) -> None:
    if client.clock is None:
        return
    for name, on_server in _ON_SERVER.items():
        known = own[told[name][own] != UNKNOWN]
        moments, uncertainty_s = client.clock.on_server(told[name][known])
        made.moments[on_server][known] = moments
        if name == "own_received_ns":
            made.seconds["down_uncertainty_s"][known] = uncertainty_s
        elif name == "own_sent_ns":
            made.seconds["up_uncertainty_s"][known] = uncertainty_s


def _ways(
    client: ClientProcess, told: dict[str, Integers], own: Integers, made: _Moments
) -> Iterator[tuple[Direction, Integers, Integers]]:
    """Yield, for each direction, from when until when by the client's clock its messages were on their way."""
    received, sent = told["own_received_ns"], told["own_sent_ns"]
    if client.clock is None:
        yield "down", received, received
        yield "up", sent, sent
        return
    yield "down", received - (made.moments["received_ns"][own] - told["sent_ns"]), received
    sent_ns, back_ns = made.moments["reply_sent_ns"][own], told["reply_received_ns"].copy()
    unknown = back_ns == UNKNOWN
    back_ns[unknown] = sent_ns[unknown]
    yield "up", sent, sent + (back_ns - sent_ns)


def _link(
    client: ClientProcess,
    when: tuple[Integers, Integers, Integers],
    way: Direction,
    into: tuple[_Moments, _States],
) -> None:
    """Fill in the state of the link, whether it changed, and whether it was taken off."""
    (own, start, end), link, (made, states) = when, client.link, into
    if link.sets:
        place = link.place(start)
        first = states.add(link.states(way))
        made.moments[f"{way}_state"][own] = np.where(place >= 0, first + place, UNKNOWN)
        made.flags[f"{way}_changed"][own] = link.changes(start, end, way)
    if link.away:
        made.flags[f"{way}_lifted"][own] = link.lifted(start, end)

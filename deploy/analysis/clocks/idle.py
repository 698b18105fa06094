"""Round trips of an idle connection: clock exchanges beside no message, with what was injected then; no common clock.

An exchange is one small frame each way: on a link with a rate it tells of what queues there, and not of the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from flcommon.events import RoundStarted, TrialEnded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deploy.analysis.clocks.clock import ClientProcess
    from deploy.analysis.clocks.exchanges import Exchanges, Process
    from deploy.analysis.clocks.injected import Direction, Shaped

    Integers = NDArray[np.int64]
    Floats = NDArray[np.float64]

WAYS: tuple[Direction, Direction] = ("down", "up")
_BETWEEN = -2
"""Instead of a trial's number, between trials."""

SCHEMA: dict[str, type[pl.DataType]] = {
    "client": pl.String,
    "trial": pl.Int64,
    "control": pl.Boolean,
    "rtt_s": pl.Float64,
    "injected_s": pl.Float64,
}
"""A round trip of `rtt_s`, of which `injected_s` was injected (null: not known); `trial` is null between trials."""


@dataclass(frozen=True, eq=False)
class _Rounds:
    """Which round it was, by the server's monotonic clock: its trial, and whether it was a control round."""

    starts_ns: Integers
    trials: Integers
    control: NDArray[np.bool_]

    def at(self, mono_ns: Integers) -> tuple[Integers, NDArray[np.bool_]]:
        place = np.searchsorted(self.starts_ns, mono_ns, side="right")
        return self.trials[place], self.control[place]


def _rounds(server: Process) -> _Rounds:
    found: list[tuple[int, int, bool]] = []
    for stamp, event in server.told:
        if isinstance(event, RoundStarted):
            found.append((stamp.mono_ns, event.trial, event.control))
        elif isinstance(event, TrialEnded):
            found.append((stamp.mono_ns, _BETWEEN, False))
    found.sort(key=lambda each: each[0])
    return _Rounds(
        np.array([at for at, _, _ in found], dtype=np.int64),
        np.array([_BETWEEN, *(trial for _, trial, _ in found)], dtype=np.int64),
        np.array([False, *(control for _, _, control in found)], dtype=np.bool_),
    )


def idle_trips(clients: Sequence[ClientProcess]) -> pl.DataFrame:
    """Return the idle round trips of every client process, but for those in which the link changed or was taken off."""
    rounds = {each.server.index: _rounds(each.server) for each in clients}
    found = [_trips(each, rounds[each.server.index]) for each in clients if len(each.exchanges)]
    return pl.concat(found) if found else pl.DataFrame(schema=SCHEMA)


def _trips(client: ClientProcess, rounds: _Rounds) -> pl.DataFrame:
    told, link = client.exchanges, client.link
    unsteady = link.lifted(told.received_ns, told.answered_ns)
    for way in WAYS:
        unsteady |= link.changes(told.received_ns, told.answered_ns, way)
    told = told.take(told.idle & ~unsteady)
    trial, control = rounds.at(told.asked_ns)
    rtt_ns = (told.back_ns - told.asked_ns) - (told.answered_ns - told.received_ns)
    injected_s = _injected_s(told, link)
    return pl.DataFrame(
        {
            "client": pl.repeat(client.process.host, len(told), eager=True, dtype=pl.String),
            "trial": pl.Series(trial).replace(_BETWEEN, None),
            "control": control,
            "rtt_s": rtt_ns / 1e9,
            "injected_s": pl.Series(injected_s).fill_nan(None),
        },
        schema=SCHEMA,
    )


def _injected_s(told: Exchanges, link: Shaped) -> Floats:
    """Return what was injected there and back; NaN at a rate, where it waits behind what else is on its way."""
    found = np.zeros(len(told))
    if link.sets:
        place = link.place(told.received_ns)
        for way in WAYS:
            known = [np.nan if each.lossy or each.rate_mbit else each.delay_ms / 1000 for each in link.states(way)]
            found += np.array([*known, 0.0])[place]  # the last one, for -1: before the log says anything
    return found

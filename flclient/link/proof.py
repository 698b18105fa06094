"""Whether a link is as it was asked to be: what was measured through it against what was measured just before.

Raw one-way differences hold the clocks' offset, which cancels when one is subtracted from the other. No I/O here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from flcommon.link import PAYLOAD, TOLERANCE, TOLERANCE_MS

if TYPE_CHECKING:
    from flclient.probe import Goodput, Pings
    from flcommon.link import Way

RATE_SHARE = 0.10
PINGS, JITTERED_PINGS = 20, 50
EVERY_MS = 10.0
PING_BYTES = 400
"""What a ping or its answer takes on the wire at most, with all headers and TLS; measured: 190 to 330."""
_SIGMAS = 4.0


@dataclass(frozen=True)
class Direction:
    """One direction: what was asked, what was measured, and by how much that may differ."""

    name: str
    requested_ms: float
    measured_ms: float | None
    tolerance_ms: float
    requested_mbit: float | None = None
    mbit: float | None = None

    @property
    def off(self) -> str:
        """What is wrong, in words; empty if nothing is."""
        if self.measured_ms is None:
            return f"{self.name}: no ping came back"
        if abs(self.measured_ms - self.requested_ms) > self.tolerance_ms:
            return (
                f"{self.name}: {self.requested_ms:g} ms of delay were asked for, {self.measured_ms:.2f} ms were"
                f" measured (allowed: {self.tolerance_ms:.2g} ms more or less)"
            )
        if self.requested_mbit is not None and self.mbit is not None:
            wanted = self.requested_mbit * PAYLOAD
            if abs(self.mbit / wanted - 1) > RATE_SHARE:
                return (
                    f"{self.name}: {self.requested_mbit:g} Mbit/s were asked for, which carry {wanted:.3g} of payload,"
                    f" {self.mbit:.3g} were measured (allowed: {RATE_SHARE:.0%} more or less)"
                )
        return ""


def pings_for(up: Way, down: Way) -> tuple[int, float]:
    """Return how many pings it takes, and one each how many ms.

    No ping shall wait for the one before: a slow link has sent that, and jitter, which keeps the order, has let it go.
    """
    jitter_ms = max(up.jitter_ms, down.jitter_ms)
    slowest = min((way.rate_mbit for way in (up, down) if way.rate_mbit), default=None)
    every_ms = min(1000.0, max(EVERY_MS, 4 * _on_wire_ms(slowest), 3 * jitter_ms))
    return (JITTERED_PINGS if jitter_ms else PINGS, every_ms)


def load_bytes(up: Way, down: Way) -> int:
    """Return how large loads must be to fill a link: a third of a second's worth, and twice what is on its way."""
    rate = max((way.rate_mbit for way in (up, down) if way.rate_mbit), default=0.0)
    bytes_a_second = rate * 1e6 / 8
    round_trip_s = (up.delay_ms + down.delay_ms) / 1000
    return min(max(32_000, round(bytes_a_second * max(0.3, 2 * round_trip_s))), 16_000_000)


def compare(way: Way, name: str, before_s: tuple[float, ...], after_s: tuple[float, ...]) -> Direction:
    """Return what a direction's delay was measured to be.

    Without jitter by the fastest ping each time, as what delays others is not the link; with jitter by the means, with
    four standard errors of room.
    """
    if not before_s or not after_s:
        return Direction(name, way.delay_ms, None, 0.0)
    tolerance_ms = max(TOLERANCE_MS, TOLERANCE * way.delay_ms) + _on_wire_ms(way.rate_mbit)
    if not way.jitter_ms:
        return Direction(name, way.delay_ms, 1000 * (min(after_s) - min(before_s)), tolerance_ms)
    measured_ms = 1000 * (fmean(after_s) - fmean(before_s))
    tolerance_ms += _SIGMAS * way.jitter_ms / math.sqrt(len(after_s))
    if way.distribution.startswith("pareto"):  # netem's tables of these have no mean of zero
        tolerance_ms += way.jitter_ms
    return Direction(name, way.delay_ms, measured_ms, tolerance_ms)


def both(up: Way, down: Way, before: Pings, after: Pings) -> tuple[Direction, Direction]:
    """Return both directions' delays."""
    return compare(up, "up", before.up_s, after.up_s), compare(down, "down", before.down_s, after.down_s)


def with_rates(up: Way, down: Way, delays: tuple[Direction, Direction], found: Goodput) -> tuple[Direction, Direction]:
    """Return both directions with their goodput, where a rate was asked for.

    Loss makes TCP slower than any rate: with it, goodput says nothing of the rate.
    """

    def completed(way: Way, one: Direction, mbit: float | None) -> Direction:
        lossy = way.loss_pct or way.loss_burst or way.reorder_pct
        wanted = None if lossy else way.rate_mbit
        return Direction(one.name, one.requested_ms, one.measured_ms, one.tolerance_ms, wanted, mbit)

    return completed(up, delays[0], found.up_mbit), completed(down, delays[1], found.down_mbit)


def _on_wire_ms(rate_mbit: float | None) -> float:
    """Return how long a ping is on a link of this rate."""
    return PING_BYTES * 8 / (rate_mbit * 1000) if rate_mbit else 0.0

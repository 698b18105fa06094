"""What was injected on purpose into one direction of one client's link at a moment, by that client's own log.

The app's own delay (`delayed`) is no part of it: it ends before a reply is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from flcommon.events import LinkLifted, LinkRestored, LinkSet
from flcommon.link import NATURAL, PAYLOAD, TABLE_LIMIT, TOLERANCE, TOLERANCE_MS, Layer, Way

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from flcommon.events import AnyEvent, Stamp

    Integers = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

Direction = Literal["down", "up"]

NS = 1_000_000_000


class Injected(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for in one direction, what the layer says it applies, and by which layer; nothing, if natural."""

    layer: Layer | None = None
    way: Way = NATURAL
    applied: dict[str, float | str] = {}

    @property
    def delay_ms(self) -> float:
        """The one-way delay that is applied."""
        return self._applied("delay_ms", self.way.delay_ms) or 0.0

    @property
    def rate_mbit(self) -> float | None:
        """The rate that is applied."""
        return self._applied("rate_mbit", self.way.rate_mbit)

    @property
    def lossy(self) -> bool:
        """Whether packets may be lost, doubled or late on purpose: what TCP then does is no sum of two delays."""
        way = self.way
        return bool(way.loss_pct or way.loss_burst or way.reorder_pct or way.duplicate_pct)

    @property
    def s_per_byte(self) -> float | None:
        """How long the rate alone takes for a byte of payload; None without a rate."""
        return 8 / (self.rate_mbit * 1e6 * PAYLOAD) if self.rate_mbit else None

    @property
    def room_ms(self) -> float:
        """By how much a measured delay of this link may differ: other bytes may be counted too."""
        return max(TOLERANCE_MS, TOLERANCE * self.delay_ms) + TABLE_LIMIT * self.way.jitter_ms

    @property
    def least_s(self) -> float:
        """What each packet is kept back at least: neither layer is early, but where packets overtake."""
        if self.way.reorder_pct:
            return 0.0
        return max(0.0, self.delay_ms - self.way.spread_ms) / 1000

    def _applied(self, key: str, requested: float | None) -> float | None:
        value = self.applied.get(key, requested)
        return value if isinstance(value, int | float) else requested


@dataclass
class Shaped:
    """A client process's link over its monotonic clock; moments are asked for many at a time."""

    sets: list[tuple[int, LinkSet]] = field(default_factory=list)
    away: list[tuple[int, int | None]] = field(default_factory=list)
    """From when until when it was taken off because control was lost; None: not put back."""

    def states(self, direction: Direction) -> list[Injected]:
        """Return what each setting injects into one direction."""
        return self._states[direction]

    def place(self, mono_ns: Integers) -> Integers:
        """Return the number of the setting that is in force at each moment; -1 before the log says anything."""
        return np.searchsorted(self._starts, mono_ns, side="right") - 1

    def changes(self, start_ns: Integers, end_ns: Integers, direction: Direction) -> Flags:
        """Whether a direction changes between two moments, as far as the log says."""
        if not self.sets:
            return np.zeros(len(start_ns), dtype=np.bool_)
        ways = [each.way for each in self._states[direction]]
        turns = np.cumsum([False, *(now != before for before, now in pairwise(ways))])
        first, last = np.maximum(self.place(start_ns), 0), np.maximum(self.place(end_ns), 0)
        return np.asarray(turns[last] > turns[np.minimum(first, last)])

    def least_s(self, start_ns: Integers, end_ns: Integers, direction: Direction) -> Floats:
        """Return how long packets that passed between two moments were kept back at least; 0 if that is not known."""
        found = np.zeros(len(start_ns))
        if not self.sets:
            return found
        each_s = np.array([each.least_s for each in self._states[direction]])
        first, last = self.place(start_ns), self.place(end_ns)
        known = (first >= 0) & ~self.lifted(start_ns - NS, end_ns + NS)
        found[known] = each_s[first[known]]
        for moment in np.flatnonzero(known & (last > first)):
            found[moment] = each_s[first[moment] : last[moment] + 1].min()
        return found

    def lifted(self, start_ns: Integers, end_ns: Integers) -> Flags:
        """Whether control was lost at any time between two moments."""
        found = np.zeros(len(start_ns), dtype=np.bool_)
        for gone, back in self.away:
            found |= (gone <= end_ns) & (True if back is None else back >= start_ns)
        return found

    @cached_property
    def _starts(self) -> Integers:
        return np.array([at for at, _ in self.sets], dtype=np.int64)

    @cached_property
    def _states(self) -> dict[Direction, list[Injected]]:
        return {
            "down": [_injected(event, "down") for _, event in self.sets],
            "up": [_injected(event, "up") for _, event in self.sets],
        }


def shaped(told: Iterable[tuple[Stamp, AnyEvent]]) -> Shaped:
    """Return what a client process's log says of its link."""
    found = Shaped()
    for stamp, event in told:
        match event:
            case LinkSet():
                found.sets.append((stamp.mono_ns, event))
            case LinkLifted():
                found.away.append((stamp.mono_ns, None))
            case LinkRestored() if found.away:
                found.away[-1] = (found.away[-1][0], stamp.mono_ns)
            case _:
                pass
    found.sets.sort(key=lambda each: each[0])
    return found


def _injected(event: LinkSet, direction: Direction) -> Injected:
    way, applied = (event.up, event.applied_up) if direction == "up" else (event.down, event.applied_down)
    if way is None or way.natural:
        return Injected()
    return Injected(layer=event.layer, way=way, applied=applied or {})

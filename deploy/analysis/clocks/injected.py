"""What was injected on purpose into one direction of one client's link at a moment, by that client's own log.

The app's own delay (`delayed`) is no part of it: it ends before a reply is sent.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

from flcommon.events import LinkLifted, LinkRestored, LinkSet, LinkUsed
from flcommon.link import NATURAL, PAYLOAD, TABLE_LIMIT, TOLERANCE, TOLERANCE_MS, Layer, Way

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flcommon.events import AnyEvent, Stamp

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

    def serialisation_s(self, wire_bytes: int) -> float:
        """Return how long the rate alone takes for so many bytes of payload."""
        return wire_bytes * 8 / (self.rate_mbit * 1e6 * PAYLOAD) if self.rate_mbit else 0.0

    def agrees(self, held_ms: float) -> bool:
        """Whether that can be how long this link held something: other bytes that went by may be counted too."""
        room_ms = max(TOLERANCE_MS, TOLERANCE * self.delay_ms) + TABLE_LIMIT * self.way.jitter_ms
        return self.layer is not None and abs(held_ms - self.delay_ms) <= room_ms

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
    """A client process's link over its monotonic clock."""

    sets: list[tuple[int, LinkSet]] = field(default_factory=list)
    away: list[tuple[int, int | None]] = field(default_factory=list)
    """From when until when it was taken off because control was lost; None: not put back."""
    used: dict[tuple[str, Direction], LinkUsed] = field(default_factory=dict)

    def at(self, mono_ns: int, direction: Direction) -> Injected | None:
        """Return what is injected at a moment; None before the log says anything."""
        place = bisect_right(self.sets, mono_ns, key=lambda each: each[0])
        return _injected(self.sets[place - 1][1], direction) if place else None

    def during(self, start_ns: int, end_ns: int, direction: Direction) -> list[Injected]:
        """Return all that is injected between two moments, as far as the log says."""
        first, last = (bisect_right(self.sets, ns, key=lambda each: each[0]) for ns in (start_ns, end_ns))
        return [_injected(each, direction) for _, each in self.sets[max(0, first - 1) : last]]

    def changes(self, start_ns: int, end_ns: int, direction: Direction) -> bool:
        """Whether a direction changes between two moments."""
        states = [each.way for each in self.during(start_ns, end_ns, direction)]
        return any(state != states[0] for state in states)

    def least_s(self, start_ns: int, end_ns: int, direction: Direction) -> float:
        """Return how long a packet that passed between two moments was kept back at least; 0 if that is not known."""
        if not self.sets or start_ns < self.sets[0][0] or self.lifted(start_ns - NS, end_ns + NS):
            return 0.0
        return min(each.least_s for each in self.during(start_ns, end_ns, direction))

    def lifted(self, start_ns: int, end_ns: int) -> bool:
        """Whether control was lost at any time between two moments."""
        return any(gone <= end_ns and (back is None or back >= start_ns) for gone, back in self.away)


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
            case LinkUsed():
                found.used[event.message, "up" if event.up else "down"] = event
            case _:
                pass
    found.sets.sort(key=lambda each: each[0])
    return found


def _injected(event: LinkSet, direction: Direction) -> Injected:
    way, applied = (event.up, event.applied_up) if direction == "up" else (event.down, event.applied_down)
    if way is None or way.natural:
        return Injected()
    return Injected(layer=event.layer, way=way, applied=applied or {})

"""What a test and the process that carries its packets tell one another; pure data."""

from __future__ import annotations

import msgspec


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One direction. `drop`: which packets vanish, counted from 1 since this was set; `silent`: all of them."""

    delay_ms: float = 0.0
    rate_mbit: float | None = None
    loss_pct: float = 0.0
    drop: tuple[int, ...] = ()
    silent: bool = False


class End(msgspec.Struct, frozen=True, kw_only=True):
    """A network namespace (a file below /proc; None: a new one), and the interface that it gets.

    `behind`: addresses beyond it, as of a guest machine that it forwards to.
    """

    address: str
    interface: str = "end"
    namespace: str | None = None
    behind: tuple[str, ...] = ()
    up: Way = Way()
    down: Way = Way()


class Plan(msgspec.Struct, frozen=True, kw_only=True, tag="plan"):
    """What to make; `bits` is the length of the network's prefix."""

    ends: tuple[End, ...]
    bits: int = 24


class Made(msgspec.Struct, frozen=True, kw_only=True, tag="made"):
    """It carries. The open files of this process that hold the ends' namespaces; whether it comes before others."""

    namespaces: tuple[int, ...]
    real_time: bool


class Change(msgspec.Struct, frozen=True, kw_only=True, tag="change"):
    """Be so from now on: what is on its way keeps its moment, and nothing overtakes it."""

    end: int
    up: Way
    down: Way


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """Tell what was carried since the last time that somebody asked for this end."""

    end: int


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """What one direction did: how long it really held each packet that it passed on, in milliseconds."""

    packets: int
    size_bytes: int
    dropped: int
    held_ms: tuple[float, ...]


class Told(msgspec.Struct, frozen=True, kw_only=True, tag="told"):
    """An answer: nothing, or both directions."""

    up: Carried | None = None
    down: Carried | None = None

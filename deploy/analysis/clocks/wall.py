"""A host's time of day against its own monotonic clock: how it drifts, and when somebody set it.

Linux turns both clocks by the same rate, so their difference is constant but where the time of day is set, or the
machine slept (the monotonic clock stands still then; `clock` tells the two apart). Nothing travels
between the two readings of a stamp, so the difference is known to microseconds, without any exchange.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from deploy.analysis.clocks.corridor import FASTEST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from numpy.typing import NDArray

    Integers: TypeAlias = NDArray[np.int64]
    Floats: TypeAlias = NDArray[np.float64]

SMALLEST_STEP_S = 1e-3
_NEIGHBOURS = 2
"""An interruption between the two readings makes a single stamp wrong; the median of five is not, but beside a step."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A clock jumped by `size_s`, forwards if positive; the first stamp after it is `mono_ns` of its own process.

    `of` is wall where the time of day was set, monotonic where the other one jumped: mostly a machine that slept.
    """

    of: str
    mono_ns: int
    size_s: float


@dataclass(frozen=True)
class WallClock:
    """Wall minus monotonic clock of one process, in seconds beyond `base_ns`, at the stamps of its log."""

    base_ns: int
    mono_ns: Integers
    beyond_s: Floats
    steps: tuple[Step, ...]

    def minus_mono_s(self, mono_ns: int) -> float:
        """Return the difference beyond `base_ns` at a moment of the monotonic clock."""
        starts = [step.mono_ns for step in self.steps]
        piece = sum(mono_ns >= start for start in starts)
        edges = [0, *(int(np.searchsorted(self.mono_ns, start)) for start in starts), len(self.mono_ns)]
        after = int(np.searchsorted(self.mono_ns, mono_ns))
        part = slice(max(edges[piece], after - 1), max(min(edges[piece + 1], after + 1), edges[piece] + 1))
        if part.start >= edges[piece + 1]:
            part = slice(edges[piece + 1] - 1, edges[piece + 1])
        since = (self.mono_ns[part] - mono_ns).astype(np.float64)
        return float(np.interp(0.0, since, self.beyond_s[part]))

    @cached_property
    def drift(self) -> float:
        """By how much the wall clock is faster than the monotonic one, without its steps."""
        if len(self.mono_ns) < 2:  # noqa: PLR2004 - a slope needs two points
            return 0.0
        taken = np.zeros(len(self.mono_ns))
        for step in self.steps:
            taken[np.searchsorted(self.mono_ns, step.mono_ns) :] += step.size_s
        t = (self.mono_ns - self.mono_ns[0]) / 1e9
        return float(np.polyfit(t - t.mean(), self.beyond_s - taken, 1)[0])


def wall_clock(mono_ns: Integers, wall_ns: Integers) -> WallClock:
    """Compare the clocks by a process's stamps, at least one, in any order."""
    # Of stamps of one moment, the last counts.
    moments, last = np.unique(mono_ns[::-1], return_index=True)
    known = np.stack([moments, wall_ns[::-1][last]], axis=1)
    mono_ns, difference = known[:, 0], known[:, 1] - known[:, 0]
    base_ns = int(difference[0])
    beyond_s = _without_strays((difference - base_ns) / 1e9)
    around = np.pad(mono_ns, _NEIGHBOURS, mode="edge")
    room = SMALLEST_STEP_S + FASTEST * (around[2 * _NEIGHBOURS + 1 :] - around[: -2 * _NEIGHBOURS - 1]) / 1e9
    jumps = np.diff(beyond_s)
    steps = tuple(
        Step(of="wall", mono_ns=int(mono_ns[place + 1]), size_s=size_s)
        for place, size_s in _merged(np.flatnonzero(np.abs(jumps) > room), jumps)
    )
    return WallClock(base_ns, mono_ns, beyond_s, steps)


def _merged(places: NDArray[np.intp], jumps: Floats) -> Iterator[tuple[int, float]]:
    """Yield place and size of each step: jumps side by side are one, beside which there was a stray."""
    groups = np.split(places, np.flatnonzero(np.diff(places) > 2 * _NEIGHBOURS) + 1)
    for group in groups:
        if len(group):
            yield int(group[np.argmax(np.abs(jumps[group]))]), float(np.sum(jumps[group]))


def _without_strays(values: Floats) -> Floats:
    """Return the running median, mirrored at the ends."""
    if len(values) <= _NEIGHBOURS:
        return values
    padded = np.pad(values, _NEIGHBOURS, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _NEIGHBOURS + 1)
    return np.asarray(np.median(windows, axis=1))

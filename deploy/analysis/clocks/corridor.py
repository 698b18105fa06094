"""Offset and drift of one clock against another, from exchanges of messages, with a bound on the error at each moment.

An exchange is four moments (RFC 5905, section 8): the reference sent at t1, this clock received at t2 and answered at
t3, the reference was told at t4. What arrives was sent before, whatever the path did. So the offset g, this clock minus
the reference, is at most t2 - t1 at this clock's moment t2, and at least t3 - t4 at its moment t3. RFC 5905's offset
((t2 - t1) + (t3 - t4)) / 2 is the middle of the two, its round trip (t4 - t1) - (t3 - t2) their distance: the error of
one exchange is at most half of its round trip, and as much if one direction took it all.

All exchanges together are a corridor, through which the offset passes as a line (Moon, Skelly, Towsley, "Estimation and
removal of clock skew from network delay measurements", INFOCOM 1999, who search the line by linear programming). Here:
1. which slopes (drifts) a line through the corridor can have: the clearance, least upper bound minus greatest lower one
   once a·t is taken off, is concave in the slope a, and the slopes are those at which it is not negative;
2. of these the one that fits best the exchanges with the least round trip of each window of time;
3. around that slope a clock's rate wanders, with temperature, by no more than w: half of the range of slopes and
   `WANDER`. So every bound holds at other moments too, wider by w for each second: U(t) = min over bounds of
   (u + w |t - tu|), and from below alike. U and L are piecewise linear; offset (U + L) / 2, its error at most
   (U - L) / 2: half the round trip of the best exchanges nearby, and what the fit does not know.
Time and memory are linear in the number of exchanges, but for sorting.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from deploy.analysis.clocks.concave import edge, maximum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Indices = NDArray[np.intp]

FASTEST = 1e-3
"""No two clocks drift by more: Linux itself turns them by at most 500 ppm each (adjtimex(2)). What does has stepped."""
WANDER = 10e-6
"""Twice how far the rate of a clock may be from its mean: crystals stay within 5 ppm from a cold board to a hot one."""
STAMP_S = 1e-6
"""A moment is read from two clocks one after the other, and its number is rounded."""
MOST_WINDOWS = 64
WINDOW_EXCHANGES = 8
"""On average, for there to be one in each window that nothing held up."""
_LOOK_AHEAD = 2
"""So many bounds that agree with the past show that one between them, which does not, is wrong."""


@dataclass(frozen=True)
class Bounds:
    """The bounds of n exchanges, in seconds: at `upper_t` of this clock the offset was at most `upper`; lower alike."""

    upper_t: Floats
    upper: Floats
    lower_t: Floats
    lower: Floats

    def __len__(self) -> int:
        return len(self.upper)

    def take(self, which: Flags | Indices) -> Bounds:
        """Return those that are asked for."""
        return Bounds(self.upper_t[which], self.upper[which], self.lower_t[which], self.lower[which])

    def possible(self) -> Bounds:
        """Leave out what no exchange can be: an answer before the question, by any two clocks that only drift."""
        room = FASTEST * np.abs(self.lower_t - self.upper_t) + STAMP_S
        return self.take((self.lower_t >= self.upper_t) & (self.upper - self.lower >= -room))

    def __add__(self, other: Bounds) -> Bounds:
        return Bounds(
            np.concatenate([self.upper_t, other.upper_t]),
            np.concatenate([self.upper, other.upper]),
            np.concatenate([self.lower_t, other.lower_t]),
            np.concatenate([self.lower, other.lower]),
        )


@dataclass(frozen=True)
class _Side:
    """The bounds from above (those from below with the sign changed), each as tight as its neighbours make it."""

    t: Floats
    v: Floats
    wander: float

    def at(self, t: Floats) -> Floats:
        after = np.searchsorted(self.t, t)
        left, right = np.maximum(after - 1, 0), np.minimum(after, len(self.t) - 1)
        nearer = np.minimum(
            self.v[left] + self.wander * np.abs(t - self.t[left]),
            self.v[right] + self.wander * np.abs(self.t[right] - t),
        )
        return np.asarray(nearer)


def _side(t: Floats, v: Floats, wander: float) -> _Side:
    order = np.argsort(t, kind="stable")
    t, v = t[order], v[order]
    before = np.minimum.accumulate(v - wander * t) + wander * t
    after = np.minimum.accumulate((v + wander * t)[::-1])[::-1] - wander * t
    return _Side(t, np.minimum(before, after), wander)


@dataclass(frozen=True)
class Corridor:
    """A stretch of time in which a clock did not step: its `drift` against the reference lies in `drifts`."""

    drift: float
    drifts: tuple[float, float]
    wander: float
    start: float
    end: float
    _above: _Side
    _below: _Side

    def limits(self, t: Floats) -> tuple[Floats, Floats]:
        """Return what the offset is at least and at most, at moments of this clock."""
        line = self.drift * t
        return line - self._below.at(t) - STAMP_S, line + self._above.at(t) + STAMP_S


@dataclass(frozen=True)
class Fit:
    """A clock against its reference: stretches in order of time, between which it stepped; `left_out` were wrong."""

    stretches: tuple[Corridor, ...]
    left_out: int

    def limits(self, t: Floats) -> tuple[Floats, Floats]:
        """Return what the offset is at least and at most, at moments of this clock; in a gap, what both sides say."""
        low, high = self.stretches[0].limits(t)
        for before, after in pairwise(self.stretches):
            new_low, new_high = after.limits(t)
            gap = t > before.end
            low = np.where(t >= after.start, new_low, np.where(gap, np.minimum(low, new_low), low))
            high = np.where(t >= after.start, new_high, np.where(gap, np.maximum(high, new_high), high))
        return low, high

    def steps(self) -> Iterator[tuple[float, float]]:
        """Yield when the clock had stepped, and by how much."""
        for before, after in pairwise(self.stretches):
            (old_low, old_high), (new_low, new_high) = (
                stretch.limits(np.array([at])) for stretch, at in ((before, before.end), (after, after.start))
            )
            yield after.start, float((new_low + new_high - old_low - old_high)[0]) / 2


def fit(bounds: Bounds) -> Fit | None:
    """Fit a clock to exchanges in any order; None when there is none that can be used."""
    possible = bounds.possible()
    left_out = len(bounds) - len(possible)
    if not len(possible):
        return None
    number = _stretches(possible)
    kept = number >= 0
    stretches = tuple(_corridor(possible.take(number == each)) for each in np.unique(number[kept]))
    return Fit(stretches, left_out + int(np.sum(~kept)))


def _stretches(bounds: Bounds) -> NDArray[np.int64]:
    """Return the number of the stretch that each exchange belongs to, -1 for one that contradicts its neighbours."""
    if _crossing(bounds, 0.0, FASTEST) <= 0:
        return np.zeros(len(bounds), dtype=np.int64)
    points = [
        *((t, v, True, place) for place, (t, v) in enumerate(zip(bounds.upper_t, bounds.upper, strict=True))),
        *((t, v, False, place) for place, (t, v) in enumerate(zip(bounds.lower_t, bounds.lower, strict=True))),
    ]
    points.sort()
    number = np.full(len(bounds), -2, dtype=np.int64)
    state, stretch = _State(), 0
    for place, (time, value, is_upper, exchange) in enumerate(points):
        if number[exchange] == -1:
            continue
        if state.refutes(time, value, is_upper=is_upper):
            others = [point for point in points[place + 1 : place + 8] if point[3] != exchange][:_LOOK_AHEAD]
            if others and not any(state.refutes(t, v, is_upper=upper) for t, v, upper, _ in others):
                number[exchange] = -1
                continue
            state, stretch = _State(), stretch + 1
        state.note(time, value, is_upper=is_upper)
        # An exchange that a step falls into tells of either side; it is counted to the later one, where it may not fit.
        number[exchange] = stretch if number[exchange] in {-2, stretch} else -1
    return number


@dataclass
class _State:
    """What the offset can be, by the bounds so far, for a clock that drifts as fast as any."""

    time: float = 0.0
    low: float = -np.inf
    high: float = np.inf

    def refutes(self, time: float, value: float, *, is_upper: bool) -> bool:
        """Whether a bound leaves nothing for the offset to be."""
        room = FASTEST * (time - self.time) + 2 * STAMP_S
        return value < self.low - room if is_upper else value > self.high + room

    def note(self, time: float, value: float, *, is_upper: bool) -> None:
        room = FASTEST * (time - self.time)
        self.time, self.low, self.high = time, self.low - room, self.high + room
        if is_upper:
            self.high = min(self.high, value)
        else:
            self.low = max(self.low, value)


def _crossing(bounds: Bounds, drift: float, wander: float) -> float:
    """Return by how much the corridor's sides cross at worst: above 0, no clock with this drift and wander fits."""
    above = _side(bounds.upper_t, bounds.upper - drift * bounds.upper_t, wander)
    below = _side(bounds.lower_t, drift * bounds.lower_t - bounds.lower, wander)
    return float(np.max(-below.v - above.at(below.t))) - 2 * STAMP_S


def _corridor(bounds: Bounds) -> Corridor:
    least, drift, most = _drifts(bounds)
    wander = max(most - drift, drift - least) + WANDER
    if _crossing(bounds, drift, wander) > 0:
        # It wanders more than crystals do. That the exchanges do not refute a rate does not make it the highest.
        while _crossing(bounds, drift, wander) > 0:
            wander *= 2
        wander *= 2
    return Corridor(
        drift=drift,
        drifts=(drift - wander, drift + wander),
        wander=wander,
        start=float(min(bounds.upper_t.min(), bounds.lower_t.min())),
        end=float(max(bounds.upper_t.max(), bounds.lower_t.max())),
        _above=_side(bounds.upper_t, bounds.upper - drift * bounds.upper_t, wander),
        _below=_side(bounds.lower_t, drift * bounds.lower_t - bounds.lower, wander),
    )


def _drifts(bounds: Bounds) -> tuple[float, float, float]:
    """Return the least drift of a line through the corridor, the best one, and the greatest.

    Where no line passes, the one that misses by least: each pair of bounds that excludes a greater one is matched by
    one that excludes a smaller one, so the clock's rate was on either side of it.
    """
    middle = float(np.mean(bounds.upper_t))
    upper_t, lower_t = bounds.upper_t - middle, bounds.lower_t - middle

    def clearance(drift: float) -> tuple[float, float]:
        above, below = bounds.upper - drift * upper_t, bounds.lower - drift * lower_t
        least, most = int(above.argmin()), int(below.argmax())
        return float(above[least] - below[most]) + 2 * STAMP_S, float(lower_t[most] - upper_t[least])

    widest = maximum(clearance, -FASTEST, FASTEST)
    if clearance(widest)[0] < 0:
        return widest, widest, widest
    least, most = edge(clearance, -FASTEST), edge(clearance, FASTEST)
    return least, min(max(_slope(bounds, (least + most) / 2), least), most), most


def _slope(bounds: Bounds, otherwise: float) -> float:
    """Return the slope of a straight line through the exchange of the least round trip of each window of time."""
    t = (bounds.upper_t + bounds.lower_t) / 2
    trip = np.maximum(bounds.upper - bounds.lower, 0.0)
    span = float(np.ptp(t))
    if not span:
        return otherwise
    windows = min(max(len(t) // WINDOW_EXCHANGES, 2), MOST_WINDOWS)
    window = np.minimum((t - t.min()) / span * windows, windows - 1).astype(np.int64)
    order = np.lexsort((trip, window))
    best = order[np.unique(window[order], return_index=True)[1]]
    # A longer round trip may be lopsided by all of its length; the squares of errors weigh.
    weight = 1 / (trip[best] + 10 * STAMP_S)
    slope, _ = np.polyfit(t[best] - t.mean(), (bounds.upper + bounds.lower)[best] / 2, 1, w=weight)
    return float(slope)

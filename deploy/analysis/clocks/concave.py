"""Where a concave function made of straight pieces is greatest, and where it becomes negative, by its tangents.

It gives its value and its slope at a place. A few steps find both exactly, where halving takes fifty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Concave = Callable[[float], tuple[float, float]]

EXACT = 1e-9
"""A value that is off by no more is exact: it is in seconds, and clocks are read to microseconds."""
_MOST_STEPS = 60
"""A limit: the top and both edges of a clock's clearance took 14 together, on average of 1,000 clocks."""


def maximum(concave: Concave, low: float, high: float) -> float:
    """Return where a concave function is greatest: between two points, no higher than where their tangents meet.

    It consists of straight pieces, so that a few steps find the top exactly.
    """
    (at_low, up), (at_high, down) = concave(low), concave(high)
    if up <= 0 or down >= 0:
        return low if up <= 0 else high
    for _ in range(_MOST_STEPS):
        place = min(max((at_high - at_low + up * low - down * high) / (up - down), low), high)
        value, slope = concave(place)
        if at_low + up * (place - low) - value <= EXACT or slope == 0:
            return place
        if slope > 0:
            low, at_low, up = place, value, slope
        else:
            high, at_high, down = place, value, slope
    return (low + high) / 2


def edge(concave: Concave, outside: float) -> float:
    """Return where a concave function, negative at `outside`, is so no more; rather outside than in.

    A tangent is nowhere below the function, so where it crosses zero is never beyond the edge (Newton's method).
    """
    value, slope = concave(outside)
    for _ in range(_MOST_STEPS):
        if value >= -EXACT:
            break
        outside -= value / slope
        value, slope = concave(outside)
    return outside

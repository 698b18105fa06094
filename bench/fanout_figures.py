"""What runs of bench/fanout.py took, and how it is shown."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Figures:
    """What one run took: seconds on the clock, controller's CPU seconds, MB of its largest process."""

    wall_s: float
    cpu_s: float
    peak_mb: float


Results = dict[tuple[str, str], list[Figures]]
"""By scenario and peer, one entry for each turn."""


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table; all columns but the first hold numbers."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    return "\n".join(lines) + "\n"


def medians(found: Sequence[Figures]) -> str:
    """Return the medians of what several runs took."""
    wall, cpu, peak = (
        statistics.median(getattr(one, name) for one in found) for name in ("wall_s", "cpu_s", "peak_mb")
    )
    return f"{wall:.2f} / {cpu:.2f} / {peak:.0f}"


def turns(results: Results, scenario: str, peer: str) -> list[float]:
    """Return the ratio of our wall time to a peer's, for each turn that both have taken."""
    pairs = zip(results[scenario, "ours"], results[scenario, peer], strict=False)
    return [ours.wall_s / theirs.wall_s for ours, theirs in pairs]


def spread(found: Sequence[float]) -> str:
    """Return a median with its extremes."""
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def met(found: float, most: float) -> str:
    """Say whether a bar is met."""
    return "met" if found <= most else "**not met**"

"""What an engine is asked to do, and what one run of it took."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    from usage import Sampler


@dataclass(frozen=True)
class Work:
    """Send `size_bytes` to every client and back, `rounds` times, after `warmup` rounds that do not count."""

    clients: int
    size_bytes: int
    rounds: int
    warmup: int


@dataclass(frozen=True)
class Outcome:
    """The seconds of each round; CPU seconds of all processes, and bytes on the wire if the engine tells, a round."""

    round_s: list[float]
    cpu_s: float
    usage: Sampler
    wire_bytes: float | None = None

    @property
    def median_s(self) -> float:
        """The median round."""
        return statistics.median(self.round_s)


def timed(work: Work, result: Path, usage: Sampler) -> Outcome:
    """Return the outcome from a file of (start in ns of the monotonic clock, seconds) of every round."""
    rounds = msgspec.json.decode(result.read_bytes(), type=list[tuple[int, float]])[work.warmup :]
    ended_ns = rounds[-1][0] + int(rounds[-1][1] * 1e9)
    cpu_s = usage.cpu_s(rounds[0][0], ended_ns) / len(rounds)
    return Outcome([seconds for _, seconds in rounds], cpu_s, usage)

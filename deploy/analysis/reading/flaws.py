"""What the numbers of lines tell: which stand there twice, where some are missing, and what is unusable; in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from deploy.analysis.reading.parsing import TORN, Flaw
from flcommon.process import EVENTS_FILE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

SHOWN = 5
"""So many lines of a log are told of one by one."""


@dataclass(frozen=True)
class Lines:
    """The stamped lines of all logs; host k's are those numbered from `ends[k - 1]` to before `ends[k]`."""

    hosts: Sequence[str]
    ends: Integers
    at: Integers
    seq: Integers
    mono_ns: Integers
    wall_ns: Integers

    def host(self, at: int) -> str:
        """Return whose log a line stands in."""
        return self.hosts[int(np.searchsorted(self.ends, at, side="right"))]

    def owners(self) -> Integers:
        """Return the place of each line's host."""
        return np.searchsorted(self.ends, self.at, side="right")

    def twice(self) -> Integers:
        """Return the lines that are another one once more: same log, same number, same moments."""
        if not len(self.at):
            return self.at
        owner = self.owners()
        back = (np.diff(self.seq) <= 0) & (np.diff(owner) == 0)
        found = []
        for host in np.unique(owner[1:][back]):
            own = np.flatnonzero(owner == host)
            rows = np.stack([self.seq[own], self.mono_ns[own], self.wall_ns[own]], axis=1)
            first = np.unique(rows, axis=0, return_index=True)[1]
            found.append(np.delete(self.at[own], first))
        return np.sort(np.concatenate(found)) if found else self.at[:0]

    def without(self, twice: Integers) -> Lines:
        """Leave lines out."""
        if not len(twice):
            return self
        kept = ~np.isin(self.at, twice)
        return replace(
            self, at=self.at[kept], seq=self.seq[kept], mono_ns=self.mono_ns[kept], wall_ns=self.wall_ns[kept]
        )

    def starts(self, jobs: Collection[int]) -> Integers:
        """Return the first line of each process: of each log, and each that accepts a job."""
        owner = self.owners()
        first = self.at[np.flatnonzero(np.diff(owner, prepend=-1))] if len(self.at) else self.at
        return np.union1d(first, np.array(sorted(jobs), dtype=np.int64))

    def jumps(self) -> Iterator[tuple[int, int, int]]:
        """Yield each line whose number is not the next one, the number that was expected, and its own."""
        if len(self.at):
            owner = self.owners()
            expected = np.concatenate([[0], self.seq[:-1] + 1])
            expected[np.diff(owner, prepend=-1) != 0] = 0
            for place in np.flatnonzero(self.seq != expected).tolist():
                yield int(self.at[place]), int(expected[place]), int(self.seq[place])


def problems_of(
    lines: Lines, twice: Integers, flaws: Sequence[Flaw], jobs: Collection[int]
) -> Iterator[tuple[str, str]]:
    """Yield hosts and what is wrong with their logs, in the order of lines; what is wrong often, in one sentence."""
    told: dict[str, list[tuple[int, str]]] = {host: [] for host in lines.hosts}
    unknown: dict[str, Counter[str]] = {host: Counter() for host in lines.hosts}
    for flaw in flaws:
        if flaw.name:
            unknown[lines.host(flaw.at)][flaw.name] += 1
        else:
            # A process that goes on in the log closes the line at which the one before was cut off.
            told[lines.host(flaw.at)].append((flaw.at, TORN if flaw.at + 1 in jobs else flaw.why))
    for at, expected, found in lines.without(twice).jumps():
        told[lines.host(at)].append((at, _jump(expected, found)))
    again = Counter(lines.host(at) for at in twice.tolist())
    for number, host in enumerate(lines.hosts):
        before = int(lines.ends[number - 1]) if number else 0
        found_here = sorted(told[host])
        yield from ((host, f"{EVENTS_FILE}:{at - before + 1}: {what}") for at, what in found_here[:SHOWN])
        if len(found_here) > SHOWN:
            yield host, f"{EVENTS_FILE}: {len(found_here) - SHOWN} more lines are unusable or out of order"
        if unknown[host]:
            names = ", ".join(sorted(unknown[host]))
            yield host, f"{EVENTS_FILE}: {unknown[host].total()} events that this version does not know: {names}"
        if again[host]:
            yield host, f"{EVENTS_FILE}: {again[host]} events stand in it twice, as after two pulls: taken once"


def _jump(expected: int, found: int) -> str:
    """Say in words what a sequence number tells that is not the next one."""
    if found < expected:
        return f"event {found} stands where event {expected} should"
    return f"events {expected} to {found - 1} are missing"

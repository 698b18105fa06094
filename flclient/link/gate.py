"""A direction of the link with a clock, where a host's connections take turns; and what has been done to it so far."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flclient.link.lane import PIECE_BYTES, Lane

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

EARLY_S, LONG_S = 0.0003, 0.001
"""A process that has slept for long wakes up slowly, its caches cold: it is woken a little early, and once more."""


@dataclass
class Account:
    """What was done to a direction, over all connections: bytes since the start, the rest since the last report."""

    accepted_bytes: int = 0
    gone_bytes: int = 0
    """Sent, or lost with their connection."""
    size_bytes: int = 0
    held_byte_ns: int = 0
    held_max_ns: int = 0
    stalled_ns: int = 0
    on_gone: Callable[[], None] = field(default=lambda: None)

    def sent(self, size: int, held_ns: int) -> None:
        """Count bytes that have been sent."""
        self.size_bytes += size
        self.held_byte_ns += size * held_ns
        self.held_max_ns = max(self.held_max_ns, held_ns)
        self.gone(size)

    def gone(self, size: int) -> None:
        """Count bytes that are held no longer."""
        self.gone_bytes += size
        self.on_gone()

    def report(self) -> tuple[int, float | None, float | None, float]:
        """Return size in bytes, mean and longest time held, and stalls, in ms, since the last time."""
        size, held, longest, stalled = self.size_bytes, self.held_byte_ns, self.held_max_ns, self.stalled_ns
        self.size_bytes = self.held_byte_ns = self.held_max_ns = self.stalled_ns = 0
        if not size:
            return 0, None, None, stalled / 1e6
        return size, held / size / 1e6, longest / 1e6, stalled / 1e6


class Gate:
    """One direction of the link: who wants to read when it is busy waits here for its turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.lane = Lane()
        self.account = Account()
        self.buffer = memoryview(bytearray(PIECE_BYTES))
        """What has just been read, for as long as it takes to send or to copy it."""
        self._waiting: deque[Callable[[], None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def alarm(self, due_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call at that time, or a little before and then again."""
        is_far = due_s - self.loop.time() > LONG_S
        return self.loop.call_at(due_s - EARLY_S if is_far else due_s, callback)

    def is_open(self, now_ns: int) -> bool:
        """Whether bytes may be read by somebody who has not waited."""
        return not self._waiting and self.lane.opens_ns <= now_ns

    def wait(self, resume: Callable[[], None]) -> None:
        """Call when it is this one's turn."""
        self._waiting.append(resume)
        if self._timer is None:
            self.look_again()

    def leave(self, resume: Callable[[], None]) -> None:
        """Wait no longer."""
        if resume in self._waiting:
            self._waiting.remove(resume)

    def look_again(self) -> None:
        """Set the clock by what the lane says now."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self.lane.opens_ns / 1e9, self._open) if self._waiting else None

    def _open(self) -> None:
        self._timer = None
        turns = len(self._waiting)
        while turns and self._waiting and self.lane.opens_ns <= time.monotonic_ns():
            turns -= 1
            self._waiting.popleft()()
        if self._timer is None:
            self.look_again()

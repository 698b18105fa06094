"""What a controller says to one host, and when: in bursts where clocks have to be known well, else now and then.

Waits and stamps; talks to nobody. One word at a time: the next is said when the one before has been answered, so that
none waits for another on its way.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import NamedTuple

from deploy.remote.protocol import Words
from flcommon.conversing import LEAVE
from flcommon.lease import RENEW_S


@dataclass(frozen=True)
class Pace:
    """A burst is `burst` words, `quick_s` apart at most; between bursts there is a word every `renew_s` at least.

    At the end, those of a last burst follow each other at once, for `last_s` at most.
    """

    burst: int = 20
    quick_s: float = 0.05
    renew_s: float = RENEW_S
    last_s: float = 1.0


class Stamp(NamedTuple):
    """A moment by this machine's two clocks, in ns."""

    mono_ns: int
    wall_ns: int

    @classmethod
    def now(cls) -> Stamp:
        """Return this moment."""
        return cls(time.monotonic_ns(), time.time_ns())


class Pulse(Words):
    """The words of one connection: numbers, beginning with a burst; last, if that is so, that the campaign is left."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._changed = threading.Condition()
        self._number, self._left_of_burst, self._due = 0, pace.burst, time.monotonic()
        self._sent: Stamp | None = None
        self._deadline: float | None = None
        self._leaving = self._over = False

    def __next__(self) -> bytes:
        """Wait until the next word is due, and return it: its stamp is the last thing that is made."""
        with self._changed:
            while not self._over and not self._is_due(time.monotonic()):
                self._changed.wait(self._wait_s(time.monotonic()))
            if self._is_last():
                return self._last_word()
            self._number += 1
            self._left_of_burst = max(0, self._left_of_burst - 1)
            self._due = time.monotonic() + self._pause_s()
            word = b"%d\n" % self._number
            self._sent = Stamp.now()
            return word

    def burst(self) -> None:
        """Say more for a while, from now on."""
        with self._changed:
            self._left_of_burst, self._due = self._pace.burst, time.monotonic()
            self._changed.notify_all()

    def answered(self, number: int) -> Stamp | None:
        """Take in the answer to a word, and return when that was said; None if it is not the one that is awaited."""
        with self._changed:
            if number != self._number or self._sent is None:
                return None
            sent, self._sent = self._sent, None
            self._changed.notify_all()
            return sent

    def end(self, *, leave: bool) -> None:
        """Come to an end: with a last burst, and if so with the word that the campaign is left running."""
        with self._changed:
            self._deadline, self._leaving = time.monotonic() + self._pace.last_s, leave
            self._left_of_burst = self._pace.burst
            self._changed.notify_all()

    def close(self) -> None:
        """Say no more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _pause_s(self) -> float:
        """Return how long to wait before the next word: by chance, or all hosts would be spoken to at once."""
        longest_s = self._pace.quick_s if self._left_of_burst else self._pace.renew_s
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - guards no secret

    def _is_due(self, now: float) -> bool:
        if self._deadline is not None:
            return self._sent is None or now >= self._deadline
        return self._sent is None and now >= self._due

    def _wait_s(self, now: float) -> float | None:
        """Return for how long nothing is due, if nothing changes; None: for ever."""
        if self._deadline is not None:
            return self._deadline - now
        return None if self._sent is not None else self._due - now

    def _is_last(self) -> bool:
        if self._over or self._deadline is None:
            return self._over
        return not self._left_of_burst or time.monotonic() >= self._deadline

    def _last_word(self) -> bytes:
        """Say that the campaign is left, once, if it is; then end."""
        if self._leaving and not self._over:
            self._leaving, self._over = False, True
            return LEAVE + b"\n"
        self._over = True
        raise StopIteration

"""The ends of the line protocol in the process that shapes: what it hears, from whom, and what it says."""

from __future__ import annotations

import os
import selectors
import signal
import sys
from typing import TYPE_CHECKING

from flclient.link.protocol import line

if TYPE_CHECKING:
    from flclient.link.protocol import Answer

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Ended(Exception):
    """It is over: the client, or who sent a signal, wants no more."""


class Ears:
    """Standard input, the signals that end it, and its parent."""

    def __init__(self) -> None:
        self._input = sys.stdin.fileno()
        self._heard = bytearray()
        self._parent = os.getppid()
        wakened, waking = os.pipe()
        os.set_blocking(waking, False)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        for number in _ENDING:
            signal.signal(number, lambda _number, _frame: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._input, selectors.EVENT_READ)
        self._selector.register(wakened, selectors.EVENT_READ)

    def hear(self, timeout_s: float) -> bytes | None:
        """Return the next line, None if there is none in time; Ended at the end of what is to be heard."""
        if b"\n" not in self._heard:
            self._listen(timeout_s)
        whole, found, rest = self._heard.partition(b"\n")
        if not found:
            return None
        self._heard = rest
        return bytes(whole)

    def _listen(self, timeout_s: float) -> None:
        ready = [key.fd for key, _ in self._selector.select(max(timeout_s, 0.0))]
        if any(fd != self._input for fd in ready) or os.getppid() != self._parent:
            raise Ended
        if self._input in ready:
            data = os.read(self._input, 1 << 16)
            if not data:
                raise Ended
            self._heard += data


def say(answer: Answer) -> None:
    """Tell the client; Ended if it does not listen any more."""
    try:
        os.write(sys.stdout.fileno(), line(answer))
    except OSError as error:
        raise Ended from error

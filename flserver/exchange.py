"""The table of instructions that wait for a reply: a reply wakes its waiter, and nothing here polls."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.app import Message

    from flserver.errors import ServerError


class _Waiter:
    """Somebody who sleeps until every id of a set has its reply."""

    def __init__(self, missing: set[str]) -> None:
        self.missing = missing
        self.wake = threading.Event()


class Exchange:
    """Outstanding instructions and replies that nobody has taken yet; used from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outstanding: set[str] = set()
        self._replies: dict[str, Message] = {}
        self._waiters: list[_Waiter] = []
        self._failure: ServerError | None = None

    def expect(self, message_id: str) -> None:
        """Register an instruction that is about to be sent."""
        with self._lock:
            self._outstanding.add(message_id)

    def deliver(self, message_id: str, reply: Message) -> bool:
        """Keep a reply and wake who waits for it; False if nobody expects it (late, or never asked for)."""
        with self._lock:
            if message_id not in self._outstanding:
                return False
            self._outstanding.remove(message_id)
            self._replies[message_id] = reply
            for waiter in self._waiters:
                waiter.missing.discard(message_id)
                if not waiter.missing:
                    waiter.wake.set()
        return True

    def fail(self, failure: ServerError) -> None:
        """End all waiting, now and from now on, with this error; the first one stays."""
        with self._lock:
            self._failure = self._failure or failure
            for waiter in self._waiters:
                waiter.wake.set()

    def check(self) -> None:
        """Raise the failure, if there is one."""
        if self._failure is not None:
            raise self._failure

    def wait(self, message_ids: Iterable[str], timeout_s: float | None) -> None:
        """Return when all these replies are here, or after `timeout_s`; raises ServerError on a failure."""
        with self._lock:
            waiter = _Waiter(set(message_ids) & self._outstanding)
            self._waiters.append(waiter)
            if not waiter.missing or self._failure:
                waiter.wake.set()
        waiter.wake.wait(timeout_s)
        with self._lock:
            self._waiters.remove(waiter)
        self.check()

    def take(self, message_ids: Iterable[str]) -> list[Message]:
        """Remove and return the replies that are here, in the order of the ids."""
        self.check()
        with self._lock:
            return [self._replies.pop(one) for one in message_ids if one in self._replies]

    def forget(self) -> None:
        """Drop everything: a trial is over, and its late replies are nobody's."""
        with self._lock:
            self._outstanding.clear()
            self._replies.clear()

"""Writes how this machine and its connections to the other side are doing: beside messages, and at ticks in between.

A sample stands in nobody's way: it is taken after what it stands beside, and written together with it.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from flcommon.eventlog import EventLog, Moment, now
from flcommon.events import Event, HostSampled, OfMessage, TcpSampled
from flcommon.machine import Machine
from flcommon.sockets import Address, Sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

_LEAVE_S = 5.0
"""How long a tick may take that is under way at the end: a wireless driver may have to ask its firmware."""


class Sampler:
    """Samples every `every_s` while it is used as a context manager, and beside messages at any time; 0: never.

    `peer_of` says where a client's connection has its other end, as this process sees it; None while there is none.
    `look` is asked how the machine is doing. Used from many threads.
    """

    def __init__(
        self,
        every_s: float,
        log: EventLog,
        clients: Sequence[str],
        peer_of: Callable[[str], Address | None],
        look: Callable[[], HostSampled] | None = None,
    ) -> None:
        self._every_ns = round(every_s * 1e9)
        self._log = log
        self._clients = clients
        self._peer_of = peer_of
        self._look = look or Machine().sample
        self._sockets = Sockets()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        """Begin to tick, with a first one now."""
        if self._every_ns:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_LEAVE_S)

    def beside(self, event: OfMessage, at: Moment) -> None:
        """Write an event that happened `at` a moment, and how the connection that it went by is doing now."""
        self._log.write_all([(event, at), *self._sampled(event.client, event.message)])

    def _sampled(self, client: str, message: str | None) -> Sequence[tuple[Event, Moment]]:
        """Return a sample of a client's connection; none if it has no connection, or nobody tells."""
        peer = self._peer_of(client) if self._every_ns else None
        if peer is None:
            return ()
        at = now()
        tcp = self._sockets.tcp(peer)
        return [(TcpSampled(client=client, tcp=tcp, message=message), at)] if tcp is not None else ()

    def _run(self) -> None:
        due_ns = time.monotonic_ns()
        while not self._ended.wait(max(0, due_ns - time.monotonic_ns()) / 1e9):
            with suppress(OSError):  # a log that cannot be written: whoever writes what counts will say so
                self._tick()
            due_ns = next_due(due_ns, time.monotonic_ns(), self._every_ns)

    def _tick(self) -> None:
        at = now()
        entries: list[tuple[Event, Moment]] = [(self._look(), at)]
        for client in self._clients:
            entries += self._sampled(client, None)
        self._log.write_all(entries)


def next_due(due_ns: int, at_ns: int, every_ns: int) -> int:
    """Return when the tick after that of `due_ns` is due: in step with it, and later than now, whatever was missed."""
    return due_ns + max(1, -(-(at_ns - due_ns) // every_ns)) * every_ns

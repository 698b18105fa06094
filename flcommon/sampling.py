"""Writes how this machine and its connections to the other side are doing: beside messages, and at ticks in between.

A sample stands in nobody's way: it is taken after what it stands beside, and a log that cannot be written is the
business of who writes what counts.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from flcommon.eventlog import EventLog, now
from flcommon.events import HostSampled, Place, TcpSampled
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

    def beside(self, place: Place) -> None:
        """Write how the connection that a message goes by is doing now; nothing if there is none, or nobody tells."""
        self._sample(place["client"], place["message"])

    def _sample(self, client: str, message: str | None) -> None:
        peer = self._peer_of(client) if self._every_ns else None
        if peer is None:
            return
        at = now()
        tcp = self._sockets.tcp(peer)
        if tcp is not None:
            self._log.write(TcpSampled(client=client, tcp=tcp, message=message), at)

    def _run(self) -> None:
        due_ns = time.monotonic_ns()
        while not self._ended.wait(max(0, due_ns - time.monotonic_ns()) / 1e9):
            with suppress(OSError):
                self._tick()
            due_ns = next_due(due_ns, time.monotonic_ns(), self._every_ns)

    def _tick(self) -> None:
        at = now()
        self._log.write(self._look(), at)
        for client in self._clients:
            self._sample(client, None)


def next_due(due_ns: int, at_ns: int, every_ns: int) -> int:
    """Return when the tick after that of `due_ns` is due: in step with it, and later than now, whatever was missed."""
    return due_ns + max(1, -(-(at_ns - due_ns) // every_ns)) * every_ns

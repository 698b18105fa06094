"""A host that cannot be reached yet: every verb tries to connect, until one has."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from deploy.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from deploy.remote.protocol import Remote, Words


class LateRemote:
    """A `deploy.remote.protocol.Remote` whose verbs raise what `connect` raises, HostError, until it succeeds."""

    def __init__(self, host: str, connect: Callable[[], Remote]) -> None:
        self._host, self._connect = host, connect
        self._lock = threading.Lock()
        self._remote: Remote | None = None
        self._closed = False

    @property
    def host(self) -> str:
        """The host's name in the inventory."""
        return self._host

    def read(self, argv: Sequence[str], *, step: str, stdin: bytes = b"") -> str:
        """Run a command that only looks."""
        return self._reached(step).read(argv, step=step, stdin=stdin)

    def run(
        self,
        argv: Sequence[str],
        *,
        step: str,
        stdin: bytes | Words = b"",
        on_line: Callable[[str], None] | None = None,
    ) -> str:
        """Run a command that may change the host."""
        return self._reached(step).run(argv, step=step, stdin=stdin, on_line=on_line)

    def put(self, stream: Iterator[bytes], argv: Sequence[str], *, step: str) -> str:
        """Feed chunks of bytes to a command."""
        return self._reached(step).put(stream, argv, step=step)

    def get(self, argv: Sequence[str], sink: BinaryIO, *, step: str) -> int:
        """Copy the standard output of a command."""
        return self._reached(step).get(argv, sink, step=step)

    def close(self) -> None:
        """Close the connection, if there is one; none is made any more."""
        self._closed = True
        remote = self._remote
        if remote is not None:
            remote.close()

    def _reached(self, step: str) -> Remote:
        """Return the connection; one thread makes it, the others wait for it."""
        with self._lock:
            if self._remote is None and not self._closed:
                self._remote = self._connect()
            if self._remote is None or self._closed:  # closed meanwhile, by who could not close what was not there yet
                if self._remote is not None:
                    self._remote.close()
                raise HostError(self._host, step, "the connection was closed here")
            return self._remote

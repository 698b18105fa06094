"""The one waist: five verbs to a host. Everything the controller does on a host passes here.

`read` looks and never changes anything; `run` may change. Dry runs and tests use `deploy.remote.fake`, real hosts
`deploy.remote.ssh`; nothing else of the toolkit knows about SSH.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO


class Words(Iterator[bytes]):
    """Input that is said over time, while the answers come back; its end is the end of the command's input."""

    @abstractmethod
    def close(self) -> None:
        """Come to an end now, also while a thread waits for the next word; from any thread, and twice is fine."""


class Remote(Protocol):
    """A connection to one host, kept for the whole command.

    All verbs take argv lists, never shell text, and the name of the `step` that an error message shall show; argv[0] is
    a program, not a word of a shell. They raise `HostError` (timed out, too much output), `CommandFailed` (exit status
    other than 0) and `ConnectionLost`: it is not known how far the command came, and the next verb connects again.
    Paths beginning with `~/` are the caller's business: a host's home directory is one of its facts.
    """

    @property
    def host(self) -> str:
        """The host's name in the inventory."""

    def read(self, argv: Sequence[str], *, step: str, stdin: bytes = b"") -> str:
        """Run a command that only looks, and return its standard output: 16 MB at most, as of every verb but `get`."""

    def run(
        self,
        argv: Sequence[str],
        *,
        step: str,
        stdin: bytes | Words = b"",
        on_line: Callable[[str], None] | None = None,
    ) -> str:
        """Run a command that may change the host, and return its standard output.

        `stdin` may be Words: they are fed from a thread of their own, and closed when the command ends first.

        With `on_line`, each line of standard output is passed on as it arrives instead (one of more than 1 MB in
        pieces), and there is no time-out:
        the call ends when the command does, or when `close` is called from another thread (HostError).
        """

    def put(self, stream: Iterator[bytes], argv: Sequence[str], *, step: str) -> str:
        """Feed chunks of bytes to the standard input of a command (tar, a Python receiver); return its output."""

    def get(self, argv: Sequence[str], sink: BinaryIO, *, step: str) -> int:
        """Copy the standard output of a command into `sink`; return the number of bytes."""

    def close(self) -> None:
        """Close the connection; also ends a `run(on_line=…)` of another thread. Calling it twice is fine."""

"""The five verbs over a link to a host that may break: a lost link is an error once, and the next verb has a new one.

Knows no SSH library: a link is what `deploy.remote.ssh` makes.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol, Self

from deploy.remote.session import Broken, Command, Session, Silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import BinaryIO

    from deploy.errors import HostError
    from deploy.remote.protocol import Words
    from deploy.remote.session import Channel

_IDLE_S = 60.0
_ANSWER_S = 10.0
_MOST_OUTPUT = 16 << 20
_LONGEST_LINE = 1 << 20


class Refused(Exception):
    """The host is there, but gives no session; says why."""


class Link(Protocol):
    """One logged-in connection."""

    @property
    def foreign(self) -> tuple[type[Exception], ...]:
        """By these exceptions it says that it no longer works."""

    def session(self, command: bytes, timeout_s: float) -> Channel:
        """Ask for a session that runs a command line, without waiting for its answer; raises Refused, or `foreign`."""

    def is_lost(self, patience_s: float = 0.0) -> bool:
        """Tell whether the connection is gone; with `patience_s`, give it that time to notice."""

    def answers(self, within_s: float) -> bool:
        """Tell whether the host still answers on this connection."""

    def close(self) -> None:
        """Take everything back; twice is fine."""


class SshRemote:
    """A logged-in host; see `deploy.remote.protocol.Remote`. Several threads may use its verbs at once.

    `connect` makes a new link, or raises HostError; it is called again by the first verb after a link was lost.
    """

    def __init__(self, host: str, connect: Callable[[], Link]) -> None:
        self._host, self._connect = host, connect
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._link = connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def host(self) -> str:
        """The host's name in the inventory."""
        return self._host

    def read(self, argv: Sequence[str], *, step: str, stdin: bytes = b"") -> str:
        """Run a command that only looks, and return its standard output."""
        return self._text(self._command(argv, step), stdin)

    def run(
        self,
        argv: Sequence[str],
        *,
        step: str,
        stdin: bytes | Words = b"",
        on_line: Callable[[str], None] | None = None,
    ) -> str:
        """Run a command that may change the host; with `on_line`, without time-out and returning nothing."""
        if on_line is None:
            return self._text(self._command(argv, step), stdin)
        lines = _Lines(on_line)
        self._execute(Command(self.host, step, tuple(argv), idle_s=None), stdin, lines.add)
        lines.end()
        return ""

    def put(self, stream: Iterator[bytes], argv: Sequence[str], *, step: str) -> str:
        """Feed chunks of bytes to a command, and return its standard output."""
        return self._text(self._command(argv, step), stream)

    def get(self, argv: Sequence[str], sink: BinaryIO, *, step: str) -> int:
        """Copy the standard output of a command into `sink`; return the number of bytes."""
        count = 0

        def keep(data: bytes) -> None:
            nonlocal count
            sink.write(data)
            count += len(data)

        self._execute(Command(self.host, step, tuple(argv), _IDLE_S, binary=True), b"", keep)
        return count

    def close(self) -> None:
        """Close the connection; what runs in other threads ends with HostError."""
        self._over.set()
        self._link.close()

    def _command(self, argv: Sequence[str], step: str) -> Command:
        return Command(self.host, step, tuple(argv), _IDLE_S)

    def _text(self, command: Command, stdin: bytes | Iterable[bytes]) -> str:
        output = bytearray()

        def keep(data: bytes) -> None:
            output.extend(data)
            if len(output) > _MOST_OUTPUT:
                raise command.broken(f"more than {_MOST_OUTPUT >> 20} MB of output")

        self._execute(command, stdin, keep)
        return output.decode(errors="replace")

    def _execute(self, command: Command, stdin: bytes | Iterable[bytes], sink: Callable[[bytes], object]) -> None:
        """Run a command to its end; return only if its exit status is 0."""
        link = self._working_link(command)
        session = Session(self._channel(link, command), command, link.foreign)
        try:
            status = session.exchange(stdin, sink)
        except Broken as error:
            raise self._loss(link, command, error.__cause__) from error.__cause__
        except Silent as error:
            raise self._silence(link, command) from error
        # A lost connection and a command killed by a signal look alike to paramiko 5.1.
        if (status < 0 or not session.complete) and (self._over.is_set() or link.is_lost(0.5)):
            raise self._loss(link, command, None)
        if not session.begun:
            raise command.not_begun(status, session.noise)
        if status != 0:
            raise command.failed(status, session.tail)

    def _working_link(self, command: Command) -> Link:
        """Return the link, or a new one where it is lost; one thread connects, the others wait for it."""
        with self._lock:
            if self._over.is_set():
                raise command.broken("the connection was closed here")
            if self._link.is_lost():
                self._link.close()
                self._link = self._connect()
                if self._over.is_set():  # meanwhile, by another thread, which could not close what was not there yet
                    self._link.close()
                    raise command.broken("the connection was closed here")
            return self._link

    def _channel(self, link: Link, command: Command) -> Channel:
        try:
            return link.session(command.line(), _IDLE_S)
        except Refused as error:
            raise command.broken(f"the host refuses another session ({error})") from error
        except TimeoutError as error:
            raise self._lost(link, command, "the host no longer answers") from error
        except link.foreign as error:
            raise self._loss(link, command, error) from error

    def _loss(self, link: Link, command: Command, error: BaseException | None) -> HostError:
        if self._over.is_set():
            return command.broken("the connection was closed here")
        if error is None or isinstance(error, EOFError) or link.is_lost(0.5):
            return self._lost(link, command, "the connection was lost")
        return command.broken(f"the connection failed ({error})")

    def _silence(self, link: Link, command: Command) -> HostError:
        """Return the error of a command that said nothing for too long: it may be stuck, or the host be gone."""
        silent = f"no data for {command.idle_s:.0f} s"
        if self._over.is_set() or link.answers(_ANSWER_S):
            return command.broken(silent)
        return self._lost(link, command, f"{silent}, and the host no longer answers")

    def _lost(self, link: Link, command: Command, reason: str) -> HostError:
        """Give up a link for good, so that no verb uses it again, and return the error that says so."""
        link.close()
        return command.lost(reason)


class _Lines:
    """Cuts a stream of bytes into lines; one that does not end is passed on in pieces."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line, self._rest = on_line, bytearray()

    def add(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._rest += line
            self.end_line()
        self._rest += rest
        if len(self._rest) > _LONGEST_LINE:
            self.end_line()

    def end_line(self) -> None:
        line, self._rest = self._rest, bytearray()
        self._on_line(line.decode(errors="replace"))

    def end(self) -> None:
        if self._rest:
            self.end_line()

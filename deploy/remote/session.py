"""One command over one SSH channel: feeds its input, drains both outputs at once, and says how it ended.

Knows no SSH library: a channel is what looks like a paramiko Channel. Connecting is `deploy.remote.ssh`'s business.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from deploy.errors import CommandFailed, HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Largest piece that leaves as one SSH packet: paramiko 5.1 keeps 64 bytes of the usual 32 KiB for its header.
_PIECE = 32 * 1024 - 64
_TAIL_BYTES = 8 * 1024


class Channel(Protocol):
    """What is used of a paramiko Channel."""

    exit_status: int
    status_event: threading.Event
    eof_received: int

    def recv(self, nbytes: int, /) -> bytes: ...  # noqa: D102
    def recv_stderr(self, nbytes: int, /) -> bytes: ...  # noqa: D102
    def send(self, s: bytes, /) -> int: ...  # noqa: D102
    def shutdown_write(self) -> None: ...  # noqa: D102
    def settimeout(self, timeout: float | None, /) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Command:
    """What runs where, for error messages; `idle_s` bounds the time without a byte in any direction.

    `binary` output is not for people to read: error messages leave it out.
    """

    host: str
    step: str
    argv: tuple[str, ...]
    idle_s: float | None
    binary: bool = False

    def broken(self, reason: str) -> HostError:
        """Return the error of a command whose end is not known."""
        return HostError(self.host, self.step, f"{reason} while running: {self.argv[0]}")

    def failed(self, status: int, output: bytes) -> CommandFailed:
        """Return the error of a command that ended with another status than 0."""
        text = output.decode(errors="replace")
        return CommandFailed(self.host, self.step, self.argv, status=status, output=text)


class Broken(Exception):
    """The channel failed in the middle of a command; `__cause__` is the SSH library's own error."""


class _Tail:
    """The last bytes of a stream, for error messages."""

    def __init__(self) -> None:
        self.last = b""

    def add(self, data: bytes) -> None:
        """Take the next piece."""
        self.last = (self.last + data)[-_TAIL_BYTES:]


class Session:
    """Runs one command to its end; use once. The caller's thread handles standard output.

    `foreign` are the exceptions by which a channel says that it no longer works.
    """

    def __init__(self, channel: Channel, command: Command, foreign: tuple[type[Exception], ...]) -> None:
        self._channel, self._command, self._foreign = channel, command, foreign
        self._feed_error: BaseException | None = None
        self._last_byte = time.monotonic()
        self._stdout, self._stderr = _Tail(), _Tail()
        channel.settimeout(command.idle_s)

    @property
    def tail(self) -> bytes:
        """The end of what the command said, standard error last."""
        return self._stderr.last if self._command.binary else self._stdout.last + b"\n" + self._stderr.last

    @property
    def complete(self) -> bool:
        """Whether the host said that its output is at an end: the exit status may come before all of the output."""
        return bool(self._channel.eof_received)

    def exchange(self, stdin: Iterable[bytes], sink: Callable[[bytes], object]) -> int:
        """Feed `stdin`, pass every piece of standard output to `sink`, and return the exit status.

        The status is -1 if none came: a signal killed the command, or the connection went away.
        What `stdin` or `sink` raise ends the command and is raised here; a failing channel raises Broken.
        """
        # Daemons: a caller's generator may block for ever, the end of the interpreter must not.
        helpers = [
            threading.Thread(target=self._drain, daemon=True),
            threading.Thread(target=self._feed, args=(stdin,), daemon=True),
        ]
        try:
            for helper in helpers:
                helper.start()
            for data in self._received():
                self._stdout.add(data)
                sink(data)
            self._await_status()
        finally:
            self._close()
        for helper in helpers:
            helper.join()
        if self._feed_error is not None:
            raise self._feed_error
        return self._channel.exit_status

    def _received(self) -> Iterator[bytes]:
        while True:
            try:
                data = self._channel.recv(_PIECE)
            except TimeoutError as error:
                if self._idle_s() < (self._command.idle_s or 0):
                    continue
                raise self._command.broken(f"no data for {self._idle_s():.0f} s") from error
            except self._foreign as error:
                raise Broken from error
            if not data:
                return
            self._last_byte = time.monotonic()
            yield data

    def _await_status(self) -> None:
        if not self._channel.status_event.wait(self._command.idle_s):
            raise self._command.broken("its output ended, but no exit status came")

    def _end_input(self) -> None:
        with contextlib.suppress(*self._foreign):
            self._channel.shutdown_write()

    def _close(self) -> None:
        with contextlib.suppress(*self._foreign):
            self._channel.close()

    def _idle_s(self) -> float:
        return time.monotonic() - self._last_byte

    def _drain(self) -> None:
        """Read standard error, of which the end is kept: unread, it would fill the channel's window."""
        while True:
            try:
                data = self._channel.recv_stderr(_PIECE)
            except TimeoutError:  # whether that is too long is for the reader of standard output to say
                continue
            except self._foreign:
                return
            if not data:
                return
            self._last_byte = time.monotonic()
            self._stderr.add(data)

    def _feed(self, stdin: Iterable[bytes]) -> None:
        try:
            if all(self._send(memoryview(chunk)) for chunk in stdin):
                self._end_input()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self._feed_error = error
            self._close()

    def _send(self, rest: memoryview) -> bool:
        """Send all, or return False if the command no longer reads: as in a pipe, it may do so and succeed."""
        while rest:
            try:
                sent = self._channel.send(bytes(rest[:_PIECE]))
            except TimeoutError:
                continue
            except self._foreign:
                return False
            if sent:
                self._last_byte = time.monotonic()
            rest = rest[sent:]
        return True

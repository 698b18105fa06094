"""One command over one SSH channel: feeds its input, drains both outputs, and says how it ended.

Knows no SSH library: a channel is what looks like a paramiko Channel. Connecting is `deploy.remote.ssh`'s business.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from deploy.errors import TAIL_LINES, CommandFailed, ConnectionLost, HostError
from deploy.remote.protocol import Words
from deploy.remote.shell import MOST_NOISE, AfterMarker, TooMuchNoise, command_line, new_marker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Largest piece that leaves as one SSH packet: paramiko 5.1 keeps 64 bytes of the usual 32 KiB for its header.
_PIECE = 32 * 1024 - 64
# As much as may have arrived: paramiko moves what is left in its buffer for every piece that is taken off its front.
_ALL = 1 << 20
_TAIL_BYTES = 8 * 1024
# So little fits the window that every SSH server opens with: sending it never waits for the command to read.
_FITS_BYTES = 16 * 1024


class Buffer(Protocol):
    """What is used of the buffer of one of a Channel's outputs."""

    def set_event(self, event: threading.Event, /) -> None: ...  # noqa: D102


class Channel(Protocol):
    """What is used of a paramiko Channel."""

    exit_status: int
    status_event: threading.Event
    eof_received: int
    closed: bool

    @property
    def in_buffer(self) -> Buffer: ...  # noqa: D102
    @property
    def in_stderr_buffer(self) -> Buffer: ...  # noqa: D102
    def recv_ready(self) -> bool: ...  # noqa: D102
    def recv(self, nbytes: int, /) -> bytes: ...  # noqa: D102
    def recv_stderr_ready(self) -> bool: ...  # noqa: D102
    def recv_stderr(self, nbytes: int, /) -> bytes: ...  # noqa: D102
    def send(self, s: bytes, /) -> int: ...  # noqa: D102
    def shutdown_write(self) -> None: ...  # noqa: D102
    def settimeout(self, timeout: float | None, /) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Command:
    """What runs where, for error messages; `idle_s` bounds the time without a byte in any direction.

    `binary` output is not for people to read: error messages leave it out. `marker` is what the host prints where the
    command's own output begins.
    """

    host: str
    step: str
    argv: tuple[str, ...]
    idle_s: float | None
    binary: bool = False
    marker: bytes = field(default_factory=new_marker)

    def line(self) -> bytes:
        """Return what to ask the host for."""
        return command_line(self.argv, self.marker)

    def broken(self, reason: str) -> HostError:
        """Return the error of a command whose end is not known."""
        return HostError(self.host, self.step, f"{reason} while running: {self.argv[0]}")

    def lost(self, reason: str) -> ConnectionLost:
        """Return the error of a command whose connection went away."""
        return ConnectionLost(self.host, self.step, f"{reason} while running: {self.argv[0]}")

    def failed(self, status: int, output: bytes) -> CommandFailed:
        """Return the error of a command that ended with another status than 0."""
        text = output.decode(errors="replace")
        return CommandFailed(self.host, self.step, self.argv, status=status, output=text)

    def not_begun(self, status: int, said: bytes) -> HostError:
        """Return the error of a command that the login shell never came to."""
        lines = said.decode(errors="replace").strip().splitlines()[-TAIL_LINES:]
        told = ":\n" + "\n".join(f"    {line}" for line in lines) if lines else "; it said nothing"
        ended = f"with status {status}" if status >= 0 else "without a status"
        reason = f"the user's login shell ended {ended} before it came to {self.argv[0]}{told}"
        return HostError(self.host, self.step, reason)


class Broken(Exception):
    """The channel failed in the middle of a command; `__cause__` is the SSH library's own error."""


class Silent(Exception):
    """No byte went in any direction for `idle_s`: the command is stuck, or the host is gone."""


class _Tail:
    """The last bytes of a stream, for error messages."""

    def __init__(self) -> None:
        self.last = b""

    def add(self, data: bytes) -> None:
        """Take the next piece."""
        self.last = data[-_TAIL_BYTES:] if len(data) >= _TAIL_BYTES else (self.last + data)[-_TAIL_BYTES:]


class Session:
    """Runs one command to its end; use once. The caller's thread handles both outputs and a small input.

    `foreign` are the exceptions by which a channel says that it no longer works.
    """

    def __init__(self, channel: Channel, command: Command, foreign: tuple[type[Exception], ...]) -> None:
        self._channel, self._command, self._foreign = channel, command, foreign
        self._feed_error: BaseException | None = None
        self._last_byte = time.monotonic()
        self._stdout, self._stderr = _Tail(), _Tail()
        self._shell_stdout = AfterMarker(command.marker, lambda _: None)
        self._shell_stderr = AfterMarker(command.marker, self._stderr.add, rolling=True)
        self._ready = threading.Event()
        for buffer in (channel.in_buffer, channel.in_stderr_buffer):
            buffer.set_event(self._ready)
        channel.settimeout(command.idle_s)

    @property
    def tail(self) -> bytes:
        """The end of what the command said, standard error last."""
        return self._stderr.last if self._command.binary else self._stdout.last + b"\n" + self._stderr.last

    @property
    def complete(self) -> bool:
        """Whether the host said that its output is at an end: the exit status may come before all of the output."""
        return bool(self._channel.eof_received)

    @property
    def begun(self) -> bool:
        """Whether the login shell came to the command."""
        return self._shell_stdout.begun

    @property
    def noise(self) -> bytes:
        """What the login shell said, if it never came to the command."""
        return self._shell_stdout.noise + b"\n" + self._shell_stderr.noise

    def exchange(self, stdin: bytes | Iterable[bytes], sink: Callable[[bytes], object]) -> int:
        """Feed `stdin`, pass every piece of standard output to `sink`, and return the exit status.

        The status is -1 if none came: a signal killed the command, or the connection went away.
        What `stdin` or `sink` raise ends the command and is raised here; a failing channel raises Broken, a silent one
        Silent. Words are closed at the end, so that the thread which feeds them ends too.
        """

        def keep(data: bytes) -> None:
            self._stdout.add(data)
            sink(data)

        self._shell_stdout = AfterMarker(self._command.marker, keep)
        feeder = None
        try:
            feeder = self._start_feeding(stdin)
            for data in self._received():
                self._shell_stdout(data)
            self._await_status()
        except TooMuchNoise as error:
            said = f"the user's login shell printed more than {MOST_NOISE >> 20} MB before it came to the command,"
            raise self._command.broken(said) from error
        finally:
            self._close()
            if isinstance(stdin, Words):
                stdin.close()
        if feeder is not None:
            feeder.join()
        if self._feed_error is not None:
            raise self._feed_error
        return self._channel.exit_status

    def _start_feeding(self, stdin: bytes | Iterable[bytes]) -> threading.Thread | None:
        """Feed what is small at once; for the rest return a thread, so that reading goes on meanwhile."""
        if isinstance(stdin, bytes) and len(stdin) <= _FITS_BYTES:
            self._feed_now(stdin)
            return None
        chunks = (stdin,) if isinstance(stdin, bytes) else stdin
        # A daemon: a caller's generator may block for ever, the end of the interpreter must not.
        feeder = threading.Thread(target=self._feed, args=(chunks,), daemon=True)
        feeder.start()
        return feeder

    def _received(self) -> Iterator[bytes]:
        """Yield standard output to its end; of standard error, the end is kept: unread, it would fill the window."""
        while True:
            over = self._channel.eof_received or self._channel.closed
            moved = self._take_errors()
            data = self._take()
            if data:
                yield data
            elif over and not moved:
                return
            elif not moved:
                self._await_data()

    def _take(self) -> bytes:
        if not self._channel.recv_ready():
            return b""
        try:
            data = self._channel.recv(_ALL)
        except self._foreign as error:
            raise Broken from error
        self._last_byte = time.monotonic()
        return data

    def _take_errors(self) -> bool:
        if not self._channel.recv_stderr_ready():
            return False
        try:
            self._shell_stderr(self._channel.recv_stderr(_ALL))
        except self._foreign as error:
            raise Broken from error
        self._last_byte = time.monotonic()
        return True

    def _await_data(self) -> None:
        """Wait for either output to have something, or to end; sending counts as a sign of life."""
        idle_s = self._command.idle_s
        while not self._ready.wait(None if idle_s is None else max(0.0, idle_s - self._idle_s())):
            if idle_s is not None and self._idle_s() >= idle_s:
                raise Silent
        self._ready.clear()

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

    def _feed_now(self, stdin: bytes) -> None:
        if self._send(memoryview(stdin), patient=False):
            self._end_input()

    def _feed(self, stdin: Iterable[bytes]) -> None:
        try:
            if all(self._send(memoryview(chunk)) for chunk in stdin):
                self._end_input()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self._feed_error = error
            self._close()

    def _send(self, rest: memoryview, *, patient: bool = True) -> bool:
        """Send all, or return False if the command no longer reads: as in a pipe, it may do so and succeed."""
        while rest:
            try:
                sent = self._channel.send(bytes(rest[:_PIECE]))
            except TimeoutError:
                if not patient:
                    raise Silent from None
                continue
            except self._foreign:
                return False
            if not sent:
                return False
            self._last_byte = time.monotonic()
            rest = rest[sent:]
        return True

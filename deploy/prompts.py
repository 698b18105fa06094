"""Asks the person at the terminal for passwords and passphrases, without showing what is typed."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
from typing import TYPE_CHECKING, Self

from deploy.errors import DeployError
from deploy.remote.asking import Secret

if TYPE_CHECKING:
    from types import TracebackType

_LONGEST = 4096
_INTERRUPTED = "interrupted while asking for a password or passphrase"


class Terminal:
    """The terminal, for the length of a with-block; None is entered where there is none.

    Worker threads ask, and Ctrl-C reaches the main thread only: leaving the block ends a prompt that still waits, so
    that no thread keeps the terminal, nor leaves it without echo.
    """

    def __init__(self, path: str = "/dev/tty") -> None:
        self._path, self._asking = path, threading.Lock()
        self._terminal = self._woken = self._wake = -1

    def __enter__(self) -> Self | None:
        try:
            self._terminal = os.open(self._path, os.O_RDWR | os.O_NOCTTY)
        except OSError:
            return None
        if not os.isatty(self._terminal):
            os.close(self._terminal)
            self._terminal = -1
            return None
        self._woken, self._wake = os.pipe()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal < 0:
            return
        os.close(self._wake)  # a prompt that waits ends now
        with self._asking:
            os.close(self._woken)
            os.close(self._terminal)
            self._terminal = -1

    def __call__(self, prompt: str) -> Secret:
        """Show a prompt and return the line that is typed; empty at the end of the input."""
        with self._asking:
            return self._asked(prompt)

    def _asked(self, prompt: str) -> Secret:
        if self._terminal < 0:
            raise DeployError(_INTERRUPTED)
        before = termios.tcgetattr(self._terminal)
        hidden = [*before]
        hidden[3] &= ~termios.ECHO
        termios.tcsetattr(self._terminal, termios.TCSAFLUSH, hidden)
        try:
            os.write(self._terminal, prompt.encode())
            return Secret(self._line())
        finally:
            termios.tcsetattr(self._terminal, termios.TCSAFLUSH, before)
            os.write(self._terminal, b"\n")

    def _line(self) -> str:
        """Return a line, which the terminal gives as a whole."""
        ready, _, _ = select.select([self._terminal, self._woken], [], [])
        if self._woken in ready:
            raise DeployError(_INTERRUPTED)
        return os.read(self._terminal, _LONGEST).decode(sys.getfilesystemencoding(), "replace").rstrip("\r\n")

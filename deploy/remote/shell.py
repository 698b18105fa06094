"""How an argv gets through a login shell unharmed, and how its output is told from what the shell said before.

sshd hands every command to the user's login shell: sh, bash, zsh or fish, after it has read a profile that may print.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST_NOISE = 1 << 20
"""A profile may print a megabyte; what prints more is no profile."""

# The halves are joined only by the host: a shell that echoes its command line (set -v) does not print the marker.
_MARK = 'printf %s%s "$1" "$2" >&2; printf %s%s "$1" "$2"; shift 2\n'
# Not "=", which zsh takes for a command's path at the start of a word, nor "%", which fish takes for a process.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+,-]+")
# Of the two characters that fish reads differently in '…' than a POSIX shell does.
_SPECIAL = re.compile(r"([\\']+)")


def quote(word: str) -> str:
    r"""Return a word that sh, bash, zsh and fish all read as `word`.

    In '…', a POSIX shell takes a backslash as it is and fish as an escape; in "…", both take `\\` as one backslash.
    """
    if _PLAIN.fullmatch(word):
        return word
    parts = [part for part in _SPECIAL.split(word) if part]
    return "".join(_double(part) if part[0] in "\\'" else f"'{part}'" for part in parts) or "''"


def command_line(argv: Sequence[str], marker: bytes) -> bytes:
    """Return what to ask sshd for: print the marker to both outputs, then become the command.

    A script for `sh -c` is run by the shell that prints the marker: one program less to start.
    """
    half = len(marker) // 2
    halves = (marker[:half].decode(), marker[half:].decode())
    match tuple(argv):
        case ("sh", "-c", script, name, *words):
            started = ["/bin/sh", "-c", _MARK + script, name, *halves, *words]
        case words:
            started = ["/bin/sh", "-c", _MARK + 'exec "$@"', "sh", *halves, *words]
    return ("exec " + " ".join(quote(word) for word in started)).encode("utf-8", "surrogateescape")


def new_marker() -> bytes:
    """Return a marker that nothing has printed yet."""
    return b"fieldlab-" + secrets.token_hex(12).encode()


class TooMuchNoise(Exception):
    """The shell said more than any profile does, and no marker came."""


class AfterMarker:
    """Passes on what comes after the marker, and keeps what came before it, to say why no command began.

    With `rolling`, what is too much is forgotten from its beginning; otherwise it raises TooMuchNoise.
    """

    def __init__(self, marker: bytes, sink: Callable[[bytes], object], *, rolling: bool = False) -> None:
        self._marker, self._sink, self._rolling = marker, sink, rolling
        self._said = bytearray()
        self.begun = False

    @property
    def noise(self) -> bytes:
        """What was printed before the marker, while it has not come; nothing after that."""
        return bytes(self._said)

    def __call__(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        if self.begun:
            self._sink(data)
            return
        searched = max(0, len(self._said) - len(self._marker))
        self._said += data
        at = self._said.find(self._marker, searched)
        if at >= 0:
            self._begin(bytes(self._said[at + len(self._marker) :]))
        elif len(self._said) > MOST_NOISE:
            if not self._rolling:
                raise TooMuchNoise
            del self._said[: -MOST_NOISE // 2]

    def _begin(self, rest: bytes) -> None:
        self.begun = True
        self._said.clear()
        if rest:
            self._sink(rest)


def _double(run: str) -> str:
    escaped = run.replace("\\", "\\\\")
    return f'"{escaped}"'

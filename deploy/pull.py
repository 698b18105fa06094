"""Copies the growing files of one directory of a host: only new bytes, verified, resumed, below one directory here.

`deploy.hostside.send` is the far end, `deploy.arrival` takes what it sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from deploy import hostside
from deploy.arrival import Arrival, Copy
from deploy.errors import HostError
from deploy.remote.retry import keep_trying

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deploy.remote.protocol import Remote

STEP = "pull"
END_BYTES = 16 << 20
"""How much of a file is copied of which only the end is wanted."""


class PulledFile(msgspec.Struct, frozen=True):
    """A file that is on the host: its size there in bytes, and how many of them are not in the copy here."""

    size: int
    left_out: int


@dataclass(frozen=True)
class Wanted:
    """Names of files to copy whole, and of those of which the last 16 MiB will do (they may be of any size).

    `final` sees to it that every copy is, as a whole, what the host has. Without, only new bytes are verified, and a
    file of which the end will do, and that has grown beyond it, is left as it is.
    """

    whole: tuple[str, ...]
    ends: tuple[str, ...] = ()
    final: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.whole, *self.ends)

    def limit(self, name: str) -> int:
        """Return how many of the last bytes of a file are wanted at most; 0: all."""
        return END_BYTES if name in self.ends else 0


@dataclass(frozen=True)
class _Source:
    remote: Remote
    python: str
    directory: str


def pull(remote: Remote, python: str, directory: str, into: Path, wanted: Wanted) -> dict[str, PulledFile]:
    """Copy what is new of a host's files into a directory; return those that the host has. Raises HostError.

    After an error, every file here holds what it held before and, it may be, verified bytes after that.
    """
    source = _Source(remote, python, directory)
    try:
        into.mkdir(parents=True, exist_ok=True)
        arrival = keep_trying(lambda: _ask(source, into, wanted, wanted.names))
        damaged = tuple(arrival.damaged)
        if damaged:  # the copy here is not the beginning of what is there, or the file was changed meanwhile
            damaged = tuple(keep_trying(lambda: _ask(source, into, wanted, damaged, afresh=True)).damaged)
    except OSError as error:
        raise HostError(remote.host, STEP, f"{into} cannot be written: {error.strerror}") from error
    if damaged:
        raise HostError(remote.host, STEP, f"{', '.join(damaged)} arrived damaged, and is not kept")
    return {name: PulledFile(copy.size, copy.left_out) for name, copy in arrival.announced.items()}


def _ask(source: _Source, into: Path, wanted: Wanted, names: Sequence[str], *, afresh: bool = False) -> Arrival:
    """Ask once, for some of the files; with `afresh`, for all of their bytes."""
    copies = {name: Copy(into / name, wanted.limit(name), afresh=afresh) for name in names}
    arrival = Arrival(source.remote.host, copies, final=wanted.final)
    words = [word for name, copy in copies.items() for word in (name, f"{copy.have}", f"{copy.limit}")]
    mode = "final" if wanted.final else "more"
    argv = hostside.argv(source.python, "send", source.directory, mode, *words)
    try:
        source.remote.get(argv, arrival, step=STEP)
        arrival.end()
    finally:
        arrival.close()
    return arrival

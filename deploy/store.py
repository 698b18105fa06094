"""Big files on a host, `<workdir>/store/<sha256>/<name>`: pushed once, resumed after a break, verified by SHA-256.

Works on hosts without Python (`deploy/hostside/store.sh`). It knows nothing of what the files are for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploy import hostside
from deploy.errors import CommandFailed, ConnectionLost, HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from deploy.remote.protocol import Remote

    Progress = Callable[[int, int], None]
    """Told how many bytes are on the host, of how many."""

STEP = "push"
TRIES = 3
"""So often in a row may a push break without having brought the host anything new."""
_PIECE_BYTES = 32 * 1024
_NO_SEED = "-"


@dataclass(frozen=True)
class BigFile:
    """A file on the controller that hosts shall have; its content never changes."""

    path: Path
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """Its name, which it keeps on the host: of a wheel, the name matters."""
        return self.path.name

    def place(self, workdir: str) -> str:
        """Return where it is on a host."""
        return f"{workdir}/store/{self.sha256}/{self.name}"

    def pieces(self, offset: int) -> Iterator[bytes]:
        """Yield the file from a byte on, in pieces of about one SSH packet."""
        with self.path.open("rb") as file:
            file.seek(offset)
            while piece := file.read(_PIECE_BYTES):
                yield piece


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def big_file(path: Path) -> BigFile:
    """Return a file of the controller as one for hosts; reads all of it."""
    return BigFile(path, sha256_of(path), path.stat().st_size)


def push_files(remote: Remote, workdir: str, files: Sequence[BigFile], on_progress: Progress) -> int:
    """Bring the files to a host where they are missing, and return the number of bytes sent; raises HostError.

    After a lost connection it looks again and goes on from there, as long as each try brings the host something new.
    """
    push = _Push(remote, f"{workdir}/store", on_progress, sum(file.size for file in files))
    best, left = -1, TRIES
    error = HostError(remote.host, STEP, f"a file did not arrive whole, {TRIES} times in a row")
    while left:
        left -= 1
        try:
            found = push.look(files)
            if found.there > best:
                best, left = found.there, TRIES - 1
            if push.add(found):
                return push.sent
        except ConnectionLost as lost:
            error = lost
    raise error


@dataclass(frozen=True)
class Part:
    """What a broken push left of a file: its size, and which process received it."""

    size: int = 0
    owner: str = _NO_SEED


@dataclass(frozen=True)
class Found:
    """What a look at a host's store found: the files that are missing, and the largest part of each; free KiB."""

    missing: tuple[BigFile, ...]
    parts: dict[str, Part]
    there: int
    free_kib: int | None


@dataclass
class _Push:
    """One host's share of a push; `sent` counts bytes over all tries."""

    remote: Remote
    store: str
    on_progress: Progress
    total: int
    sent: int = 0
    _there: int = field(default=0, init=False)

    def look(self, files: Sequence[BigFile]) -> Found:
        """Look which files are there; changes nothing."""
        wanted = "".join(f"{file.sha256} {file.name}\n" for file in files)
        told = self.remote.read(self._argv("look"), step=STEP, stdin=wanted.encode())
        return understood(told, files)

    def add(self, found: Found) -> bool:
        """Send what is missing, file by file; False at the first that does not arrive well: look again."""
        self._refuse_full(found)
        self._there = found.there
        for file in found.missing:
            part = found.parts.get(file.sha256, Part())
            argv = self._argv("add", file.sha256, file.name, part.owner, str(part.size), str(file.size))
            try:
                told = self.remote.put(self._counted(file, part.size), argv, step=STEP)
            except CommandFailed as error:
                raise HostError(self.remote.host, STEP, self._why(error)) from error
            if told.strip() != "stored":
                self._refuse_damaged(file, told.strip())
                return False
        return True

    def _argv(self, verb: str, *words: str) -> list[str]:
        return ["sh", "-c", hostside.source("store.sh"), "store", verb, self.store, *words]

    def _counted(self, file: BigFile, offset: int) -> Iterator[bytes]:
        for piece in self._local(file, offset):
            yield piece
            self.sent += len(piece)
            self._there += len(piece)
            self.on_progress(self._there, self.total)

    def _local(self, file: BigFile, offset: int) -> Iterator[bytes]:
        try:
            yield from file.pieces(offset)
        except OSError as error:
            why = f"{file.path} on this machine cannot be read: {error.strerror}"
            raise HostError(self.remote.host, STEP, why) from error

    def _refuse_full(self, found: Found) -> None:
        """Raise HostError if there is not enough room: better said before an hour's push than after it."""
        parts = [found.parts.get(file.sha256, Part()).size for file in found.missing]
        needed = sum(file.size for file in found.missing) - sum(parts)
        if found.free_kib is not None and needed > found.free_kib * 1024:
            why = f"{self.store} needs {_mb(needed)} MB more, and {_mb(found.free_kib * 1024)} MB are free: make room"
            raise HostError(self.remote.host, STEP, f"{why}, or choose another workdir in the inventory")

    def _refuse_damaged(self, file: BigFile, told: str) -> None:
        """Raise HostError if it is no wonder that a file arrives damaged."""
        if told == "damaged" and sha256_of(file.path) != file.sha256:
            why = f"{file.path} on this machine is damaged: delete it and try again"
            raise HostError(self.remote.host, STEP, why)

    def _why(self, error: CommandFailed) -> str:
        last = error.output.strip().splitlines()[-1:] or [f"exit status {error.status}"]
        return f"{self.store} cannot be written ({last[0]}): make room, or choose another workdir in the inventory"


def understood(told: str, files: Sequence[BigFile]) -> Found:
    """Return what a look's answer says about the files; lines that say nothing about them are passed over."""
    complete: set[str] = set()
    parts: dict[str, Part] = {}
    sizes = {file.sha256: file.size for file in files}
    free_kib = None
    for line in told.splitlines():
        match line.split():
            case ["free", kib] if kib.isdecimal():
                free_kib = int(kib)
            case ["complete", sha256]:
                complete.add(sha256)
            case ["part", sha256, size, owner] if size.isdecimal() and parts.get(sha256, Part()).size < int(size):
                # A part that is longer than the file cannot be of it: the end of the push would find out, we do now.
                if int(size) <= sizes.get(sha256, 0):
                    parts[sha256] = Part(int(size), owner)
    missing = tuple(file for file in files if file.sha256 not in complete)
    there = sum(file.size if file not in missing else parts.get(file.sha256, Part()).size for file in files)
    return Found(missing, parts, there, free_kib)


def _mb(size: int) -> int:
    return -(-size // 10**6)

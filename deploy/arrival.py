"""Takes apart what `deploy.hostside.send` sends, as it comes, and writes verified bytes, and nothing else, to files.

The host may be anything: it cannot choose a name, a place, or how much it sends beyond the sizes that it announced.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
from typing import IO, TYPE_CHECKING, NoReturn

from deploy.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

PIECE_BYTES = 1 << 18
"""Size of the pieces that are hashed, as in deploy.hostside.send: all that is held in memory of a host's files."""
_SUM_BYTES = 32
_LINE_BYTES = 1024
_A_LINE = 0
_SPARE_BYTES = 16 << 20
"""What a pull leaves free on this machine's disk."""


class Copy:
    """A file here, and what comes to it; `limit`: how many of the last bytes are wanted of a longer one (0: all).

    New bytes go to its end. With `afresh`, and where the copy is no beginning of what the host has, they go to a draft
    that takes its place when it is complete.
    """

    def __init__(self, path: Path, limit: int, *, afresh: bool) -> None:
        held = None if afresh else _size(path)
        self.limit, self.have = limit, held or 0
        self.size = self.begin = self._hash_from = 0
        self._path, self._replaced = path, held is None
        self._draft = path.with_name(f".{path.name}.part")
        self._file: IO[bytes] | None = None

    @property
    def directory(self) -> Path:
        """Where the file is."""
        return self._path.parent

    @property
    def left_out(self) -> int:
        """How many bytes of the host's file are not here when all that was announced has come."""
        return self.begin if self._replaced else self.begin - self.have

    def announce(self, size: int, *, final: bool) -> None:
        """Take its size on the host, which decides what will come: the rule of `plan` in deploy.hostside.send."""
        self.size = size
        if self.limit and size > self.limit:
            self.begin = self._hash_from = size - self.limit if final else size
            self._replaced = final
        else:
            self.begin = self.have if self.have <= size else 0
            self._hash_from = 0 if final else self.begin
            self._replaced = self._replaced or self.have > size

    def pieces(self) -> Generator[int, memoryview, bool]:
        """Take the bytes, piece by piece with their sums; return False if one of them is not what was sent."""
        hashed, sound = self._hashed_before(), True
        for start in range(self.begin, self.size, PIECE_BYTES) or (self.begin,):
            length = min(PIECE_BYTES, self.size - start)
            arrived = yield length + _SUM_BYTES
            hashed.update(arrived[:length])
            sound = sound and hashed.digest() == arrived[length:]
            if sound and (length or not self.size):
                self._write(arrived[:length])
        if sound:
            self._keep()
        return sound

    def close(self) -> None:
        """Close the file, and remove a draft that is not complete."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
            if self._replaced:
                self._draft.unlink()

    def _hashed_before(self) -> hashlib._Hash:
        """Return the sum of what is here already, as far as the host's sums count it in."""
        hashed = hashlib.sha256()
        if self._hash_from < self.begin:
            with _opened(self._path, "rb", os.O_RDONLY) as file:
                while piece := file.read(PIECE_BYTES):
                    hashed.update(piece)
        return hashed

    def _write(self, piece: memoryview) -> None:
        if self._file is None:
            if self._replaced:
                self._draft.unlink(missing_ok=True)  # left by a controller that was killed
                self._file = _opened(self._draft, "wb", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            else:
                self._file = _opened(self._path, "ab", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._file.write(piece)

    def _keep(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
            if self._replaced:
                self._draft.replace(self._path)


class Arrival(io.BytesIO):
    """The answer of one host, for the files that it was asked for. A BytesIO for its type: only `write` is used.

    `announced` holds the files that the host has, `damaged` the names of those that are not what it sent.
    """

    def __init__(self, host: str, copies: dict[str, Copy], *, final: bool) -> None:
        super().__init__()
        self.announced: dict[str, Copy] = {}
        self.damaged: list[str] = []
        self._host, self._copies, self._final = host, copies, final
        self._held: list[bytes] = []
        self._length = 0
        self._parser = self._parsed()
        self._needed: int | None = next(self._parser)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Take the next bytes; raises HostError for what was not announced, OSError for the files here."""
        self._held.append(data)
        self._length += len(data)
        while (piece := self._next()) is not None:
            try:
                self._needed = self._parser.send(piece)
            except StopIteration:
                self._needed = None
        return len(data)

    def end(self) -> None:
        """See that all has come that was announced; raises HostError."""
        if self._needed is not None:
            self._refuse("what it sends ends too early")

    def close(self) -> None:
        """Close all files; drafts go."""
        for copy in self._copies.values():
            copy.close()
        super().close()

    def _next(self) -> memoryview | None:
        """Return what the parser needs, once it is here; joined only then, for copying is what a pull costs."""
        if self._needed is None:
            return self._refuse("it sends more than it announced") if self._length else None
        if self._length < self._needed:
            return None
        joined = b"".join(self._held)
        end = joined.find(b"\n") + 1 if self._needed == _A_LINE else self._needed
        if end == 0 and len(joined) > _LINE_BYTES:
            self._misunderstood(joined)
        self._held, self._length = [joined[end:]], len(joined) - end
        return memoryview(joined)[:end] if end else None

    def _parsed(self) -> Generator[int, memoryview, None]:
        """Ask for lengths of bytes, _A_LINE for a line, and handle them."""
        for _ in range(self._number(bytes((yield _A_LINE)))):
            line = bytes((yield _A_LINE))
            size, _, name = line.decode(errors="replace").rstrip("\n").partition(" ")
            if name not in self._copies or name in self.announced:
                self._refuse(f"it sends what it was not asked for: {line[:80]!r}")
            self.announced[name] = self._copies[name]
            self.announced[name].announce(self._number(size.encode()), final=self._final)
        self._see_that_it_fits()
        for name, copy in self.announced.items():
            if not (yield from copy.pieces()):
                self.damaged.append(name)

    def _number(self, text: bytes) -> int:
        if not text.strip().isdigit():
            self._misunderstood(text)
        return int(text)

    def _see_that_it_fits(self) -> None:
        """Refuse more than this machine can hold: a host may announce anything."""
        coming = sum(copy.size - copy.begin for copy in self.announced.values())
        directories = {copy.directory for copy in self.announced.values()}
        room = min((shutil.disk_usage(directory).free for directory in directories), default=0)
        if coming > max(0, room - _SPARE_BYTES):
            self._refuse(f"it has more to send than there is room for here ({room >> 20} MiB are free)")

    def _misunderstood(self, text: bytes) -> NoReturn:
        self._refuse(f"an answer that cannot be understood: {text[:80]!r}")

    def _refuse(self, reason: str) -> NoReturn:
        raise HostError(self._host, "pull", reason)


def _size(path: Path) -> int | None:
    """Return a file's size, 0 if there is none; None for what is no regular file, and will be replaced."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _opened(path: Path, mode: str, flags: int) -> IO[bytes]:
    """Open a file, never through a symbolic link."""
    file: IO[bytes] = os.fdopen(os.open(path, flags | os.O_NOFOLLOW, 0o666), mode)
    return file

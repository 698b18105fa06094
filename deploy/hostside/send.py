"""Runs on a host: sends what the controller does not have of some files of one directory, through standard output.

Arguments: the directory, `final` or `more`, then for each file NAME HAVE LIMIT: how many bytes the controller holds,
and how many of the last ones it wants of a file that is longer (0: all). Prints the number of files that are there, a
line `SIZE NAME` for each, and then each one's bytes in pieces of 256 KiB (at least one, if an empty one), every piece
followed by the 32 bytes of the SHA-256 of all so far. With `final`, that counts from the first byte of the controller's
copy, so the last sum is that of the whole copy; with `more` from the first byte that is sent. Sizes are taken once:
what a file gains meanwhile is not sent. Only regular files are sent, and no symbolic link is followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys

TYPE_CHECKING = False  # typing takes longer to import than all that is needed here
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

PIECE = 1 << 18


def plan(size: int, have: int, limit: int, *, final: bool) -> tuple[int, int]:
    """Return the first byte to send and the first byte to hash; `deploy.pull` has the same rule."""
    if limit and size > limit:
        begin = size - limit if final else size
        return begin, begin
    begin = have if have <= size else 0
    return begin, 0 if final else begin


def opened(path: str) -> BinaryIO | None:
    """Return a regular file, open; None if there is none."""
    try:
        # O_NONBLOCK: opening a pipe without a writer would wait for one.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    return None


def lengths(begin: int, end: int) -> Iterator[int]:
    """Yield the lengths of the pieces of a range."""
    for offset in range(begin, end, PIECE):
        yield min(PIECE, end - offset)


def send(file: BinaryIO, size: int, begin: int, hash_from: int) -> None:
    """Send the bytes from `begin` to `size`, each piece with the sum of all from `hash_from` on."""
    hashed, out = hashlib.sha256(), sys.stdout.buffer
    file.seek(hash_from)
    for length in lengths(hash_from, begin):
        hashed.update(file.read(length))
    for length in lengths(begin, size) if begin < size else (0,):
        piece = file.read(length)
        hashed.update(piece)
        out.write(piece)
        out.write(bytes(length - len(piece)))  # it has become shorter: the sum tells
        out.write(hashed.digest())


def main() -> None:
    """Send the table of contents, then the contents."""
    directory, mode, *words = sys.argv[1:]
    found = []
    for name, have, limit in zip(words[::3], words[1::3], words[2::3]):  # noqa: B905 - new in Python 3.10
        file = opened(os.path.join(directory, name))
        if file is not None:
            size = os.fstat(file.fileno()).st_size
            found.append((name, file, size, *plan(size, int(have), int(limit), final=mode == "final")))
    table = "".join(f"{size} {name}\n" for name, _, size, *_ in found)
    sys.stdout.buffer.write(f"{len(found)}\n{table}".encode())
    for _, file, size, begin, hash_from in found:
        send(file, size, begin, hash_from)
    sys.stdout.buffer.flush()


main()

"""Runs on a host: sends files of one directory through standard output, with sizes and SHA-256 to check them by.

Arguments: the directory, then file names. Prints one JSON line {name: [size, sha256]} of those that exist, then their
bytes one after the other in the same order. Sizes are taken once: what a file gains meanwhile is not sent.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 1 << 20


def pieces(path: str, size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of a file."""
    with open(path, "rb") as file:
        while size > 0:
            piece = file.read(min(PIECE, size))
            if not piece:
                return
            size -= len(piece)
            yield piece


def digest(path: str, size: int) -> str:
    """Return the SHA-256 of the first `size` bytes."""
    hashed = hashlib.sha256()
    for piece in pieces(path, size):
        hashed.update(piece)
    return hashed.hexdigest()


def main() -> None:
    """Send the table of contents, then the contents."""
    directory, *names = sys.argv[1:]
    paths = {name: os.path.join(directory, name) for name in names}
    sizes = {name: os.path.getsize(path) for name, path in paths.items() if os.path.isfile(path)}
    table = {name: [size, digest(paths[name], size)] for name, size in sizes.items()}
    out = sys.stdout.buffer
    out.write(json.dumps(table).encode() + b"\n")
    for name, size in sizes.items():
        for piece in pieces(paths[name], size):
            out.write(piece)
    out.flush()


main()

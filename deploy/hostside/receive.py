"""Runs on a host: takes a bundle from standard input and puts it in place, all of it or nothing.

    missing CODE       reads lines `SHA256 SIZE` and prints the sums that no bundle in the directory CODE holds
    take CODE/DIGEST   reads a line `FILES CONTENTS PACKING`, the list of FILES lines `SHA256 SIZE NAME`, CONTENTS lines
                       `SHA256`, and the contents with these sums; copies the rest from older bundles. Prints nothing

Each bundle keeps its list in it; the list's own SHA-256 begins with the bundle's digest. A file of an older bundle is
used only if its bytes, hashed while they are copied, are what that list says. The bundle is written beside its place
and renamed once all of it is verified, so that a broken push leaves nothing that looks like code. Exit status 3: one
line says what is wrong; 4: an older bundle's file is not what its list says, send all.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import time
import zlib

TYPE_CHECKING = False  # typing and json, by way of re, take longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, NoReturn

LIST = ".files"
TOLD, CHANGED = 3, 4
PIECE = 1 << 18
STALE_S = 3600
"""A draft of this age was left by a receiver that was killed."""


class Damaged(Exception):
    """The stream is not what it should be."""


class Changed(Exception):
    """An older bundle no longer holds what its list says."""


def give_up(reason: str, status: int = TOLD) -> NoReturn:
    """Say what is wrong, and end."""
    print(reason, file=sys.stderr)
    sys.exit(status)


def parsed(listed: bytes) -> list[tuple[str, int, str]]:
    """Return the entries of a list: (SHA-256, size, name)."""
    fields = (line.split(" ", 2) for line in listed.decode().split("\n")[:-1])
    return [(sha256, int(size), name) for sha256, size, name in fields]


def holdings(code: str) -> dict[str, tuple[int, str]]:
    """Return what the complete bundles in a directory hold: {sha256: (size, path)}, as their lists say."""
    held: dict[str, tuple[int, str]] = {}
    for bundle in sorted(os.listdir(code)) if os.path.isdir(code) else []:
        try:
            with open(os.path.join(code, bundle, LIST), "rb") as file:
                files = parsed(file.read())
        except (OSError, ValueError):  # no bundle, or one without a list that can be read
            continue
        held.update({sha256: (size, os.path.join(code, bundle, name)) for sha256, size, name in files})
    return held


def missing(code: str) -> None:
    """Print the contents that are asked for and not here."""
    held = holdings(code)
    for line in sys.stdin:
        sha256, size = line.split()
        if not is_here(held.get(sha256), int(size)):
            print(sha256)


def is_here(found: tuple[int, str] | None, size: int) -> bool:
    """Whether a file of the right size is where a list says; its content is looked at when it is copied."""
    return found is not None and os.path.isfile(found[1]) and os.path.getsize(found[1]) == size


class Body:
    """The contents as they arrive, decompressed."""

    def __init__(self, stream: BinaryIO, packing: str) -> None:
        self._stream, self._rest = stream, b""
        self._unpacker = zlib.decompressobj() if packing == "zlib" else None

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes."""
        while size > 0:
            if not self._rest:
                self._rest = self._more()
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece

    def end(self) -> None:
        """See that nothing comes any more, but the check sum with which a compressed stream ends."""
        rest, unpacker = self._rest, self._unpacker
        if unpacker is not None:
            rest += unpacker.decompress(unpacker.unconsumed_tail + self._stream.read(PIECE), 1) + unpacker.unused_data
        if rest or self._stream.read(1) or not (unpacker is None or unpacker.eof):
            raise Damaged

    def _more(self) -> bytes:
        data, unpacker = b"", self._unpacker
        while not data:
            arrived = (unpacker.unconsumed_tail if unpacker else b"") or self._stream.read(PIECE)
            if not arrived:
                raise Damaged
            data = unpacker.decompress(arrived, PIECE) if unpacker else arrived
        return data


def read_file(path: str) -> Iterator[bytes]:
    """Yield a file's bytes; raises Changed."""
    try:
        with open(path, "rb") as file:
            while piece := file.read(PIECE):
                yield piece
    except OSError as error:
        raise Changed(path) from error


def write(path: str, pieces: Iterator[bytes]) -> tuple[int, str]:
    """Write a file; return its size and SHA-256."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    hashed, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for piece in pieces:
            file.write(piece)
            hashed.update(piece)
            size += len(piece)
    return size, hashed.hexdigest()


def place_of(draft: str, name: str) -> str:
    """Return where a file goes; raises Damaged for a name that leads out of the bundle, or is the list's."""
    path = os.path.normpath(os.path.join(draft, name))
    if not path.startswith(draft + os.sep) or path == os.path.join(draft, LIST) or "\0" in name:
        raise Damaged
    return path


def fill(draft: str, stream: BinaryIO, code: str) -> str:
    """Write all files of a bundle, and their list, below the draft; return the list's SHA-256."""
    files, contents, packing = stream.readline().decode().split()
    listed = b"".join(stream.readline() for _ in range(int(files)))
    order = [stream.readline().decode().strip() for _ in range(int(contents))]
    places: dict[str, list[tuple[int, str]]] = {}
    for sha256, size, name in parsed(listed):
        places.setdefault(sha256, []).append((size, place_of(draft, name)))
    body = Body(stream, packing)
    for sha256 in order:
        (size, path), *more = places.pop(sha256)
        if write(path, body.pieces(size)) != (size, sha256):
            raise Damaged
        copy(path, sha256, more)
    body.end()
    copy_older(places, code)
    write(os.path.join(draft, LIST), iter([listed]))
    return hashlib.sha256(listed).hexdigest()


def copy_older(places: dict[str, list[tuple[int, str]]], code: str) -> None:
    """Copy what did not come from older bundles; raises Changed."""
    held = holdings(code) if places else {}
    for sha256, left in places.items():
        if sha256 not in held:
            raise Changed(sha256)
        copy(held[sha256][1], sha256, left)


def copy(source: str, sha256: str, places: list[tuple[int, str]]) -> None:
    """Copy one file to several; raises Changed if it does not hold what it should."""
    for size, path in places:
        if write(path, read_file(source)) != (size, sha256):
            raise Changed(source)


def settle(draft: str, place: str) -> None:
    """Rename the draft into place, unless another controller was faster: its content is the same."""
    try:
        os.rename(draft, place)
    except OSError:
        if not os.path.isdir(place):
            raise


def remove(directory: str) -> None:
    """Remove a draft with all that is in it, as far as that goes; shutil would take longer to import than this."""
    for folder, folders, files in os.walk(directory, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for name in folders:
            path = os.path.join(folder, name)
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)
    os.rmdir(directory)


def remove_stale(code: str) -> None:
    """Remove what receivers that were killed long ago have left."""
    for name in os.listdir(code):
        path = os.path.join(code, name)
        try:
            if name.endswith(".draft") and time.time() - os.lstat(path).st_mtime > STALE_S:
                remove(path)
        except OSError:  # another receiver removes it too, or it is not ours
            continue


def take(place: str) -> None:
    """Receive, verify, rename."""
    code, digest = os.path.split(place)
    draft = f"{place}.{os.getpid()}.draft"
    os.makedirs(draft)
    try:
        remove_stale(code)
        if fill(draft, sys.stdin.buffer, code)[: len(digest)] != digest:
            raise Damaged
        settle(draft, place)
    finally:
        if os.path.isdir(draft):
            remove(draft)


def main() -> None:
    """Do one of the two; say in one line what is wrong."""
    verb, path = sys.argv[1], os.path.abspath(sys.argv[2])
    try:
        missing(path) if verb == "missing" else take(path)
    except OSError as error:
        room = "make room there, or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        what = f"{error.filename or path}: {error.strerror or error}"
        give_up(f"{what}; {room}choose another workdir in the inventory")
    except Changed as error:
        give_up(f"{error} is not what it was when it came", CHANGED)
    except (Damaged, ValueError, KeyError, zlib.error):
        give_up("the bundle arrived damaged: its names, sizes or SHA-256 differ from what was announced")


main()

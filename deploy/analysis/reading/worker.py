"""A process of its own that parses pieces: batches on stdin, results on stdout, both as msgpack.

Not made by `multiprocessing`, which leaves a process behind that keeps count of its semaphores.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from deploy.analysis.reading.parsing import Parsed, Piece, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LENGTH = struct.Struct("<Q")
_batches = msgspec.msgpack.Decoder(list[list[Piece]])
_parsed = msgspec.msgpack.Decoder(Parsed)


class Worker:
    """A running process, which was given its batches."""

    def __init__(self, process: subprocess.Popen[bytes], count: int) -> None:
        self._process, self._count = process, count

    def results(self) -> Iterator[Parsed]:
        """Yield what each batch held, in order; raises EOFError if the process ends before that."""
        assert self._process.stdout is not None  # noqa: S101 - it was started with a pipe
        for _ in range(self._count):
            yield _parsed.decode(_read(self._process.stdout))


@contextmanager
def working(batches: Sequence[Sequence[Piece]]) -> Iterator[Worker]:
    """Start a process that parses batches; it is ended on leaving."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "POLARS_MAX_THREADS": "1"}
    argv = [sys.executable, "-P", "-m", __name__]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None  # noqa: S101 - it was started with a pipe
        try:
            process.stdin.write(msgspec.msgpack.encode(batches))
            process.stdin.close()
            yield Worker(process, len(batches))
        finally:
            process.kill()


def _read(stream: BinaryIO | object) -> bytes:
    """Read one result."""
    assert hasattr(stream, "read")  # noqa: S101 - a pipe
    head = stream.read(_LENGTH.size)
    length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
    found: bytes = stream.read(length)
    if not length or len(found) < length:
        raise EOFError
    return found


def main() -> None:
    """Parse what stdin asks for."""
    for batch in _batches.decode(sys.stdin.buffer.read()):
        result = msgspec.msgpack.encode(parse(batch))
        sys.stdout.buffer.write(_LENGTH.pack(len(result)))
        sys.stdout.buffer.write(result)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
